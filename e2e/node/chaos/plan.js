// What a seed stands for: how the server is set up, who its clients and publishers are, and every step. Nothing here depends on
// time, so the same seed is the same plan; what the steps meet depends on the machine.
import { Random } from './random.js';
import { NAMESPACES, ROOMS, RULES, USERS } from './rules.js';

const TRANSPORTS = { websocket: ['websocket'], polling: ['polling'], upgrade: ['polling', 'websocket'] };
/** `fresh`: a new token at each connecting; `static`: the first one for ever; `event`: `authenticate` after connecting. */
const MODES = ['fresh', 'static', 'event', 'fresh', 'event', 'static', 'anonymous'];

/** Steps that every plan has at least once, so that a short run meets each kind. */
const ALWAYS = [
  'fin', 'rst', 'half', 'half', 'silent', 'stall', 'upgrade', 'swallow', 'rstAll', 'blackout',
  'kill', 'term', 'freeze', 'freezeLong', 'reload', 'rotate', 'revokeUser', 'revokeToken',
  'join', 'leave', 'subscribe', 'unsubscribe', 'login', 'logout', 'expire', 'badToken', 'list', 'reconnect',
];
const WEIGHTS = [
  [10, 'join'], [6, 'leave'], [8, 'subscribe'], [4, 'unsubscribe'], [5, 'login'], [4, 'logout'], [3, 'expire'], [1, 'badToken'],
  [2, 'list'], [1, 'reconnect'], [4, 'fin'], [5, 'rst'], [6, 'half'], [3, 'silent'], [3, 'stall'], [3, 'upgrade'], [3, 'swallow'],
  [3, 'rstAll'], [2, 'blackout'], [3, 'kill'], [2, 'term'], [2, 'freeze'], [1, 'freezeLong'], [3, 'reload'], [1, 'rotate'],
  [2, 'revokeUser'], [2, 'revokeToken'],
];

/** The plan of a seed. `disk` and `clock`: whether those faults can be made here. `without`: kinds of steps to leave out, which is
 * another plan. */
export function plan(seed, { steps = 90, clients = 9, disk = false, clock = false, without = [] } = {}) {
  const random = new Random(seed);
  const server = {
    SHARDS: String(random.of([1, 2, 4])),
    PING_INTERVAL_MS: String(random.int(5, 10) * 100),
    PING_TIMEOUT_MS: '1000',
    RECOVERY_MS: String(random.of([6_000, 10_000, 30_000])),
    SHUTDOWN_GRACE_MS: '2000',
  };
  const people = random.fork('clients');
  const members = Array.from({ length: clients }, (_, n) => ({
    name: `c${n}`,
    transport: Object.keys(TRANSPORTS)[n % 3],
    transports: TRANSPORTS[Object.keys(TRANSPORTS)[n % 3]],
    mode: MODES[n % MODES.length],
    user: MODES[n % MODES.length] === 'anonymous' ? null : people.of(USERS),
    // Everyone begins in some rooms, so that the first fault finds something to lose.
    rooms: NAMESPACES.map(() => ROOMS.filter(() => people.chance(0.6))),
    lanes: [0, 1, 2].filter(() => people.chance(0.6)),
  }));
  // A clock that goes back makes tokens of the future, and a revocation of the future can't be undone: not both in one plan.
  const backwards = clock && random.chance(0.5);
  const extra = [...(disk ? [[2, 'disk']] : []), ...(clock ? [[1, 'clock']] : [])];
  const isIn = (kind) => !without.includes(kind) && !(backwards && kind === 'revokeUser');
  const weights = [...WEIGHTS, ...extra].filter(([, kind]) => isIn(kind));
  const kinds = [...ALWAYS, ...extra.map(([, kind]) => kind)].filter(isIn);
  while (kinds.length < steps) kinds.push(random.weighted(weights));
  const walk = random.fork('steps');
  return {
    seed,
    server,
    rules: random.int(0, RULES.length - 1),
    members,
    steps: random.shuffled(kinds).map((kind) => step(kind, walk, clients, backwards)),
  };
}

function step(kind, random, clients, backwards) {
  const pause = random.weighted([[3, 0], [4, random.int(10, 120)], [4, random.int(100, 400)], [1, random.int(400, 1_200)]]);
  const client = random.int(0, clients - 1);
  const nsp = random.int(0, 2);
  const more = {
    join: () => ({ client, nsp, room: random.of(ROOMS) }),
    leave: () => ({ client, nsp, room: random.of(ROOMS) }),
    subscribe: () => ({ client, lane: random.int(0, 2), back: random.of([0, 0, 0, 1, 2]) }),
    unsubscribe: () => ({ client, lane: random.int(0, 2), back: random.of([0, 0, 1]) }),
    login: () => ({ client, nsp, user: random.of(USERS) }),
    logout: () => ({ client, nsp }),
    expire: () => ({ client, nsp, seconds: random.int(2, 4), again: random.chance(0.5) }),
    badToken: () => ({ client, nsp }),
    list: () => ({ client }),
    reconnect: () => ({ client, nsp, ms: random.int(0, 500) }),
    silent: () => ({ client, ms: random.int(300, 4_000) }),
    stall: () => ({ client, ms: random.int(100, 900) }),
    // Only every third client upgrades.
    upgrade: () => ({ client: Math.min(client - (client % 3) + 2, clients - 1) }),
    swallow: () => ({ client, count: random.int(1, 3) }),
    blackout: () => ({ client, ms: random.of([random.int(200, 3_000), random.int(200, 3_000), random.int(6_000, 9_000)]) }),
    rstAll: () => ({ how: random.of(['rst', 'fin', 'half']) }),
    kill: () => ({ ms: random.of([0, 0, random.int(100, 1_500)]) }),
    term: () => ({ ms: random.of([0, 0, random.int(100, 1_500)]) }),
    freeze: () => ({ ms: random.int(100, 900) }),
    freezeLong: () => ({ ms: random.int(2_000, 3_500) }),
    reload: () => ({ rules: random.int(0, RULES.length - 1) }),
    rotate: () => ({ keep: random.chance(0.5), restart: random.of(['', '', 'kill', 'term']) }),
    revokeUser: () => ({ user: random.of(USERS) }),
    revokeToken: () => ({ client, nsp }),
    disk: () => ({ mode: random.of(['delay', 'fail', 'delay']), ms: random.int(300, 2_500), then: random.of(['', '', 'kill', 'term']) }),
    clock: () => ({ ms: (backwards ? -1 : 1) * random.int(2, 600) * 1_000 }),
  }[kind] ?? (() => ({ client }));
  return { kind, pause, ...more() };
}

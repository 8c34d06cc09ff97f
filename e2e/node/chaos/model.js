// What each client must have, may have and must not have, by docs/delivery.md and docs/security.md; and the check of what came
// against it.
//
// Everything is observed in one process, so the observations have one order: `tick`. A publish was accepted between the tick at
// which it was first sent (`start`) and that of its 200 (`answer`); a call took effect between its emit and its ack. What
// follows from that is certain; all else is `MAYBE` until a call that is answered settles it.
//
// A socket gets events through *channels*: a room, its user (notifications, events to `user:`, owned media items), a media item
// without an owner. Each channel is IN, OUT or MAYBE for the socket, and only an event that was accepted while it was IN has to
// arrive. Order and duplicates are looked at by *topic*: a room, a user's notifications, a media item.
import { RULES, allows } from './rules.js';

export const [IN, OUT, MAYBE] = ['IN', 'OUT', 'MAYBE'];

/** How late the server may save a session: some 50 ms, and the wait for a slow disk and machine. */
const SAVE_MS = 1_500;
/** A heartbeat behind a notification and the mark in the store, on a slow machine. */
const CONFIRM_MS = 2_500;
/** How late a timer of the server's may be. */
const EXPIRY_MS = 5_000;
/** How old the server's mark of being alive may be, by which it counts how long it was not. */
const CLOCK_MS = 15_000;
/** What the client's and the server's ideas of how long a client was away may differ by. */
const WINDOW_MS = 2_500;

export class Model {
  tick = 0;
  seats = [];
  events = new Map();
  /** Media items: their owner, and since when it may be and is known. */
  items = new Map();
  /** The newest answered event of each topic. */
  newest = new Map();
  /** The newest event of each key of which the newest is enough, also if it is not answered yet. */
  newestBegun = new Map();
  revocations = [];
  /** Keys that verify no more: since when perhaps, since when certainly. */
  removedKeys = new Map();
  /** Indices of the rules that may be in force. */
  rules;
  rulesChanged = 0;
  violations = [];
  checked = 0;
  recoveries = 0;
  anew = 0;
  /** Times in which the server stood still, did not run, or had a bad disk, so that what depends on time is not asked. */
  trouble = [];
  lastClockStep = -Infinity;
  lastRestart = { ms: -Infinity, seenMs: -Infinity, tick: 0 };
  /** Until when the disk is bad, when the server last ended with a bad one, and since when it is in this life of the server. */
  diskTrouble = -Infinity;
  lastBadRestart = -Infinity;
  diskSince = Infinity;

  /** `relaxed`: recoverable events may be lost with the process. `serverMs`: the server's wall clock. */
  constructor({ rules, recoveryMs, relaxed = false, serverMs = Date.now, nowMs = () => performance.now(), context = () => ({}) }) {
    Object.assign(this, { rules: [rules], recoveryMs, relaxed, serverMs, nowMs, context });
    this.began = nowMs();
  }

  now() {
    this.tick += 1;
    return this.tick;
  }

  seat(name, ns) {
    const seat = new Seat(this, name, ns);
    this.seats.push(seat);
    return seat;
  }

  violation(kind, seat, expected, got, event) {
    // The first few of a run tell; a lie about one session shows in each of its events.
    if (this.violations.length < 200) {
      const violation = { kind, socket: seat?.name, ns: seat?.ns, ms: Math.round(this.nowMs() - this.began), expected, got, ...this.context() };
      if (event) violation.event = describe(event);
      violation.history = seat ? [...seat.history] : [];
      this.violations.push(violation);
    }
    seat?.log(`VIOLATION ${kind}: expected ${expected}; got ${got}${event ? ` (${describe(event)})` : ''}`);
  }

  // Publishers.

  /** An event is about to be published for the first time. */
  publish(event) {
    event.start = this.now();
    this.events.set(event.serial, event);
    if (event.delivery === 'latest') this.newestBegun.set(keyOf(event), event.index);
    if (event.item) {
      const item = this.items.get(event.item) ?? { owner: undefined };
      this.items.set(event.item, item);
      if (event.owner && item.owner === undefined) {
        Object.assign(item, { owner: event.owner, ownerStart: event.start });
        for (const seat of this.seats) seat.lose(`item:${event.item}`, MAYBE);
      }
      for (const seat of this.seats) seat.forgetFragile(event.item);
    }
    return event;
  }

  /** It was answered with 200. */
  answered(event) {
    event.answer = this.now();
    this.newest.set(event.topic, event);
    const item = this.items.get(event.item);
    if (event.owner && item.ownerAnswer === undefined) {
      item.ownerAnswer = event.answer;
      // The owner's own subscription goes on, and what came before may still be replayed to it.
      for (const seat of this.seats) seat.lose(`item:${event.item}`, seat.identity.has(event.owner) ? MAYBE : OUT);
    }
    for (const seat of this.seats) if (seat.ns === event.ns) seat.owe(event);
  }

  /** Every attempt was answered with a refusal, after which nothing has happened; it is not tried again. */
  refused(event) {
    event.refused = this.now();
  }

  // What happens to the server.

  /** A revocation is about to be asked for, of a user or of one token. */
  revoke(what) {
    const revocation = { ...what, start: this.now() };
    this.revocations.push(revocation);
    for (const seat of this.seats) seat.refresh();
    return revocation;
  }

  /** It was answered with 200. `issuedBefore`: a user's tokens up to there are over. */
  revoked(revocation, issuedBefore) {
    if (issuedBefore !== undefined) revocation.issuedBefore = issuedBefore;
    revocation.answer = this.now();
    for (const seat of this.seats) seat.refresh();
  }

  /** Other rules and keys are about to come into force. */
  reloading(rules, keys = []) {
    const start = this.now();
    this.rulesChanged = start;
    this.rules = [...new Set([...this.rules, rules])];
    for (const key of keys) this.removedKeys.set(key, { start });
    for (const seat of this.seats) seat.refresh();
  }

  /** They are in force. */
  reloaded(rules, keys = []) {
    const answer = this.now();
    this.rulesChanged = answer;
    this.rules = [rules];
    for (const key of keys) this.removedKeys.get(key).answer = answer;
    for (const seat of this.seats) seat.refresh();
  }

  /** The process has ended: `kill` without a word, `term` after it had time for everything. */
  ended(how, ms) {
    this.now();
    this.lastRestart = { ms, seenMs: this.nowMs(), tick: this.tick };
    if (this.diskSince !== Infinity) this.lastBadRestart = ms;
    for (const seat of this.seats) seat.serverEnded(how, ms);
  }

  /** From `from` to `to` nothing can be said about how long things take. */
  troubled(from, to) {
    this.trouble.push({ from, to });
  }

  isTroubled(from, to) {
    return this.trouble.some((trouble) => trouble.from < to && trouble.to > from);
  }

  clockStepped() {
    this.lastClockStep = this.nowMs();
    for (const seat of this.seats) seat.refresh();
  }

  // What is known of a token.

  /** `good`, `bad` or `unsure`, for a server that looks at it between two moments. */
  status(token, from, to) {
    const covers = (revocation) =>
      revocation.jti !== undefined
        ? revocation.jti === token.jti
        : revocation.user === token.user && (revocation.issuedBefore === undefined || token.iat * 1_000 < revocation.issuedBefore);
    const revoked = this.revocations.filter(covers);
    const removed = this.removedKeys.get(token.key);
    if (from.serverMs >= token.exp * 1_000 || revoked.some((revocation) => revocation.answer < from.tick) || removed?.answer < from.tick) {
      return 'bad';
    }
    const isGood =
      to.serverMs < token.exp * 1_000 - 300 && to.serverMs + 1_000 > token.iat * 1_000 && revoked.length === 0 && removed === undefined;
    return isGood ? 'good' : 'unsure';
  }

  moment() {
    return { tick: this.tick, serverMs: this.serverMs(), ms: this.nowMs() };
  }

  /** Whether a user may be in a room: `true`, `false`, or `undefined` where rules are being exchanged. */
  allows(user, room) {
    const answers = new Set(this.rules.map((rules) => allows(RULES[rules], user, room)));
    return answers.size === 1 ? [...answers][0] : undefined;
  }
}

export function describe(event) {
  const { serial, topic, index, kind, delivery, channel, start, answer } = event;
  return `event ${serial}: ${kind} ${index} of ${topic}, ${delivery}, through ${channel}, accepted in ticks ${start}–${answer ?? '…'}`;
}

const keyOf = ({ topic, key }) => `${topic}\0${key}`;
const userChannel = (user) => `user:${user}`;

/** An identity that the model keeps: a user's tokens, or in their place how it came that it is nobody's. */
const [NOBODY, LOST] = ['nobody', 'lost'];
const nobody = () => new Map([[null, new Set([NOBODY])]]);
const union = (...identities) => {
  const all = new Map();
  for (const [user, tokens] of identities.flatMap((identity) => [...identity])) all.set(user, new Set([...(all.get(user) ?? []), ...tokens]));
  return all;
};

/** One socket of one client: a session on a namespace, for as long as that goes on, and the next one then. */
export class Seat {
  history = [];
  session = 0;
  id;
  connected = false;
  offered = null;
  /** Who it may be: users (`null` for nobody) and the tokens that they may be it by. */
  identity = nobody();
  /** What time, a revocation or a key that is gone has taken, and the client is not told of yet. */
  untold = new Map();
  identityTick = 0;
  channels = new Map();
  topics = new Map();
  /** What must come, by serial. */
  pending = new Map();
  /** Answers to `subscribeMedia` whose last state must have come by the next answer. */
  snapshots = [];
  maxStart = 0;
  /** Tokens offered since it was last connected: an answer may be lost, and the session goes on with the token. */
  offers = [];
  /** When the last event came that was not an item's state, shown on subscribing. */
  lastOther = -Infinity;
  outstanding = new Set();
  /** Calls without an answer that may still be carried out, or whose events may still come. */
  late = new Set();
  lastHeard = -Infinity;
  /** When something last changed that a session is saved for. */
  changedMs = -Infinity;
  isAtRisk = false;
  wantsCount = false;
  unread;

  constructor(model, name, ns) {
    Object.assign(this, { model, name, ns });
  }

  log(text) {
    this.history.push(`${String(Math.round(this.model.nowMs() - this.model.began)).padStart(7)} ms  tick ${this.model.tick}  ${text}`);
    if (this.history.length > 400) this.history.splice(0, 100);
  }

  heard() {
    this.lastHeard = this.model.nowMs();
  }

  // Channels.

  channel(name) {
    let channel = this.channels.get(name);
    if (!channel) {
      channel = { state: OUT, hard: true, outSince: 0, outFrom: 0, outUntil: Infinity, since: Infinity, changed: 0 };
      this.channels.set(name, channel);
    }
    return channel;
  }

  /** `hard`: the client has been told on this very connection, so nothing that was under way can come after it. */
  set(name, state, { hard = false, restored = false, suspended = false } = {}) {
    const channel = this.channel(name);
    const { tick } = this.model;
    if (state !== channel.state) {
      if (channel.state === IN) this.drop((event) => event.channel === name);
      if (channel.state === OUT) Object.assign(channel, { outFrom: channel.hard ? 0 : channel.outSince, outUntil: restored ? 0 : tick });
      if (state === IN) Object.assign(channel, { since: tick, sinceMs: this.model.nowMs() });
      if (state === OUT) Object.assign(channel, { outSince: tick, hard });
      channel.state = state;
      channel.changed = tick;
      this.changedMs = this.model.nowMs();
    } else if (state === OUT && hard) channel.hard = true;
    // Who was away does not leave, and is there again if it is allowed again before it comes back.
    channel.suspended = state === OUT && !hard && (suspended || channel.suspended === true);
  }

  /** A channel that was not OUT becomes so, perhaps. */
  lose(name, state) {
    if (this.channels.has(name) && this.channel(name).state !== OUT) this.set(name, state);
  }

  drop(is) {
    for (const [serial, event] of this.pending) if (is(event)) this.pending.delete(serial);
  }

  // Identity.

  is(user) {
    return this.identity.size === 1 && this.identity.has(user);
  }

  get isSure() {
    return this.identity.size === 1;
  }

  get user() {
    return this.isSure ? [...this.identity.keys()][0] : undefined;
  }

  become(identity, { hard = false, restored = false } = {}) {
    const same = identity.size === this.identity.size && [...identity.keys()].every((user) => this.identity.has(user));
    if (!same) {
      this.wantsCount = false;
      this.log(`identity: ${[...identity.keys()].join(' or ')}${hard ? '' : ' (not told)'}`);
    }
    if (hard) this.untold = new Map();
    if (!same || [...identity].some(([user, tokens]) => tokens.size !== this.identity.get(user).size)) this.identityTick = this.model.tick;
    this.identity = identity;
    this.follow({ hard, restored });
  }

  /** Sets the channels that the identity and the rules decide on. */
  follow({ hard = false, restored = false }) {
    const users = new Set([...this.identity.keys()].filter((user) => user !== null));
    for (const name of this.channels.keys()) if (name.startsWith('user:')) users.add(name.slice('user:'.length));
    for (const user of users) {
      const state = this.is(user) ? IN : this.identity.has(user) ? MAYBE : OUT;
      this.set(userChannel(user), state, { hard, restored });
    }
    for (const [name, channel] of this.channels) {
      if (!name.startsWith('room:') || (channel.state === OUT && !channel.suspended)) continue;
      const answers = [...this.identity.keys()].map((user) => this.model.allows(user, name.slice('room:'.length)));
      if (answers.every((answer) => answer === false)) {
        // One that other rules have ended before is not told by what has changed now.
        if (channel.state !== OUT) this.set(name, OUT, { hard, suspended: true });
      } else if (channel.state === OUT || !answers.every((answer) => answer === true)) this.set(name, MAYBE, { restored: true });
    }
  }

  /** What time, revocations and keys that are gone have done to the identity. To be called before it is gone by. */
  refresh() {
    const { model } = this;
    const now = model.moment();
    let next = new Map();
    for (const [user, tokens] of this.identity) {
      if (user === null) {
        next = union(next, [[null, tokens]]);
        continue;
      }
      const left = new Set([...tokens].filter((token) => !this.isOver(token, now)));
      if (left.size > 0) next.set(user, left);
      else this.untold.set(user, tokens);
      if (left.size < tokens.size || [...left].some((token) => model.status(token, now, now) !== 'good')) {
        next = union(next, [[null, new Set([LOST])]]);
      }
    }
    this.become(next);
  }

  isOver(token, now) {
    const { model } = this;
    if (model.status(token, now, now) !== 'bad') return false;
    if (now.serverMs < token.exp * 1_000) return true; // revoked, or its key is gone
    // The server's timer does not follow steps of its clock.
    const late = now.ms - EXPIRY_MS;
    const isCalm = model.lastClockStep < token.issuedMs && !model.isTroubled(now.ms - 2 * EXPIRY_MS, now.ms);
    return isCalm && this.connected && this.connectedMs < late && now.serverMs > token.exp * 1_000 + EXPIRY_MS;
  }

  // The connection.

  /** A CONNECT goes out, on a connection that stands, with this token or none. */
  connecting(token) {
    this.model.now();
    this.offered = token;
    if (token) this.offers.push(token);
    this.opened = this.model.moment();
    this.log(`connects${token ? ` as ${token.user} (${token.jti})` : ''}`);
  }

  joined({ id, recovered }) {
    const { model } = this;
    model.now();
    this.refresh();
    const hadSession = this.id !== undefined;
    this.connected = true;
    this.sinceMs = this.connectedMs ?? -Infinity;
    // The answer may have overtaken the news of a kill.
    const isOvertaken = model.lastRestart.ms >= this.opened.ms;
    this.connectedMs = isOvertaken ? this.opened.ms : model.nowMs();
    this.expectsAuthError = undefined;
    this.log(`connected, ${recovered ? 'recovered' : hadSession ? 'NOT recovered' : 'new'}, ${id}`);
    if (recovered) this.recovered(id);
    else this.anew(hadSession);
    this.id = id;
    this.offers = [];
    // By what it lost by coming back.
    this.isAtRisk = isOvertaken && this.changedMs >= this.opened.ms;
    this.firstTick = model.tick;
    this.heard();
  }

  anew(hadSession) {
    const { model } = this;
    if (hadSession) {
      model.anew += 1;
      const excuse = this.excuse();
      this.log(`a new session: ${excuse ?? 'NO REASON'}`);
      if (excuse === undefined) {
        model.violation('not recovered', this, 'recovered: true, for the client was away for a moment only', 'recovered: false');
      }
    }
    this.session += 1;
    this.sessionMs = model.nowMs();
    this.ended = false;
    this.pending.clear();
    this.topics.clear();
    this.snapshots = [];
    this.maxStart = 0;
    this.wantsCount = false;
    this.unread = undefined;
    this.channels.clear();
    this.late.clear();
    this.welcomed = false;
    const { offered } = this;
    const status = offered && model.status(offered, this.opened, model.moment());
    // The greeting that tells is on its way.
    const perhaps = status === 'good' || status === 'unsure' ? [[offered.user, new Set([offered])]] : [];
    this.expects = status;
    this.become(union(nobody(), perhaps), { hard: true });
    // It was there for the server some time before the client heard of it.
    for (const channel of this.channels.values()) channel.outUntil = this.opened.tick;
  }

  recovered(id) {
    const { model } = this;
    model.recoveries += 1;
    if (id !== this.id) model.violation('identity', this, `the socket's id ${this.id}`, id);
    // A disconnect() on a dead line is not heard.
    this.ended = false;
    const now = model.moment();
    const { offered } = this;
    const offer = offered ? model.status(offered, this.opened, now) : 'none';
    let next = new Map();
    const add = (user, tokens) => {
      next = union(next, [[user, new Set(tokens)]]);
    };
    let wasNobody = false;
    for (const [user, tokens] of union(this.identity, this.untold)) {
      if (user === null) {
        // Who was nobody and offers a good token is somebody again, which is a new session.
        if (tokens.has(NOBODY)) {
          wasNobody = true;
          if (offer !== 'good') add(null, [NOBODY]);
        }
        continue;
      }
      for (const token of tokens) {
        const saved = model.status(token, this.opened, now);
        const isOffered = (offer === 'good' || offer === 'unsure') && offered.user === user;
        if (isOffered) add(user, [offered]);
        // One that offers another user's good token is a new session.
        const isRefused = offer === 'good' && offered.user !== user;
        if (saved !== 'bad' && !isRefused) add(user, [token]);
        if (saved !== 'good' && offer !== 'good') add(null, [NOBODY]);
      }
    }
    for (const earlier of this.offers) {
      const isOfSession = this.identity.has(earlier.user) || this.untold.has(earlier.user);
      if (earlier !== offered && isOfSession && model.status(earlier, this.opened, now) !== 'bad') {
        add(earlier.user, [earlier]);
        // Perhaps it was not.
        add(null, [NOBODY]);
      }
    }
    if (next.size === 0) {
      const got = `recovered: true; it was ${[...this.identity.keys()]}, offered is ${offered?.user ?? 'nothing'} (${offer})`;
      model.violation('recovered', this, "a new session, for it is nobody's or another user's", got);
      next = nobody();
    }
    // It is told now what it has lost.
    if (next.size === 1 && next.has(null) && !wasNobody) this.expectsAuthError = model.tick;
    this.expects = undefined;
    this.become(next, { hard: true, restored: true });
    // Over a restart an item's last event may come again, if nothing has come since; and then until that is confirmed.
    for (const topic of this.topics.values()) {
      const isUnconfirmed = topic.retoldMs !== undefined && !this.isConfirmed(topic.retoldMs, this.leftMs);
      topic.isRetold = (isUnconfirmed || model.lastRestart.seenMs > this.sinceMs) && topic.shown >= this.lastOther;
      if (topic.isRetold) topic.allowance = Math.max(1, topic.allowance);
    }
    // Nothing that ended before can come on this connection.
    for (const channel of this.channels.values()) {
      if (channel.state === OUT && channel.outSince < this.opened.tick) Object.assign(channel, { hard: true, suspended: false });
    }
  }

  /** Why the session need not have come back; `undefined` if it had to. */
  excuse() {
    const { model } = this;
    const now = model.nowMs();
    if (this.ended) return 'it ended with disconnect()';
    if (now - this.lastHeard > model.recoveryMs - WINDOW_MS) return 'away for long';
    if (now < model.diskTrouble) return 'the disk fails';
    // What the store has of a session counts if the server has ended since the client was last connected.
    const { ms, seenMs } = model.lastRestart;
    if (seenMs > this.sinceMs) {
      if (ms - this.sessionMs < SAVE_MS) return 'it began right before the server ended';
      if (this.isAtRisk) return 'it changed right before the kill';
      if (model.lastBadRestart > this.sinceMs) return 'the disk failed before the server ended';
      if (model.lastClockStep > Math.min(this.sessionMs, ms - CLOCK_MS)) return 'the clock was set, and the server ended';
    }
    const { offered } = this;
    if (offered) {
      if (this.identity.has(null)) return 'it was nobody\'s, perhaps, and a token is offered';
      if (!this.identity.has(offered.user) || this.identity.size > 1) return 'it is another user\'s, perhaps';
    }
    return undefined;
  }

  left(reason) {
    this.model.now();
    if (!this.connected) return;
    this.connected = false;
    this.leftMs = this.model.nowMs();
    this.log(`disconnected: ${reason}`);
  }

  /** The client has called disconnect(): the session ends. */
  end() {
    this.model.now();
    this.ended = true;
    this.log('calls disconnect()');
  }

  serverEnded(how, ms) {
    const { model } = this;
    this.log(`the server has ended (${how})`);
    if (how === 'kill' && this.changedMs > ms - SAVE_MS) this.isAtRisk = true;
    this.drop((event) => event.delivery === 'latest' && event.kind === 'room');
    if (model.relaxed) this.drop((event) => event.delivery === 'recoverable');
    // The progress of an item comes back only for as long as it is the item's state.
    for (const event of this.pending.values()) if (event.kind === 'progress') this.fragile.add(event.serial);
    for (const event of [...this.pending.values()]) {
      if (event.kind === 'progress' && this.hasLater(event)) this.pending.delete(event.serial);
    }
  }

  fragile = new Set();

  forgetFragile(item) {
    this.drop((event) => event.item === item && this.fragile.has(event.serial));
  }

  hasLater(event) {
    for (const other of this.model.events.values()) if (other.item === event.item && other.index > event.index) return true;
    return false;
  }

  // Calls.

  call(name, argument) {
    const { model } = this;
    const call = { name, argument, tick: model.now() };
    if (!['ping', 'getConnectionInfo', 'listNotifications'].includes(name)) this.changedMs = model.nowMs();
    this.refresh();
    this.log(`→ ${name} ${name === 'authenticate' ? `${argument.user} (${argument.jti})` : (argument ?? '')}`);
    call.before = this.identity;
    call.states = new Map([...this.channels].map(([channel, { state, changed }]) => [channel, { state, changed }]));
    this.outstanding.add(call);
    const unless = (channel, state) => {
      if (this.channel(channel).state !== state) this.set(channel, MAYBE);
    };
    switch (name) {
      case 'joinRoom':
        unless(`room:${argument}`, IN);
        break;
      case 'leaveRoom':
        unless(`room:${argument}`, OUT);
        break;
      case 'subscribeMedia':
        unless(`item:${argument}`, IN);
        this.topic(argument).allowance += 1;
        break;
      case 'unsubscribeMedia':
        unless(`item:${argument}`, OUT);
        break;
      case 'authenticate':
        if (argument.user !== undefined) {
          // On a dead line it changes nothing, and the session may come back as that user's all the same.
          this.become(union(this.identity, [[argument.user, new Set([argument])]]), { restored: this.untold.has(argument.user) });
        }
        break;
      case 'logout':
        this.become(union(this.identity, nobody()));
        break;
      default:
    }
    return call;
  }

  /** The call was not answered: it may have been carried out or not. */
  unanswered(call, why) {
    this.outstanding.delete(call);
    this.late.add(call);
    this.log(`no answer to ${call.name}: ${why}`);
  }

  answered(call, answer) {
    const { model } = this;
    model.now();
    this.outstanding.delete(call);
    this.heard();
    this.refresh();
    this.log(`← ${call.name} ${call.argument?.user ?? call.argument ?? ''}: ${JSON.stringify(answer).slice(0, 200)}`);
    this.fence(call);
    const ok = answer.success === true;
    const sure = { hard: true };
    switch (call.name) {
      case 'joinRoom':
      case 'leaveRoom':
        this.answeredRoom(call, answer, sure);
        break;
      case 'subscribeMedia':
        this.answeredSubscription(call, answer, sure);
        break;
      case 'unsubscribeMedia':
        if (ok) this.set(`item:${call.argument}`, OUT, sure);
        else model.violation('refused', this, 'unsubscribeMedia succeeds', JSON.stringify(answer));
        break;
      case 'authenticate':
        this.answeredAuthentication(call, answer);
        break;
      case 'logout':
        if (ok) this.become(nobody(), sure);
        else model.violation('refused', this, 'logout succeeds', JSON.stringify(answer));
        break;
      case 'getConnectionInfo':
        this.answeredInfo(call, answer);
        break;
      case 'listNotifications':
        this.wantsCount = ok;
        this.unread = answer.unreadCount;
        break;
      default:
    }
  }

  answeredRoom(call, answer, sure) {
    const { model } = this;
    const channel = `room:${call.argument}`;
    const users = [...new Set([...call.before.keys(), ...this.identity.keys()])];
    const answers = users.map((user) => model.allows(user, call.argument));
    if (answer.success) {
      if (call.name === 'leaveRoom') return this.set(channel, OUT, sure);
      const isUnchanged = this.identityTick <= call.tick;
      if (answers.every((allowed) => allowed === false) && isUnchanged && this.rulesAge(call)) {
        model.violation('let in', this, `joinRoom ${call.argument} is refused to ${users}`, 'success');
      }
      return this.set(channel, answers.every((allowed) => allowed === true) ? IN : MAYBE, sure);
    }
    if (call.name === 'leaveRoom') return model.violation('refused', this, 'leaveRoom succeeds', JSON.stringify(answer));
    if (answers.every((allowed) => allowed === true) && this.rulesAge(call)) {
      model.violation('refused', this, `joinRoom ${call.argument} is let in as ${users}`, JSON.stringify(answer));
    }
    return this.set(channel, OUT, sure);
  }

  /** Whether the rules that the answer went by are those in force now. */
  rulesAge(call) {
    return this.model.rulesChanged < call.tick;
  }

  answeredSubscription(call, answer, sure) {
    const { model } = this;
    const channel = `item:${call.argument}`;
    const item = model.items.get(call.argument);
    if (!answer.success) {
      const isRefusal = answer.error === 'Not allowed';
      if (isRefusal && (item?.owner === undefined || (this.is(item.owner) && call.before.size === 1 && call.before.has(item.owner)))) {
        model.violation('refused', this, `subscribeMedia ${call.argument} is let in`, JSON.stringify(answer));
      }
      if (isRefusal) this.set(channel, OUT, sure);
      return;
    }
    const isOwned = item?.ownerAnswer !== undefined && item.ownerAnswer < call.tick;
    const couldBe = isOwned && (this.identity.has(item.owner) || call.before.has(item.owner));
    if (isOwned && !couldBe) model.violation('let in', this, `subscribeMedia ${call.argument} is refused: it is ${item.owner}'s`, 'success');
    this.set(channel, item?.owner === undefined || isOwned ? IN : MAYBE, sure);
    const newest = model.newest.get(call.argument);
    if (newest && newest.answer < call.tick && (item.owner === undefined || (isOwned && this.is(item.owner)))) {
      this.snapshots.push({ item: call.argument, index: newest.index, tick: model.tick, channel: newest.channel });
    }
  }

  answeredAuthentication(call, answer) {
    const { model } = this;
    const token = call.argument;
    const now = model.moment();
    if (answer.success) {
      if (token.user !== answer.userId) model.violation('identity', this, `authenticate as ${token.user}`, JSON.stringify(answer));
      return this.become(new Map([[answer.userId, new Set([token])]]), { hard: true });
    }
    if (token.user !== undefined && model.status(token, { ...now, tick: call.tick }, now) === 'good') {
      model.violation('refused', this, `authenticate as ${token.user} succeeds`, JSON.stringify(answer));
    }
    // It keeps the identity that it had, unless that ended meanwhile.
    const isAlone = call.before.size === 1;
    if (isAlone && token.user !== undefined && this.untold.size === 0) this.become(call.before, { hard: true });
    this.refresh();
  }

  answeredInfo(call, { socketId, rooms, authenticated }) {
    const { model } = this;
    if (socketId !== this.id) model.violation('identity', this, this.id, socketId);
    const user = rooms.find((room) => room.startsWith('user:'))?.slice('user:'.length) ?? null;
    if (authenticated !== (user !== null)) model.violation('identity', this, 'authenticated as the rooms say', JSON.stringify({ rooms, authenticated }));
    // What changed meanwhile, the answer may not know of.
    if (this.identityTick > call.tick) return undefined;
    const isKnown = this.identity.has(user);
    if (!isKnown) model.violation('identity', this, `to be ${[...this.identity.keys()].join(' or ')}`, `${user}`);
    if (!this.is(user)) {
      // After a violation the model goes on with what is, so that each is said once.
      const unknown = { user, jti: 'unknown', iat: Math.floor(model.serverMs() / 1_000), exp: Infinity, issuedMs: model.nowMs() };
      const tokens = user === null ? [NOBODY] : isKnown ? this.identity.get(user) : [unknown];
      this.become(new Map([[user, new Set(tokens)]]), { hard: true });
    }
    for (const [name, channel] of this.channels) {
      if (!name.startsWith('room:')) continue;
      const state = rooms.includes(name.slice('room:'.length)) ? IN : OUT;
      const isSure = channel.state !== MAYBE && channel.changed < call.tick && this.rulesAge(call);
      if (isSure && channel.state !== state) {
        model.violation('membership', this, `${name} ${channel.state}`, `${state} (rooms: ${rooms})`);
      }
      // A handler that went by other rules has answered.
      if (channel.changed <= call.tick) this.set(name, state, { hard: true });
    }
  }

  /** What the server had queued before it got the call has come before the answer. */
  fence(call) {
    const { model } = this;
    if (call.tick < this.firstTick) return;
    this.late.clear();
    for (const [item, topic] of this.topics) topic.allowance = call.name === 'subscribeMedia' && call.argument === item ? 1 : 0;
    if (this.expects === 'good') model.violation('greeting', this, `authenticated as ${this.offered.user}`, 'nothing');
    this.expects = undefined;
    if (!this.welcomed) model.violation('greeting', this, 'welcome', 'nothing');
    this.welcomed = true;
    for (const event of [...this.pending.values()]) {
      if (event.answer >= call.tick) continue;
      this.pending.delete(event.serial);
      if (this.isReplaced(event)) continue;
      model.violation('missed', this, `${describe(event)}, before the answer to ${call.name} of tick ${call.tick}`, 'not that event', event);
    }
    this.snapshots = this.snapshots.filter((snapshot) => {
      if (snapshot.tick >= call.tick) return true;
      if (this.channel(snapshot.channel).state === IN && this.topic(snapshot.item).after < snapshot.tick) {
        model.violation('no snapshot', this, `the last state of ${snapshot.item} (${snapshot.index} or later) after subscribeMedia`, 'nothing');
      }
      return false;
    });
    if (this.expectsAuthError !== undefined && this.expectsAuthError < call.tick) {
      model.violation('no authError', this, 'authError, for the identity was lost while the client was away', 'nothing');
      this.expectsAuthError = undefined;
    }
  }

  // Events.

  topic(name) {
    let topic = this.topics.get(name);
    if (!topic) {
      topic = { got: new Map(), max: -1, allowance: 0, after: -1 };
      this.topics.set(name, topic);
    }
    return topic;
  }

  /** Whether a newer one is enough, which may be accepted by now. */
  isReplaced(event) {
    return event.delivery === 'latest' && this.model.newestBegun.get(keyOf(event)) > event.index;
  }

  /** An answered event has to come, if the socket was there all along. */
  owe(event) {
    this.refresh();
    const channel = this.channel(event.channel);
    if (channel.state !== IN || channel.since >= event.start) return;
    if (this.topics.get(event.topic)?.got.has(event.serial)) return;
    const { lastRestart } = this.model;
    if (lastRestart.tick > event.start) {
      // Accepted before the server ended, perhaps, and then gone as such are.
      if (event.kind === 'room' && (event.delivery === 'latest' || (event.delivery === 'recoverable' && this.model.relaxed))) return;
      if (event.kind === 'progress') this.fragile.add(event.serial);
    }
    if (event.delivery === 'latest') {
      this.drop((older) => older.topic === event.topic && older.key === event.key && older.index < event.index);
      const isOlder = [...(this.topics.get(event.topic)?.got.values() ?? [])].some(({ event: got }) => got.key === event.key && got.index > event.index);
      if (isOlder) return;
    }
    this.pending.set(event.serial, event);
  }

  told(name, payload) {
    const { model } = this;
    model.now();
    this.heard();
    if (name === 'welcome') {
      if (this.welcomed || payload.socketId !== this.id) model.violation('greeting', this, 'one welcome, in a new session', JSON.stringify(payload));
      this.welcomed = true;
    }
    if (name === 'authenticated') this.toldIdentity(payload);
    if (name === 'authError') this.toldError(payload.message);
    if (name === 'unreadCount') this.unread = payload.count;
  }

  toldIdentity({ userId }) {
    this.log(`authenticated as ${userId}`);
    const isCalled = (call) => call.name === 'authenticate';
    if ([...this.outstanding].some(isCalled)) return; // its answer follows
    const call = [...this.late].findLast((late) => isCalled(late) && late.argument.user === userId);
    const token = call?.argument ?? this.offered;
    if (token?.user !== userId) return this.model.violation('identity', this, `authenticated as ${token?.user}`, userId);
    if (!call && this.expects === 'bad') this.model.violation('let in', this, `authError, for ${token.jti} is over`, `authenticated as ${userId}`);
    if (!call) this.expects = undefined;
    this.become(new Map([[userId, new Set([token])]]), { hard: true });
  }

  toldError(message) {
    const { model } = this;
    this.log(`authError: ${message}`);
    this.expectsAuthError = undefined;
    const isAnswer = [...this.outstanding, ...this.late].some((call) => call.name === 'authenticate');
    if (isAnswer) {
      // That of the call, which changes nothing, or the identity's end.
      if (/expired|revoked/.test(message) || model.removedKeys.size > 0) this.become(union(this.identity, nobody()));
      return;
    }
    this.refresh();
    const isGood = this.expects === 'good' || (this.expects === undefined && !this.identity.has(null));
    if (isGood && model.lastClockStep === -Infinity) {
      model.violation('identity', this, `to be ${[...this.identity.keys()].join(' or ')}`, `authError ${message}`);
    }
    this.expects = undefined;
    this.become(nobody(), { hard: true });
  }

  /** An event of a publisher's came. */
  received(serial, ns) {
    const { model } = this;
    model.now();
    this.heard();
    model.checked += 1;
    this.refresh();
    const event = model.events.get(serial);
    if (!event) return model.violation('unknown', this, 'events that were published', `serial ${serial}`);
    this.log(`event ${serial}: ${event.kind} ${event.index} of ${event.topic}`);
    const topic = this.topic(event.topic);
    if (event.refused) model.violation('refused', this, 'nothing of a publish that was refused', 'the event', event);
    if (event.ns !== ns) model.violation('leak', this, `events of ${this.ns}`, `one of ${event.ns}`, event);
    const channel = this.channel(event.channel);
    const isSnapshot = event.item !== undefined && topic.allowance > 0;
    const isWaiting = event.kind === 'notification' && !(channel.state === IN && channel.since < event.start);
    if (channel.state === OUT && (channel.hard || event.start > channel.outSince)) {
      model.violation('leak', this, `nothing through ${event.channel} since tick ${channel.outSince}`, 'the event', event);
    } else if (event.start > channel.outFrom && event.answer < channel.outUntil && !isSnapshot && !isWaiting && channel.outUntil !== Infinity) {
      model.violation('leak', this, `nothing of ${event.channel} from before tick ${channel.outUntil}, when it was not there`, 'the event', event);
    }
    if (isSnapshot) {
      topic.shown = model.tick;
      topic.retoldMs = topic.isRetold ? model.nowMs() : undefined;
    } else {
      this.lastOther = model.tick;
    }
    this.pending.delete(serial);
    if (topic.got.has(serial)) return this.twice(event, topic, isSnapshot);
    const isLive = !isSnapshot && !isWaiting;
    if (isSnapshot && event.index <= topic.max) model.violation('order', this, `nothing older than ${topic.max}`, `${event.index}`, event);
    if (isLive && event.index < topic.max && event.order === undefined) model.violation('order', this, `nothing of ${event.topic} before ${topic.max}`, `${event.index}`, event);
    if (isLive && event.answer < this.maxStart) {
      model.violation('order', this, `nothing accepted before tick ${this.maxStart}, when a later one was published`, 'the event', event);
    }
    if (!isWaiting) {
      for (const owed of [...this.pending.values()]) {
        if (owed.topic !== event.topic || owed.index > event.index || (owed.order ?? event.order) !== undefined) continue;
        this.pending.delete(owed.serial);
        const isOver = owed.delivery === 'latest' && isSnapshot;
        if (!this.isReplaced(owed) && !isOver) model.violation('missed', this, describe(owed), `the later ${describe(event)}`, owed);
      }
      topic.max = Math.max(topic.max, event.index);
    }
    if (isLive) this.maxStart = Math.max(this.maxStart, event.start);
    if (event.item) topic.after = model.tick;
    topic.got.set(serial, { event, ms: model.nowMs() });
    if (event.kind === 'notification') this.notified(event, channel);
  }

  twice(event, topic, isSnapshot) {
    const { model } = this;
    if (isSnapshot && event.index === topic.max) {
      topic.after = model.tick;
      return;
    }
    const first = topic.got.get(event.serial);
    // Unconfirmed, and the server was lost within that round trip: rather again than not at all.
    const isUnconfirmed = event.kind === 'notification' && model.lastRestart.ms > first.ms - 1_000 && !this.isConfirmed(first.ms, model.lastRestart.ms);
    if (!isUnconfirmed) model.violation('twice', this, `event ${event.serial} once`, 'it came again', event);
  }

  /** Whether what came then was confirmed before `end`, when the connection or the server was lost. */
  isConfirmed(ms, end) {
    return end - ms > CONFIRM_MS && !this.model.isTroubled(ms, ms + CONFIRM_MS);
  }

  notified(event, channel) {
    const { model } = this;
    const now = model.nowMs();
    event.receipts ??= [];
    const before = event.receipts.find(({ seat, session, ms, connection }) => {
      // A session that came back has missed it, whoever else has not.
      if ((seat === this && session === this.session) || channel.outUntil === 0) return false;
      const end = seat.connected && seat.connectedMs === connection ? now : seat.connectedMs === connection ? seat.leftMs : ms;
      return this.isConfirmed(ms, end) && channel.sinceMs - ms > CONFIRM_MS;
    });
    if (before) model.violation('twice', this, `nothing that ${before.seat.name} has confirmed`, 'the notification again, in a later session', event);
    event.receipts.push({ seat: this, session: this.session, ms: now, connection: this.connectedMs });
  }

  /** Nothing is under way any more. */
  settle() {
    this.refresh();
    for (const event of this.pending.values()) this.model.violation('missed', this, describe(event), 'nothing, to the end', event);
    this.pending.clear();
  }
}

// One round: a plan is carried out against a real server, with clients and publishers at work all along, and then everything has
// to come to rest in the truth.
import { execFileSync } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, existsSync, mkdtempSync, openSync, renameSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Server } from '../server.js';
import { until, within } from '../wait.js';
import { Line } from './line.js';
import { Member } from './member.js';
import { Model } from './model.js';
import { describe } from './model/events.js';
import { plan as planOf } from './plan.js';
import { Publishers, post } from './publisher.js';
import { Random } from './random.js';
import { USERS, toml } from './rules.js';

const STOP_MS = 12_000;
const SETTLE_MS = 40_000;
const faults = new URL('../../faults/', import.meta.url);

/** Builds what stands between the server and the system, where there is a compiler: the paths of those that there are. */
export function buildFaults(folder) {
  const built = {};
  for (const name of ['clock', 'disk']) {
    const source = fileURLToPath(new URL(`${name}.c`, faults));
    const library = join(folder, `${name}.so`);
    if (!existsSync(source)) continue;
    try {
      execFileSync('cc', ['-O2', '-shared', '-fPIC', '-o', library, source, '-ldl'], { stdio: 'pipe' });
      built[name] = library;
    } catch (error) {
      console.error(`chaos: without faults of the ${name}: ${error.message.split('\n')[0]}`);
    }
  }
  return built;
}

export class Round {
  keys = [secret(0)];
  key = 0;
  offset = 0;
  steps = {};
  at = { step: -1, kind: 'start' };
  revokedAt = new Map();
  serial = 0;
  background = new Set();

  constructor(seed, { libraries = {}, env = {}, relaxed = false, pause = 220, ...size } = {}) {
    this.plan = planOf(seed, { disk: libraries.disk !== undefined, clock: libraries.clock !== undefined, ...size });
    this.libraries = libraries;
    this.env = env;
    this.pause = pause;
    this.rules = this.plan.rules;
    this.model = new Model({
      rules: this.rules,
      recoveryMs: Number(this.plan.server.RECOVERY_MS),
      relaxed,
      serverMs: () => Date.now() + this.offset,
      context: () => ({ seed, step: this.at.step, during: this.at.kind }),
    });
  }

  /** Runs all of it; returns what it did and found. */
  async run() {
    this.folder = mkdtempSync(join(tmpdir(), 'slop-studios-chaos-'));
    try {
      await this.#begin();
      for (const [step, what] of this.plan.steps.entries()) {
        if (what.pause > 0) await delay(what.pause);
        this.at = { step, kind: what.kind };
        this.#log(JSON.stringify(what));
        await this[`_${what.kind}`](what);
        this.steps[what.kind] = (this.steps[what.kind] ?? 0) + 1;
        if (this.model.violations.length >= 200) break;
      }
      this.at = { step: this.plan.steps.length, kind: 'settle' };
      await this.#settle();
    } catch (error) {
      this.model.violation('broken', undefined, 'the round to run to its end', error.stack);
    }
    await this.#end();
    return this.summary();
  }

  summary() {
    const { model, publishers, members } = this;
    const cuts = {};
    for (const { line } of members) for (const [how, count] of Object.entries(line.counts)) cuts[how] = (cuts[how] ?? 0) + count;
    return {
      seed: this.plan.seed,
      steps: this.steps,
      cuts,
      recoveries: model.recoveries,
      anew: model.anew,
      published: publishers.published,
      attempts: publishers.attempts,
      givenUp: publishers.givenUp,
      checked: model.checked,
      calls: members.reduce((sum, member) => sum + member.calls, 0),
      unanswered: members.reduce((sum, member) => sum + member.unanswered, 0),
      violations: model.violations,
      log: this.server?.stderr ?? '',
    };
  }

  #log(text) {
    for (const seat of this.model.seats) seat.log(`== step ${this.at.step}: ${text}`);
  }

  // The server.

  async #begin() {
    const { libraries } = this;
    if (libraries.clock) {
      this.clockFile = openSync(join(this.folder, 'clock'), 'w+');
      this.#setClock(0);
    }
    this.#configure();
    await this.#start();
    this.publishers = new Publishers({ port: this.port, model: this.model, random: new Random(this.plan.seed).fork('publishers'), pause: this.pause });
    this.members = [];
    for (const member of this.plan.members) await this.#member(member);
    for (const [n, agent] of this.#agents()) {
      if (agent.ns === '/media') this.plan.members[n].lanes.forEach((lane) => this.publishers.items[lane].slice(-1).forEach((item) => agent.wants.items.add(item)));
    }
    await until(() => this.members.every((member) => member.agents.every((agent) => agent.isSettled)), 'a quiet start', SETTLE_MS);
    this.publishing = this.publishers.run();
    // A publisher that fails is a finding of its own, and noticed when the round settles.
    this.publishing.catch(() => {});
  }

  async #member(member) {
    const line = await Line.to(this.port);
    const made = new Member(member, { line, model: this.model, issue: (user, claims) => this.#issue(user, claims) });
    this.members.push(made);
    made.start();
    return made;
  }

  *#agents() {
    for (const [n, member] of this.members.entries()) for (const agent of member.agents) yield [n, agent];
  }

  #configure() {
    const previous = this.keys.slice(0, -1);
    writeFileSync(join(this.folder, 'slop.toml'), toml({ rules: this.rules, secret: this.keys.at(-1), previous }));
  }

  async #start() {
    const { clock, disk } = this.libraries;
    const preload = [clock, disk].filter(Boolean).join(' ');
    this.dataDir ??= mkdtempSync(join(this.folder, 'data-'));
    const faulty = {
      ...(preload === '' ? {} : { LD_PRELOAD: preload }),
      ...(clock ? { CLOCK_FILE: join(this.folder, 'clock') } : {}),
      ...(disk ? { DISK_FAULTS_FOLDER: this.dataDir, DISK_FAULTS_CONTROL: join(this.folder, 'disk') } : {}),
    };
    const env = { JWT_SECRET: '', LOG_LEVEL: 'debug', ...this.plan.server, ...faulty, ...this.env };
    const before = this.server?.stderr ?? '';
    this.server = await Server.start({ port: this.port ?? 0, env, args: ['--config', join(this.folder, 'slop.toml')], dataDir: this.dataDir });
    this.server.stderr = `${before.slice(-100_000)}${this.server.stderr}`;
    this.port = this.server.port;
    this.model.diskSince = Infinity;
  }

  async #stop(how, ms) {
    const { server, model } = this;
    const from = performance.now();
    server.child.kill(how === 'kill' ? 'SIGKILL' : 'SIGTERM');
    const exit = await within(server.exited, STOP_MS, `exit after ${how}`).catch(async (error) => {
      model.violation('stop', undefined, `the end within SHUTDOWN_GRACE_MS and a few seconds`, error.message);
      server.child.kill('SIGKILL');
      return server.exited;
    });
    model.ended(how, how === 'kill' ? from : performance.now());
    if (how === 'term' && exit.code !== 0 && model.diskSince === Infinity) model.violation('stop', undefined, 'exit code 0', JSON.stringify(exit));
    if (/panicked at/.test(server.stderr)) model.violation('panic', undefined, 'no panic', server.stderr.match(/.*panicked at.*\n.*/)[0]);
    this.#disk('');
    await delay(ms);
    await this.#start();
    model.troubled(from, performance.now() + 1_000);
  }

  _kill({ ms }) {
    return this.#stop('kill', ms);
  }

  _term({ ms }) {
    return this.#stop('term', ms);
  }

  async _freeze({ ms }) {
    const from = performance.now();
    this.server.child.kill('SIGSTOP');
    await delay(ms);
    this.server.child.kill('SIGCONT');
    this.model.thawed(from);
    this.model.troubled(from, performance.now() + 1_000);
  }

  _freezeLong(step) {
    return this._freeze(step);
  }

  // The configuration.

  async _reload({ rules }) {
    await this.#change(rules, [], () => this.#hangUp());
  }

  async _rotate({ keep, restart }) {
    const gone = keep ? [] : this.keys.map((_, n) => this.key - n);
    const next = secret(this.key + 1);
    const keys = keep ? [...this.keys, next] : [next];
    await this.#change(this.rules, gone, async () => {
      this.keys = keys;
      this.#configure();
      await (restart === '' ? this.#hangUp() : this.#stop(restart, 0));
    });
    this.key += 1;
  }

  async #change(rules, gone, apply) {
    this.model.reloading(rules, gone);
    this.rules = rules;
    this.#configure();
    await apply();
    this.model.reloaded(rules, gone);
  }

  async #hangUp() {
    const before = await this.#reloads();
    this.server.child.kill('SIGHUP');
    await until(async () => (await this.#reloads()) > before, 'reload', 10_000);
  }

  async #reloads() {
    const answer = await post(this.port, '/metrics', undefined, { method: 'GET' });
    return Number(/slop_reloads_total\{outcome="applied"\} (\d+)/.exec(answer?.text ?? '')?.[1] ?? 0);
  }

  #issue(user, { seconds = 3_600 } = {}) {
    this.serial += 1;
    const now = Math.floor((Date.now() + this.offset) / 1_000);
    // Old enough for a clock that goes back, and later than the user's last revocation.
    const iat = Math.max(now - 3_000, this.revokedAt.get(user) ?? 0);
    const token = { user, jti: `t-${this.serial}`, iat, exp: now + seconds, key: this.key, issuedMs: performance.now() };
    const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const body = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode({ userId: user, jti: token.jti, iat, exp: token.exp })}`;
    token.text = `${body}.${createHmac('sha256', secret(this.key)).update(body).digest('base64url')}`;
    return token;
  }

  async _revokeUser({ user }) {
    const revocation = this.model.revoke({ user });
    const answer = await this.#insist(`/v1/users/${user}/revoke`);
    const issuedBefore = Date.parse(answer.issuedBefore);
    this.model.revoked(revocation, issuedBefore);
    this.revokedAt.set(user, Math.floor(issuedBefore / 1_000) + 1);
  }

  async _revokeToken({ client, nsp }) {
    const { seat } = this.members[client].agents[nsp];
    const [user, tokens] = [...seat.identity][0];
    if (user === null || !seat.isSure) return;
    const [{ jti }] = tokens;
    const revocation = this.model.revoke({ jti });
    await this.#insist(`/v1/tokens/${jti}/revoke`);
    this.model.revoked(revocation);
  }

  async #insist(path) {
    for (;;) {
      const answer = await post(this.port, path);
      if (answer?.status === 200) return answer.json;
      if (answer && ![500, 503].includes(answer.status)) throw new Error(`${path}: ${answer.status} ${answer.text}`);
      await delay(30);
    }
  }

  // Disk and clock.

  #disk(rules) {
    if (!this.libraries.disk) return;
    const file = join(this.folder, 'disk');
    writeFileSync(`${file}.next`, rules);
    renameSync(`${file}.next`, file);
    const now = performance.now();
    const { model } = this;
    if (this.hasBadDisk || rules !== '') model.diskTrouble = rules === '' ? now + 1_000 : Infinity;
    if (rules !== '') {
      model.diskSince = Math.min(model.diskSince, now);
      this.hasBadDisk = now;
    } else if (this.hasBadDisk) {
      model.troubled(this.hasBadDisk, now + 1_000);
      this.hasBadDisk = undefined;
    }
  }

  async _disk({ mode, ms, then }) {
    this.#disk(mode === 'delay' ? 'sync * wait 400\n' : 'sync * fail EIO\nwrite * fail ENOSPC\n');
    await delay(ms);
    if (then !== '') return this.#stop(then, 0);
    this.#disk('');
    return undefined;
  }

  #setClock(ms) {
    this.offset = ms;
    const bytes = Buffer.alloc(8);
    bytes.writeBigInt64LE(BigInt(ms));
    writeSync(this.clockFile, bytes, 0, 8, 0);
  }

  async _clock({ ms }) {
    // Tokens are as old as a clock may go back.
    if (this.offset + ms < -2_500_000) return;
    this.#setClock(this.offset + ms);
    this.model.clockStepped();
  }

  // Lines.

  #line(client) {
    return this.members[client].line;
  }

  _fin({ client }) {
    this.#line(client).cut('fin');
  }

  _rst({ client }) {
    this.#line(client).cut('rst');
  }

  _half({ client }) {
    this.#line(client).cut('half');
  }

  _silent({ client, ms }) {
    const line = this.#line(client);
    line.silence();
    this.#later(ms, () => line.cut('rst'));
  }

  _stall({ client, ms }) {
    this.#line(client).stall(ms);
  }

  /** The next connection is cut while it upgrades. */
  _upgrade({ client }) {
    const line = this.#line(client);
    line.cutUpgrades = 1;
    line.cut('rst');
  }

  _swallow({ client, count }) {
    const line = this.#line(client);
    line.swallow = count;
    line.cut('half');
  }

  _rstAll({ how }) {
    for (const { line } of this.members) line.cut(how);
  }

  _blackout({ client, ms }) {
    const line = this.#line(client);
    line.blocked = true;
    line.cut('rst');
    this.#later(ms, () => {
      line.blocked = false;
    });
  }

  #later(ms, then) {
    const timer = setTimeout(() => {
      this.background.delete(timer);
      then();
    }, ms);
    this.background.add(timer);
  }

  // Clients.

  #wants({ client, nsp }, change) {
    const agent = this.members[client].agents[nsp];
    change(agent.wants, agent);
    agent.wake();
  }

  _join(step) {
    this.#wants(step, (wants) => wants.rooms.add(step.room));
  }

  _leave(step) {
    this.#wants(step, (wants) => wants.rooms.delete(step.room));
  }

  _subscribe(step) {
    const item = this.publishers.items[step.lane].at(-1 - step.back);
    if (item) this.#wants({ ...step, nsp: 1 }, (wants) => wants.items.add(item));
  }

  _unsubscribe(step) {
    const item = this.publishers.items[step.lane].at(-1 - step.back);
    if (item) this.#wants({ ...step, nsp: 1 }, (wants) => wants.items.delete(item));
  }

  _login(step) {
    this.#wants(step, (wants) => {
      wants.user = step.user;
    });
  }

  _logout(step) {
    this.#wants(step, (wants) => {
      wants.user = null;
    });
  }

  _expire(step) {
    this.#wants(step, (wants, agent) => {
      if (wants.user === null || agent.member.mode === 'anonymous') return;
      agent.extra = ['authenticate', this.#issue(wants.user, { seconds: step.seconds })];
      if (!step.again) wants.user = null;
    });
  }

  _badToken(step) {
    this.#wants(step, (_, agent) => {
      agent.extra = ['authenticate', { jti: 'bad', text: 'no.such.token' }];
    });
  }

  _list(step) {
    this.#wants({ ...step, nsp: 2 }, (wants) => {
      wants.list = true;
    });
  }

  /** A page that is closed, and opened again. */
  _reconnect(step) {
    this.#wants(step, (_, agent) => {
      if (!agent.socket.connected) return;
      agent.seat.end();
      agent.socket.disconnect();
      this.#later(step.ms, () => agent.socket.connect());
    });
  }

  // The end.

  async #settle() {
    const { model, members, publishers } = this;
    await until(() => this.background.size === 0, 'end of the lines\' faults', 15_000);
    for (const { line } of members) line.heal();
    publishers.stopped = true;
    await within(this.publishing, SETTLE_MS, 'end of the publishers');
    const isQuiet = () => members.every((member) => member.agents.every((agent) => agent.isSettled));
    const restless = () => [...this.#agents()].map(([, agent]) => agent).filter((agent) => !agent.isSettled);
    await until(isQuiet, 'quiet', SETTLE_MS).catch((error) => {
      for (const { seat, wants } of restless()) model.violation('restless', seat, `to get to ${JSON.stringify({ ...wants, rooms: [...wants.rooms], items: [...wants.items] })}`, error.message);
    });
    await this.#fence();
    for (const seat of model.seats) seat.settle();
    await this.#truth();
  }

  /** Everything that the server queued for a client before now has come when this resolves. */
  async #fence() {
    const fenced = [...this.#agents()].map(async ([, agent]) => {
      for (let left = 20; left > 0 && !(await agent.call('ping')); left -= 1) await delay(100);
      for (let left = 20; left > 0 && !(await agent.call('getConnectionInfo')); left -= 1) await delay(100);
    });
    await Promise.all(fenced);
  }

  /** New clients see what is kept, and it is what was published. */
  async #truth() {
    const { model, publishers } = this;
    const known = [...model.events.values()];
    const items = publishers.items.flatMap((lane) => lane.slice(-4));
    for (const user of USERS) {
      const late = await this.#member({ name: `late-${user}`, transports: ['websocket'], mode: 'fresh', user, rooms: [[], [], []] });
      for (const item of items) late.agents[1].wants.items.add(item);
    }
    const lates = this.members.slice(-USERS.length);
    await until(() => lates.every((member) => member.agents.every((agent) => agent.isSettled)), 'the late clients', SETTLE_MS);
    const notifications = known.filter((event) => event.kind === 'notification' && event.answer !== undefined);
    const unseen = () => notifications.filter((event) => event.receipts === undefined);
    await until(() => unseen().length === 0, 'all notifications', 10_000).catch(() => {});
    for (const event of unseen()) model.violation('missed', undefined, `a notification to be received by some socket of ${event.user}`, 'nobody did', event);
    await this.#fence();
    for (const [n, user] of USERS.entries()) await this.#inbox(user, lates[n].agents[2], notifications.filter((event) => event.user === user));
    for (const item of items) await this.#state(item);
  }

  async #inbox(user, agent, notifications) {
    const { model } = this;
    const wanted = notifications.map((event) => event.id).reverse();
    const ids = [];
    for (let before; ; ) {
      const answer = await agent.call('listNotifications', { limit: 100, ...(before === undefined ? {} : { before }) });
      if (!answer?.success) return model.violation('inbox', agent.seat, 'a page', JSON.stringify(answer));
      ids.push(...answer.notifications.map(({ id }) => id));
      if (answer.next === undefined) break;
      before = answer.next;
    }
    if (ids.join() !== wanted.join()) model.violation('inbox', agent.seat, `${user}: ${wanted}`, `${ids}`);
    // All who have asked are told of the next one.
    const listeners = [...this.#agents()].map(([, { seat }]) => seat).filter((seat) => seat.wantsCount && seat.is(user));
    const lane = this.publishers.lanes.find(({ name }) => name === `notify ${user}`);
    await lane.run(lane);
    await this.#fence();
    const newest = [...model.events.values()].filter((event) => event.user === user && event.answer !== undefined).length;
    for (const seat of listeners) {
      if (seat.wantsCount && seat.unread !== newest) model.violation('unreadCount', seat, `${newest}`, `${seat.unread}`);
    }
    return undefined;
  }

  async #state(item) {
    const newest = this.model.newest.get(item);
    if (!newest) return;
    const answer = await post(this.port, `/v1/media/${item}`, undefined, { method: 'GET' });
    const payload = answer?.json?.payload;
    const serial = Number(payload?.message ?? payload?.metadata?.serial ?? payload?.code);
    if (serial !== newest.serial) this.model.violation('state', undefined, describe(newest), answer?.text, newest);
  }

  async #end() {
    for (const timer of this.background) clearTimeout(timer);
    this.members ??= [];
    await Promise.all(this.members.map((member) => within(member.stop(), 5_000, 'end of a client').catch(() => {})));
    await Promise.all(this.members.map((member) => member.line.close()));
    if (this.server?.child.exitCode === null && this.server.child.signalCode === null) {
      this.server.child.kill('SIGCONT');
      this.server.child.kill('SIGTERM');
      const exit = await within(this.server.exited, STOP_MS, 'exit').catch((error) => ({ error: error.message }));
      if (exit.code !== 0) this.model.violation('stop', undefined, 'exit code 0 at the end', JSON.stringify(exit));
      if (exit.error) this.server.child.kill('SIGKILL');
    }
    if (this.publishers) {
      this.publishers.stopped = true;
      this.publishers.agent.destroy();
    }
    if (this.clockFile !== undefined) closeSync(this.clockFile);
    rmSync(this.folder, { recursive: true, force: true });
  }
}

function secret(n) {
  return `chaos-secret-${n}-0123456789abcdef0123456789abcdef`;
}

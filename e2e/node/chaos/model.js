// What each client must have, may have and must not have, by docs/delivery.md and docs/security.md; and the check of what came
// against it. Here is what publishers and the server did; what follows for one socket is in model/seat.js and the layers below it.
//
// Everything is observed in one process, so the observations have one order: `tick`. A publish was accepted between the tick at
// which it was first sent (`start`) and that of its 200 (`answer`); a call took effect between its emit and its ack. What
// follows from that is certain; all else is `MAYBE` until a call that is answered settles it.
//
// A socket gets events through *channels*: a room, its user (notifications, events to `user:`, owned media items), a media item
// without an owner. Each channel is IN, OUT or MAYBE for the socket, and only an event that was accepted while it was IN has to
// arrive. Order and duplicates are looked at by *topic*: a room, a user's notifications, a media item.
import { MAYBE, OUT } from './model/channels.js';
import { describe, keyOf } from './model/events.js';
import { Seat } from './model/seat.js';
import { RULES, allows } from './rules.js';

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
  /** Until when the disk is bad, when the server last ended with a bad one, and since when it is in this run of the server. */
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

  /** The process goes on after it stood still since `from`. */
  thawed(from) {
    for (const seat of this.seats) seat.serverThawed(from);
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

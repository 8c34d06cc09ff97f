// A session over its connections: when it has to come back, and as whose.
import { OUT } from './channels.js';
import { Events } from './events.js';
import { NOBODY, nobody, union } from './identity.js';

/** How late the server may save a session: some 50 ms, and the wait for a slow disk and machine. */
const SAVE_MS = 1_500;
/** How old the server's mark of being alive may be, by which it counts how long it was not. */
const CLOCK_MS = 15_000;
/** What the client's and the server's ideas of how long a client was away may differ by. */
const WINDOW_MS = 2_500;

/** The connections of a socket. */
export class Connection extends Events {
  /** The socket's id, once it has one. */
  id;
  offered = null;
  /** Tokens offered since it was last connected: an answer may be lost, and the session goes on with the token. */
  offers = [];
  /** When the last CONNECT went out. */
  opened;
  /** The tick at which the current connection began. */
  firstTick;
  /** When the current session began, and whether the client has ended it. */
  sessionMs;
  ended = false;
  /** When the connection before the current one began. */
  sinceMs;
  /** Calls without an answer that may still be carried out, or whose events may still come. */
  late = new Set();
  isAtRisk = false;
  /** Whether the session has had its welcome. */
  welcomed = false;
  /** What the token offered to a new session is worth, until the server has said who the client is: see `Model.status`. */
  expects;
  /** The tick since which an `authError` has to come, for the identity was lost while the client was away. */
  expectsAuthError;
  /** The number of unread notifications, as the server last sent it. */
  unread;

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

  /** A process that stands still saves nothing: what changed right before it stood still has just changed. */
  serverThawed(from) {
    const now = this.model.nowMs();
    if (this.changedMs > from - SAVE_MS) this.changedMs = now;
    if (this.sessionMs > from - SAVE_MS) this.sessionMs = now;
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
}

// The lowest layer of a socket (see seat.js): what it may get events through, and what must come.
export const [IN, OUT, MAYBE] = ['IN', 'OUT', 'MAYBE'];

/** The channels of a socket, and its history. */
export class Channels {
  history = [];
  channels = new Map();
  /** What must come, by serial. */
  pending = new Map();
  lastHeard = -Infinity;
  /** When something last changed that a session is saved for. */
  changedMs = -Infinity;

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
}

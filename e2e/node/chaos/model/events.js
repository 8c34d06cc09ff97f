// What must have come by when, and the check of what came: leaks, gaps, order and duplicates.
import { IN, OUT } from './channels.js';
import { Identity } from './identity.js';

/** A heartbeat behind a notification and the mark in the store, on a slow machine. */
const CONFIRM_MS = 2_500;

export function describe(event) {
  const { serial, topic, index, kind, delivery, channel, start, answer } = event;
  return `event ${serial}: ${kind} ${index} of ${topic}, ${delivery}, through ${channel}, accepted in ticks ${start}–${answer ?? '…'}`;
}

export const keyOf = ({ topic, key }) => `${topic}\0${key}`;

/** The events of publishers that come to a socket. */
export class Events extends Identity {
  topics = new Map();
  /** Answers to `subscribeMedia` whose last state must have come by the next answer. */
  snapshots = [];
  maxStart = 0;
  /** When the last event came that was not an item's state, shown on subscribing. */
  lastOther = -Infinity;
  /** Progress that has to come only for as long as it is the item's state. */
  fragile = new Set();
  /** The number of the session that it is in. */
  session = 0;
  /** When the last connection was lost. */
  leftMs;

  forgetFragile(item) {
    this.drop((event) => event.item === item && this.fragile.has(event.serial));
  }

  hasLater(event) {
    for (const other of this.model.events.values()) if (other.item === event.item && other.index > event.index) return true;
    return false;
  }

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

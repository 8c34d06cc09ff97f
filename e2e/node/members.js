// Members of rooms that check what they hear, and a publisher of what they are to hear.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { io } from 'socket.io-client';
import { acks } from './shapes.js';
import { API_KEY } from './server.js';
import { until } from './wait.js';

// `timeout`: a connection that is cut before its first packet is noticed by the stock client's manager only so (20 s if not set).
export const SOON = { timeout: 1_000, reconnection: true, reconnectionDelay: 20, reconnectionDelayMax: 200, randomizationFactor: 0.5 };
export const random = (below) => Math.floor(Math.random() * below);

/**
 * A member of a room that checks what it hears: numbers from 0 on, each once. If its session is not recovered, it joins again,
 * and may have missed some numbers.
 */
export class Member {
  heard = 0;
  connects = 0;
  recovered = 0;
  wrong = [];

  constructor(url, room, options) {
    this.room = room;
    this.socket = io(url, { forceNew: true, ...SOON, ...options });
    let mayMiss = false;
    this.socket.on('connect', () => {
      this.connects += 1;
      if (this.socket.recovered) this.recovered += 1;
      else if (this.connects > 1) {
        mayMiss = true;
        this.socket.emit('joinRoom', room);
      }
    });
    this.socket.on('update', ({ n }) => {
      if (n < this.heard || (n > this.heard && !mayMiss)) this.wrong.push(`${n} instead of ${this.heard}`);
      mayMiss = false;
      this.heard = n + 1;
    });
  }

  async join() {
    for (;;) {
      await until(() => this.socket.connected, 'connect');
      try {
        return acks.room(await this.socket.timeout(10_000).emitWithAck('joinRoom', this.room));
      } catch (error) {
        // On a busy machine, the connection may have been lost meanwhile.
        if (this.socket.connected) throw error;
      }
    }
  }
}

/** Publishes durable events to rooms at a steady rate, each until it is accepted. */
export class Publisher {
  accepted = new Map();
  retries = 0;
  stopped = false;

  constructor(rooms, perSecond, delivery = () => 'durable') {
    this.delivery = delivery;
    this.rooms = rooms;
    this.pause = 1_000 / perSecond;
    for (const room of rooms) this.accepted.set(room, 0);
  }

  async run(url) {
    const due = performance.now();
    let published = 0;
    // One at a time for each room, since the order of a room's events is the order of their acceptance.
    const lanes = this.rooms.map(async (room, lane) => {
      await delay((lane * this.pause) % 50);
      while (!this.stopped) {
        const n = this.accepted.get(room);
        await this.#publish(url, room, { event: 'update', data: { n }, delivery: this.delivery(n) });
        this.accepted.set(room, n + 1);
        published += 1;
        const ahead = due + published * this.pause - performance.now();
        if (ahead > 0) await delay(ahead);
      }
    });
    await Promise.all(lanes);
    return published;
  }

  /** `url` may be a function, asked for each attempt. */
  async #publish(url, room, body) {
    const key = randomUUID();
    for (;;) {
      try {
        const at = typeof url === 'function' ? url() : url;
        const answer = await fetch(`${at}/v1/rooms/${room}/events`, {
          method: 'POST',
          headers: { authorization: `Bearer ${API_KEY}`, 'content-type': 'application/json', 'idempotency-key': key },
          body: JSON.stringify(body),
          // Node's fetch can wait for ever on a connection that a kill has ended.
          signal: AbortSignal.timeout(10_000),
        });
        const receipt = await answer.json();
        if (answer.status === 200) return receipt;
        assert.equal(answer.status, 503, JSON.stringify(receipt));
      } catch (error) {
        if (error instanceof assert.AssertionError) throw error;
        // Nobody knows whether it was accepted: the key makes asking again safe.
      }
      this.retries += 1;
      await delay(10);
    }
  }
}

export async function allHeard(members, publisher) {
  const missing = () => members.filter((member) => member.heard !== publisher.accepted.get(member.room));
  await until(() => missing().length === 0, `end of what is missing`, 20_000).catch(() => {
    const [first] = missing();
    assert.fail(
      `${missing().length} members have not heard everything; one of ${first.room}: ${first.heard} of ` +
        `${publisher.accepted.get(first.room)}, ${first.connects} connects, ${first.recovered} recovered, connected ${first.socket.connected}, wrong ${first.wrong}`,
    );
  });
  for (const member of members) assert.deepEqual(member.wrong, [], `out of order in ${member.room}`);
}


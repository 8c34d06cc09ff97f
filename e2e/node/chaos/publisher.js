// Publishers: one for each topic, so that the order in which its events are accepted is known. Each sends the same again, with the
// same idempotency key, until it is answered; some give up after a refusal, of which nothing may ever be seen.
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { API_KEY } from '../server.js';
import { NAMESPACES, ROOMS, USERS } from './rules.js';

const TIMEOUT_MS = 4_000;

/** Hands out serial numbers, and carries publishers of a round. */
export class Publishers {
  serial = 0;
  published = 0;
  attempts = 0;
  givenUp = 0;
  stopped = false;
  /** The ids of the items of each media lane, oldest first. */
  items = [[], [], []];
  lanes = [];

  constructor({ port, model, random, pause }) {
    Object.assign(this, { port, model, pause });
    this.agent = new http.Agent({ keepAlive: true });
    const lane = (name, run) => this.lanes.push({ name, random: random.fork(name), run });
    const shares = [[0, ROOMS.slice(0, -1)], [1, ROOMS.slice(0, 2)], [2, ROOMS.slice(0, 1)]];
    for (const [n, rooms] of shares) {
      for (const room of rooms) lane(`room ${n} ${room}`, (lane) => this.#toRoom(lane, NAMESPACES[n], room));
    }
    for (const user of USERS) {
      lane(`user ${user}`, (lane) => this.#toRoom(lane, lane.random.of(NAMESPACES), `user:${user}`));
      lane(`notify ${user}`, (lane) => this.#notify(lane, user));
    }
    for (const n of [0, 1, 2]) lane(`media ${n}`, (lane) => this.#media(lane, n));
    lane('batch', (lane) => this.#batch(lane));
  }

  /** Publishes until stopped; resolves when everything is answered. */
  run() {
    return Promise.all(
      this.lanes.map(async (lane) => {
        await delay(lane.random.int(0, this.pause));
        while (!this.stopped) {
          await lane.run(lane);
          await delay(this.pause * (0.2 + 1.6 * lane.random.unit()));
        }
      }),
    );
  }

  #event(fields) {
    this.serial += 1;
    return { serial: this.serial, ...fields };
  }

  #index(lane, topic) {
    lane.indices ??= new Map();
    const index = lane.indices.get(topic) ?? 0;
    lane.indices.set(topic, index + 1);
    return index;
  }

  #roomEvent(lane, ns, room) {
    const delivery = lane.random.weighted([[45, 'recoverable'], [30, 'durable'], [25, 'latest']]);
    const topic = `${ns} ${room}`;
    const name = delivery === 'latest' ? 'state' : 'update';
    const channel = room.startsWith('user:') ? room : `room:${room}`;
    const event = this.#event({ kind: 'room', topic, index: this.#index(lane, topic), ns, channel, delivery, key: name });
    const body = { event: name, data: { serial: event.serial, pad: 'x'.repeat(lane.random.int(0, 200)) }, namespace: ns, delivery };
    return { event, body };
  }

  async #toRoom(lane, ns, room) {
    const { event, body } = this.#roomEvent(lane, ns, room);
    await this.#publish(lane, event, `/v1/rooms/${encodeURIComponent(room)}/events`, body);
  }

  async #notify(lane, user) {
    const topic = `notifications of ${user}`;
    const index = this.#index(lane, topic);
    // A user's newest 200 are kept, and all of them have to be.
    if (index >= 180) return;
    const event = this.#event({ kind: 'notification', topic, index, ns: '/notifications', channel: `user:${user}`, delivery: 'durable', user });
    event.id = `n-${event.serial}`;
    const body = { type: 'info', title: `${event.serial}`, message: '', data: { serial: event.serial }, id: event.id };
    await this.#publish(lane, event, `/v1/users/${user}/notifications`, body);
  }

  /** Goes on with the lane's item, or begins the next one. */
  async #media(lane, n) {
    const { random } = lane;
    if (!lane.item) {
      const item = `i-${n}-${this.items[n].length}`;
      // Owned from the first event on, from some later one on, or never.
      const owner = random.chance(0.6) ? random.of(USERS) : undefined;
      lane.item = { id: item, owner, ownedFrom: random.chance(0.5) ? 0 : random.int(1, 6), length: random.int(3, 16), index: 0, attempt: 1, from: 0 };
      this.items[n].push(item);
    }
    const { item } = lane;
    const step = item.index - item.from;
    const isOver = step >= item.length;
    const kind = !isOver ? 'progress' : random.chance(0.7) ? 'complete' : 'error';
    const owner = item.owner !== undefined && item.index >= item.ownedFrom ? item.owner : undefined;
    const event = this.#event({
      kind,
      topic: item.id,
      item: item.id,
      index: item.index,
      ns: '/media',
      owner,
      channel: owner === undefined ? `item:${item.id}` : `user:${owner}`,
      delivery: kind === 'progress' ? 'latest' : 'durable',
      key: kind,
    });
    const own = owner === undefined ? {} : { ownerId: owner };
    const more = {
      progress: { progress: Math.min(99, step * 3), stage: 'work', message: `${event.serial}` },
      complete: { url: `https://cdn.example/${item.id}`, metadata: { serial: event.serial } },
      error: { error: 'it failed', code: `${event.serial}` },
    }[kind];
    const body = { ...more, ...own, attempt: item.attempt };
    const done = await this.#publish(lane, event, `/v1/media/${item.id}/${kind}`, body, { mayGiveUp: false });
    if (!done) return;
    item.index += 1;
    if (!isOver) return;
    // A failed one may be tried again.
    if (kind === 'error' && random.chance(0.5)) Object.assign(item, { attempt: item.attempt + 1, from: item.index, length: random.int(3, 8) });
    else lane.item = undefined;
  }

  /** Three events for one room at once. */
  async #batch(lane) {
    const items = Array.from({ length: 3 }, () => this.#roomEvent(lane, '/', 'open-batch'));
    const events = items.map(({ event }) => this.model.publish(event));
    const body = items.map(({ body: { event, ...rest } }) => ({ kind: 'roomEvent', room: 'open-batch', event, ...rest }));
    const key = randomUUID();
    for (;;) {
      const answer = await this.#post('/v1/publish', body, key);
      if (answer?.status === 200) {
        this.published += events.length;
        for (const event of events) this.model.answered(event);
        return;
      }
      // What was refused comes after what was not: only the rest has an order then.
      if (answer?.status === 207) for (const event of events) event.order = key;
      this.#check(answer, events[0]);
      await delay(30);
    }
  }

  async #publish(lane, event, path, body, { mayGiveUp = true } = {}) {
    this.model.publish(event);
    const key = randomUUID();
    const givesUp = mayGiveUp && lane.random.chance(0.3);
    let isUnknown = false;
    for (;;) {
      const answer = await this.#post(path, body, key);
      if (answer?.status === 200) {
        this.published += 1;
        this.model.answered(event);
        return true;
      }
      // A refusal says that nothing happened, and is not one if an earlier attempt was not answered.
      isUnknown ||= answer === undefined || answer.status === 500;
      this.#check(answer, event);
      if (givesUp && !isUnknown) {
        this.givenUp += 1;
        this.model.refused(event);
        return false;
      }
      await delay(30);
    }
  }

  #check(answer, event) {
    if (answer && ![500, 503, 429, 207].includes(answer.status)) {
      this.model.violation('publish', undefined, 'to be accepted, or 503', `${answer.status} ${answer.text}`, event);
      throw new Error(`a publish was refused: ${answer.status} ${answer.text}`);
    }
  }

  async #post(path, body, key) {
    this.attempts += 1;
    return post(this.port, path, body, { agent: this.agent, key });
  }
}

/** One POST; nothing if it is not answered. */
export async function post(port, path, body, { agent, key, method = 'POST' } = {}) {
  const text = body === undefined ? '' : JSON.stringify(body);
  const request = http.request({
    host: '127.0.0.1',
    port,
    path,
    method,
    agent,
    timeout: TIMEOUT_MS,
    headers: {
      authorization: `Bearer ${API_KEY}`,
      ...(text === '' ? {} : { 'content-type': 'application/json' }),
      'content-length': Buffer.byteLength(text),
      ...(key === undefined ? {} : { 'idempotency-key': key }),
    },
  });
  try {
    request.on('timeout', () => request.destroy(new Error('timeout')));
    request.end(text);
    const [response] = await once(request, 'response');
    const chunks = [];
    for await (const chunk of response) chunks.push(chunk);
    const answer = Buffer.concat(chunks).toString('utf8');
    return { status: response.statusCode, text: answer, json: response.headers['content-type']?.includes('json') ? JSON.parse(answer) : undefined };
  } catch {
    request.destroy();
    return undefined;
  }
}

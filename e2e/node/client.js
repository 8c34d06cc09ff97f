// A stock socket.io-client with a log of all that came, in order: events by their name, acks as `ack:NAME`,
// the client's own events as `local:NAME`.
import assert from 'node:assert/strict';
import { io as io4 } from 'socket.io-client';
import { io as io3 } from 'socket.io-client-3';
import { events } from './shapes.js';
import { DEADLINE, within } from './wait.js';

export const VERSIONS = { '4.8': io4, '3.1': io3 };
export const TRANSPORTS = {
  polling: { transports: ['polling'] },
  websocket: { transports: ['websocket'] },
  upgrade: {}, // the stock default: polling, then an upgrade
};

export class Client {
  log = [];
  #taken = new Map();
  #waiting = new Set();

  constructor(socket) {
    this.socket = socket;
    for (const name of ['connect', 'connect_error', 'disconnect']) {
      socket.on(name, (...args) => this.#record(`local:${name}`, args));
    }
    socket.onAny((name, ...args) => this.#record(name, args));
  }

  get id() {
    return this.socket.id;
  }

  #record(name, args) {
    this.log.push({ name, args });
    for (const check of [...this.#waiting]) check();
  }

  /** Resolves to the condition's value as soon as it is not undefined; looked at after every entry of the log. */
  async #when(condition, what, ms) {
    let check;
    const met = new Promise((resolve) => {
      let isMet = false;
      check = () => {
        // Once: a condition may take what it finds.
        const value = isMet ? undefined : condition();
        if (value === undefined) return;
        isMet = true;
        resolve(value);
      };
    });
    this.#waiting.add(check);
    check();
    try {
      return await within(met, ms, () => `${what} (had: ${this.names().slice(-20).join(', ') || 'nothing'})`);
    } finally {
      this.#waiting.delete(check);
    }
  }

  #take(name) {
    const from = this.#taken.get(name) ?? 0;
    const index = this.log.findIndex((entry, at) => at >= from && entry.name === name);
    if (index < 0) return undefined;
    this.#taken.set(name, index + 1);
    return this.log[index];
  }

  /** The payload of the next event of that name that no earlier `next` has taken. */
  async next(name, ms = DEADLINE) {
    return payload(await this.#when(() => this.#take(name), name, ms));
  }

  /** The payloads of all events of that name so far. */
  all(name) {
    return this.log.filter((entry) => entry.name === name).map(payload);
  }

  names(from = 0) {
    return this.log.slice(from).map((entry) => entry.name);
  }

  /** How long the log is now, for `names(mark)`. */
  mark() {
    return this.log.length;
  }

  /** Emits with a callback; resolves to the ack's only argument. */
  emit(name, ...args) {
    const answer = new Promise((resolve) => {
      this.socket.emit(name, ...args, (...reply) => {
        this.#record(`ack:${name}`, reply);
        resolve(reply);
      });
    });
    return within(answer, DEADLINE, () => `ack of ${name} (had: ${this.names().slice(-20).join(', ')})`).then((reply) => {
      assert.equal(reply.length, 1, `the ack of ${name} has one argument`);
      return reply[0];
    });
  }

  send(name, ...args) {
    this.socket.emit(name, ...args);
  }

  /** Whatever the server queued for this socket before now has come once this resolves. */
  async fence() {
    await this.emit('ping');
  }

  async info() {
    return this.emit('getConnectionInfo');
  }

  /** Another namespace on the same connection. */
  of(nsp, { token, auth = token === undefined ? undefined : { token } } = {}) {
    return new Client(this.socket.io.socket(nsp, auth === undefined ? {} : { auth }));
  }

  /** Waits for the connection to stand: `welcome`, and the outcome of its token where it has one. */
  async ready() {
    await this.#when(
      () => this.log.find((entry) => entry.name === 'local:connect' || entry.name === 'local:connect_error'),
      'connect',
      DEADLINE,
    );
    const refused = this.log.find((entry) => entry.name === 'local:connect_error');
    if (refused) throw refused.args[0];
    events.welcome(await this.next('welcome'));
    if (this.socket.auth?.token !== undefined) {
      await this.#when(
        () => this.log.find((entry) => entry.name === 'authenticated' || entry.name === 'authError'),
        'authenticated or authError',
        DEADLINE,
      );
    }
    return this;
  }

  close() {
    this.socket.disconnect();
    this.socket.io._close(); // the whole connection, where other namespaces share it
  }
}

/** The one argument of an event. A further string is an offset of Socket.IO's connection state recovery. */
function payload({ name, args }) {
  if (name.startsWith('local:') || name.startsWith('ack:')) return args[0];
  const extra = args.slice(1);
  assert.ok(
    extra.length === 0 || (extra.length === 1 && typeof extra[0] === 'string'),
    `${name} has one argument, and at most an offset after it: ${JSON.stringify(args)}`,
  );
  return args[0];
}

/** A connection of its own; does not wait. */
export function open(server, { nsp = '/', token, io = io4, ...options } = {}) {
  const socket = io(`${server.url}${nsp}`, {
    forceNew: true,
    reconnection: false,
    transports: ['websocket'],
    ...(server.ca === undefined ? {} : { ca: server.ca }),
    ...(token === undefined ? {} : { auth: { token } }),
    ...options,
  });
  const client = new Client(socket);
  server.clients.add(client);
  return client;
}

/** A connection of its own that stands. */
export function connect(server, options) {
  return open(server, options).ready();
}

// A client: three stock sockets on one connection, behind a line of its own. Each socket wants to be somebody and somewhere, and
// does what docs/delivery.md asks of a client for it: calls with a timeout, again until answered, and anew after `recovered: false`.
import { setTimeout as delay } from 'node:timers/promises';
import { Manager } from 'socket.io-client';
import { NAMESPACES } from './rules.js';

const ANSWER_MS = 1_500;
const AGAIN_MS = 150;
const EVENTS = { update: (data) => data.serial, state: (data) => data.serial, notification: ({ data }) => data.serial };
const MEDIA = {
  mediaProgress: ({ message }) => Number(message),
  mediaComplete: ({ metadata }) => metadata.serial,
  mediaError: ({ code }) => Number(code),
};

export class Member {
  calls = 0;
  unanswered = 0;

  /** `issue(user, claims)` makes a token; `world` is the model. */
  constructor({ name, transports, mode, user, rooms }, { line, model, issue }) {
    Object.assign(this, { name, mode, line, model, issue });
    this.manager = new Manager(line.url, {
      transports,
      autoConnect: false,
      forceNew: true,
      timeout: 2_000,
      reconnectionDelay: 20,
      reconnectionDelayMax: 200,
      randomizationFactor: 0.5,
    });
    this.agents = NAMESPACES.map((ns, n) => new Agent(this, ns, user, rooms[n]));
  }

  start() {
    this.manager.open();
    for (const agent of this.agents) agent.socket.connect();
    this.manager.on('open', () => this.manager.engine.on('packet', () => this.agents.forEach(({ seat }) => seat.connected && seat.heard())));
    this.loops = this.agents.map((agent) => agent.run());
  }

  async stop() {
    for (const agent of this.agents) agent.stop();
    await Promise.all(this.loops);
    for (const agent of this.agents) agent.socket.disconnect();
    this.manager._close();
  }
}

/** One of its sockets, and what it wants. */
export class Agent {
  stopped = false;
  quiet = 0;
  #wake = () => {};

  constructor(member, ns, user, rooms) {
    Object.assign(this, { member, ns });
    const { model } = member;
    this.seat = model.seat(`${member.name}${ns}`, ns);
    this.wants = { user: member.mode === 'anonymous' ? null : user, rooms: new Set(rooms), items: new Set(), list: false };
    this.lifetime = undefined;
    if (member.mode === 'static') this.token = member.issue(user, {});
    this.socket = member.manager.socket(ns, { auth: (give) => give(this.#offer()) });
    this.#listen();
  }

  /** What the socket's CONNECT says. Asked on each connection, when that stands. */
  #offer() {
    const { mode } = this.member;
    const token = mode === 'static' ? this.token : mode === 'fresh' && this.wants.user !== null ? this.#issue() : null;
    this.seat.connecting(token);
    return token === null ? {} : { token: token.text };
  }

  #issue() {
    const seconds = this.lifetime;
    this.lifetime = undefined;
    return this.member.issue(this.wants.user, { seconds });
  }

  #listen() {
    const { socket, seat } = this;
    socket.on('connect', () => {
      seat.joined({ id: socket.id, recovered: socket.recovered });
      this.probe = true;
      this.wake();
    });
    socket.on('disconnect', (reason) => {
      seat.left(reason);
      if (reason === 'io server disconnect') {
        this.member.model.violation('closed', seat, 'to stay connected', reason);
        socket.connect();
      }
      this.wake();
    });
    socket.on('connect_error', (error) => {
      if (error.data !== undefined || !socket.active) {
        this.member.model.violation('closed', seat, 'to be let in', `connect_error ${error.message}`);
        setTimeout(() => socket.connect(), 100);
      }
    });
    socket.onAny((name, payload) => {
      const serial = EVENTS[name] ?? MEDIA[name];
      if (serial) seat.received(serial(payload), this.ns, payload);
      else seat.told(name, payload);
      if (name === 'authError') {
        // A user who is thrown out takes a moment to log in again.
        this.quiet = performance.now() + 300;
        this.wake();
      }
    });
  }

  wake() {
    this.#wake();
  }

  /** Resolves to the answer, or to nothing if there was none. */
  async call(name, argument) {
    const { seat, socket, member } = this;
    const call = seat.call(name, argument);
    const args = name === 'authenticate' ? [{ token: argument.text }] : argument === undefined ? [] : [argument];
    member.calls += 1;
    return new Promise((resolve) => {
      socket.timeout(ANSWER_MS).emit(name, ...args, (error, answer) => {
        if (error) {
          member.unanswered += 1;
          seat.unanswered(call, error.message);
        } else seat.answered(call, answer);
        resolve(answer);
      });
    });
  }

  async run() {
    while (!this.stopped) {
      const next = this.socket.connected && performance.now() >= this.quiet ? this.#next() : undefined;
      if (next === undefined) {
        await this.#rest();
        continue;
      }
      const answer = await this.call(...next);
      if (next[0] === 'getConnectionInfo' && answer) this.probe = false;
      if (answer?.success === false) this.quiet = performance.now() + AGAIN_MS;
      // Nothing else may make the process spin.
      await delay(2);
    }
  }

  /** What it calls next to get where it wants to be. */
  #next() {
    const { seat, wants, ns, member } = this;
    if (this.extra) {
      const extra = this.extra;
      this.extra = undefined;
      return extra;
    }
    if (this.probe) return ['getConnectionInfo'];
    seat.refresh();
    if (!seat.isSure) return this.#settleIdentity();
    this.asked = 0;
    if (seat.user !== wants.user && member.mode !== 'anonymous') {
      if (wants.user === null) return ['logout'];
      return ['authenticate', this.#issue()];
    }
    const state = (name) => seat.channels.get(name)?.state ?? 'OUT';
    for (const room of wants.rooms) {
      if (state(`room:${room}`) !== 'IN' && member.model.allows(seat.user, room) !== false) return ['joinRoom', room];
    }
    for (const [name, { state: at }] of seat.channels) {
      if (at === 'OUT') continue;
      if (name.startsWith('room:') && !wants.rooms.has(name.slice(5))) return ['leaveRoom', name.slice(5)];
      if (name.startsWith('item:') && !wants.items.has(name.slice(5))) return ['unsubscribeMedia', name.slice(5)];
    }
    if (ns === '/media') {
      for (const item of wants.items) {
        const owner = member.model.items.get(item)?.owner;
        if (state(`item:${item}`) !== 'IN' && (owner === undefined || owner === seat.user)) return ['subscribeMedia', item];
      }
    }
    if (wants.list && !seat.wantsCount && seat.user !== null && ns === '/notifications') return ['listNotifications'];
    return undefined;
  }

  /** Asks who it is; if that says nothing for long, as after a step of the clock, it says who it is. */
  #settleIdentity() {
    this.asked = (this.asked ?? 0) + 1;
    if (this.asked > 1) this.quiet = performance.now() + AGAIN_MS;
    if (this.asked % 3 !== 0) return ['getConnectionInfo'];
    return this.wants.user === null ? ['logout'] : ['authenticate', this.#issue()];
  }

  #rest() {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, 50);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** Whether it is where it wants to be. */
  get isSettled() {
    if (!this.socket.connected || this.seat.outstanding.size > 0 || this.extra !== undefined) return false;
    return performance.now() >= this.quiet && this.#next() === undefined;
  }


  stop() {
    this.stopped = true;
    this.wake();
  }
}

// Who a socket may be, by what the client was told and by what time, revocations, keys and rules do to it.
import { Channels, IN, MAYBE, OUT } from './channels.js';

/** How late a timer of the server's may be. */
const EXPIRY_MS = 5_000;

const userChannel = (user) => `user:${user}`;

/** An identity that the model keeps: a user's tokens, or in their place how it came that it is nobody's. */
export const [NOBODY, LOST] = ['nobody', 'lost'];
export const nobody = () => new Map([[null, new Set([NOBODY])]]);
export const union = (...identities) => {
  const all = new Map();
  for (const [user, tokens] of identities.flatMap((identity) => [...identity])) all.set(user, new Set([...(all.get(user) ?? []), ...tokens]));
  return all;
};

/** The identity of a socket, and the channels that follow from it. */
export class Identity extends Channels {
  /** Who it may be: users (`null` for nobody) and the tokens that they may be it by. */
  identity = nobody();
  /** What time, a revocation or a key that is gone has taken, and the client is not told of yet. */
  untold = new Map();
  identityTick = 0;
  wantsCount = false;
  /** Whether a connection stands, and since when the current or last one. */
  connected = false;
  connectedMs;

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
}

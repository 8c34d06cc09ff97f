// A socket as the model sees it. What it knows is in layers, each of which uses those below it: channels.js, identity.js, events.js,
// connection.js, calls.js, and on top what the server says unasked.
import { Calls } from './calls.js';
import { nobody, union } from './identity.js';

/** One socket of one client: a session on a namespace, for as long as that goes on, and the next one then. */
export class Seat extends Calls {
  told(name, payload) {
    const { model } = this;
    model.now();
    this.heard();
    if (name === 'welcome') {
      if (this.welcomed || payload.socketId !== this.id) model.violation('greeting', this, 'one welcome, in a new session', JSON.stringify(payload));
      this.welcomed = true;
    }
    if (name === 'authenticated') this.toldIdentity(payload);
    if (name === 'authError') this.toldError(payload.message);
    if (name === 'unreadCount') this.unread = payload.count;
  }

  toldIdentity({ userId }) {
    this.log(`authenticated as ${userId}`);
    const isCalled = (call) => call.name === 'authenticate';
    if ([...this.outstanding].some(isCalled)) return; // its answer follows
    const call = [...this.late].findLast((late) => isCalled(late) && late.argument.user === userId);
    const token = call?.argument ?? this.offered;
    if (token?.user !== userId) return this.model.violation('identity', this, `authenticated as ${token?.user}`, userId);
    if (!call && this.expects === 'bad') this.model.violation('let in', this, `authError, for ${token.jti} is over`, `authenticated as ${userId}`);
    if (!call) this.expects = undefined;
    this.become(new Map([[userId, new Set([token])]]), { hard: true });
  }

  toldError(message) {
    const { model } = this;
    this.log(`authError: ${message}`);
    this.expectsAuthError = undefined;
    const isAnswer = [...this.outstanding, ...this.late].some((call) => call.name === 'authenticate');
    if (isAnswer) {
      // That of the call, which changes nothing, or the identity's end.
      if (/expired|revoked/.test(message) || model.removedKeys.size > 0) this.become(union(this.identity, nobody()));
      return;
    }
    this.refresh();
    const isGood = this.expects === 'good' || (this.expects === undefined && !this.identity.has(null));
    if (isGood && model.lastClockStep === -Infinity) {
      model.violation('identity', this, `to be ${[...this.identity.keys()].join(' or ')}`, `authError ${message}`);
    }
    this.expects = undefined;
    this.become(nobody(), { hard: true });
  }
}

// A socket as the model sees it. What it knows is in layers: channels.js, identity.js, events.js, connection.js, and here on top
// its calls and what the server says, asked or unasked. Each layer uses its own fields and those of the layers below it.
import { IN, MAYBE, OUT } from './channels.js';
import { Connection } from './connection.js';
import { describe } from './events.js';
import { NOBODY, nobody, union } from './identity.js';

/** One socket of one client: a session on a namespace, for as long as that goes on, and the next one then. */
export class Seat extends Connection {
  /** Calls that wait for their answers. */
  outstanding = new Set();

  // Calls and the server's answers: what each makes certain, and which answers are wrong.

  call(name, argument) {
    const { model } = this;
    const call = { name, argument, tick: model.now() };
    if (!['ping', 'getConnectionInfo', 'listNotifications'].includes(name)) this.changedMs = model.nowMs();
    this.refresh();
    this.log(`→ ${name} ${name === 'authenticate' ? `${argument.user} (${argument.jti})` : (argument ?? '')}`);
    call.before = this.identity;
    call.states = new Map([...this.channels].map(([channel, { state, changed }]) => [channel, { state, changed }]));
    this.outstanding.add(call);
    const unless = (channel, state) => {
      if (this.channel(channel).state !== state) this.set(channel, MAYBE);
    };
    switch (name) {
      case 'joinRoom':
        unless(`room:${argument}`, IN);
        break;
      case 'leaveRoom':
        unless(`room:${argument}`, OUT);
        break;
      case 'subscribeMedia':
        unless(`item:${argument}`, IN);
        this.topic(argument).allowance += 1;
        break;
      case 'unsubscribeMedia':
        unless(`item:${argument}`, OUT);
        break;
      case 'authenticate':
        if (argument.user !== undefined) {
          // On a dead line it changes nothing, and the session may come back as that user's all the same.
          this.become(union(this.identity, [[argument.user, new Set([argument])]]), { restored: this.untold.has(argument.user) });
        }
        break;
      case 'logout':
        this.become(union(this.identity, nobody()));
        break;
      default:
    }
    return call;
  }

  /** The call was not answered: it may have been carried out or not. */
  unanswered(call, why) {
    this.outstanding.delete(call);
    this.late.add(call);
    this.log(`no answer to ${call.name}: ${why}`);
  }

  answered(call, answer) {
    const { model } = this;
    model.now();
    this.outstanding.delete(call);
    this.heard();
    this.refresh();
    this.log(`← ${call.name} ${call.argument?.user ?? call.argument ?? ''}: ${JSON.stringify(answer).slice(0, 200)}`);
    this.fence(call);
    const ok = answer.success === true;
    const sure = { hard: true };
    switch (call.name) {
      case 'joinRoom':
      case 'leaveRoom':
        this.answeredRoom(call, answer, sure);
        break;
      case 'subscribeMedia':
        this.answeredSubscription(call, answer, sure);
        break;
      case 'unsubscribeMedia':
        if (ok) this.set(`item:${call.argument}`, OUT, sure);
        else model.violation('refused', this, 'unsubscribeMedia succeeds', JSON.stringify(answer));
        break;
      case 'authenticate':
        this.answeredAuthentication(call, answer);
        break;
      case 'logout':
        if (ok) this.become(nobody(), sure);
        else model.violation('refused', this, 'logout succeeds', JSON.stringify(answer));
        break;
      case 'getConnectionInfo':
        this.answeredInfo(call, answer);
        break;
      case 'listNotifications':
        this.wantsCount = ok;
        this.unread = answer.unreadCount;
        break;
      default:
    }
  }

  answeredRoom(call, answer, sure) {
    const { model } = this;
    const channel = `room:${call.argument}`;
    const users = [...new Set([...call.before.keys(), ...this.identity.keys()])];
    const answers = users.map((user) => model.allows(user, call.argument));
    if (answer.success) {
      if (call.name === 'leaveRoom') return this.set(channel, OUT, sure);
      const isUnchanged = this.identityTick <= call.tick;
      if (answers.every((allowed) => allowed === false) && isUnchanged && this.rulesAge(call)) {
        model.violation('let in', this, `joinRoom ${call.argument} is refused to ${users}`, 'success');
      }
      return this.set(channel, answers.every((allowed) => allowed === true) ? IN : MAYBE, sure);
    }
    if (call.name === 'leaveRoom') return model.violation('refused', this, 'leaveRoom succeeds', JSON.stringify(answer));
    if (answers.every((allowed) => allowed === true) && this.rulesAge(call)) {
      model.violation('refused', this, `joinRoom ${call.argument} is let in as ${users}`, JSON.stringify(answer));
    }
    return this.set(channel, OUT, sure);
  }

  /** Whether the rules that the answer went by are those in force now. */
  rulesAge(call) {
    return this.model.rulesChanged < call.tick;
  }

  answeredSubscription(call, answer, sure) {
    const { model } = this;
    const channel = `item:${call.argument}`;
    const item = model.items.get(call.argument);
    if (!answer.success) {
      const isRefusal = answer.error === 'Not allowed';
      if (isRefusal && (item?.owner === undefined || (this.is(item.owner) && call.before.size === 1 && call.before.has(item.owner)))) {
        model.violation('refused', this, `subscribeMedia ${call.argument} is let in`, JSON.stringify(answer));
      }
      if (isRefusal) this.set(channel, OUT, sure);
      return;
    }
    const isOwned = item?.ownerAnswer !== undefined && item.ownerAnswer < call.tick;
    const couldBe = isOwned && (this.identity.has(item.owner) || call.before.has(item.owner));
    if (isOwned && !couldBe) model.violation('let in', this, `subscribeMedia ${call.argument} is refused: it is ${item.owner}'s`, 'success');
    this.set(channel, item?.owner === undefined || isOwned ? IN : MAYBE, sure);
    const newest = model.newest.get(call.argument);
    if (newest && newest.answer < call.tick && (item.owner === undefined || (isOwned && this.is(item.owner)))) {
      this.snapshots.push({ item: call.argument, index: newest.index, tick: model.tick, channel: newest.channel });
    }
  }

  answeredAuthentication(call, answer) {
    const { model } = this;
    const token = call.argument;
    const now = model.moment();
    if (answer.success) {
      if (token.user !== answer.userId) model.violation('identity', this, `authenticate as ${token.user}`, JSON.stringify(answer));
      return this.become(new Map([[answer.userId, new Set([token])]]), { hard: true });
    }
    if (token.user !== undefined && model.status(token, { ...now, tick: call.tick }, now) === 'good') {
      model.violation('refused', this, `authenticate as ${token.user} succeeds`, JSON.stringify(answer));
    }
    // It keeps the identity that it had, unless that ended meanwhile.
    const isAlone = call.before.size === 1;
    if (isAlone && token.user !== undefined && this.untold.size === 0) this.become(call.before, { hard: true });
    this.refresh();
  }

  answeredInfo(call, { socketId, rooms, authenticated }) {
    const { model } = this;
    if (socketId !== this.id) model.violation('identity', this, this.id, socketId);
    const user = rooms.find((room) => room.startsWith('user:'))?.slice('user:'.length) ?? null;
    if (authenticated !== (user !== null)) model.violation('identity', this, 'authenticated as the rooms say', JSON.stringify({ rooms, authenticated }));
    // What changed meanwhile, the answer may not know of.
    if (this.identityTick > call.tick) return undefined;
    const isKnown = this.identity.has(user);
    if (!isKnown) model.violation('identity', this, `to be ${[...this.identity.keys()].join(' or ')}`, `${user}`);
    if (!this.is(user)) {
      // After a violation the model goes on with what is, so that each is said once.
      const unknown = { user, jti: 'unknown', iat: Math.floor(model.serverMs() / 1_000), exp: Infinity, issuedMs: model.nowMs() };
      const tokens = user === null ? [NOBODY] : isKnown ? this.identity.get(user) : [unknown];
      this.become(new Map([[user, new Set(tokens)]]), { hard: true });
    }
    for (const [name, channel] of this.channels) {
      if (!name.startsWith('room:')) continue;
      const state = rooms.includes(name.slice('room:'.length)) ? IN : OUT;
      const isSure = channel.state !== MAYBE && channel.changed < call.tick && this.rulesAge(call);
      if (isSure && channel.state !== state) {
        model.violation('membership', this, `${name} ${channel.state}`, `${state} (rooms: ${rooms})`);
      }
      // A handler that went by other rules has answered.
      if (channel.changed <= call.tick) this.set(name, state, { hard: true });
    }
  }

  /** What the server had queued before it got the call has come before the answer. */
  fence(call) {
    const { model } = this;
    if (call.tick < this.firstTick) return;
    this.late.clear();
    for (const [item, topic] of this.topics) topic.allowance = call.name === 'subscribeMedia' && call.argument === item ? 1 : 0;
    if (this.expects === 'good') model.violation('greeting', this, `authenticated as ${this.offered.user}`, 'nothing');
    this.expects = undefined;
    if (!this.welcomed) model.violation('greeting', this, 'welcome', 'nothing');
    this.welcomed = true;
    for (const event of [...this.pending.values()]) {
      if (event.answer >= call.tick) continue;
      this.pending.delete(event.serial);
      if (this.isReplaced(event)) continue;
      model.violation('missed', this, `${describe(event)}, before the answer to ${call.name} of tick ${call.tick}`, 'not that event', event);
    }
    this.snapshots = this.snapshots.filter((snapshot) => {
      if (snapshot.tick >= call.tick) return true;
      if (this.channel(snapshot.channel).state === IN && this.topic(snapshot.item).after < snapshot.tick) {
        model.violation('no snapshot', this, `the last state of ${snapshot.item} (${snapshot.index} or later) after subscribeMedia`, 'nothing');
      }
      return false;
    });
    if (this.expectsAuthError !== undefined && this.expectsAuthError < call.tick) {
      model.violation('no authError', this, 'authError, for the identity was lost while the client was away', 'nothing');
      this.expectsAuthError = undefined;
    }
  }

  // What the server says unasked.

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

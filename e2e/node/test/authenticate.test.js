import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { TRANSPORTS, connect } from '../client.js';
import { acks, events } from '../shapes.js';
import { Server, token } from '../server.js';
import { within } from '../wait.js';

const now = () => Math.floor(Date.now() / 1000);
const NAMESPACES = ['/', '/media', '/notifications'];

describe('authenticate, logout, expiry', () => {
  let server;
  before(async () => (server = await Server.start()));
  after(() => server.close());

  for (const nsp of NAMESPACES) {
    test(`${nsp}: the event, then the ack; then in the user's room; then logged out`, async () => {
      const client = await connect(server, { nsp });
      let mark = client.mark();
      const answer = acks.authenticate(
        await client.emit('authenticate', { token: token({ userId: 'u-1', email: 'a@example.org' }) }),
      );
      assert.equal(answer.userId, 'u-1');
      assert.deepEqual(client.names(mark), ['authenticated', 'ack:authenticate']);
      const authenticated = events.authenticated(await client.next('authenticated'));
      assert.deepEqual([authenticated.userId, authenticated.email], ['u-1', 'a@example.org']);
      let info = acks.getConnectionInfo(await client.info());
      assert.equal(info.authenticated, true);
      assert.deepEqual([...info.rooms].sort(), [client.id, 'user:u-1'].sort());

      acks.room(await client.emit('joinRoom', 'open-room'));
      mark = client.mark();
      acks.logout(await client.emit('logout'));
      assert.deepEqual(client.names(mark), ['loggedOut', 'ack:logout']);
      events.loggedOut(await client.next('loggedOut'));
      info = acks.getConnectionInfo(await client.info());
      assert.equal(info.authenticated, false);
      assert.deepEqual([...info.rooms].sort(), [client.id, 'open-room'].sort(), 'an open room needs no identity');
      assert.equal(client.socket.connected, true);
    });
  }

  test('without a callback the events still go out', async () => {
    const client = await connect(server);
    client.send('authenticate', { token: token({ userId: 'u-2' }) });
    events.authenticated(await client.next('authenticated'));
    client.send('authenticate', { token: 'wrong' });
    events.authError(await client.next('authError'));
    client.send('logout');
    events.loggedOut(await client.next('loggedOut'));
    await client.fence();
  });

  test('logging out when nobody is logged in succeeds', async () => {
    const client = await connect(server);
    acks.logout(await client.emit('logout'));
    events.loggedOut(await client.next('loggedOut'));
    acks.logout(await client.emit('logout', {}));
    acks.logout(await client.emit('logout', null));
  });

  for (const [what, payload, message] of [
    ['no token', {}, 'Token is required'],
    ['a wrong token', { token: 'jwt-token' }, 'Token is invalid'],
    ['an expired token', () => ({ token: token({ userId: 'u', iat: now() - 7200, exp: now() - 3600 }) }), 'Token has expired'],
    ['a token for later', () => ({ token: token({ userId: 'u', nbf: now() + 3600 }) }), 'Token is not yet valid'],
    ['a token of nobody', () => ({ token: token({}) }), 'Token has no user id'],
  ]) {
    test(`${what}: authError, then the ack with the same text; the connection and its identity stay`, async () => {
      const client = await connect(server, { token: token({ userId: 'kept' }) });
      const mark = client.mark();
      const answer = acks.refused(await client.emit('authenticate', typeof payload === 'function' ? payload() : payload));
      assert.equal(answer.error, message);
      assert.deepEqual(client.names(mark), ['authError', 'ack:authenticate']);
      assert.equal(events.authError(await client.next('authError')).message, message);
      const info = acks.getConnectionInfo(await client.info());
      assert.equal(info.authenticated, true);
      assert.ok(info.rooms.includes('user:kept'));
    });
  }

  test('again as the same user: claims and expiry are refreshed', async () => {
    const exp = now() + 3;
    const client = await connect(server, { token: token({ userId: 'u-3', exp }) });
    const fresh = { token: token({ userId: 'u-3', email: 'new@example.org' }) };
    acks.authenticate(await client.emit('authenticate', fresh));
    assert.equal(client.all('authenticated').at(-1).email, 'new@example.org');
    assert.deepEqual((await client.info()).rooms.filter((room) => room.startsWith('user:')), ['user:u-3']);
    // A second socket whose token ends at the same time tells when that time has passed.
    const witness = await connect(server, { token: token({ userId: 'u-4', exp }) });
    await witness.next('authError');
    await client.fence();
    assert.deepEqual(client.all('authError'), []);
    assert.equal((await client.info()).authenticated, true);
  });

  test('as another user: the old room is left, open rooms stay, notifications follow', async () => {
    const client = await connect(server, { nsp: '/notifications', token: token({ userId: 'old' }) });
    acks.room(await client.emit('joinRoom', 'open-room'));
    acks.authenticate(await client.emit('authenticate', { token: token({ userId: 'new' }) }));
    const info = acks.getConnectionInfo(await client.info());
    assert.deepEqual([...info.rooms].sort(), [client.id, 'open-room', 'user:new'].sort());
    await server.notify('old', { type: 'info', title: 't', message: 'to the old' });
    await server.notify('new', { type: 'info', title: 't', message: 'to the new' });
    assert.equal(events.notification(await client.next('notification')).message, 'to the new');
    await client.fence();
    assert.equal(client.all('notification').length, 1);
  });

  test('a token that expires: authError, and anonymous from then on', async () => {
    const exp = now() + 2;
    const client = await connect(server, { nsp: '/notifications', token: token({ userId: 'brief', exp }) });
    acks.room(await client.emit('joinRoom', 'open-room'));
    assert.equal(events.authError(await client.next('authError')).message, 'Token has expired');
    assert.ok(Date.now() >= exp * 1000 - 50, 'not before its time');
    const info = acks.getConnectionInfo(await client.info());
    assert.equal(info.authenticated, false);
    assert.deepEqual([...info.rooms].sort(), [client.id, 'open-room'].sort());
    await server.notify('brief', { type: 'info', title: 't', message: 'm' });
    await client.fence();
    assert.deepEqual(client.all('notification'), []);
    assert.equal(client.all('authError').length, 1, 'said once');
    acks.authenticate(await client.emit('authenticate', { token: token({ userId: 'brief' }) }));
  });

  test('a logout stops the clock of its token', async () => {
    const exp = now() + 2;
    const client = await connect(server, { token: token({ userId: 'u-5', exp }) });
    const witness = await connect(server, { token: token({ userId: 'u-6', exp }) });
    acks.logout(await client.emit('logout'));
    await witness.next('authError');
    await client.fence();
    assert.deepEqual(client.all('authError'), []);
  });

  test('too many failures close that connection, and no other', async () => {
    const client = await connect(server);
    const bystander = await connect(server);
    const closed = client.next('local:disconnect');
    let failures = 0;
    const refused = () => events.authError(client.all('authError').at(-1));
    while (client.socket.connected && failures < 200) {
      client.send('authenticate', { token: `wrong-${failures}` });
      // Either its answer or the end: whichever it is, without an ack that would never come.
      await within(Promise.race([client.next('authError').then(() => (failures += 1)), closed]), 15_000, 'an answer or the end');
      refused();
    }
    await closed;
    assert.ok(failures >= 3, `a person may mistype: closed after ${failures}`);
    await bystander.fence();
  });

  for (const [name, options] of Object.entries(TRANSPORTS)) {
    test(`${name}: who fails too often hears all that was said before it is closed`, async () => {
      const client = await connect(server, options);
      const mark = client.mark();
      for (let failure = 0; failure < 10; failure += 1) {
        client.socket.emit('authenticate', { token: 'wrong' }, () => client.log.push({ name: 'ack', args: [] }));
      }
      assert.equal(await client.next('local:disconnect'), 'io server disconnect');
      const heard = client.names(mark).filter((entry) => entry !== 'local:disconnect');
      assert.deepEqual(heard, Array(10).fill(['authError', 'ack']).flat());
    });
  }
});

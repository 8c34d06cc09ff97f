import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { connect, open } from '../client.js';
import { acks, events } from '../shapes.js';
import { Server, token } from '../server.js';
import { DEADLINE } from '../wait.js';

const HOUR = 3600;
const now = () => Math.floor(Date.now() / 1000);

describe('connecting', () => {
  let server;
  before(async () => (server = await Server.start()));
  after(() => server.close());

  for (const [nsp, message] of [
    ['/', 'Connected to Slop Studios 3'],
    ['/media', 'Connected to media namespace'],
    ['/notifications', 'Connected to notifications namespace'],
  ]) {
    test(`${nsp} welcomes an anonymous client, and sends nothing else`, async () => {
      const client = open(server, { nsp });
      const welcome = events.welcome(await client.next('welcome'));
      assert.equal(welcome.message, message);
      assert.equal(welcome.socketId, client.id);
      await client.fence();
      assert.deepEqual(client.names(), ['local:connect', 'welcome', 'pong', 'ack:ping']);
    });

    test(`${nsp} welcomes, then authenticates, a client with a token`, async () => {
      const client = open(server, { nsp, token: token({ userId: 'u-1', email: 'one@example.org' }) });
      const authenticated = events.authenticated(await client.next('authenticated'));
      assert.equal(authenticated.userId, 'u-1');
      assert.equal(authenticated.email, 'one@example.org');
      await client.fence();
      assert.deepEqual(client.names(), ['local:connect', 'welcome', 'authenticated', 'pong', 'ack:ping']);
      const info = acks.getConnectionInfo(await client.info());
      assert.equal(info.authenticated, true);
      assert.deepEqual([...info.rooms].sort(), [client.id, 'user:u-1'].sort());
    });
  }

  test('the three namespaces share one connection, each with an id of its own', async () => {
    const root = await connect(server, { token: token({ userId: 'u-2' }) });
    const media = await root.of('/media').ready();
    const notifications = await root.of('/notifications').ready();
    const ids = [root.id, media.id, notifications.id, root.socket.io.engine.id];
    assert.equal(new Set(ids).size, 4, 'and none of them is the Engine.IO session id');
    assert.equal(acks.getConnectionInfo(await root.info()).authenticated, true);
    assert.equal(acks.getConnectionInfo(await media.info()).authenticated, false, 'identity is per namespace');
    media.socket.disconnect();
    await root.fence();
    await notifications.fence();
  });

  test('what is emitted before the connection stands, or in the tick of it, is answered', async () => {
    const client = open(server);
    const early = client.emit('joinRoom', 'early');
    const same = new Promise((resolve, reject) => {
      client.socket.on('connect', () => client.emit('joinRoom', 'same-tick').then(resolve, reject));
    });
    acks.room(await early);
    acks.room(await same);
  });

  describe('the token of the handshake', () => {
    for (const [what, claims, userId] of [
      ['userId before id and sub', { userId: 'a', id: 'b', sub: 'c' }, 'a'],
      ['id before sub', { id: 'b', sub: 'c' }, 'b'],
      ['sub', { sub: 'c' }, 'c'],
      ['a number, as a string', { userId: 42 }, '42'],
    ]) {
      test(`user id from ${what}`, async () => {
        const client = await connect(server, { token: token(claims) });
        const authenticated = events.authenticated(await client.next('authenticated'));
        assert.equal(authenticated.userId, userId);
        assert.ok(!('email' in authenticated), 'no email in the token, none in the event');
      });
    }

    for (const alg of ['HS256', 'HS384', 'HS512']) {
      test(`${alg} is accepted`, async () => {
        const client = await connect(server, { token: token({ userId: alg }, { alg }) });
        assert.equal((await client.next('authenticated')).userId, alg);
      });
    }

    for (const [what, bad, message] of [
      ['expired', () => token({ userId: 'u', iat: now() - 2 * HOUR, exp: now() - HOUR }), 'Token has expired'],
      ['not yet valid', () => token({ userId: 'u', nbf: now() + HOUR, exp: now() + 2 * HOUR }), 'Token is not yet valid'],
      ['issued in the future', () => token({ userId: 'u', iat: now() + HOUR, exp: now() + 2 * HOUR }), /^Token is (not yet valid|invalid)$/],
      ['signed with another secret', () => token({ userId: 'u' }, { secret: 'another' }), 'Token is invalid'],
      ['unsigned', () => token({ userId: 'u' }, { alg: 'none' }), 'Token is invalid'],
      ['not a JWT', () => 'your-jwt-token', 'Token is invalid'],
      ['without a user id', () => token({ email: 'nobody@example.org' }), 'Token has no user id'],
      ['with an object for a user id', () => token({ userId: { $ne: 1 } }), 'Token has no user id'],
    ]) {
      test(`${what}: the connection stands, anonymous, and authError says why`, async () => {
        const client = open(server, { token: bad() });
        const error = events.authError(await client.next('authError'));
        if (typeof message === 'string') assert.equal(error.message, message);
        else assert.match(error.message, message);
        const info = acks.getConnectionInfo(await client.info());
        assert.equal(info.authenticated, false);
        assert.deepEqual(info.rooms, [client.id]);
        assert.deepEqual(client.names(), ['local:connect', 'welcome', 'authError', 'ack:getConnectionInfo']);
      });
    }

    test('a token that is undefined is no token (the contract\'s client without one)', async () => {
      const client = open(server, { auth: { token: undefined } });
      events.welcome(await client.next('welcome'));
      await client.fence();
      assert.deepEqual(client.all('authError'), []);
      assert.equal((await client.info()).authenticated, false);
    });

    for (const transports of [['polling'], ['websocket']]) {
      test(`the Authorization header counts on ${transports}`, async () => {
        const client = open(server, {
          transports,
          extraHeaders: { authorization: `Bearer ${token({ userId: 'by-header' })}` },
        });
        assert.equal(events.authenticated(await client.next('authenticated')).userId, 'by-header');
      });
    }

    test('auth.token goes before the header', async () => {
      const client = open(server, {
        token: token({ userId: 'by-auth' }),
        extraHeaders: { authorization: `Bearer ${token({ userId: 'by-header' })}` },
      });
      assert.equal((await client.next('authenticated')).userId, 'by-auth');
    });

    test('the query string never counts', async () => {
      const client = open(server, { query: { token: token({ userId: 'by-query' }) } });
      await client.next('welcome');
      assert.equal((await client.info()).authenticated, false);
      assert.deepEqual(client.all('authenticated'), []);
    });

    test('each namespace judges the token it was given', async () => {
      const root = await connect(server, { token: token({ userId: 'u-3' }) });
      const media = await root.of('/media', { token: 'wrong' }).ready();
      assert.equal(events.authError(await media.next('authError')).message, 'Token is invalid');
      assert.equal((await root.info()).authenticated, true);
    });
  });

  test('an unknown namespace is refused with connect_error, and the rest of the connection lives', async () => {
    const root = await connect(server);
    const unknown = root.of('/nonsense');
    const error = await unknown.next('local:connect_error', DEADLINE);
    assert.equal(error.message, 'Invalid namespace');
    await root.fence();
  });

  test('disconnecting and connecting again gives a new id', async () => {
    const client = await connect(server);
    const first = client.id;
    client.socket.disconnect();
    assert.equal(await client.next('local:disconnect'), 'io client disconnect');
    client.socket.connect();
    const welcome = events.welcome(await client.next('welcome'));
    assert.notEqual(welcome.socketId, first);
    assert.equal(welcome.socketId, client.id);
  });
});

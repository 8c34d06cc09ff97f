// Revoked tokens: the stock client is told, on every namespace and transport, and a session whose token was revoked while
// its client was away comes back without an identity.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { connect, TRANSPORTS } from '../client.js';
import { acks, events } from '../shapes.js';
import { Server, token } from '../server.js';

const NAMESPACES = ['/', '/media', '/notifications'];
const TEXT = 'Token has been revoked';
const minuteAgo = () => Math.floor(Date.now() / 1000) - 60;

describe('revocation', () => {
  let server;
  before(async () => (server = await Server.start()));
  after(() => server.close());

  const revoke = async (path) => {
    const answer = await server.request('POST', `/v1/${path}/revoke`);
    assert.equal(answer.status, 200, answer.text);
    return answer.json;
  };

  /** On all three namespaces of one connection. */
  const onAll = async (own, options) => {
    const root = await connect(server, { token: own, ...options });
    const others = NAMESPACES.slice(1).map((nsp) => root.of(nsp, { token: own }).ready());
    return [root, ...(await Promise.all(others))];
  };

  for (const [transport, options] of Object.entries(TRANSPORTS)) {
    for (const [what, path] of [
      ['the user', (id) => `users/u-${id}`],
      ['the token', (id) => `tokens/t-${id}`],
    ]) {
      test(`${transport}: ${what} is revoked, and every socket is told and anonymous`, async () => {
        const id = `${transport}-${what.slice(4)}`;
        const own = token({ userId: `u-${id}`, jti: `t-${id}`, iat: minuteAgo() });
        const sockets = await onAll(own, options);
        const bystander = await connect(server, { token: token({ userId: 'by', jti: 'stander', iat: minuteAgo() }) });
        const { sockets: count } = await revoke(path(id));
        assert.equal(count, 3);
        for (const socket of sockets) {
          assert.equal(events.authError(await socket.next('authError')).message, TEXT);
          const info = acks.getConnectionInfo(await socket.info());
          assert.deepEqual([info.authenticated, info.rooms], [false, [socket.id]]);
          const answer = acks.refused(await socket.emit('authenticate', { token: own }));
          assert.equal(answer.error, TEXT);
          assert.equal(socket.socket.connected, true);
        }
        assert.equal((await bystander.info()).authenticated, true);
        assert.deepEqual(bystander.all('authError'), []);
      });
    }
  }

  test('a session whose token was revoked while the client was away has no identity', async () => {
    const own = token({ userId: 'away', jti: 'away', iat: minuteAgo() });
    const client = await connect(server, {
      nsp: '/media',
      token: own,
      reconnection: true,
      reconnectionDelay: 500,
      randomizationFactor: 0,
    });
    acks.room(await client.emit('joinRoom', 'open'));
    acks.media(await client.emit('subscribeMedia', 'm-away'));
    await server.progress('m-away', { progress: 1, stage: 's', ownerId: 'away' });
    await client.next('mediaProgress');
    const { id } = client;
    client.socket.io.engine.close();
    await client.next('local:disconnect');
    const mark = client.mark();
    await revoke('users/away');
    // Not for the user any more.
    await server.complete('m-away', { url: 'https://example.org/secret' });
    await server.toRoom('open', { event: 'said', namespace: '/media' });
    await client.next('local:connect');
    await client.next('local:connect');
    assert.deepEqual([client.socket.recovered, client.id], [true, id]);
    await client.next('said');
    assert.equal(events.authError(await client.next('authError')).message, TEXT);
    assert.deepEqual(client.names(mark), ['local:connect', 'authError', 'said'], 'the reason before anything else');
    const info = await client.info();
    assert.deepEqual([info.authenticated, [...info.rooms].sort()], [false, [id, 'open'].sort()]);
    assert.deepEqual(client.all('mediaComplete'), []);
    // Somebody again with a token that was issued since.
    const later = token({ userId: 'away', iat: Math.floor(Date.now() / 1000) + 1 });
    acks.authenticate(await client.emit('authenticate', { token: later }));
  });
});

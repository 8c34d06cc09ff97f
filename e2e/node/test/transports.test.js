// The same hour of a user's life on each client and each way to connect.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { open, TRANSPORTS, VERSIONS } from '../client.js';
import { acks, events } from '../shapes.js';
import { polling } from '../raw.js';
import { Server, token } from '../server.js';
import { until } from '../wait.js';

describe('clients and transports', () => {
  let server;
  // A short heartbeat, so that several pass within a test.
  before(async () => (server = await Server.start({ env: { PING_INTERVAL_MS: '300', PING_TIMEOUT_MS: '2000' } })));
  after(() => server.close());

  for (const [version, io] of Object.entries(VERSIONS)) {
    for (const [way, options] of Object.entries(TRANSPORTS)) {
      describe(`socket.io-client ${version}, ${way}`, () => {
        const final = way === 'polling' ? 'polling' : 'websocket';
        const start = (more = {}) => open(server, { io, transports: undefined, ...options, ...more });
        const transport = (client) => client.socket.io.engine.transport.name;

        test('all three namespaces, every event and every callback', async () => {
          const user = `user-${version}-${way}`;
          const auth = { token: token({ userId: user, email: 'a@example.org' }) };
          const root = start(auth);
          const media = root.of('/media', auth);
          const notifications = root.of('/notifications', auth);
          for (const client of [root, media, notifications]) {
            events.welcome(await client.next('welcome'));
            assert.equal(events.authenticated(await client.next('authenticated')).userId, user);
          }
          assert.equal(root.socket.io, media.socket.io);

          const room = `projekt ü 日本 🎬 ${user}`;
          assert.equal(acks.room(await root.emit('joinRoom', room)).room, room);
          assert.equal(events.roomJoined(await root.next('roomJoined')).room, room);
          await server.toRoom(room, { event: 'projectUpdate', data: { text: 'é🎬\u2028\u001e', n: [1.5, null] } });
          assert.deepEqual(await root.next('projectUpdate'), { text: 'é🎬\u2028\u001e', n: [1.5, null] });

          const id = `media-${user}`;
          acks.media(await media.emit('subscribeMedia', id));
          await server.progress(id, { progress: 10, stage: 's', message: 'm' });
          events.mediaProgress(await media.next('mediaProgress'));
          await server.complete(id, { url: 'u', metadata: { a: 1 } });
          events.mediaComplete(await media.next('mediaComplete'));
          acks.media(await media.emit('unsubscribeMedia', id));
          acks.media(await media.emit('subscribeMedia', `failed-${id}`));
          await server.fail(`failed-${id}`, { error: 'e' });
          events.mediaError(await media.next('mediaError'));

          await server.notify(user, { type: 'success', title: 't', message: 'm', data: { id } });
          events.notification(await notifications.next('notification'));

          const pong = acks.ping(await root.emit('ping'));
          assert.deepEqual(events.pong(await root.next('pong')), pong);
          const beat = acks.heartbeat(await root.emit('heartbeat', { timestamp: Date.now() }));
          assert.deepEqual(events.heartbeatAck(await root.next('heartbeatAck')), beat);
          const info = acks.getConnectionInfo(await root.info());
          assert.deepEqual([...info.rooms].sort(), [root.id, `user:${user}`, room].sort());

          acks.refused(await root.emit('authenticate', { token: 'x' }));
          events.authError(await root.next('authError'));
          acks.authenticate(await root.emit('authenticate', auth));
          acks.logout(await root.emit('logout'));
          events.loggedOut(await root.next('loggedOut'));
          acks.room(await root.emit('leaveRoom', room));
          events.roomLeft(await root.next('roomLeft'));
          assert.match(acks.refused(await root.emit('nonsense', Buffer.from([0, 1, 255]))).error, /^Unknown event: nonsense$/);

          await until(() => transport(root) === final, `transport ${final}`);
          media.socket.disconnect();
          await root.fence();
          await notifications.fence();
        });

        test('a hundred emits at once, across an upgrade where there is one, are answered in order', async () => {
          const client = start();
          const sent = Array.from({ length: 100 }, (_, n) => `room-${n}`);
          const early = sent.map((room) => client.emit('joinRoom', room));
          await client.next('welcome');
          const late = sent.map((room) => client.emit('leaveRoom', room));
          assert.deepEqual((await Promise.all(early)).map(({ room }) => room), sent);
          assert.deepEqual((await Promise.all(late)).map(({ room }) => room), sent);
          assert.deepEqual(client.all('roomJoined').map(({ room }) => room), sent);
          await until(() => transport(client) === final, `transport ${final}`);
          await client.fence();
        });

        test('a stream of events across an upgrade loses nothing and keeps its order', async () => {
          const room = `stream-${version}-${way}`;
          const client = start();
          acks.room(await client.emit('joinRoom', room));
          let sent = 0;
          // Until the final transport carries it, and a good while longer.
          for (let after = 0; after < 50; sent += 1) {
            await server.toRoom(room, { event: 'projectUpdate', data: sent });
            if (transport(client) === final) after += 1;
            assert.ok(sent < 20_000, 'never upgraded');
          }
          await client.fence();
          assert.deepEqual(client.all('projectUpdate'), Array.from({ length: sent }, (_, n) => n));
        });

        test('nearly a megabyte to the server, and a large event from it', async () => {
          const client = start();
          const big = 'x'.repeat(900_000);
          const answer = acks.refused(await client.emit('authenticate', { token: big }));
          assert.equal(answer.error, 'Token is invalid');
          assert.match(acks.refused(await client.emit('joinRoom', big)).error, /./);
          const event = 'y'.repeat(200_000);
          acks.room(await client.emit('joinRoom', `big-${version}-${way}`));
          await server.toRoom(`big-${version}-${way}`, { event: 'projectUpdate', data: event });
          assert.ok((await client.next('projectUpdate')) === event, 'the same text');
          assert.deepEqual(client.all('local:disconnect'), []);
        });

        test('heartbeats keep an idle connection', async () => {
          const client = start();
          await client.next('welcome');
          let beats = 0;
          client.socket.io.engine.on('packet', ({ type }) => (beats += type === 'ping' ? 1 : 0));
          await until(() => beats >= 4, 'the fourth heartbeat');
          await client.fence();
          assert.deepEqual(client.all('local:disconnect'), []);
        });
      });
    }
  }

  test('a poll brings at most 16 packets: python-engineio drops the connection for more', async () => {
    const session = await polling(server);
    const count = 100;
    await session.post(Array.from({ length: count }, (_, id) => `42${id}["ping"]`).join('\u001e'));
    const acked = [];
    while (acked.length < count) {
      const answer = await session.poll();
      assert.equal(answer.status, 200);
      const packets = answer.text.split('\u001e');
      assert.ok(packets.length <= 16, `${packets.length} packets`);
      if (packets.includes('2')) await session.post('3');
      acked.push(...packets.filter((packet) => packet.startsWith('43')).map((packet) => parseInt(packet.slice(2), 10)));
    }
    assert.deepEqual(acked, Array.from({ length: count }, (_, id) => id));
    await session.post('1');
  });
});

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { connect } from '../client.js';
import { acks, events } from '../shapes.js';
import { Server, token } from '../server.js';

const SHAPES = [
  ['nothing', []],
  ['null', [null]],
  ['a number', [7]],
  ['a boolean', [true]],
  ['an array', [['x']]],
  ['an empty object', [{}]],
  ['an object of objects', [{ token: { $gt: '' }, room: {}, timestamp: {} }]],
  ['binary', [Buffer.from([1, 2, 3])]],
  ['binary inside', [{ token: Buffer.from([1, 2, 3]) }]],
  ['many arguments', [{}, 1, 'two', [3], null]],
];

describe('wrong payloads', () => {
  let server;
  before(async () => (server = await Server.start()));
  after(() => server.close());

  for (const transport of ['websocket', 'polling']) {
    for (const [what, args] of SHAPES) {
      test(`${what}, on ${transport}: refused in the ack, nothing accepted, the connection stays`, async () => {
        const client = await connect(server, { nsp: '/media', transports: [transport] });
        for (const event of ['joinRoom', 'leaveRoom', 'subscribeMedia', 'unsubscribeMedia']) {
          const mark = client.mark();
          acks.refused(await client.emit(event, ...args));
          assert.deepEqual(client.names(mark), [`ack:${event}`]);
          client.send(event, ...args);
        }
        const mark = client.mark();
        const answer = acks.refused(await client.emit('authenticate', ...args));
        assert.deepEqual(client.names(mark), ['authError', 'ack:authenticate']);
        assert.equal(events.authError(await client.next('authError')).message, answer.error);
        client.send('authenticate', ...args);
        acks.ping(await client.emit('ping', ...args));
        acks.heartbeat(await client.emit('heartbeat', ...args));
        acks.logout(await client.emit('logout', ...args));
        const info = acks.getConnectionInfo(await client.emit('getConnectionInfo', ...args));
        assert.deepEqual(info.rooms, [client.id]);
        assert.equal(info.authenticated, false);
        assert.deepEqual(client.all('local:disconnect'), []);
      });
    }
  }

  for (const [what, wrap] of [
    ['on its own', (good) => good],
    ['in an array', (good) => [good]],
    ['in an array of objects', (good) => [{ token: good }]],
    ['deeper', (good) => ({ token: { token: good } })],
  ]) {
    test(`a good token ${what} is refused`, async () => {
      const client = await connect(server);
      acks.refused(await client.emit('authenticate', wrap(token({ userId: 'u' }))));
      assert.equal((await client.info()).authenticated, false);
    });
  }

  test('a callback is honoured behind more arguments than the event takes', async () => {
    const client = await connect(server, { nsp: '/media' });
    acks.room(await client.emit('joinRoom', 'room', { more: true }, 1));
    acks.media(await client.emit('subscribeMedia', 'm', null));
    acks.authenticate(await client.emit('authenticate', { token: token({ userId: 'u' }), more: 1 }, 'x'));
  });

  describe('unknown events', () => {
    for (const nsp of ['/', '/media', '/notifications']) {
      for (const name of ['nonsense', 'welcome', 'notification', 'mediaComplete', 'toString', '__proto__', 'событие 🎬', 'half \ud83d']) {
        test(`${nsp} ${name}: said so in the ack; ignored without one`, async () => {
          const client = await connect(server, { nsp });
          const bystander = await connect(server, { nsp });
          for (const args of [[], [{ a: 1 }], [null, Buffer.from('x')]]) {
            const answer = acks.refused(await client.emit(name, ...args));
            assert.equal(answer.error, `Unknown event: ${name.toWellFormed()}`);
            client.send(name, ...args);
          }
          const mark = client.mark();
          await client.fence();
          assert.deepEqual(client.names(mark), ['pong', 'ack:ping']);
          await bystander.fence();
          assert.deepEqual(bystander.names(), ['local:connect', 'welcome', 'pong', 'ack:ping'], 'nothing is relayed');
        });
      }
    }
  });
});

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { connect } from '../client.js';
import { acks, events } from '../shapes.js';
import { Server, token } from '../server.js';

describe('ping, heartbeat, getConnectionInfo', () => {
  let server;
  before(async () => (server = await Server.start()));
  after(() => server.close());

  for (const nsp of ['/', '/media', '/notifications']) {
    test(`${nsp}: pong, then the ack, with the same timestamp, whatever stands before the callback`, async () => {
      const client = await connect(server, { nsp });
      for (const args of [[], [{}], [null], ['x', 5, [1]]]) {
        const mark = client.mark();
        const answer = acks.ping(await client.emit('ping', ...args));
        assert.deepEqual(client.names(mark), ['pong', 'ack:ping']);
        assert.deepEqual(events.pong(await client.next('pong')), answer);
      }
      client.send('ping');
      events.pong(await client.next('pong'));
    });

    test(`${nsp}: heartbeatAck, then the same object as the ack`, async () => {
      const client = await connect(server, { nsp });
      const mark = client.mark();
      const answer = acks.heartbeat(await client.emit('heartbeat', { timestamp: Date.now() - 1000 }));
      assert.deepEqual(client.names(mark), ['heartbeatAck', 'ack:heartbeat']);
      assert.deepEqual(events.heartbeatAck(await client.next('heartbeatAck')), answer);
      assert.ok(answer.latency >= 1000 && answer.latency < 30_000, `latency ${answer.latency}`);
      assert.equal(Date.parse(answer.serverTime), answer.timestamp);
      client.send('heartbeat', { timestamp: Date.now() });
      events.heartbeatAck(await client.next('heartbeatAck'));
    });

    test(`${nsp}: getConnectionInfo`, async () => {
      const client = await connect(server, { nsp });
      for (const args of [[], [{}], [null]]) {
        const info = acks.getConnectionInfo(await client.emit('getConnectionInfo', ...args));
        assert.equal(info.socketId, client.id);
        assert.equal(info.connected, true);
        assert.equal(info.authenticated, false);
        assert.deepEqual(info.rooms, [client.id]);
      }
      const first = (await client.info()).connectedAt;
      await client.fence();
      assert.equal((await client.info()).connectedAt, first, 'the time of connecting, not of asking');
      client.send('getConnectionInfo');
      await client.fence();
    });
  }

  for (const [what, args, latency] of [
    ['missing payload', [], null],
    ['no timestamp', [{}], null],
    ['null payload', [null], null],
    ['a string for a payload', ['now'], null],
    ['a number for a payload', [1], null],
    ['an array for a payload', [[1]], null],
    ['an array of timestamps', [{ timestamp: [1] }], null],
    ['null', [{ timestamp: null }], null],
    ['a string', [{ timestamp: '1700000000000' }], null],
    ['zero', [{ timestamp: 0 }], null],
    ['negative', [{ timestamp: -1 }], null],
    ['true', [{ timestamp: true }], null],
    ['in the future', [{ timestamp: Date.now() + 3_600_000 }], 0],
    ['huge', [{ timestamp: 1e300 }], 0],
  ]) {
    test(`heartbeat, client timestamp ${what}: latency ${latency}`, async () => {
      const client = await connect(server);
      const answer = acks.heartbeat(await client.emit('heartbeat', ...args));
      assert.equal(answer.latency, latency);
      assert.deepEqual(client.all('heartbeatAck'), [answer]);
    });
  }

  test('a fractional client timestamp (performance.timeOrigin) gives a latency', async () => {
    const client = await connect(server);
    const answer = acks.heartbeat(await client.emit('heartbeat', { timestamp: Date.now() - 500.5 }));
    assert.ok(answer.latency >= 500);
  });

  test('getConnectionInfo.rooms has the id, the user room and joined rooms, not media subscriptions', async () => {
    const client = await connect(server, { nsp: '/media', token: token({ userId: 'u-1' }) });
    acks.room(await client.emit('joinRoom', 'project-1'));
    acks.media(await client.emit('subscribeMedia', 'media-1'));
    const info = acks.getConnectionInfo(await client.info());
    assert.equal(info.authenticated, true);
    assert.deepEqual([...info.rooms].sort(), [client.id, 'user:u-1', 'project-1'].sort());
  });
});

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { connect } from '../client.js';
import { acks, events } from '../shapes.js';
import { Server, token } from '../server.js';

const NAMESPACES = ['/', '/media', '/notifications'];

describe('rooms', () => {
  let server;
  before(async () => (server = await Server.start()));
  after(() => server.close());

  const rooms = async (client) => [...acks.getConnectionInfo(await client.info()).rooms].sort();

  for (const nsp of NAMESPACES) {
    test(`${nsp}: join and leave, the event before the ack`, async () => {
      const client = await connect(server, { nsp });
      let mark = client.mark();
      assert.equal(acks.room(await client.emit('joinRoom', 'project-123')).room, 'project-123');
      assert.deepEqual(client.names(mark), ['roomJoined', 'ack:joinRoom']);
      assert.equal(events.roomJoined(await client.next('roomJoined')).room, 'project-123');
      assert.deepEqual(await rooms(client), [client.id, 'project-123'].sort());

      mark = client.mark();
      assert.equal(acks.room(await client.emit('leaveRoom', 'project-123')).room, 'project-123');
      assert.deepEqual(client.names(mark), ['roomLeft', 'ack:leaveRoom']);
      assert.equal(events.roomLeft(await client.next('roomLeft')).room, 'project-123');
      assert.deepEqual(await rooms(client), [client.id]);
    });
  }

  test('without a callback the events still go out, and failures are silent', async () => {
    const client = await connect(server);
    client.send('joinRoom', 'quiet');
    events.roomJoined(await client.next('roomJoined'));
    client.send('leaveRoom', 'quiet');
    events.roomLeft(await client.next('roomLeft'));
    const mark = client.mark();
    client.send('joinRoom', 5);
    client.send('joinRoom');
    client.send('leaveRoom', null);
    await client.fence();
    assert.deepEqual(client.names(mark), ['pong', 'ack:ping']);
  });

  test('joining twice and leaving a room that one is not in succeed', async () => {
    const client = await connect(server);
    acks.room(await client.emit('joinRoom', 'twice'));
    acks.room(await client.emit('joinRoom', 'twice'));
    assert.deepEqual(await rooms(client), [client.id, 'twice'].sort());
    await server.toRoom('twice', { event: 'once', data: 1 });
    await client.fence();
    assert.deepEqual(client.all('once'), [1]);
    acks.room(await client.emit('leaveRoom', 'twice'));
    acks.room(await client.emit('leaveRoom', 'twice'));
    acks.room(await client.emit('leaveRoom', 'never-seen'));
    assert.equal(client.all('roomLeft').length, 3);
  });

  for (const [what, name] of [
    ['128 bytes', 'a'.repeat(128)],
    ['128 bytes of two-byte letters', 'é'.repeat(64)],
    ['spaces, slashes, emoji', 'a b/c?d#e%20 \u2028 🎬 日本'],
    ['one letter', 'x'],
    ['a name JavaScript knows', '__proto__'],
  ]) {
    test(`a name of ${what} is good, also for a publisher`, async () => {
      const client = await connect(server);
      assert.equal(acks.room(await client.emit('joinRoom', name)).room, name);
      assert.deepEqual(await rooms(client), [client.id, name].sort());
      await server.toRoom(name, { event: 'projectUpdate', data: { ok: true } });
      assert.deepEqual(await client.next('projectUpdate'), { ok: true });
    });
  }

  for (const [what, name, error = /^Room name /] of [
    ['empty', ''],
    ['129 bytes', 'a'.repeat(129)],
    ['65 two-byte letters', 'é'.repeat(65)],
    ['with a NUL', 'a\u0000b'],
    ['with a line break', 'a\nb'],
    ['with an escape', 'a\u001bb'],
    ['with a DEL', 'a\u007fb'],
    ['with a C1 control', 'a\u0085b'],
    ['a lone surrogate', 'a\ud800b', /half of a surrogate pair/],
    ['a number', 5, /must be a string/],
    ['an array', ['project-1', 'project-2']],
    ['an object', { room: 'project-1' }],
    ['true', true],
    ['null', null],
    ['binary', Buffer.from('project-1')],
  ]) {
    test(`a name that is ${what} is refused, in the ack only`, async () => {
      const client = await connect(server);
      const mark = client.mark();
      assert.match(acks.refused(await client.emit('joinRoom', name)).error, error);
      assert.match(acks.refused(await client.emit('leaveRoom', name)).error, error);
      assert.deepEqual(client.names(mark), ['ack:joinRoom', 'ack:leaveRoom']);
      assert.deepEqual(await rooms(client), [client.id]);
    });
  }

  test('no name at all is refused', async () => {
    const client = await connect(server);
    acks.refused(await client.emit('joinRoom'));
    acks.refused(await client.emit('leaveRoom'));
  });

  describe('what the old server let in', () => {
    for (const nsp of NAMESPACES) {
      test(`${nsp}: the own user room is a no-op and can't be left; another's is refused`, async () => {
        const client = await connect(server, { nsp, token: token({ userId: 'me' }) });
        const before = await rooms(client);
        assert.equal(acks.room(await client.emit('joinRoom', 'user:me')).room, 'user:me');
        acks.refused(await client.emit('joinRoom', 'user:you'));
        acks.refused(await client.emit('joinRoom', 'user:'));
        const mark = client.mark();
        for (const room of ['user:me', 'user:you', 'user:']) {
          assert.equal(acks.refused(await client.emit('leaveRoom', room)).error, 'Not allowed');
        }
        assert.deepEqual(client.names(mark), Array(3).fill('ack:leaveRoom'), 'no roomLeft');
        assert.deepEqual(await rooms(client), before);
      });
    }

    test('an anonymous socket has no user room to join', async () => {
      const victim = await connect(server, { nsp: '/notifications', token: token({ userId: 'victim' }) });
      const thief = await connect(server, { nsp: '/notifications' });
      const mark = thief.mark();
      acks.refused(await thief.emit('joinRoom', 'user:victim'));
      acks.refused(await thief.emit('joinRoom', 'user:undefined'));
      acks.refused(await thief.emit('joinRoom', ['user:victim']));
      assert.deepEqual(thief.names(mark), ['ack:joinRoom', 'ack:joinRoom', 'ack:joinRoom'], 'no roomJoined');
      await server.notify('victim', { type: 'info', title: 'private', message: 'm' });
      await victim.next('notification');
      await thief.fence();
      assert.deepEqual(thief.all('notification'), []);
    });

    test("another socket's id is no room to join or leave; the own id can't be left", async () => {
      const one = await connect(server);
      const two = await connect(server);
      acks.refused(await one.emit('joinRoom', two.id));
      const mark = one.mark();
      for (const { id } of [one, two]) assert.equal(acks.refused(await one.emit('leaveRoom', id)).error, 'Not allowed');
      assert.deepEqual(one.names(mark), Array(2).fill('ack:leaveRoom'), 'no roomLeft');
      assert.deepEqual(await rooms(one), [one.id]);
    });

    test('a user room is refused again after logout', async () => {
      const client = await connect(server, { token: token({ userId: 'gone' }) });
      acks.logout(await client.emit('logout'));
      acks.refused(await client.emit('joinRoom', 'user:gone'));
    });

    test("rooms of one namespace are not another's", async () => {
      const root = await connect(server);
      const media = await root.of('/media').ready();
      acks.room(await root.emit('joinRoom', 'apart'));
      assert.deepEqual(await rooms(media), [media.id]);
      await server.toRoom('apart', { event: 'projectUpdate', data: 1, namespace: '/media' });
      await server.toRoom('apart', { event: 'projectUpdate', data: 2 });
      assert.equal(await root.next('projectUpdate'), 2);
      await media.fence();
      assert.deepEqual(media.all('projectUpdate'), []);
    });
  });
});

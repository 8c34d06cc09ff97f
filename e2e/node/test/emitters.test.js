// Programs that publish over Redis: two nodes of a cluster, and the emitters' own packages.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { Emitter } from '@socket.io/redis-emitter';
import { createClient } from 'redis';
import { connect } from '../client.js';
import { Redis } from '../cluster.js';
import { SECRET, Server, token } from '../server.js';
import { acks } from '../shapes.js';
import { StreamsEmitter } from '../streams-emitter.js';
import { until } from '../wait.js';

const MOST_BYTES = 20_000;

describe('emitters', () => {
  const clients = [];
  let redis, client, emitter, streams, nodes;
  const start = (env) =>
    Server.start({
      env: {
        REDIS_URL: redis.url,
        REDIS_PREFIX: 'emitters',
        CLUSTER_SECRET: SECRET,
        EMITTERS: 'redis,streams,python',
        EMITTER_EVENTS: '/:project*,/media:*,/notifications:notification',
        MAX_PAYLOAD_BYTES: String(MOST_BYTES),
        ...env,
      },
    });
  /** A client of npm `redis`, connected. */
  async function redisClient() {
    const made = createClient({ socket: { path: join(redis.folder, 'socket'), reconnectStrategy: false } });
    made.on('error', () => {});
    await made.connect();
    clients.push(made);
    return made;
  }
  const closeClients = () => clients.splice(0).forEach((made) => made.destroy());

  /** The sum over the nodes. */
  const metric = async (name) =>
    (await Promise.all(nodes.map((node) => node.metric(name)))).reduce((sum, value) => sum + (value || 0), 0);
  const refused = (emitter, reason) => metric(`slop_emitter_refusals_total{emitter="${emitter}",reason="${reason}"}`);
  const reader = async () => (await Promise.all(nodes.map((node) => node.metric('slop_emitter_reader')))).indexOf(1);
  const isRead = async () => (await until(async () => (await reader()) >= 0, 'a node that reads')) && reader();

  before(async () => {
    redis = await Redis.start();
    client = await redisClient();
    emitter = new Emitter(client);
    streams = new StreamsEmitter(client);
    nodes = await Promise.all([start(), start()]);
    await isRead();
    // The cursor is at the end of the stream from now on.
    await until(() => client.get('{emitters}:emitters:cursor'), 'the cursor');
  });
  after(async () => {
    for (const node of nodes) await node.close();
    closeClients();
    await redis.close();
  });

  async function members(room) {
    const both = await Promise.all(nodes.map((node) => connect(node)));
    for (const member of both) acks.room(await member.emit('joinRoom', room));
    return both;
  }

  /** The arguments of all events of this name, without the offsets. */
  const received = (member, name) =>
    member.log.filter((entry) => entry.name === name).map(({ args }) => args.slice(0, -1));

  async function arrives(member, name, count) {
    await until(() => received(member, name).length >= count, () => `${count} ${name}`);
    await member.fence();
    return received(member, name);
  }

  for (const [name, emit] of [
    ['@socket.io/redis-emitter', (room, ...args) => emitter.to(room).emit(...args)],
    ['@socket.io/redis-streams-emitter', (room, ...args) => streams.to(room).emit(...args)],
  ]) {
    test(`${name}: an event arrives once on each node, in order`, async () => {
      const room = `${name} 1`;
      const both = await members(room);
      const values = [
        [{ a: { b: [1, -2, 2 ** 40, 0.5, 'é🎬', null, true] }, when: new Date(1_700_000_000_123) }],
        [1, 'two', { three: 3 }],
        ['a text'],
        [null],
        [],
      ];
      for (const args of values) await emit(room, 'projectUpdate', ...args);
      const expected = JSON.parse(JSON.stringify(values)).map((args) => (args.length === 0 ? [null] : args));
      for (const member of both) {
        assert.deepEqual(await arrives(member, 'projectUpdate', values.length), expected);
      }
      for (let n = 0; n < 200; n++) await emit(room, 'projectCount', n);
      for (const member of both) {
        const counts = await arrives(member, 'projectCount', 200);
        assert.deepEqual(counts.flat(), Array.from({ length: 200 }, (_, n) => n));
      }
    });

    test(`${name}: media events and notifications are publishes of theirs`, async () => {
      const user = `user of ${name}`;
      const item = `item of ${name}`;
      const media = await Promise.all(nodes.map((node) => connect(node, { nsp: '/media', token: token({ userId: user }) })));
      for (const member of media) acks.media(await member.emit('subscribeMedia', item));
      const [told] = await Promise.all([connect(nodes[1], { nsp: '/notifications', token: token({ userId: user }) })]);
      const from = name.includes('streams') ? streams : emitter;
      const kind = name.includes('streams') ? 'streams' : 'redis';
      await from.of('/media').emit('mediaProgress', { mediaId: item, progress: 40, stage: 'render', ownerId: user });
      await from.of('/media').to(item).emit('mediaComplete', { mediaId: item, url: 'https://cdn.example.com/1' });
      for (const member of media) {
        assert.deepEqual(await member.next('mediaProgress'), { mediaId: item, progress: 40, stage: 'render' });
        assert.deepEqual(await member.next('mediaComplete'), { mediaId: item, url: 'https://cdn.example.com/1' });
      }
      const state = await nodes[0].request('GET', `/v1/media/${encodeURIComponent(item)}`);
      assert.equal(state.status, 200, state.text);

      // It has ended.
      const before = await refused(kind, 'conflict');
      await from.of('/media').emit('mediaProgress', { mediaId: item, progress: 50, stage: 'late' });
      await until(async () => (await refused(kind, 'conflict')) === before + 1, 'a conflict');

      const notification = { type: 'info', title: 't', message: 'm', id: `${kind} 1` };
      for (let n = 0; n < 2; n++) await from.of('/notifications').to(`user:${user}`).emit('notification', notification);
      const { timestamp, ...rest } = await told.next('notification');
      assert.equal(typeof timestamp, 'string');
      assert.deepEqual(rest, notification);
      const { json } = await nodes[0].request('GET', `/v1/users/${encodeURIComponent(user)}/notifications`);
      assert.equal(json.notifications.length, 1);
    });
  }

  test('what may not be sent is refused, counted and logged once', async () => {
    const [member] = await members('a');
    const to = emitter.to('a');
    const cases = [
      ['redis', 'not allowed', () => to.emit('other', 1)],
      ['redis', 'not allowed', () => emitter.of('/notifications').to('a').emit('projectUpdate', 1)],
      ['redis', 'namespace', () => emitter.of('/chat').to('a').emit('projectUpdate', 1)],
      ['redis', 'no room', () => emitter.emit('projectUpdate', 1)],
      ['redis', 'several rooms', () => to.to('b').emit('projectUpdate', 1)],
      ['redis', 'except', () => to.except('b').emit('projectUpdate', 1)],
      ['redis', 'binary data', () => to.emit('projectUpdate', { data: Buffer.from('x') })],
      ['redis', 'size', () => to.emit('projectUpdate', 'x'.repeat(MOST_BYTES))],
      ['redis', 'size', () => to.emit('projectUpdate', Array(MOST_BYTES / 2).fill(null))],
      ['redis', 'invalid', () => emitter.of('/media').emit('mediaProgress', { mediaId: 'm', progress: 'half' })],
      ['redis', 'invalid', () => emitter.of('/media').to('n').emit('mediaComplete', { mediaId: 'm', url: 'u' })],
      ['redis', 'invalid', () => emitter.of('/media').to('a').emit('authenticated', {})],
      ['redis', 'invalid', () => emitter.of('/notifications').to('a').emit('notification', {})],
      ['redis', 'request', () => to.socketsJoin('b')],
      ['redis', 'request', () => to.socketsLeave('a')],
      ['redis', 'request', () => to.disconnectSockets(true)],
      ['redis', 'request', () => emitter.serverSideEmit('projectUpdate', 1)],
      ['streams', 'not allowed', () => streams.to('a').emit('other', 1)],
      ['streams', 'no room', () => streams.emit('projectUpdate', 1)],
      ['streams', 'size', () => streams.to('a').emit('projectUpdate', 'x'.repeat(MOST_BYTES))],
      ['streams', 'request', () => streams.to('a').socketsJoin('b')],
    ];
    for (const [kind, reason, emit] of cases) {
      const before = await refused(kind, reason);
      await emit();
      await until(async () => (await refused(kind, reason)) === before + 1, `${kind}: ${reason}`);
    }
    await member.fence();
    assert.deepEqual(member.names().filter((name) => name.startsWith('project')), []);
    acks.room(await member.emit('leaveRoom', 'a'));
    const log = nodes.map((node) => node.stderr).join('');
    assert.equal(log.split('reason="request"').length - 1, 2, log);
  });

  test('garbage is harmless', async () => {
    const [member] = await members('a');
    const valid = await encoded(() => emitter.to('a').emit('projectUpdate', { deep: [1, 2, 3], text: 'x' }));
    const pickle = Buffer.from('8004950a000000000000007d948c016194', 'hex');
    const deep = Buffer.concat([Buffer.alloc(10_000, 0x91), Buffer.from([0])]);
    const garbage = [
      Buffer.alloc(0),
      Buffer.from([0xdf, 0xff, 0xff, 0xff, 0xff]),
      deep,
      Buffer.from('['.repeat(10_000)),
      Buffer.from('{"method":"emit","event":"projectUpdate","data":[1],"room":{"a":1}}'),
      ...Array.from({ length: valid.length }, (_, end) => valid.subarray(0, end)),
      Buffer.concat([valid, Buffer.from([0])]),
    ];
    const before = await refused('redis', 'malformed');
    for (const payload of garbage) await client.publish('socket.io#/#a#', payload);
    await until(async () => (await refused('redis', 'malformed')) === before + garbage.length, 'refusals');
    for (const payload of garbage) await client.publish('socketio', payload);
    await client.publish('socketio', pickle);
    await until(async () => (await refused('python', 'pickle')) >= 1, 'the pickle');
    const streamBefore = await refused('streams', 'malformed');
    for (const data of ['{', '[]', '{"packet":{"type":2,"data":[]},"opts":{}}', '{"packet":{"type":2,"data":[1]},"opts":{}}']) {
      await client.xAdd('socket.io', '*', { uid: 'emitter', nsp: '/', type: '3', data });
    }
    await client.xAdd('socket.io', '*', { some: 'thing' });
    await until(async () => (await refused('streams', 'malformed')) === streamBefore + 5, 'refusals');
    await client.xAdd('socket.io', '*', { uid: 'another', nsp: '/', type: '3', data: '{}' });
    await until(async () => (await refused('streams', 'another server')) === 1, 'a refusal');
    await client.publish('socket.io#/#a#', valid);
    assert.deepEqual(await arrives(member, 'projectUpdate', 1), [[{ deep: [1, 2, 3], text: 'x' }]]);
  });

  /** What an emitter publishes. */
  async function encoded(emit) {
    const listener = await redisClient();
    let payload;
    await listener.pSubscribe('socket.io#*', (message) => (payload = message), true);
    // Nobody is in the room yet, or gets it: the test's own room is joined by then, so the event is taken off the log.
    emit();
    await until(() => payload, 'a message');
    await listener.pUnsubscribe();
    for (const node of nodes) for (const member of node.clients) await member.fence();
    await until(() => [...nodes[0].clients].at(-1).names().includes('projectUpdate'), 'the event');
    [...nodes[0].clients].at(-1).log.length = 0;
    return payload;
  }

  test('a killed reader loses and doubles no entry of the stream', async () => {
    const room = 'killed';
    const first = await isRead();
    const [dying, other] = [nodes[first], nodes[1 - first]];
    const member = await connect(other);
    acks.room(await member.emit('joinRoom', room));
    const count = 600;
    for (let n = 0; n < count; n++) {
      await streams.to(room).emit('projectCount', n);
      if (n % 10 === 0) await delay(5);
      if (n === count / 2) {
        dying.closeClients();
        await dying.kill();
      }
    }
    await until(async () => (await other.metric('slop_emitter_reader')) === 1, 'another reader', 20_000);
    const counts = (await arrives(member, 'projectCount', count)).flat();
    assert.deepEqual(counts, Array.from({ length: count }, (_, n) => n));
    nodes[first] = await start();
  });

  test('entries that are read again are not published again', async () => {
    const member = await connect(nodes[1 - (await isRead())]);
    acks.room(await member.emit('joinRoom', 'again'));
    for (let n = 0; n < 100; n++) await streams.to('again').emit('projectCount', n);
    assert.equal((await arrives(member, 'projectCount', 100)).length, 100);
    // As if the reader had ended before it saved its cursor.
    const first = await isRead();
    nodes[first].closeClients();
    await nodes[first].kill();
    await client.set('{emitters}:emitters:cursor', '0-0');
    const other = nodes[1 - first];
    await until(async () => (await other.metric('slop_emitter_messages_total{emitter="streams",outcome="repeated"}')) >= 900, 'repeats', 20_000);
    await streams.to('again').emit('projectCount', 'new');
    assert.deepEqual((await arrives(member, 'projectCount', 101)).flat().slice(100), ['new']);
    nodes[first] = await start();
  });

  test('a reader that stops in order is followed at once, and loses no entry', async () => {
    const first = await isRead();
    const [ending, other] = [nodes[first], nodes[1 - first]];
    const member = await connect(other);
    acks.room(await member.emit('joinRoom', 'stopped'));
    for (let n = 0; n < 100; n++) {
      await streams.to('stopped').emit('projectCount', n);
      if (n === 50) {
        ending.closeClients();
        ending.child.kill('SIGTERM');
      }
    }
    await until(async () => (await other.metric('slop_emitter_reader')) === 1, 'another reader', 3_000);
    const counts = (await arrives(member, 'projectCount', 100)).flat();
    assert.deepEqual(counts, Array.from({ length: 100 }, (_, n) => n));
    assert.deepEqual(await ending.exited, { code: 0, signal: null }, ending.stderr);
    nodes[first] = await start();
  });

  test('after a restart of Redis no entry is lost or doubled', async () => {
    const [member] = await members('restarted');
    for (let n = 0; n < 50; n++) await streams.to('restarted').emit('projectCount', n);
    await client.ping(); // the package does not say when an entry is written
    closeClients();
    await redis.restart();
    const again = await redisClient();
    const after = new StreamsEmitter(again).to('restarted');
    for (let n = 50; n < 100; n++) await after.emit('projectCount', n);
    // Those on their way at the restart come after later ones.
    const counts = (await arrives(member, 'projectCount', 100)).flat().sort((a, b) => a - b);
    assert.deepEqual(counts, Array.from({ length: 100 }, (_, n) => n));
    client = again;
    emitter = new Emitter(client);
    streams = new StreamsEmitter(client);
    // Until a node reads, channels lose what is sent.
    const before = await refused('redis', 'not allowed');
    await until(async () => {
      emitter.to('restarted').emit('other');
      return (await refused('redis', 'not allowed')) > before;
    }, 'a reader of the channels');
  });

  test('a node that was stopped for longer than its lease publishes nothing late', async () => {
    const first = await isRead();
    const [stopped, other] = [nodes[first], nodes[1 - first]];
    const member = await connect(other);
    acks.room(await member.emit('joinRoom', 'paused'));
    stopped.child.kill('SIGSTOP');
    try {
      emitter.to('paused').emit('projectCount', 'while it is stopped');
      await until(async () => (await other.metric('slop_emitter_reader')) === 1, 'another reader', 20_000);
    } finally {
      stopped.child.kill('SIGCONT');
    }
    await until(async () => (await stopped.metric('slop_emitter_reader')) === 0, 'the end of the lease');
    emitter.to('paused').emit('projectCount', 'after');
    assert.deepEqual((await arrives(member, 'projectCount', 1)).flat(), ['after']);
  });
});

test('emitters need Redis', async () => {
  await assert.rejects(Server.start({ env: { EMITTERS: 'redis', REDIS_URL: '' } }), /EMITTERS is set and REDIS_URL is not/);
});

// Three nodes on one Redis, behind a balancer that is not sticky: what one node promises, all of them together promise.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { connect, open } from '../client.js';
import { Cluster, spread } from '../cluster.js';
import { Proxy } from '../proxy.js';
import { acks, events } from '../shapes.js';
import { token } from '../server.js';
import { until } from '../wait.js';

const SOON = { timeout: 1_000, reconnection: true, reconnectionDelay: 20, reconnectionDelayMax: 200 };
const minuteAgo = () => Math.floor(Date.now() / 1000) - 60;

describe('three nodes', () => {
  let cluster, a, b, c;
  before(async () => {
    cluster = await Cluster.start();
    [a, b, c] = cluster.nodes;
  });
  after(() => cluster.close());

  /** A client of the balancer, which comes back by itself. */
  const member = async (options) => connect({ url: cluster.url, clients: a.clients }, { ...SOON, ...options });

  test('an event that is published to one node reaches the members on all, in one order', async () => {
    const members = await Promise.all(cluster.nodes.map((node) => connect(node)));
    for (const client of members) acks.room(await client.emit('joinRoom', 'order'));
    const publishes = Array.from({ length: 90 }, (_, n) =>
      cluster.nodes[n % 3].toRoom('order', { event: 'update', data: { n }, delivery: n % 2 ? 'durable' : 'recoverable' }),
    );
    const receipts = await Promise.all(publishes);
    assert.deepEqual([...new Set(receipts.map((receipt) => receipt.stored))].sort(), [false, true]);
    await until(() => members.every((client) => client.all('update').length === 90), 'the events');
    const [first, ...others] = members.map((client) => client.all('update').map(({ n }) => n));
    assert.deepEqual([...first].sort((one, other) => one - other), Array.from({ length: 90 }, (_, n) => n));
    for (const other of others) assert.deepEqual(other, first);
  });

  test('a receipt counts the sockets of the node that was asked', async () => {
    const client = await connect(a);
    acks.room(await client.emit('joinRoom', 'count'));
    assert.equal((await a.toRoom('count', { event: 'e', data: {} })).delivered, 1);
    assert.equal((await b.toRoom('count', { event: 'e', data: {} })).delivered, 0);
  });

  test('an idempotency key is the same on all nodes', async () => {
    const headers = { 'idempotency-key': 'over-nodes' };
    const one = await a.toRoom('keys', { event: 'e', data: {} }, { headers });
    const other = await b.toRoom('keys', { event: 'e', data: {} }, { headers });
    assert.equal(other.id, one.id);
    const reused = await c.request('POST', '/v1/rooms/keys/events', { event: 'other', data: {} }, { headers });
    assert.equal(reused.status, 422, reused.text);
  });

  test('a subscription begins with the state that another node was told, and goes on without a gap', async () => {
    await a.progress('over-nodes', { progress: 10, stage: 'render' });
    const client = await connect(b, { nsp: '/media' });
    let n = 10;
    const publishing = (async () => {
      while (n < 60) await a.progress('over-nodes', { progress: (n += 1), stage: 'render' });
    })();
    acks.media(await client.emit('subscribeMedia', 'over-nodes'));
    await publishing;
    await until(() => client.all('mediaProgress').at(-1)?.progress === 60, 'the last progress');
    const seen = client.all('mediaProgress').map(({ progress }) => progress);
    assert.deepEqual(seen, Array.from({ length: seen.length }, (_, at) => seen[0] + at), 'no gap and no step back');
  });

  test('a notification reaches the user on another node, and counts as read on all', async () => {
    const user = { nsp: '/notifications', token: token({ userId: 'reader' }) };
    const [one, other] = [await connect(b, user), await connect(c, user)];
    assert.equal((await one.emit('listNotifications')).unreadCount, 0);
    await a.notify('reader', { type: 'info', title: 't', message: 'm', id: 'n1' });
    assert.equal((await one.next('notification')).id, 'n1');
    assert.equal((await other.next('notification')).id, 'n1');
    assert.equal((await other.emit('markNotificationsRead', { upTo: 'n1' })).unreadCount, 0);
    await until(() => one.all('unreadCount').at(-1)?.count === 0, 'the count');
  });

  test('an event for a socket reaches it, whichever node is asked', async () => {
    const client = await connect(a);
    await b.toRoom(client.id, { event: 'direct', data: { n: 1 } });
    assert.deepEqual(await client.next('direct'), { n: 1 });
    const refused = acks.refused(await (await connect(c)).emit('joinRoom', client.id));
    assert.equal(refused.error, 'Not allowed');
  });

  test('an event for a socket reaches it, although its node was cut off from Redis', async () => {
    const client = await connect(b);
    const line = cluster.lines[1].silence('down', 500);
    for (const n of [1, 2, 3]) await a.toRoom(client.id, { event: 'direct', data: { n } });
    await line;
    await until(() => client.all('direct').length === 3, 'the events');
    assert.deepEqual(client.all('direct').map(({ n }) => n), [1, 2, 3]);
  });

  test('a user who is revoked on one node has no identity on another when the answer comes', async () => {
    const own = token({ userId: 'revoked', iat: minuteAgo() });
    const [one, other] = [await connect(b, { token: own }), await connect(c, { token: own, nsp: '/notifications' })];
    const answer = await a.request('POST', '/v1/users/revoked/revoke');
    assert.equal(answer.status, 200, answer.text);
    assert.equal(answer.json.sockets, 2);
    for (const socket of [one, other]) {
      assert.equal((await socket.info()).authenticated, false);
      assert.equal(events.authError(await socket.next('authError')).message, 'Token has been revoked');
      assert.equal(acks.refused(await socket.emit('authenticate', { token: own })).error, 'Token has been revoked');
    }
    const undone = await c.request('DELETE', '/v1/users/revoked/revoke');
    assert.ok(undone.status < 300, undone.text);
    for (const socket of [one, other]) assert.equal((await socket.emit('authenticate', { token: own })).success, true);
  });

  test('a thousand calls of polling clients through the balancer, none refused', async () => {
    const agent = spread();
    const options = { transports: ['polling'], agent };
    const clients = await Promise.all(Array.from({ length: 10 }, () => member(options)));
    for (const client of clients) acks.room(await client.emit('joinRoom', 'polled'));
    for (let n = 0; n < 100; n += 1) await Promise.all(clients.map((client) => client.fence()));
    await a.toRoom('polled', { event: 'update', data: { n: 1 } });
    for (const client of clients) {
      assert.deepEqual(await client.next('update'), { n: 1 });
      assert.deepEqual(client.all('local:disconnect'), []);
      client.close();
    }
    const forwarded = await Promise.all(cluster.nodes.map((node) => node.metric('slop_requests_forwarded_total')));
    assert.ok(forwarded.every((count) => count > 100), `${forwarded}`);
  });

  test('an upgrade that lands on another node is passed on', async () => {
    const client = await member({ agent: spread() });
    await until(() => client.socket.io.engine.transport.name === 'websocket', 'an upgrade');
    acks.room(await client.emit('joinRoom', 'upgraded'));
    await b.toRoom('upgraded', { event: 'update', data: { n: 1 } });
    assert.deepEqual(await client.next('update'), { n: 1 });
    client.close();
  });

  test('a client whose connection is cut gets its session and what it missed on another node', async () => {
    const client = await member({ token: token({ userId: 'mover' }) });
    acks.room(await client.emit('joinRoom', 'moving'));
    const before = client.id;
    for (let round = 0; round < 6; round += 1) {
      client.socket.io.engine.close();
      await a.toRoom('moving', { event: 'update', data: { n: round } });
      await until(() => client.socket.connected, 'reconnect');
      assert.equal(client.socket.recovered, true, `round ${round}`);
      assert.equal(client.id, before);
      assert.deepEqual(await client.next('update'), { n: round });
      const info = await client.info();
      assert.ok(info.authenticated && info.rooms.includes('moving'), JSON.stringify(info));
      // Its id was made by the first node.
      await b.toRoom(client.id, { event: 'direct', data: { round } });
      assert.deepEqual(await client.next('direct'), { round });
    }
    assert.equal(client.all('update').length, 6);
    client.close();
  });

  test('a client that moves gets nothing twice, and its old node closes the old connection', async () => {
    await a.notify('handed', { type: 'info', title: 't', message: 'm', id: 'n1' });
    const proxy = await Proxy.to(b.port);
    const user = { token: token({ userId: 'handed' }), nsp: '/notifications' };
    const client = await connect({ url: proxy.url, clients: a.clients }, { ...user, ...SOON });
    assert.equal((await client.next('notification')).id, 'n1');
    const before = client.id;
    proxy.cut({ silently: true });
    const moved = new Promise((resolve) => client.socket.io.on('open', resolve));
    client.socket.io.uri = c.url;
    client.socket.io.engine.close();
    await moved;
    await until(() => client.socket.connected, 'reconnect');
    assert.deepEqual([client.socket.recovered, client.id], [true, before]);
    await client.fence();
    assert.equal(client.all('notification').length, 1, 'a notification that has arrived is not sent again');
    // The first node does not keep the socket until its heartbeats fail.
    await until(async () => (await b.request('GET', '/metrics')).text.match(/slop_disconnects_total\{[^}]*session resumed elsewhere[^}]*\} ([1-9])/), 'the end of the old connection', 3_000);
    await proxy.close();
    client.close();
  });

  test('who missed more than a room keeps is told so', async () => {
    const proxy = await Proxy.to(b.port);
    const client = await connect({ url: proxy.url, clients: a.clients }, SOON);
    acks.room(await client.emit('joinRoom', 'long'));
    await a.toRoom('long', { event: 'update', data: { n: 0 } });
    await client.next('update');
    proxy.blocked = true;
    proxy.cut();
    for (let from = 0; from < 2_100; from += 100) {
      const batch = Array.from({ length: 100 }, (_, n) => ({ kind: 'roomEvent', room: 'long', event: 'update', data: { n: from + n + 1 } }));
      await a.publish('/v1/publish', batch);
    }
    proxy.blocked = false;
    await until(() => client.all('local:connect').length === 2, 'reconnect');
    assert.equal(client.socket.recovered, false);
    assert.equal(client.all('update').length, 1);
    client.close();
    await proxy.close();
  });

  test('a session has one client, also if two come for it on two nodes at the same time', async () => {
    const cut = await connect(a);
    acks.room(await cut.emit('joinRoom', 'twins'));
    const session = { _pid: cut.socket._pid, _lastOffset: cut.socket._lastOffset };
    cut.socket.io.engine.close();
    const twins = [a, b].map((node) => {
      const twin = open(node, { autoConnect: false });
      Object.assign(twin.socket, session);
      return twin;
    });
    twins.forEach((twin) => twin.socket.connect());
    await until(() => twins.some((twin) => twin.socket.recovered), 'a recovery');
    // Whoever is second, the first is closed.
    await until(() => twins.filter((twin) => twin.socket.connected && twin.socket.recovered).length === 1, 'one client');
    await a.toRoom('twins', { event: 'update', data: { n: 1 } });
    await until(() => twins.some((twin) => twin.all('update').length === 1), 'the event');
    assert.equal(twins.flatMap((twin) => twin.all('update')).length, 1);
    twins.forEach((twin) => twin.close());
  });

  test('who leaves a room on one node is not in it again on another', async () => {
    const client = await member();
    acks.room(await client.emit('joinRoom', 'left'));
    acks.room(await client.emit('leaveRoom', 'left'));
    client.socket.io.engine.close();
    await until(() => client.socket.connected && client.all('local:connect').length === 2, 'reconnect');
    assert.equal(client.socket.recovered, true);
    assert.deepEqual((await client.info()).rooms, [client.id]);
    client.close();
  });

  test('a node is killed: its clients continue on the others', async () => {
    const members = await Promise.all(Array.from({ length: 30 }, () => member()));
    for (const client of members) acks.room(await client.emit('joinRoom', 'killed'));
    let published = 0;
    let stopped = false;
    const publishing = (async () => {
      while (!stopped) {
        await b.toRoom('killed', { event: 'update', data: { n: published }, delivery: published % 2 ? 'durable' : 'recoverable' });
        published += 1;
      }
    })();
    await until(() => published > 20, 'publishes');
    await cluster.replace(0);
    a = cluster.nodes[0];
    await until(() => members.every((client) => client.socket.connected), 'reconnect');
    stopped = true;
    await publishing;
    await until(() => members.every((client) => client.all('update').length >= published), 'all events');
    for (const client of members) {
      assert.deepEqual(client.all('update').map(({ n }) => n), Array.from({ length: published }, (_, n) => n));
      assert.equal(client.socket.recovered, client.all('local:connect').length > 1);
      client.close();
    }
  });
});

describe('a node that was stopped', () => {
  test('says nothing that it may not say after a revocation that was answered meanwhile', { timeout: 60_000 }, async () => {
    const cluster = await Cluster.start({ nodes: 2, env: { PING_INTERVAL_MS: '60000', PING_TIMEOUT_MS: '60000' } });
    const [a, b] = cluster.nodes;
    const own = token({ userId: 'stopped', iat: minuteAgo() });
    const client = await connect(b, { token: own, nsp: '/notifications' });
    b.child.kill('SIGSTOP');
    const answer = await a.request('POST', '/v1/users/stopped/revoke');
    assert.equal(answer.status, 200, answer.text);
    await a.notify('stopped', { type: 'info', title: 'secret', message: 'secret' });
    b.child.kill('SIGCONT');
    assert.equal(events.authError(await client.next('authError')).message, 'Token has been revoked');
    assert.deepEqual(client.all('notification'), []);
    assert.equal((await client.info()).authenticated, false);
    // It hears the others again.
    acks.room(await client.emit('joinRoom', 'again'));
    await a.toRoom('again', { namespace: '/notifications', event: 'update', data: {} });
    await client.next('update');
    assert.deepEqual(client.all('notification'), []);
    await cluster.close();
  });
});

describe('a takeover', () => {
  test('from a node that was stopped, and wakes up later', { timeout: 60_000 }, async () => {
    const cluster = await Cluster.start({ nodes: 2 });
    const [a, b] = cluster.nodes;
    const proxy = await Proxy.to(a.port);
    const client = await connect({ url: proxy.url, clients: b.clients }, SOON);
    assert.equal((await client.emit('authenticate', { token: token({ userId: 'moved' }) })).success, true);
    for (const room of ['one', 'two']) acks.room(await client.emit('joinRoom', room));
    const before = client.id;
    const move = async (url) => {
      const count = client.all('local:connect').length;
      client.socket.io.uri = url;
      proxy.cut({ silently: true });
      client.socket.io.engine.close();
      await until(() => client.all('local:connect').length > count, 'a reconnect');
      assert.deepEqual([client.socket.recovered, client.id], [true, before]);
    };
    a.child.kill('SIGSTOP');
    await move(b.url);
    acks.room(await client.emit('leaveRoom', 'two'));
    assert.equal((await client.emit('logout')).success, true);
    for (const n of [1, 2]) await b.toRoom('one', { event: 'update', data: { n } });
    // The old node writes what it has of the session, too late.
    a.child.kill('SIGCONT');
    await until(async () => (await a.request('GET', '/health/ready')).status === 200, 'the node');
    for (const n of [3, 4]) await a.toRoom('one', { event: 'update', data: { n } });
    await move(a.url);
    const info = await client.info();
    assert.deepEqual([info.authenticated, info.rooms.includes('one'), info.rooms.includes('two')], [false, true, false]);
    await b.toRoom('one', { event: 'update', data: { n: 5 } });
    await until(() => client.all('update').length >= 5, 'the events');
    assert.deepEqual(client.all('update').map(({ n }) => n), [1, 2, 3, 4, 5]);
    client.close();
    await proxy.close();
    await cluster.close();
  });
});

describe('Redis', () => {
  test('is emptied: clients begin anew, and none believes that it has missed nothing', async () => {
    const cluster = await Cluster.start({ nodes: 2 });
    const [a, b] = cluster.nodes;
    const clients = await Promise.all([a, b].map((node) => connect(node, SOON)));
    for (const client of clients) acks.room(await client.emit('joinRoom', 'r'));
    await a.toRoom('r', { event: 'update', data: { n: 1 } });
    for (const client of clients) await client.next('update');
    assert.equal(await cluster.redis.command('FLUSHALL'), '+OK');
    for (const client of clients) {
      await until(() => client.all('local:connect').length === 2, 'a new connection');
      assert.equal(client.socket.recovered, false);
      acks.room(await client.emit('joinRoom', 'r'));
    }
    await until(async () => (await a.request('POST', '/v1/rooms/r/events', { event: 'update', data: { n: 2 } })).status < 300, 'publish');
    for (const client of clients) assert.deepEqual(await client.next('update'), { n: 2 });
    await cluster.close();
  });

  test('is full: publishers wait, nodes and clients stay, and all goes on when there is room', { timeout: 60_000 }, async () => {
    const cluster = await Cluster.start({ nodes: 2 });
    const [a, b] = cluster.nodes;
    const clients = await Promise.all([a, b].map((node) => connect(node, { ...SOON, nsp: '/media' })));
    await a.progress('m', { progress: 1, stage: 's' });
    assert.equal(await cluster.redis.command('CONFIG SET maxmemory 1mb'), '+OK');
    const refused = await a.request('POST', '/v1/media/m/progress', { progress: 2, stage: 's' });
    assert.equal(refused.status, 503, refused.text);
    assert.ok(refused.headers['retry-after']);
    // For longer than a lease.
    await delay(6_000);
    for (const node of cluster.nodes) assert.equal((await node.request('GET', '/health/ready')).status, 200);
    for (const client of clients) {
      // What can be read is read.
      acks.media(await client.emit('subscribeMedia', 'm'));
      assert.equal((await client.next('mediaProgress')).progress, 1);
      assert.deepEqual(client.all('local:disconnect'), []);
    }
    assert.equal(await cluster.redis.command('CONFIG SET maxmemory 0'), '+OK');
    await b.progress('m', { progress: 3, stage: 's' });
    for (const client of clients) assert.equal((await client.next('mediaProgress')).progress, 3);
    await cluster.close();
  });

  test('is killed and started again: connections stay, and nothing accepted is lost', { timeout: 60_000 }, async () => {
    const cluster = await Cluster.start({ nodes: 2 });
    const [a, b] = cluster.nodes;
    const clients = await Promise.all([a, b].map((node) => connect(node, SOON)));
    for (const client of clients) acks.room(await client.emit('joinRoom', 'r'));
    let next = 0;
    const publish = async (node) => {
      const headers = { 'idempotency-key': `n${next}` };
      const body = { event: 'update', data: { n: next }, delivery: 'durable' };
      await until(async () => (await node.request('POST', '/v1/rooms/r/events', body, { headers })).status < 300, 'a publish', 20_000);
      next += 1;
    };
    for (let round = 0; round < 3; round += 1) {
      for (let n = 0; n < 10; n += 1) await publish(cluster.nodes[n % 2]);
      const restarted = cluster.redis.restart();
      await publish(a);
      await restarted;
    }
    await publish(b);
    await until(() => clients.every((client) => client.all('update').length === next), 'all events');
    for (const client of clients) {
      assert.deepEqual(client.all('update').map(({ n }) => n), Array.from({ length: next }, (_, n) => n));
      assert.deepEqual(client.all('local:disconnect'), []);
    }
    await cluster.close();
  });
});

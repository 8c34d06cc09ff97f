// Nothing accepted is lost: the server is killed, connections are cut, and the stock client gets everything once and in
// order, without a line of code for it.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { connect, open } from '../client.js';
import { allHeard, Member, Publisher, random, SOON } from '../members.js';
import { Proxy } from '../proxy.js';
import { acks, events } from '../shapes.js';
import { Server, token } from '../server.js';
import { until } from '../wait.js';

/** 200 members of 20 rooms and 200 durable events a second, while the server ends and is started again some times. */
async function survive(times, end, env = {}) {
  let server = await Server.start({ env });
  const { port, dataDir, url } = server;
  const rooms = Array.from({ length: 20 }, (_, n) => `room-${n}`);
  const members = Array.from(
    { length: 200 },
    (_, n) => new Member(url, rooms[n % rooms.length], { transports: [n % 4 === 0 ? 'polling' : 'websocket'] }),
  );
  await Promise.all(members.map((member) => member.join()));
  const publisher = new Publisher(rooms, 200);
  const running = publisher.run(url);
  for (let count = 0; count < times; count += 1) {
    await delay(100 + random(900));
    await end(server);
    server = await Server.start({ port, dataDir, env });
  }
  await delay(500);
  publisher.stopped = true;
  const published = await running;
  await allHeard(members, publisher);
  const connects = members.reduce((sum, member) => sum + member.connects - 1, 0);
  const recovered = members.reduce((sum, member) => sum + member.recovered, 0);
  assert.ok(connects >= members.length, `only ${connects} reconnects`);
  assert.equal(recovered, connects, 'every one was recovered');
  assert.ok(published > 10 * times && publisher.retries > 0, `${published} published, ${publisher.retries} retries`);
  for (const member of members) member.socket.disconnect();
  await server.terminate();
}

describe('the server ends', () => {
  test('200 members of 20 rooms, 200 durable events a second, 20 kills', { timeout: 180_000 }, async () => {
    await survive(20, (server) => server.kill());
  });

  test('the same with 5 restarts as a deploy does them: nobody is stranded', { timeout: 120_000 }, async () => {
    const env = { SHUTDOWN_GRACE_MS: '2000' };
    await survive(5, (server) => server.terminate(2_000, { keepData: true }), env);
  });
});

describe('the connection is cut', () => {
  for (const transports of [['websocket'], ['polling'], ['polling', 'websocket']]) {
    test(`50 times, ${transports.join(' and ')}`, { timeout: 120_000 }, async () => {
      // The stock client can stop polling for good when its upgrade fails at the wrong moment; only heartbeats tell it.
      const server = await Server.start({ env: { PING_INTERVAL_MS: '400', PING_TIMEOUT_MS: '600' } });
      const proxy = await Proxy.to(server.port);
      const rooms = ['a', 'b'];
      const members = Array.from({ length: 10 }, (_, n) => new Member(proxy.url, rooms[n % 2], { transports }));
      await Promise.all(members.map((member) => member.join()));
      // What is not durable comes back as well: the server lives.
      const publisher = new Publisher(rooms, 200, (n) => (n % 2 ? 'durable' : 'recoverable'));
      const running = publisher.run(server.url);
      for (let cuts = 0; cuts < 50; cuts += 1) {
        await delay(random(120));
        proxy.cut({ silently: cuts % 3 === 0 });
        if (cuts % 5 === 0) await until(() => members.every((member) => member.socket.connected), 'reconnect');
      }
      publisher.stopped = true;
      await running;
      await allHeard(members, publisher);
      for (const member of members) {
        assert.ok(member.connects > 5, `${member.connects} connects`);
        assert.equal(member.recovered, member.connects - 1, 'recovered each time');
        member.socket.disconnect();
      }
      await proxy.close();
      await server.terminate();
    });
  }

  test('longer than the window: not recovered, and snapshot and inbox make it right', async () => {
    const server = await Server.start({ env: { RECOVERY_MS: '200' } });
    const proxy = await Proxy.to(server.port);
    const at = { url: proxy.url, clients: server.clients };
    const media = await connect(at, { nsp: '/media', ...SOON, token: token({ userId: 'u' }) });
    const notifications = await connect(at, { nsp: '/notifications', ...SOON, token: token({ userId: 'u' }) });
    acks.media(await media.emit('subscribeMedia', 'm1'));
    await server.progress('m1', { progress: 10, stage: 'one' });
    assert.equal((await media.next('mediaProgress')).progress, 10);
    proxy.blocked = true;
    proxy.cut();
    await Promise.all([media.next('local:disconnect'), notifications.next('local:disconnect')]);
    await server.complete('m1', { url: 'https://cdn.example/m1.png' });
    await server.notify('u', { type: 'info', title: 'Done', message: 'm1', id: 'n1' });
    await delay(400);
    proxy.blocked = false;
    events.welcome(await media.next('welcome'));
    events.welcome(await notifications.next('welcome'));
    assert.equal(media.socket.recovered, false);
    assert.deepEqual(media.all('mediaComplete'), []);
    acks.media(await media.emit('subscribeMedia', 'm1'));
    assert.equal((await media.next('mediaComplete')).mediaId, 'm1');
    assert.equal((await notifications.next('notification')).id, 'n1');
    await notifications.fence();
    assert.equal(notifications.all('notification').length, 1);
    server.closeClients();
    await proxy.close();
    await server.terminate();
  });

  test('a client that heard nothing but its welcome', async () => {
    const server = await Server.start();
    const proxy = await Proxy.to(server.port);
    const at = { url: proxy.url, clients: server.clients };
    const client = await connect(at, { nsp: '/notifications', ...SOON, token: token({ userId: 'quiet' }) });
    const { id } = client;
    proxy.blocked = true;
    proxy.cut();
    await client.next('local:disconnect');
    await server.notify('quiet', { type: 'info', title: 't', message: 'm', id: 'n1' });
    proxy.blocked = false;
    assert.equal((await client.next('notification')).id, 'n1');
    assert.equal(client.socket.recovered, true);
    assert.equal(client.id, id);
    await client.fence();
    assert.equal(client.all('welcome').length, 1, 'it is greeted once');
    assert.equal(client.all('notification').length, 1);
    server.closeClients();
    await proxy.close();
    await server.terminate();
  });
});

describe('what is kept', () => {
  test('a result that came before its subscriber and before a restart', async () => {
    let server = await Server.start();
    const { port, dataDir } = server;
    await server.progress('m1', { progress: 50, stage: 'half' });
    await server.complete('m1', { url: 'https://cdn.example/m1.png' });
    await server.fail('m2', { error: 'no', code: 'E' });
    await server.kill();
    server = await Server.start({ port, dataDir });
    const client = await connect(server, { nsp: '/media' });
    acks.media(await client.emit('subscribeMedia', 'm1'));
    events.mediaComplete(await client.next('mediaComplete'));
    acks.media(await client.emit('subscribeMedia', 'm2'));
    assert.equal((await client.next('mediaError')).code, 'E');
    await server.close();
  });

  test('a notification for a user who was not there, over a kill; read on one device, seen on the other', async () => {
    let server = await Server.start();
    const { port, dataDir } = server;
    for (const id of ['n1', 'n2', 'n3']) await server.notify('u', { type: 'info', title: id, message: 'm', id });
    await server.kill();
    server = await Server.start({ port, dataDir });
    const phone = await connect(server, { nsp: '/notifications', token: token({ userId: 'u' }) });
    for (const id of ['n1', 'n2', 'n3']) assert.equal((await phone.next('notification')).id, id);
    await phone.fence();
    assert.equal(phone.all('notification').length, 3);

    // Received on one socket, it does not come on the next: also not by authenticating again.
    await until(async () => {
      const late = await connect(server, { nsp: '/notifications', token: token({ userId: 'u' }) });
      await late.fence();
      late.close();
      return late.all('notification').length === 0;
    }, 'confirmation that they were received');
    await phone.emit('authenticate', { token: token({ userId: 'u' }) });
    const laptop = await connect(server, { nsp: '/notifications' });
    await laptop.emit('authenticate', { token: token({ userId: 'u' }) });
    await laptop.fence();
    assert.deepEqual([phone.all('notification').length, laptop.all('notification').length], [3, 0]);

    const page = await laptop.emit('listNotifications', { limit: 2 });
    assert.equal(page.success, true);
    assert.deepEqual(page.notifications.map(({ id, read }) => [id, read]), [['n3', false], ['n2', false]]);
    assert.deepEqual([page.next, page.unreadCount], ['n2', 3]);
    const rest = await laptop.emit('listNotifications', { before: page.next });
    assert.deepEqual(rest.notifications.map(({ id }) => id), ['n1']);
    assert.equal((await phone.emit('listNotifications')).notifications.length, 3);
    assert.deepEqual(await laptop.emit('markNotificationsRead', { upTo: 'n2' }), { success: true, unreadCount: 1 });
    assert.deepEqual(await phone.next('unreadCount'), { count: 1 });
    assert.deepEqual(await phone.emit('markNotificationsRead', { ids: ['n3', 'unknown'] }), { success: true, unreadCount: 0 });
    assert.deepEqual(await laptop.next('unreadCount'), { count: 1 });
    assert.deepEqual(await laptop.next('unreadCount'), { count: 0 });
    await server.notify('u', { type: 'info', title: 'new', message: 'm', id: 'n4' });
    assert.deepEqual(await laptop.next('unreadCount'), { count: 1 });

    // Who knows only the contract sees only the contract's events.
    const plain = await connect(server, { nsp: '/notifications', token: token({ userId: 'u' }) });
    await server.notify('u', { type: 'info', title: 'new', message: 'm', id: 'n5' });
    assert.equal((await plain.next('notification')).id, 'n5');
    await plain.fence();
    assert.ok(!plain.names().includes('unreadCount'));
    await server.close();
  });

  for (const [event, payloads] of Object.entries({
    listNotifications: [[], 'x', { limit: 0 }, { limit: 101 }, { limit: '5' }, { before: 'unknown' }, { more: 1 }],
    markNotificationsRead: [undefined, null, {}, [], { ids: 'n1' }, { upTo: 5 }, { ids: [], upTo: 'n1' }, { upTo: 'unknown' }],
  })) {
    test(`bad payloads of ${event}`, async () => {
      const server = await Server.start();
      const anonymous = await connect(server, { nsp: '/notifications' });
      assert.deepEqual(await anonymous.emit(event, {}), { success: false, error: 'Not authenticated' });
      const client = await connect(server, { nsp: '/notifications', token: token({ userId: 'u' }) });
      for (const payload of payloads) {
        const answer = await client.emit(event, ...(payload === undefined ? [] : [payload]));
        assert.equal(answer.success, false, JSON.stringify(payload));
        assert.equal(typeof answer.error, 'string');
      }
      await server.close();
    });
  }

  test('with RECOVERY_MS=0 nothing is recovered, and nothing is added to events', async () => {
    const server = await Server.start({ env: { RECOVERY_MS: '0' } });
    const client = await open(server, { ...SOON, nsp: '/notifications', token: token({ userId: 'u' }) }).ready();
    await server.notify('u', { type: 'info', title: 't', message: 'm', id: 'n1' });
    await client.next('notification');
    assert.ok(client.log.every(({ name, args }) => name.startsWith('local:') || args.length === 1));
    const { id } = client;
    client.socket.io.engine.close();
    await client.next('local:disconnect');
    events.welcome(await client.next('welcome'));
    assert.notEqual(client.id, id);
    await server.close();
  });
});

// A client that was away while the server was restarted gets what it missed, as far as it may have it now.
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { connect } from '../client.js';
import { Proxy } from '../proxy.js';
import { acks } from '../shapes.js';
import { Server, token } from '../server.js';
import { until } from '../wait.js';

const SOON = { timeout: 1_000, reconnection: true, reconnectionDelay: 20, reconnectionDelayMax: 100 };

/** A client is cut off, `away` happens, the server is stopped and started, and the client is back in its session. */
async function overARestart({ options, before, away, args }) {
  let server = await Server.start();
  const { port, dataDir } = server;
  const proxy = await Proxy.to(port);
  const clients = new Set();
  const client = await connect({ url: proxy.url, clients }, { ...SOON, ...options });
  await before?.(client, server);
  proxy.blocked = true;
  proxy.cut();
  await client.next('local:disconnect');
  await away(server);
  await server.terminate(3_000, { keepData: true });
  const mark = client.mark();
  server = await Server.start({ port, dataDir, args: await args?.(dataDir) });
  proxy.blocked = false;
  await until(() => client.socket.connected, 'reconnect');
  await client.fence();
  assert.equal(client.socket.recovered, true);
  const names = client.names(mark).filter((name) => !/^(local|ack):|^pong$/.test(name));
  client.close();
  await proxy.close();
  await server.terminate();
  return names;
}

describe('what came while a client was away and the server was restarted', () => {
  test('is sent', async () => {
    const names = await overARestart({
      options: { nsp: '/notifications', token: token({ userId: 'u' }) },
      away: (server) => server.notify('u', { type: 'info', title: 't', message: 'm' }),
    });
    assert.deepEqual(names, ['notification']);
  });

  test('is sent with the count of unread notifications, if the client has asked for it before', async () => {
    const names = await overARestart({
      options: { nsp: '/notifications', token: token({ userId: 'u' }) },
      before: async (client) => assert.equal((await client.emit('listNotifications')).unreadCount, 0),
      away: (server) => server.notify('u', { type: 'info', title: 't', message: 'm' }),
    });
    assert.deepEqual(names, ['notification', 'unreadCount']);
  });

  test('is not sent, if its item got an owner who is somebody else', async () => {
    const names = await overARestart({
      options: { nsp: '/media' },
      before: async (client) => acks.media(await client.emit('subscribeMedia', 'm')),
      away: (server) => server.complete('m', { url: 'https://cdn.example/m.png', ownerId: 'u' }),
    });
    assert.deepEqual(names, []);
  });

  test('is not sent, if the token was revoked', async () => {
    const names = await overARestart({
      options: { nsp: '/notifications', token: token({ userId: 'u', iat: Math.floor(Date.now() / 1000) - 60 }) },
      away: async (server) => {
        await server.notify('u', { type: 'info', title: 'before', message: 'm' });
        await server.publish('/v1/users/u/revoke');
        await server.notify('u', { type: 'info', title: 'after', message: 'm' });
      },
    });
    assert.deepEqual(names, ['authError']);
  });

  test('is not sent, if the rules are stricter now', async () => {
    const names = await overARestart({
      before: async (client) => acks.room(await client.emit('joinRoom', 'project-1')),
      away: (server) => server.toRoom('project-1', { event: 'e', data: 1, delivery: 'durable' }),
      args: async (dataDir) => {
        const file = join(dataDir, 'slop.toml');
        await writeFile(file, '[[rooms]]\nname = "project-*"\nallow = "nobody"\n');
        return ['--config', file];
      },
    });
    assert.deepEqual(names, []);
  });

  test('is sent again, if the first answer with it was lost', async () => {
    let server = await Server.start();
    const { port, dataDir } = server;
    const proxy = await Proxy.to(port);
    const client = await connect({ url: proxy.url, clients: new Set() }, { ...SOON, nsp: '/notifications', token: token({ userId: 'u' }) });
    proxy.blocked = true;
    proxy.cut();
    await client.next('local:disconnect');
    for (const id of ['n1', 'n2']) await server.notify('u', { type: 'info', title: 't', message: 'm', id });
    await server.terminate(3_000, { keepData: true });
    server = await Server.start({ port, dataDir });
    proxy.swallow = 2;
    proxy.blocked = false;
    assert.equal((await client.next('notification')).id, 'n1');
    assert.equal((await client.next('notification')).id, 'n2');
    await client.fence();
    assert.equal(proxy.swallow, 0);
    assert.equal(client.socket.recovered, true);
    assert.equal(client.all('notification').length, 2);
    client.close();
    await proxy.close();
    await server.terminate();
  });
});

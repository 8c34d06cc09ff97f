// SIGTERM with clients connected: exit code 0 within the grace period, and stock clients come back by themselves.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect as tcp } from 'node:net';
import { afterEach, describe, test } from 'node:test';
import { WebSocket } from 'ws';
import { connect, TRANSPORTS, VERSIONS } from '../client.js';
import { acks, events } from '../shapes.js';
import { Server, token } from '../server.js';
import { within } from '../wait.js';

const GRACE = { SHUTDOWN_GRACE_MS: '4000' };
const servers = [];
const start = async (port) => {
  const server = await Server.start({ port, env: GRACE });
  servers.push(server);
  return server;
};
const stop = async (server) => {
  const { ms } = await server.terminate(4_000);
  assert.ok(ms <= 4_500, `took ${Math.round(ms)} ms of a grace period of 4,000`);
};

describe('SIGTERM', () => {
  afterEach(() => {
    for (const server of servers.splice(0)) server.closeClients();
  });

  test('with nobody connected', async () => {
    await stop(await start());
  });

  test('stock clients of every kind see a transport close, and reconnect by themselves', async () => {
    let server = await start();
    const { port } = server;
    const clients = [];
    for (const [version, io] of Object.entries(VERSIONS)) {
      for (const [way, options] of Object.entries(TRANSPORTS)) {
        const client = await connect(server, {
          io,
          transports: undefined,
          ...options,
          token: token({ userId: 'u' }),
          reconnection: true,
          reconnectionDelay: 200,
          reconnectionDelayMax: 500,
        });
        const media = await client.of('/media').ready();
        acks.room(await client.emit('joinRoom', 'project-1'));
        const back = new Promise((resolve) => client.socket.io.on('reconnect', resolve));
        clients.push({ what: `${version} ${way}`, client, media, back, first: client.id });
      }
    }
    await stop(server);
    for (const { what, client, media } of clients) {
      for (const socket of [client, media]) {
        assert.match(await socket.next('local:disconnect'), /^transport (close|error)$/, what);
      }
    }
    server = await start(port);
    for (const { what, client, media, back, first } of clients) {
      await within(back, 15_000, `reconnect of ${what}`);
      events.welcome(await client.next('welcome'));
      events.authenticated(await client.next('authenticated'));
      events.welcome(await media.next('welcome'));
      assert.notEqual(client.id, first, what);
      acks.room(await client.emit('joinRoom', 'project-1'));
      await server.toRoom('project-1', { event: 'projectUpdate', data: what });
      assert.equal(await client.next('projectUpdate'), what);
    }
    await stop(server);
  });

  test('two hundred clients', async () => {
    const server = await start();
    const clients = await Promise.all(
      Array.from({ length: 200 }, (_, n) => connect(server, { transports: [n % 2 ? 'websocket' : 'polling'] })),
    );
    await stop(server);
    for (const client of clients) {
      assert.match(await client.next('local:disconnect'), /^transport (close|error)$/);
    }
  });

  test('what was queued before it still arrives', async () => {
    const server = await start();
    const clients = await Promise.all([connect(server), connect(server, { transports: ['polling'] })]);
    for (const client of clients) acks.room(await client.emit('joinRoom', 'last'));
    for (let n = 0; n < 20; n += 1) await server.toRoom('last', { event: 'projectUpdate', data: n });
    await stop(server);
    for (const client of clients) {
      await client.next('local:disconnect');
      assert.deepEqual(client.all('projectUpdate'), Array.from({ length: 20 }, (_, n) => n));
    }
  });

  test('peers that do not take part: silent, stuck, half a request', async (t) => {
    const server = await start();
    const silent = tcp(server.port, '127.0.0.1');
    await once(silent, 'connect');
    const half = tcp(server.port, '127.0.0.1');
    half.write('POST /v1/media/m/progress HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{');
    // A WebSocket peer that stops reading, so that it never answers a close.
    const stuck = new WebSocket(`ws://127.0.0.1:${server.port}/socket.io/?EIO=4&transport=websocket`);
    await once(stuck, 'message');
    stuck.send('40');
    await once(stuck, 'message');
    stuck.pause();
    for (const peer of [silent, half, stuck]) peer.on('error', () => {}); // a reset is one way to be sent away
    t.after(() => {
      silent.destroy();
      half.destroy();
      stuck.terminate();
    });
    const live = await connect(server);
    await live.fence();
    await stop(server);
  });
});

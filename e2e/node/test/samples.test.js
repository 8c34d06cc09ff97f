import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { after, before, describe, test } from 'node:test';
import { io } from 'socket.io-client';
import { Client, connect } from '../client.js';
import { assertVerbatim, run, text } from '../samples.js';
import { events } from '../shapes.js';
import { Server, token } from '../server.js';
import { until } from '../wait.js';

const contract = new URL('../../../../shared/contract/websocket-events.md', import.meta.url);

describe("the contract's sample code, as written", () => {
  let server;
  before(async () => (server = await Server.start()));
  after(() => server.close());

  /** The samples' sockets are closed with the others. */
  const watch = (socket) => {
    const client = new Client(socket);
    server.clients.add(client);
    return client;
  };
  const printed = (lines, line) => until(() => lines.includes(line), `line "${line}" (had: ${lines})`);

  test('the fixtures are the contract\'s text', { skip: !existsSync(contract) && 'no contract beside this checkout' }, async () => {
    const page = await readFile(contract, 'utf8');
    const names = (await readdir(new URL('../fixtures/contract/', import.meta.url))).map((file) => file.replace(/\.js$/, ''));
    for (const name of names) assertVerbatim(page, name, await text(name));
    assert.equal(names.length, page.split('```javascript\n').length - 1, 'and all of it');
  });

  test('connecting', async () => {
    const { socket, mediaSocket, authSocket } = await run('connecting', {
      url: server.url,
      token: token({ userId: 'sample' }),
      exported: ['socket', 'mediaSocket', 'authSocket'],
    });
    const [plain, media, auth] = [socket, mediaSocket, authSocket].map(watch);
    assert.equal(events.welcome(await plain.next('welcome')).message, 'Connected to Slop Studios 3');
    assert.equal(events.welcome(await media.next('welcome')).message, 'Connected to media namespace');
    assert.equal(events.authenticated(await auth.next('authenticated')).userId, 'sample');
  });

  test('connection options', async () => {
    const { options } = await run('connection-options', {
      token: token({ userId: 'sample' }),
      wrap: (source) => `const options = (${source});`,
      exported: ['options'],
    });
    const client = watch(io(server.url, { ...options, forceNew: true }));
    events.authenticated(await client.next('authenticated'));
    assert.equal(client.socket.io.engine.transport.name, 'websocket');
  });

  test('welcome', async () => {
    const socket = io(server.url, { forceNew: true, autoConnect: false });
    const client = watch(socket);
    const { lines } = await run('welcome', { given: { socket } });
    socket.connect();
    await client.next('welcome');
    await printed(lines, `Connected as ${socket.id}`);
  });

  test('authenticate, by event', async () => {
    const { socket } = await connect(server);
    const good = await run('authenticate', { given: { socket }, token: token({ userId: 'sample' }) });
    await printed(good.lines, 'Authenticated as sample');
    const bad = await run('authenticate', { given: { socket } });
    await printed(bad.lines, 'Token is invalid');
  });

  test('joinRoom', async () => {
    const { socket } = await connect(server);
    const { lines } = await run('join-room', { given: { socket } });
    await printed(lines, 'Joined room: project-123');
  });

  test('authentication via handshake', async () => {
    const { socket } = await run('auth-handshake', {
      url: server.url,
      token: token({ userId: 'sample' }),
      given: { io: (url, options) => io(url, { ...options, forceNew: true }) },
      exported: ['socket'],
    });
    events.authenticated(await watch(socket).next('authenticated'));
  });

  test('authentication via event', async () => {
    const { socket } = await run('auth-event', {
      url: server.url,
      token: token({ userId: 'sample' }),
      given: { io: (url) => io(url, { forceNew: true }) },
      exported: ['socket'],
    });
    const client = watch(socket);
    assert.equal(events.authenticated(await client.next('authenticated')).userId, 'sample');
    assert.equal((await client.info()).authenticated, true);
  });

  test('rooms: projectUpdate arrives', async () => {
    const client = await connect(server);
    await run('rooms', { given: { socket: client.socket } });
    events.roomJoined(await client.next('roomJoined'));
    await server.toRoom('project-123', { event: 'projectUpdate', data: { title: 'new' } });
    assert.deepEqual(await client.next('projectUpdate'), { title: 'new' });
    assert.equal(client.socket.listeners('projectUpdate').length, 1, "the sample's own handler is there");
  });

  test('error handling: the reason of a disconnect', async () => {
    const client = await connect(server);
    const { lines } = await run('error-handling', { given: { socket: client.socket } });
    client.socket.disconnect();
    await printed(lines, 'Disconnected: io client disconnect');
  });

  test('error handling and reconnection: the server goes away and comes back', async () => {
    const other = await Server.start();
    const { socket } = await run('reconnection', {
      url: other.url,
      given: { io: (url, options) => io(url, { ...options, forceNew: true }) },
      exported: ['socket'],
    });
    const client = watch(socket);
    const { lines } = await run('error-handling', { given: { socket } });
    events.welcome(await client.next('welcome'));
    await other.terminate();
    await until(() => lines.some((line) => /^Disconnected: transport (close|error)$/.test(line)), 'the disconnect');
    await until(() => lines.some((line) => line.startsWith('Connection failed:')), 'a failed attempt');
    const back = await Server.start({ port: other.port });
    try {
      events.welcome(await client.next('welcome', 20_000));
    } finally {
      client.close();
      await back.close();
    }
  });

  describe('the complete client', () => {
    const load = async () => {
      const { WebSocketClient, lines } = await run('complete-client', { exported: ['WebSocketClient'] });
      return { WebSocketClient, lines };
    };

    test('connects, authenticates, joins, pings, disconnects', async () => {
      const { WebSocketClient, lines } = await load();
      const client = new WebSocketClient(server.url, token({ userId: 'sample' }));
      await printed(lines, 'Authenticated as: sample');
      assert.deepEqual(lines, ['Connected', 'Welcome: Connected to Slop Studios 3', 'Authenticated as: sample']);
      assert.deepEqual(await client.joinRoom('project-123'), { success: true, room: 'project-123' });
      await assert.rejects(client.joinRoom('user:someone-else'), (error) => error instanceof Error && error.message !== '');
      await assert.rejects(client.joinRoom(), (error) => error instanceof Error && error.message !== '');
      assert.ok((await client.ping()) >= 0);
      client.disconnect();
      await printed(lines, 'Disconnected: io client disconnect');
    });

    test('says why its token was refused, and goes on', async () => {
      const { WebSocketClient, lines } = await load();
      const client = new WebSocketClient(server.url, 'nonsense');
      await printed(lines, 'Auth failed: Token is invalid');
      assert.ok((await client.ping()) >= 0);
      client.disconnect();
    });

    test('works without a token', async () => {
      const { WebSocketClient, lines } = await load();
      const client = new WebSocketClient(server.url);
      assert.deepEqual(await client.joinRoom('project-123'), { success: true, room: 'project-123' });
      assert.deepEqual(lines, ['Connected', 'Welcome: Connected to Slop Studios 3']);
      client.disconnect();
    });

    test('reports a server that is not there', async () => {
      const gone = await Server.start();
      await gone.terminate();
      const { WebSocketClient, lines } = await load();
      const client = new WebSocketClient(gone.url);
      await until(() => lines.some((line) => line.startsWith('Connection error: ')), 'a connection error');
      client.disconnect();
    });
  });
});

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { io } from 'socket.io-client';
import { Client, connect } from '../client.js';
import { Proxy } from '../proxy.js';
import { assertVerbatim, blocks, run, text } from '../samples.js';
import { events } from '../shapes.js';
import { API_KEY, Server, token } from '../server.js';
import { until } from '../wait.js';

const program = promisify(execFile);

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

describe('the sample code of our own pages', () => {
  let server;
  before(async () => (server = await Server.start()));
  after(() => server.close());

  const watch = (socket) => {
    const client = new Client(socket);
    server.clients.add(client);
    return client;
  };

  test('README.md: a page and a worker', async () => {
    const [page] = await blocks('README.md', 'js');
    const { media, lines } = await run('readme', {
      source: page.replace('"TOKEN"', JSON.stringify(token({ userId: 'dev' }))),
      url: server.url,
      exported: ['media'],
    });
    watch(media);
    await until(() => lines.length === 2, 'the page to be ready');
    const [worker] = await blocks('README.md', 'python');
    const script = ['-c', worker.replace('http://127.0.0.1:3000', server.url).replace('KEY', API_KEY)];
    const { stdout } = await program('python3', script);
    assert.equal(stdout.trim().split('\n').length, 3, stdout);
    // Run again, it ends with what the server says instead of a traceback.
    const again = await program('python3', script).catch((error) => error);
    assert.equal(again.code, 1);
    assert.match(again.stderr, /^media\/job-1\/progress: .*\bend/);
    assert.equal(again.stderr.trim().split('\n').length, 1, again.stderr);
    await until(() => lines.length === 4, 'the item\'s events');
    assert.deepEqual(lines, ['hello dev', '[object Object]', 'job-1 render 40 %', 'job-1 is at https://cdn.example/job-1.mp4']);
  });

  test('docs/events.md: how a page hears that it is back', async () => {
    const other = await Server.start();
    const socket = io(other.url, { forceNew: true, autoConnect: false, reconnectionDelay: 20, reconnectionDelayMax: 100 });
    const client = watch(socket);
    // What the contract shows comes first on the page, and is never called.
    let called = 0;
    for (const name of ['reconnect', 'reconnect_failed', 'error']) socket.on(name, () => (called += 1));
    const [source] = await blocks('docs/events.md', 'js');
    const { lines } = await run('reconnect', { source, given: { socket } });
    socket.connect();
    await client.next('welcome');
    await other.terminate();
    await until(() => lines.some((line) => line.startsWith('Connection failed:')), 'a failed attempt');
    const back = await Server.start({ port: other.port });
    try {
      await until(() => lines.some((line) => /^Reconnected after [1-9]\d* attempts$/.test(line)), 'the reconnection');
      await until(() => lines.filter((line) => line === 'Connected').length === 2, 'the second connection');
      assert.equal(called, 0);
    } finally {
      client.close();
      await back.close();
    }
  });

  test('docs/events.md', async () => {
    const [source] = await blocks('docs/events.md', 'javascript');
    const { media, lines } = await run('events', {
      source,
      url: server.url,
      given: { token: token({ userId: 'sample' }) },
      exported: ['media'],
    });
    watch(media);
    await until(() => lines.length === 1, 'the subscription');
    await server.progress('clip-1', { progress: 10, stage: 'queued' });
    await until(() => lines.includes('clip-1 10 queued'), 'progress');
  });

  const skip = !(process.env.PATH ?? '').split(':').some((folder) => existsSync(`${folder}/curl`)) && 'no curl';
  test('docs/http-api.md: all of it is accepted', { skip }, async () => {
    const [first, ...rest] = await blocks('docs/http-api.md', 'sh');
    const setUp = first.replace(/^URL=.*$/m, `URL=${server.url}`).replace(/^KEY=.*$/m, `KEY=${API_KEY}`);
    assert.ok(setUp.includes(server.url) && setUp.includes(API_KEY), first);
    const { stdout } = await program('bash', ['-c', ['set -e', setUp, ...rest].join('\n')]);
    const answers = stdout.trim().split('\n');
    assert.ok(answers.length > 10, stdout);
    for (const answer of answers) assert.doesNotMatch(answer, /"status":[45]/, stdout);
  });

  /** docs/delivery.md's front end, behind a line that can be cut. */
  async function frontEnd(context, at = server) {
    const proxy = await Proxy.to(at.port);
    let socket;
    context.after(() => {
      socket?.disconnect();
      proxy.cut();
      proxy.server.close();
    });
    const prepare = async (lose, given = {}) => {
      proxy.loseEmit = lose;
      const [source] = await blocks('docs/delivery.md', 'js');
      const sample = await run('delivery', {
        source,
        url: proxy.url,
        given: {
          io: (url, options) =>
            io(url, { ...options, forceNew: true, transports: ['websocket'], timeout: 1_000, reconnectionDelay: 20, reconnectionDelayMax: 200 }),
          currentToken: () => token({ userId: 'sample' }),
          newToken: () => assert.fail('no new token is needed'),
          showLogin: (message) => assert.fail(message),
          ...given,
        },
        exported: ['socket', 'rooms', 'settle'],
      });
      socket = sample.socket;
      return { ...sample, client: new Client(socket) };
    };
    return { proxy, prepare };
  }

  for (const event of ['joinRoom', 'leaveRoom']) {
    test(`docs/delivery.md: ${event} leaves, and the line dies`, async (context) => {
      const { proxy, prepare } = await frontEnd(context);
      const { socket, rooms, settle, client } = await prepare(event === 'joinRoom' ? /joinRoom/ : null);
      if (event === 'leaveRoom') {
        await client.next('roomJoined');
        await until(async () => (await client.info()).rooms.includes('project-123'), 'the room');
        proxy.loseEmit = /leaveRoom/;
        rooms.delete('project-123');
        assert.deepEqual(await settle('project-123'), { success: true, room: 'project-123' });
      } else {
        await client.next('roomJoined');
      }
      assert.equal(proxy.loseEmit, null, 'the line died');
      assert.deepEqual([client.all('local:connect').length, socket.recovered], [2, true]);
      const info = await client.info();
      assert.deepEqual([info.authenticated, info.rooms.includes('project-123')], [true, event === 'joinRoom']);
      const { delivered } = await server.toRoom('project-123', { event: 'update', data: event });
      assert.equal(delivered, event === 'joinRoom' ? 1 : 0);
    });
  }

  test('docs/delivery.md: more joins than a user may send at once', async (context) => {
    const strict = await Server.start({ env: { EVENT_RATE_PER_USER: '1' } });
    context.after(() => strict.close());
    const { rooms, settle, client } = await (await frontEnd(context, strict)).prepare(null);
    await client.next('roomJoined');
    const wanted = Array.from({ length: 12 }, (_, n) => `room-${n}`);
    const answers = await Promise.all(wanted.map((room) => (rooms.add(room), settle(room))));
    assert.deepEqual(answers, wanted.map((room) => ({ success: true, room })));
    assert.ok((await strict.metric('slop_limits_met_total{limit="event rate per user"}')) > 0, 'some were refused first');
    rooms.add('user:another');
    assert.deepEqual(await settle('user:another'), { success: false, error: 'Not allowed' });
  });

  test('docs/delivery.md: the token ends, and is revoked', async (context) => {
    const shown = [];
    let newer = 0;
    const lasts = (seconds) => token({ userId: 'sample', exp: Math.floor(Date.now() / 1000) + seconds });
    const { client } = await (await frontEnd(context)).prepare(null, {
      currentToken: () => lasts(2),
      newToken: async () => ((newer += 1), token({ userId: 'sample' })),
      showLogin: (message) => shown.push(message),
    });
    await client.next('authenticated');
    assert.deepEqual(await client.next('authError', 5_000), { message: 'Token has expired' });
    await client.next('authenticated');
    await until(async () => (await client.info()).authenticated, 'the user again');
    assert.equal(newer, 1);
    assert.deepEqual(shown, []);
    client.socket.emit('authenticate', { token: 'nonsense' });
    await until(() => shown.length === 1, 'the login');
    assert.deepEqual(shown, ['Token is invalid']);
  });

  test('docs/delivery.md: connected anew, and at last disconnected', async (context) => {
    const forgetful = await Server.start({ env: { RECOVERY_MS: '0' } });
    context.after(() => forgetful.child.kill('SIGKILL'));
    const { proxy, prepare } = await frontEnd(context, forgetful);
    const { socket, rooms, settle, client } = await prepare(null);
    await client.next('roomJoined');
    proxy.cut();
    await client.next('local:disconnect');
    // Asked for while the line is down: it waits for the next one.
    rooms.add('lobby');
    assert.deepEqual(await settle('lobby'), { success: true, room: 'lobby' });
    await until(async () => (await client.info()).rooms.includes('project-123'), 'the room of before');
    assert.ok(!socket.recovered);
    proxy.blocked = true;
    proxy.cut();
    const asked = settle('lobby');
    socket.disconnect();
    assert.equal(await asked, undefined, 'it is given up');
    proxy.blocked = false;
    await forgetful.terminate();
  });
});

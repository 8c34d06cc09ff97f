import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import vm from 'node:vm';
import { WebSocket } from 'ws';
import { Client } from '../client.js';
import { events } from '../shapes.js';
import { Server, token } from '../server.js';

const require = createRequire(import.meta.url);
const { version } = require('socket.io-client/package.json');

describe("the browser's client", () => {
  let server;
  before(async () => (server = await Server.start()));
  after(() => server.close());

  const file = async (name) => {
    const answer = await server.request('GET', `/socket.io/${name}`, undefined, { key: null });
    assert.equal(answer.status, 200, name);
    return answer;
  };

  for (const build of ['socket.io', 'socket.io.min', 'socket.io.esm.min', 'socket.io.msgpack.min']) {
    for (const name of [`${build}.js`, `${build}.js.map`]) {
      test(`${name} is the package's`, async () => {
        const { text, headers } = await file(name);
        const path = new URL(`../node_modules/socket.io-client/dist/${name}`, import.meta.url);
        assert.ok(text === (await readFile(path, 'utf8')), `${name} differs from socket.io-client ${version}`);
        assert.equal(headers.etag, `"${version}"`);
      });
    }
  }

  /** What a page does with `io`: it connects and is welcomed. */
  const use = async (io) => {
    const socket = io(server.url, { transports: ['websocket'], forceNew: true, auth: { token: token({ userId: 'page' }) } });
    const client = new Client(socket);
    try {
      events.welcome(await client.next('welcome'));
      assert.equal(events.authenticated(await client.next('authenticated')).userId, 'page');
    } finally {
      socket.disconnect(); // by what is public: other names of these builds are shortened
    }
  };

  /** The names that a browser has and these builds use. */
  const browser = () => ({ WebSocket, setTimeout, clearTimeout, console, URL, queueMicrotask, ArrayBuffer, Uint8Array });

  for (const name of ['socket.io.js', 'socket.io.min.js']) {
    test(`${name} works as a script of a page`, async () => {
      const page = vm.createContext(browser());
      vm.runInContext((await file(name)).text, page, { filename: name });
      await use(page.io);
    });
  }

  test('socket.io.esm.min.js works as a module of a page', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'slop-studios-e2e-'));
    const had = globalThis.WebSocket;
    try {
      const path = join(folder, 'socket.io.esm.min.mjs');
      await writeFile(path, (await file('socket.io.esm.min.js')).text);
      globalThis.WebSocket = WebSocket;
      const { io } = await import(pathToFileURL(path));
      await use(io);
    } finally {
      globalThis.WebSocket = had;
      await rm(folder, { recursive: true });
    }
  });
});

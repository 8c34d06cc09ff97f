import assert from 'node:assert/strict';
import { once } from 'node:events';
import { after, before, describe, test } from 'node:test';
import { WebSocket } from 'ws';
import { connect, open } from '../client.js';
import { ask } from '../raw.js';
import { Server } from '../server.js';
import { DEADLINE, within } from '../wait.js';

const STUDIO = 'https://studio.example.org';
const ADMIN = 'https://admin.example.org';
const EVIL = 'https://evil.example.org';

describe('CORS_ORIGIN', () => {
  let server;
  before(async () => (server = await Server.start({ env: { CORS_ORIGIN: `${STUDIO},${ADMIN}` } })));
  after(() => server.close());

  for (const origin of [STUDIO, ADMIN]) {
    test(`${origin} is let in on both transports`, async () => {
      const answer = await ask(server, 'EIO=4&transport=polling', { headers: { origin } });
      assert.equal(answer.status, 200);
      assert.equal(answer.headers['access-control-allow-origin'], origin);
      for (const transport of ['polling', 'websocket']) {
        const client = await connect(server, { transports: [transport], extraHeaders: { origin } });
        await client.fence();
      }
    });
  }

  test('a preflight is answered', async () => {
    const headers = { origin: STUDIO, 'access-control-request-method': 'POST', 'access-control-request-headers': 'authorization' };
    const answer = await ask(server, 'EIO=4&transport=polling', { method: 'OPTIONS', headers });
    assert.ok([200, 204].includes(answer.status), `${answer.status}`);
    assert.equal(answer.headers['access-control-allow-origin'], STUDIO);
    assert.match(answer.headers['access-control-allow-methods'] ?? '', /POST/);
    assert.match(answer.headers['access-control-allow-headers'] ?? '', /authorization|\*/i);
  });

  for (const origin of [EVIL, 'null', `${STUDIO}.evil.example.org`]) {
    test(`${origin} is not let in`, async () => {
      const answer = await ask(server, 'EIO=4&transport=polling', { headers: { origin } });
      assert.ok(answer.status === 400 || answer.status === 403, `${answer.status}`);
      assert.ok(!['*', origin].includes(answer.headers['access-control-allow-origin']));
      const ws = new WebSocket(`ws://127.0.0.1:${server.port}/socket.io/?EIO=4&transport=websocket`, { origin });
      ws.on('error', () => {});
      const [request, response] = await within(once(ws, 'unexpected-response'), DEADLINE, 'a refusal');
      assert.ok(response.statusCode === 400 || response.statusCode === 403);
      request.destroy();
      for (const transport of ['polling', 'websocket']) {
        const client = open(server, { transports: [transport], extraHeaders: { origin } });
        await client.next('local:connect_error');
      }
    });
  }

  test("the server's own origin is let in on both transports", async () => {
    const origin = server.url;
    assert.equal((await ask(server, 'EIO=4&transport=polling', { headers: { origin } })).status, 200);
    for (const transport of ['polling', 'websocket']) {
      const client = await connect(server, { transports: [transport], extraHeaders: { origin } });
      await client.fence();
    }
    const other = `http://127.0.0.1:${server.port + 1}`;
    assert.equal((await ask(server, 'EIO=4&transport=polling', { headers: { origin: other } })).status, 403);
  });

  test('who sends no origin (no browser) is let in', async () => {
    for (const transport of ['polling', 'websocket']) await connect(server, { transports: [transport] });
  });
});

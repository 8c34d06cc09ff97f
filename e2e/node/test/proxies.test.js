// Stock clients, publishers and pages through nginx, HAProxy and Caddy, with the very blocks of docs/proxies.md.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { connect, open, TRANSPORTS } from '../client.js';
import { Front, missing, NAMES, PLACES } from '../front.js';
import { acks } from '../shapes.js';
import { API_KEY, binary, Server, token } from '../server.js';
import { until } from '../wait.js';

const program = promisify(execFile);
const HANDSHAKE = '/socket.io/?EIO=4&transport=polling';

// Longer than any of the proxies lets a connection be silent by itself: 60 s (nginx), 50 s (HAProxy in Debian). A ping may come
// a fifth earlier.
const PING_INTERVAL_MS = 85_000;
const LONGEST_DEFAULT_MS = 60_000;

const publisher = { authorization: `Bearer ${API_KEY}`, 'content-type': 'application/json' };

/** What a stock client of the site's own page is opened with. */
const page = (front, options = {}) => ({
  transports: undefined,
  path: `${front.base}/socket.io/`,
  extraHeaders: { origin: front.url },
  ...options,
});

// The silence takes a minute and a half, beside which the others come one after the other.
describe('behind', { concurrency: 2 }, () => {
  let server;
  let prefixed;
  before(async () => {
    const env = { TRUSTED_PROXIES: '127.0.0.1', MAX_PAYLOAD_BYTES: '1500000', PING_INTERVAL_MS: String(PING_INTERVAL_MS) };
    server = await Server.start({ env });
    prefixed = await Server.start({ env: { ...env, BASE_PATH: '/realtime' } });
  });
  after(async () => {
    await server.close();
    await prefixed.close();
  });

  describe('silence that is longer than a proxy allows by itself', { concurrency: true }, () => {
    for (const name of NAMES) {
      test(name, { skip: missing(name) }, async () => {
        const front = await Front.start(name, server);
        const silent = async (transport) => {
          const client = open(front, page(front, { transports: [transport] }));
          const pings = [];
          client.socket.io.on('ping', () => pings.push(performance.now()));
          await client.ready();
          await until(() => pings.length > 0 && pings.at(-1) - pings[0] > LONGEST_DEFAULT_MS, 'a ping after it', PING_INTERVAL_MS + 20_000);
          await client.fence();
          assert.deepEqual(client.all('local:disconnect'), [], `${name} ${transport}`);
        };
        await Promise.all(['polling', 'websocket'].map(silent));
        await front.close();
      });
    }

    // Without the lines that allow it, a proxy ends the connection: that is what the tests above would see.
    const lines = { nginx: /^ *proxy_read_timeout .*\n/gm, haproxy: /^ *timeout .*\n/gm };
    for (const [name, line] of Object.entries(lines)) {
      test(`${name} by itself`, { skip: missing(name) }, async () => {
        const front = await Front.start(name, server, { edit: (text) => changed(text, line, '') });
        const client = await connect(front, page(front, { transports: ['websocket'] }));
        await client.next('local:disconnect', LONGEST_DEFAULT_MS + 15_000);
        await front.close();
      });
    }
  });

  for (const name of NAMES) {
    for (const place of Object.keys(PLACES)) {
      describe(`${name}, ${place}`, { skip: missing(name), concurrency: 1 }, () => {
        let front;
        let behind;
        before(async () => {
          behind = place === 'root' ? server : prefixed;
          front = await Front.start(name, behind, { place });
        });
        after(() => front?.close());

        for (const [way, options] of Object.entries(TRANSPORTS)) {
          test(`a page's client: ${way}`, async () => {
            const client = await connect(front, page(front, { ...options, token: token({ userId: `${name}-${place}-${way}` }) }));
            const room = `project-${name}-${place}-${way}`;
            acks.room(await client.emit('joinRoom', room));
            const transport = () => client.socket.io.engine.transport.name;
            if (way === 'upgrade') await until(() => transport() === 'websocket', 'upgrade');
            else assert.equal(transport(), way);
            const body = JSON.stringify({ event: 'projectUpdate', data: { way } });
            const published = await front.request('POST', `/v1/rooms/${room}/events`, { body, headers: publisher });
            assert.equal(published.status, 200, published.text);
            assert.equal((await client.next('projectUpdate')).way, way);
            await client.fence();
            client.close();
          });
        }

        test('pages of others stay out, and are told what would let them in', async () => {
          for (const origin of ['https://evil.example', front.url.replace('https:', 'http:'), `https://127.0.0.1:${behind.port}`]) {
            const answer = await front.request('GET', HANDSHAKE, { headers: { origin } });
            assert.equal(answer.status, 403, `${origin}: ${answer.text}`);
            assert.match(JSON.parse(answer.text).message, /CORS_ORIGIN/);
          }
        });

        test('a body as large as the server takes', async () => {
          const body = JSON.stringify({ event: 'projectUpdate', data: { large: 'x'.repeat(1_400_000) } });
          const answer = await front.request('POST', `/v1/rooms/large-${name}-${place}/events`, { body, headers: publisher });
          assert.equal(answer.status, 200, answer.text);
        });

        test('an id with a slash', async () => {
          // As the page says: nginx decodes the path of which it strips a part.
          const arrives = name !== 'nginx' || place !== 'stripped';
          const body = JSON.stringify({ progress: 1, stage: 'one' });
          const media = encodeURIComponent(`${name}/${place}`);
          const published = await front.request('POST', `/v1/media/${media}/progress`, { body, headers: publisher });
          assert.equal(published.status, arrives ? 200 : 404, published.text);
          if (!arrives) return;
          const state = await front.request('GET', `/v1/media/${media}`, { headers: publisher });
          assert.equal(JSON.parse(state.text).mediaId, `${name}/${place}`);
        });

        test("a client's own X-Forwarded-Host is not believed", async () => {
          const headers = { origin: 'https://evil.example', 'x-forwarded-host': 'evil.example' };
          assert.equal((await front.request('GET', HANDSHAKE, { headers })).status, 403);
        });

        test('links, redirects and /docs', async () => {
          // Paths of the server's links are those that a browser asks the proxy for.
          const visit = async (path) => {
            assert.ok(path.startsWith(`${front.base}/`), path);
            return front.request('GET', path.slice(front.base.length));
          };
          const index = await visit(`${front.base}/`);
          const links = [...index.text.matchAll(/href="([^"]*)"/g)].map(([, link]) => link);
          assert.ok(links.length >= 5, index.text);
          for (const link of links) assert.equal((await visit(link)).status, 200, link);
          const moved = await visit(`${front.base}/docs`);
          assert.equal(moved.status, 303);
          const { pathname } = new URL(moved.headers.location, front.url);
          assert.equal(pathname, `${front.base}/docs/`);
          const docs = await visit(pathname);
          const scripts = [...docs.text.matchAll(/src="([^"]*)"/g)].map(([, script]) => script);
          assert.ok(scripts.length > 0, docs.text);
          for (const script of scripts) {
            assert.equal((await visit(new URL(script, `${front.url}${pathname}`).pathname)).status, 200, script);
          }
          const initializer = await visit(`${pathname}swagger-initializer.js`);
          const description = /"url": *"([^"]*)"/.exec(initializer.text)?.[1];
          const { servers } = JSON.parse((await visit(description)).text);
          assert.equal(servers[0].url, front.base === '' ? '/' : front.base);
        });

        test('the command line', async () => {
          const at = ['--url', `${front.url}${front.base}`, '--ca', front.caFile];
          const media = `command-${name}-${place}`;
          await program(binary, ['publish', ...at, '--key', API_KEY, 'complete', media, 'https://cdn.example/m.mp4']);
          const { stdout } = await program(binary, ['listen', ...at, '--media', media, '--event', 'mediaComplete', '--count', '1', '--timeout', '20', '--json']);
          assert.match(stdout, /https:\/\/cdn\.example\/m\.mp4/);
        });
      });
    }
  }

  describe("nginx's own Host", { skip: missing('nginx'), concurrency: 1 }, () => {
    const host = /^ *proxy_set_header Host .*\n.*\n *proxy_set_header X-Forwarded-Host .*\n/m;
    const start = (instead) => Front.start('nginx', server, { edit: (text) => changed(text, host, instead) });

    test("the site's own page is refused, and told why", async () => {
      const front = await start('');
      const answer = await front.request('GET', HANDSHAKE, { headers: { origin: front.url } });
      assert.equal(answer.status, 403);
      assert.match(JSON.parse(answer.text).message, /CORS_ORIGIN/);
      await front.close();
    });

    test('X-Forwarded-Host says what the page asked for', async () => {
      const front = await start('proxy_set_header X-Forwarded-Host $http_host;\n');
      for (const options of Object.values(TRANSPORTS)) {
        const client = await connect(front, page(front, options));
        await client.fence();
      }
      const evil = await front.request('GET', HANDSHAKE, { headers: { origin: 'https://evil.example' } });
      assert.equal(evil.status, 403);
      await front.close();
    });
  });
});

function changed(text, line, instead) {
  const edited = text.replace(line, () => instead);
  assert.notEqual(edited, text, `${line} is in the block`);
  return edited;
}

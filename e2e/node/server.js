// Starts the real `slop-studios serve` for one test file, speaks to its HTTP API, and stops it.
// `close` is also an assertion: exit code 0 after SIGTERM, and no panic in the log.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import http from 'node:http';
import https from 'node:https';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { within } from './wait.js';

export const SECRET = 'e2e-secret-0123456789abcdef0123456789abcdef0123456789abcdef';
export const API_KEY = 'e2e-publisher-key-0123456789abcdef';
const GRACE_MS = 3_000;

export const binary =
  process.env.SLOP_STUDIOS_BIN ?? fileURLToPath(new URL('../../target/debug/slop-studios', import.meta.url));

// Only processes started here are ever signalled, and only by their own handle.
const running = new Set();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/** A JWT. `exp`, `nbf` and `iat` may be given in `claims`; without `exp` it is good for an hour. */
export function token(claims = {}, { secret = SECRET, alg = 'HS256' } = {}) {
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const now = Math.floor(Date.now() / 1000);
  const body = `${encode({ alg, typ: 'JWT' })}.${encode({ iat: now, exp: now + 3600, ...claims })}`;
  if (alg === 'none') return `${body}.`;
  return `${body}.${createHmac(`sha${alg.slice(2)}`, secret).update(body).digest('base64url')}`;
}

/** With E2E_REDIS_URL, all servers keep their data in that Redis. Those with the same folder continue each other's. */
function inRedis(dataDir) {
  const url = process.env.E2E_REDIS_URL;
  return url === undefined ? {} : { REDIS_URL: url, REDIS_PREFIX: basename(dataDir), CLUSTER_SECRET: SECRET };
}

export class Server {
  clients = new Set();
  stderr = '';
  #agent;

  /**
   * With the `dataDir` of a server that has ended, this one goes on where that stopped. `ca`: what its clients trust. `detached`:
   * in a process group of its own, so that Ctrl-C on the terminal does not end it.
   */
  static async start({ port = 0, env = {}, args = [], dataDir, ca, detached = false } = {}) {
    assert.ok(existsSync(binary), `${binary} is missing: build it, or set SLOP_STUDIOS_BIN`);
    const server = new Server();
    server.ca = ca;
    server.dataDir = dataDir ?? (await mkdtemp(join(tmpdir(), 'slop-studios-e2e-')));
    // Nothing of the developer's own settings may leak in.
    const child = spawn(binary, ['serve', ...args], {
      env: {
        PATH: process.env.PATH,
        RUST_BACKTRACE: '1',
        HOST: '127.0.0.1',
        PORT: String(port),
        JWT_SECRET: SECRET,
        API_KEYS: API_KEY,
        DATA_DIR: server.dataDir,
        LOG_LEVEL: 'warn',
        SHUTDOWN_GRACE_MS: String(GRACE_MS),
        ...inRedis(server.dataDir),
        ...env,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached,
    });
    running.add(child);
    // A test that failed before it stopped its server must not keep this process: its exit ends the server.
    for (const handle of [child, child.stdout, child.stderr]) handle.unref();
    server.child = child;
    server.exited = once(child, 'exit').then(([code, signal]) => {
      running.delete(child);
      return { code, signal };
    });
    child.stderr.setEncoding('utf8').on('data', (text) => {
      server.stderr = (server.stderr + text).slice(-200_000);
    });
    const lines = createInterface({ input: child.stdout });
    const [line] = await within(
      Promise.race([
        once(lines, 'line'),
        server.exited.then(({ code, signal }) => {
          throw new Error(`the server ended early (code ${code}, signal ${signal}):\n${server.stderr}`);
        }),
      ]),
      20_000,
      'the start-up line',
    );
    const scheme = env.TLS_CERT_FILE === undefined ? 'http' : 'https';
    const match = /^listening on (https?):\/\/127\.0\.0\.1:(\d+)$/.exec(line);
    assert.ok(match?.[1] === scheme, `unexpected start-up line: ${line}`);
    server.port = Number(match[2]);
    assert.ok(port === 0 || server.port === port, 'listens on the port it was given');
    server.url = `${scheme}://127.0.0.1:${server.port}`;
    const { Agent } = scheme === 'https' ? https : http;
    server.#agent = new Agent({ keepAlive: true, maxSockets: 1, ca });
    return server;
  }

  /** One HTTP request on the server's one keep-alive connection. Never throws for a status. */
  async request(method, path, body, { key = API_KEY, headers = {} } = {}) {
    const text = body === undefined ? undefined : typeof body === 'string' ? body : JSON.stringify(body);
    const { request: begin } = this.url.startsWith('https:') ? https : http;
    const request = begin(`${this.url}${path}`, {
      method,
      agent: this.#agent,
      headers: {
        ...(text === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) }),
        ...(key === null ? {} : { authorization: `Bearer ${key}` }),
        ...headers,
      },
    });
    request.end(text);
    const [response] = await within(once(request, 'response'), 20_000, `an answer to ${method} ${path}`);
    const chunks = [];
    for await (const chunk of response) chunks.push(chunk);
    const answer = Buffer.concat(chunks).toString('utf8');
    const type = response.headers['content-type'] ?? '';
    return {
      status: response.statusCode,
      type,
      headers: response.headers,
      text: answer,
      json: type.includes('json') && answer !== '' ? JSON.parse(answer) : undefined,
      reused: request.reusedSocket,
    };
  }

  /** A publish that must be accepted; returns the receipt. */
  async publish(path, body, options) {
    const answer = await this.request('POST', path, body, options);
    assert.ok(answer.status >= 200 && answer.status < 300, `POST ${path}: ${answer.status} ${answer.text}`);
    return answer.json;
  }

  progress(mediaId, body) {
    return this.publish(`/v1/media/${encodeURIComponent(mediaId)}/progress`, body);
  }

  complete(mediaId, body) {
    return this.publish(`/v1/media/${encodeURIComponent(mediaId)}/complete`, body);
  }

  fail(mediaId, body) {
    return this.publish(`/v1/media/${encodeURIComponent(mediaId)}/error`, body);
  }

  notify(userId, body, options) {
    return this.publish(`/v1/users/${encodeURIComponent(userId)}/notifications`, body, options);
  }

  toRoom(room, body, options) {
    return this.publish(`/v1/rooms/${encodeURIComponent(room)}/events`, body, options);
  }

  /** A metric's value, the sum over its series; or of the one series whose labels are in the name. NaN if there is none. */
  async metric(name) {
    const { text } = await this.request('GET', '/metrics');
    const series = text.split('\n').filter((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`));
    return series.length === 0 ? NaN : series.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
  }

  /** SIGKILL; what is in the data folder stays. */
  async kill() {
    this.child.kill('SIGKILL');
    await within(this.exited, 5_000, 'the exit after SIGKILL');
    this.#agent?.destroy();
    assert.doesNotMatch(this.stderr, /panicked at/, 'a panic in the log');
  }

  /** SIGTERM with whatever is connected; resolves to the exit and how long it took. */
  async terminate(graceMs = GRACE_MS, { keepData = false } = {}) {
    const start = performance.now();
    this.child.kill('SIGTERM');
    const exit = await within(this.exited, graceMs + 2_000, 'the exit after SIGTERM');
    this.#agent?.destroy();
    if (!keepData) await rm(this.dataDir, { recursive: true, force: true });
    assert.doesNotMatch(this.stderr, /panicked at/, 'a panic in the log');
    assert.deepEqual(exit, { code: 0, signal: null }, `the log said:\n${this.stderr}`);
    return { ms: performance.now() - start };
  }

  closeClients() {
    for (const client of this.clients) client.close();
    this.clients.clear();
  }

  /** Closes the clients that were opened on this server, then stops it. */
  async close() {
    this.closeClients();
    this.#agent?.destroy();
    await this.terminate();
  }
}

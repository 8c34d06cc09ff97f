// nginx, HAProxy and Caddy in front of a server, configured by the blocks of docs/proxies.md: only addresses, ports and files
// are put in. `start` resolves when a request has come through.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import https from 'node:https';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { make } from './certificate.js';
import { blocks } from './samples.js';
import { until, within } from './wait.js';

const PAGE = 'docs/proxies.md';
const DEBIAN_HAPROXY = '/etc/haproxy/haproxy.cfg';

/** Where a proxy serves the server, and the path before the server's own. */
export const PLACES = { root: '', kept: '/realtime', stripped: '/realtime' };

// Only processes started here are ever signalled, and only by their own handle.
const running = new Set();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/** Replaces a text that has to be there. */
function put(text, from, to) {
  const changed = text.replace(from, () => to);
  assert.notEqual(changed, text, `${from} is in the block:\n${text}`);
  return changed;
}

const PROGRAMS = {
  nginx: {
    configure(place, [site, kept, stripped], { port, upstream, files }) {
      let text = site;
      if (place !== 'root') text = put(text, /^ *location \/ \{[^}]*\}\n/m, place === 'kept' ? kept : stripped);
      text = put(text, 'listen 443 ssl;', `listen 127.0.0.1:${port} ssl;`);
      text = put(text, '/etc/ssl/studio.example/fullchain.pem', files.cert);
      text = put(text, '/etc/ssl/studio.example/privkey.pem', files.key);
      return put(text, '127.0.0.1:3000', upstream);
    },
    // What a package's nginx.conf has around the block, without its other sites.
    async start(folder, text) {
      const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((kind) => `${kind}_temp_path ${folder}/${kind};`);
      const lines = [
        'daemon off;',
        'master_process off;',
        ...(process.getuid() === 0 ? ['user root;'] : []),
        `pid ${folder}/nginx.pid;`,
        'events {}',
        'http {',
        'access_log off;',
        ...temporary,
        text,
        '}',
      ];
      await writeFile(join(folder, 'nginx.conf'), lines.join('\n'));
      return ['-e', 'stderr', '-p', folder, '-c', join(folder, 'nginx.conf')];
    },
  },
  haproxy: {
    configure(place, [site, kept, stripped], { port, upstream, files }) {
      let text = site;
      if (place !== 'root') text = put(text, /^ *default_backend slop_studios\n/m, kept);
      if (place === 'stripped') text = put(text, /^backend slop_studios\n/m, `backend slop_studios\n${stripped}`);
      text = put(text, 'bind :443 ', `bind 127.0.0.1:${port} `);
      text = put(text, '/etc/haproxy/studio.example.pem', files.both);
      return put(text, '127.0.0.1:3000', upstream);
    },
    // With the defaults of Debian's own configuration.
    async start(folder, text) {
      const debian = await readFile(DEBIAN_HAPROXY, 'utf8');
      const defaults = debian.slice(debian.search(/^defaults/m));
      await writeFile(join(folder, 'haproxy.cfg'), `global\n${defaults}\n${text}`);
      return ['-db', '-f', join(folder, 'haproxy.cfg')];
    },
  },
  caddy: {
    configure(place, sites, { port, upstream, files }) {
      let text = sites[Object.keys(PLACES).indexOf(place)];
      text = put(text, 'studio.example {', `https://127.0.0.1:${port} {\n\tbind 127.0.0.1\n\ttls ${files.cert} ${files.key}`);
      return put(text, '127.0.0.1:3000', upstream);
    },
    // Without what needs port 80 or the outside.
    async start(folder, text) {
      await writeFile(join(folder, 'Caddyfile'), `{\n\tadmin off\n\tauto_https disable_redirects\n}\n\n${text}`);
      return ['run', '--config', join(folder, 'Caddyfile'), '--adapter', 'caddyfile'];
    },
  },
};

export const NAMES = Object.keys(PROGRAMS);

const path = [...(process.env.PATH ?? '').split(':'), '/usr/sbin', '/usr/local/sbin'];

/** Why a program's tests are skipped; false where they run. In CI they have to. */
export function missing(name) {
  const found = path.some((folder) => existsSync(join(folder, name)));
  return !found && !process.env.CI && `${name} is not installed`;
}

export class Front {
  clients = new Set();
  stderr = '';

  /** `edit` changes the block, for what is not to work. */
  static async start(name, server, { place = 'root', edit = (text) => text } = {}) {
    const front = new Front();
    front.base = PLACES[place];
    front.folder = await mkdtemp(join(tmpdir(), `slop-studios-${name}-`));
    const { cert, private: key } = await make();
    front.ca = cert;
    const files = { cert: join(front.folder, 'cert.pem'), key: join(front.folder, 'key.pem'), both: join(front.folder, 'both.pem') };
    front.caFile = files.cert;
    await writeFile(files.cert, cert);
    await writeFile(files.key, key);
    await writeFile(files.both, `${cert}\n${key}`);
    const found = await blocks(PAGE, name);
    assert.equal(found.length, 3, `${PAGE} has a block of ${name} for each place`);
    const program = PROGRAMS[name];
    const port = await freePort();
    front.url = `https://127.0.0.1:${port}`;
    const text = edit(program.configure(place, found, { port, upstream: `127.0.0.1:${server.port}`, files }));
    const args = await program.start(front.folder, text);
    const home = join(front.folder, 'home');
    await mkdir(home);
    const child = spawn(name, args, { env: { PATH: path.join(':'), HOME: home }, stdio: ['ignore', 'ignore', 'pipe'] });
    running.add(child);
    for (const handle of [child, child.stderr]) handle.unref();
    child.stderr.setEncoding('utf8').on('data', (data) => {
      front.stderr = (front.stderr + data).slice(-20_000);
    });
    front.child = child;
    front.exited = new Promise((resolve) => {
      child.on('error', (error) => resolve(`${error}`));
      child.on('exit', (code, signal) => resolve(`code ${code}, signal ${signal}`));
    }).then((end) => {
      running.delete(child);
      front.ended = end;
    });
    await until(
      async () => {
        assert.equal(front.ended, undefined, `${name} ended early:\n${front.stderr}`);
        return (await front.request('GET', '/health/live').catch(() => undefined))?.status === 200;
      },
      `answer through ${name}`,
    );
    return front;
  }

  /** One request for a path of the server, on a connection of its own. Never throws for a status. */
  async request(method, path, { body, headers = {} } = {}) {
    const request = https.request(`${this.url}${this.base}${path}`, { method, headers, ca: this.ca, agent: false });
    request.end(body);
    const [response] = await within(once(request, 'response'), 20_000, `an answer to ${method} ${path}`);
    const chunks = [];
    for await (const chunk of response) chunks.push(chunk);
    return { status: response.statusCode, headers: response.headers, text: Buffer.concat(chunks).toString('utf8') };
  }

  async close() {
    for (const client of this.clients) client.close();
    // Not SIGTERM, on which Caddy waits for those that are connected.
    this.child.kill('SIGKILL');
    await within(this.exited, 10_000, 'the end of the proxy');
    await rm(this.folder, { recursive: true, force: true });
  }
}

/** A port that nobody listens on. None of these programs can be asked which one it took. */
async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

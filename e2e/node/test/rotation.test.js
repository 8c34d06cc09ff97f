// A secret that was replaced: whoever has a token of the old one is nobody, whether it is connected, away, or back after a
// restart; who has one of a secret that stays notices nothing.
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { connect, TRANSPORTS } from '../client.js';
import { Proxy } from '../proxy.js';
import { acks, events } from '../shapes.js';
import { Server, token } from '../server.js';
import { until } from '../wait.js';

const NAMESPACES = ['/', '/media', '/notifications'];
const SOON = { timeout: 1_000, reconnection: true, reconnectionDelay: 20, reconnectionDelayMax: 100 };
// Without a comma: one of several is parted from the others by it.
const [OLD, KEPT, NEW] = ['old', 'kept', 'new'].map((name) => `the ${name} secret of these tests which is long enough`);
const TEXT = 'Token is invalid';

/** The first secret signs, the others only verify. */
const settings = ([first, ...others]) =>
  `jwt_secret = ${JSON.stringify(first)}\njwt_previous_secrets = ${JSON.stringify(others)}\n`;

// The secrets come from the file alone.
const start = (options) => Server.start({ ...options, env: { JWT_SECRET: '' } });

/** All three namespaces of one connection, each in the room `open`. */
async function members(proxy, options) {
  const root = await connect({ url: proxy.url, clients: new Set() }, { ...SOON, ...options });
  const others = NAMESPACES.slice(1).map((nsp) => root.of(nsp, { token: options.token }).ready());
  const all = [root, ...(await Promise.all(others))];
  for (const client of all) acks.room(await client.emit('joinRoom', 'open'));
  return all;
}

const said = (names) => names.filter((name) => !/^(local|ack):|^pong$/.test(name));

for (const [transport, options] of Object.entries(TRANSPORTS)) {
  describe(transport, () => {
    /** Two clients, whose secrets are removed and kept, are away or not while `change` happens. */
    async function over({ isAway, change }) {
      const folder = await mkdtemp(join(tmpdir(), 'slop-studios-rotation-'));
      const file = join(folder, 'slop.toml');
      const args = ['--config', file];
      await writeFile(file, settings([OLD, KEPT]));
      let server = await start({ args });
      const proxy = await Proxy.to(server.port);
      const clients = [];
      for (const secret of [OLD, KEPT]) {
        clients.push(await members(proxy, { ...options, token: token({ userId: 'u' }, { secret }) }));
      }
      if (isAway) {
        proxy.blocked = true;
        proxy.cut();
        for (const client of clients.flat()) await client.next('local:disconnect');
      }
      const marks = clients.map((all) => all.map((client) => client.mark()));
      await writeFile(file, settings([NEW, KEPT]));
      server = await change(server, args);
      for (const namespace of NAMESPACES) await server.toRoom('open', { event: 'said', namespace, delivery: 'durable' });
      proxy.blocked = false;
      const names = [];
      for (const [who, all] of clients.entries()) {
        for (const [at, client] of all.entries()) {
          await until(() => client.socket.connected, 'reconnect');
          await client.next('said');
          await client.fence();
          if (isAway) assert.equal(client.socket.recovered, true);
          const { authenticated } = await client.info();
          assert.equal(authenticated, who === 1);
          names.push(said(client.names(marks[who][at])).join());
        }
      }
      for (const client of clients[0]) assert.equal(events.authError(await client.next('authError')).message, TEXT);
      // Who is away gets what it missed, and nothing of it stands before the reason.
      assert.deepEqual(names, [...Array(3).fill('authError,said'), ...Array(3).fill('said')]);
      for (const [root] of clients) root.close();
      await proxy.close();
      await server.terminate();
      await rm(folder, { recursive: true, force: true });
    }

    const reload = async (server) => {
      server.child.kill('SIGHUP');
      await until(async () => (await server.metric('slop_reloads_total{outcome="applied"}')) >= 1, 'reload');
      return server;
    };
    const restart = async (server, args) => {
      const { port, dataDir } = server;
      await server.terminate(3_000, { keepData: true });
      return start({ port, dataDir, args });
    };

    test('SIGHUP, while connected', () => over({ isAway: false, change: reload }));
    test('SIGHUP, while away', () => over({ isAway: true, change: reload }));
    test('a restart, while away', () => over({ isAway: true, change: restart }));
  });
}

// What `recovered` promises over the end of the server: nothing is missing, and who missed nothing is recovered.
import assert from 'node:assert/strict';
import { open as openFile, readdir, rm } from 'node:fs/promises';
import { test } from 'node:test';
import { connect, open } from '../client.js';
import { Proxy } from '../proxy.js';
import { Server, token } from '../server.js';
import { acks } from '../shapes.js';
import { until } from '../wait.js';

const SOON = { timeout: 1_000, reconnection: true, reconnectionDelay: 20, reconnectionDelayMax: 200 };
const ENDS = {
  'SIGTERM': (server) => server.terminate(undefined, { keepData: true }),
  'SIGKILL': (server) => server.kill(),
};

/** A server whose clients' lines can be cut, and that can be ended and started again. */
class Studio {
  /** Ends with its test, whatever becomes of that. */
  static async start(context, env = {}) {
    const studio = new Studio();
    context.after(() => {
      for (const client of studio.at.clients) client.close();
      studio.proxy.cut();
      studio.proxy.server.close();
    });
    studio.env = env;
    studio.server = await Server.start({ env });
    studio.proxy = await Proxy.to(studio.server.port);
    studio.at = { url: studio.proxy.url, clients: new Set() };
    return studio;
  }

  async restart(end) {
    await end(this.server);
    const { port, dataDir } = this.server;
    this.server = await Server.start({ port, dataDir, env: this.env });
  }

  cut() {
    this.proxy.blocked = true;
    this.proxy.cut();
  }

  /** Waits until all that has changed of sessions is in the store: what changes later is written later. */
  async saved() {
    const before = await this.kept();
    const last = await connect(this.server);
    await until(async () => (await this.kept()) > before, 'the last session in the store');
    last.close();
  }

  /** A client of the room `r` that is saved, and away. */
  async memberAway() {
    const client = await connect(this.at, SOON);
    await client.next('local:connect');
    acks.room(await client.emit('joinRoom', 'r'));
    await this.saved();
    this.cut();
    await client.next('local:disconnect');
    return client;
  }

  /** How many sessions are in the store. */
  kept() {
    return this.server.metric('slop_sessions_kept');
  }

  /** Asserts that so many clients got a new session since the server began, all for this reason. */
  async refused(reason, count) {
    const { text } = await this.server.request('GET', '/metrics');
    const failures = text.matchAll(/^slop_recovery_failures_total\{reason="([^"]+)"\} (\d+)$/gm);
    const met = [...failures].filter(([, , times]) => times !== '0').map(([, why, times]) => [why, Number(times)]);
    assert.deepEqual(met, [[reason, count]]);
  }

  async close() {
    for (const client of this.at.clients) client.close();
    await this.server.terminate();
  }
}

/** Waits until it has its session back, and says whether nothing was lost. */
async function back(client) {
  await client.next('local:connect');
  return client.socket.recovered;
}

for (const [signal, end] of Object.entries(ENDS)) {
  test(`room events that are not durable survive ${signal}`, async (context) => {
    const studio = await Studio.start(context);
    const client = await connect(studio.at, SOON);
    await client.next('local:connect');
    acks.room(await client.emit('joinRoom', 'r'));
    await studio.server.toRoom('r', { event: 'update', data: { n: 0 } });
    assert.deepEqual(await client.next('update'), { n: 0 });
    await studio.saved();
    studio.cut();
    await client.next('local:disconnect');
    for (let n = 1; n <= 20; n += 1) {
      const delivery = n % 5 === 0 ? 'durable' : 'recoverable';
      // Some with a key, which take another way into the store.
      const headers = n % 3 === 0 ? { 'idempotency-key': `key-${n}` } : {};
      await studio.server.toRoom('r', { event: 'update', data: { n }, delivery }, { headers });
      await studio.server.toRoom('r', { event: 'state', data: { n }, delivery: 'latest' });
    }
    await studio.restart(end);
    await studio.server.toRoom('r', { event: 'update', data: { n: 21 } });
    studio.proxy.blocked = false;
    assert.equal(await back(client), true);
    for (let n = 1; n <= 21; n += 1) assert.deepEqual(await client.next('update'), { n });
    assert.deepEqual(client.all('state'), [{ n: 20 }]);
    await client.fence();
    assert.equal(client.all('update').length, 22);
    await studio.close();
  });

  test(`a client that was away over two ends by ${signal} misses nothing of either run`, async (context) => {
    const studio = await Studio.start(context);
    const client = await studio.memberAway();
    for (let n = 1; n <= 3; n += 1) {
      await studio.server.toRoom('r', { event: 'update', data: { n } });
      await studio.restart(end);
    }
    studio.proxy.blocked = false;
    assert.equal(await back(client), true);
    for (let n = 1; n <= 3; n += 1) assert.deepEqual(await client.next('update'), { n });
    await studio.close();
  });

  test(`quiet clients are recovered after ${signal}, however much others were sent`, async (context) => {
    const studio = await Studio.start(context, { PING_INTERVAL_MS: '200', LOG_MAX_BYTES: '20000' });
    const quiet = await connect(studio.at, { ...SOON, nsp: '/notifications', token: token({ userId: 'quiet' }) });
    await quiet.next('local:connect');
    // The log forgets the oldest of it, all of it later than the quiet client's last event.
    for (let n = 0; n < 200; n += 1) await studio.server.notify('busy', { type: 'info', title: 't', message: `${n}` });
    // What it has received is known by its heartbeats, and that is written down in the interval of these.
    let pings = 0;
    quiet.socket.io.engine.on('ping', () => (pings += 1));
    await until(() => pings >= 6, 'heartbeats');
    await studio.restart(end);
    assert.equal(await back(quiet), true);
    await studio.server.notify('quiet', { type: 'info', title: 't', message: 'm', id: 'n1' });
    assert.equal((await quiet.next('notification')).id, 'n1');
    await studio.close();
  });
}

test('what was acknowledged a moment before a kill is not undone', async (context) => {
  const studio = await Studio.start(context);
  const anna = token({ userId: 'anna' });
  for (let round = 0; round < 5; round += 1) {
    const client = await connect(studio.at, { ...SOON, forceNew: true });
    await client.next('local:connect');
    const changes = [
      ['joinRoom', ['joined'], ({ rooms }) => rooms.includes('joined')],
      ['authenticate', [{ token: anna }], ({ authenticated }) => authenticated],
      ['leaveRoom', ['joined'], ({ rooms }) => !rooms.includes('joined')],
      ['logout', [], ({ authenticated, rooms }) => !authenticated && !rooms.includes('user:anna')],
    ];
    for (const [event, args, holds] of changes) {
      assert.equal((await client.emit(event, ...args)).success, true);
      await studio.restart(ENDS.SIGKILL);
      await client.next('local:connect');
      // Who is not recovered knows that everything has to be done again; a stranger may not be anybody.
      const info = await client.info();
      if (client.socket.recovered) assert.ok(holds(info), `${event}, round ${round}: ${JSON.stringify(info)}`);
      else assert.ok(!info.authenticated && info.rooms.length === 1, JSON.stringify(info));
      if (!client.socket.recovered && event === 'joinRoom') await client.emit('joinRoom', 'joined');
      await studio.saved();
    }
    // Nothing has changed since: whoever is never recovered would pass what is above.
    await studio.restart(ENDS.SIGKILL);
    assert.equal(await back(client), true, `round ${round}`);
    client.close();
  }
  await studio.close();
});

test('who missed more than is remembered is told so', async (context) => {
  const studio = await Studio.start(context, { LOG_MAX_BYTES: '20000' });
  const client = await studio.memberAway();
  for (let n = 0; n < 200; n += 1) {
    await studio.server.toRoom('r', { event: 'update', data: { n }, delivery: 'durable' });
  }
  await studio.restart(ENDS.SIGKILL);
  studio.proxy.blocked = false;
  assert.equal(await back(client), false);
  await studio.refused('events forgotten', 1);
  assert.deepEqual(client.all('update'), []);
  await studio.close();
});

test('a journal that is gone is noticed', async (context) => {
  const studio = await Studio.start(context);
  const client = await studio.memberAway();
  await studio.server.toRoom('r', { event: 'update', data: { n: 1 } });
  await studio.server.kill();
  for (const name of await readdir(studio.server.dataDir)) {
    if (name.startsWith('events-')) await rm(`${studio.server.dataDir}/${name}`);
  }
  const { port, dataDir } = studio.server;
  studio.server = await Server.start({ port, dataDir });
  // Its session is there, and what it missed is unknown; so is for how long, if that was not yet written at the kill.
  assert.ok((await studio.kept()) > 0);
  studio.proxy.blocked = false;
  assert.equal(await back(client), false);
  const reasons = ['events forgotten', 'unknown session'];
  const refused = await Promise.all(reasons.map((reason) => studio.server.metric(`slop_recovery_failures_total{reason="${reason}"}`)));
  assert.equal(refused[0] + refused[1], 1);
  await studio.close();
});

test('a machine that lost its power is noticed: everybody is connected anew, and gets what is kept', async (context) => {
  const studio = await Studio.start(context);
  const member = open(studio.at, SOON);
  const user = open(studio.at, { ...SOON, nsp: '/notifications', token: token({ userId: 'u' }) });
  for (const client of [member, user]) {
    await client.ready();
    await client.next('local:connect');
  }
  acks.room(await member.emit('joinRoom', 'r'));
  await studio.saved();
  studio.cut();
  for (const client of [member, user]) await client.next('local:disconnect');
  await studio.server.toRoom('r', { event: 'update', data: { n: 1 }, delivery: 'durable' });
  await studio.server.notify('u', { type: 'info', title: 't', message: 'm', id: 'n1' });
  await studio.server.kill();
  // Another run of the machine: its number is in the header of each file.
  for (const name of await readdir(studio.server.dataDir)) {
    if (!name.startsWith('events-')) continue;
    const file = await openFile(`${studio.server.dataDir}/${name}`, 'r+');
    await file.write(Buffer.alloc(16, 7), 0, 16, 32);
    await file.close();
  }
  const { port, dataDir } = studio.server;
  studio.server = await Server.start({ port, dataDir });
  studio.proxy.blocked = false;
  for (const client of [member, user]) assert.equal(await back(client), false);
  assert.equal((await user.next('notification')).id, 'n1');
  assert.equal((await member.info()).rooms.length, 1);
  assert.deepEqual(member.all('update'), []);
  await studio.refused('events forgotten', 2);
  await studio.close();
});

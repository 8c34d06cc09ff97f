// `slop-studios migrate`: what a server in a folder had answered, the nodes of a cluster answer.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { connect } from '../client.js';
import { Redis } from '../cluster.js';
import { acks, events } from '../shapes.js';
import { binary, SECRET, Server, token } from '../server.js';
import { until } from '../wait.js';

const note = (n) => ({ type: 'info', title: `title ${n}`, message: 'm', id: `n${n}` });
const KEY = { headers: { 'idempotency-key': 'one' } };
const BATCH = { headers: { 'idempotency-key': 'batch' } };
const update = { event: 'update', data: { n: 1 }, delivery: 'durable' };
const batch = Array.from({ length: 12 }, (_, n) => ({ kind: 'roomEvent', room: 'r', event: 'e', data: { n } }));

/** The settings of a node in this Redis. */
const settings = (redis, prefix = 'slop') => ({
  REDIS_URL: redis.url,
  REDIS_PREFIX: prefix,
  CLUSTER_SECRET: SECRET,
  NODE_ADDRESS: '127.0.0.1:0',
});

/** Runs the command to its end. */
function migrate(dataDir, redis, { args = [], prefix, killAfter = 30_000 } = {}) {
  const env = { PATH: process.env.PATH, JWT_SECRET: SECRET, DATA_DIR: dataDir, ...settings(redis, prefix) };
  return new Promise((resolve) => {
    execFile(binary, ['migrate', ...args], { env, timeout: killAfter, killSignal: 'SIGKILL' }, (error, stdout, stderr) =>
      resolve({ code: error?.code ?? 0, stdout, stderr }),
    );
  });
}

/** The answers of the HTTP API that must stay the same. */
async function answers(server) {
  const paths = ['media/running', 'media/done', 'media/failed', 'users/reader/notifications?limit=2',
    'users/reader/notifications?limit=2&before=n4', 'users/reader/notifications', 'users/nobody/notifications'];
  const found = {};
  for (const path of paths) {
    const { status, json } = await server.request('GET', `/v1/${path}`);
    found[path] = { status, json };
  }
  return found;
}

/** A receipt without the number of sockets. */
const receipt = ({ delivered: _delivered, ...rest }) => rest;

describe('a folder is migrated', { timeout: 120_000 }, () => {
  let redis, dataDir, kept, first, batched, revoked;

  before(async () => {
    redis = await Redis.start({ args: ['--client-output-buffer-limit', 'pubsub 256mb 128mb 60'] });
    const server = await Server.start();
    ({ dataDir } = server);
    await server.progress('running', { progress: 12.5, stage: 'render', ownerId: 'owner' });
    await server.fail('failed', { error: 'no', code: 'X' });
    await server.progress('done', { progress: 1, stage: 'render', attempt: 3 });
    await server.complete('done', { url: 'https://example.com/a', metadata: { text: 'grün 🟢' } });
    const client = await connect(server, { nsp: '/notifications', token: token({ userId: 'reader' }) });
    for (let n = 1; n <= 3; n += 1) {
      await server.notify('reader', note(n));
      assert.equal((await client.next('notification')).id, `n${n}`);
    }
    assert.equal((await client.emit('markNotificationsRead', { ids: ['n2'] })).unreadCount, 2);
    await client.fence();
    client.close();
    await until(async () => (await server.metric('slop_connections')) === 0, 'the end of the connection');
    for (let n = 4; n <= 5; n += 1) await server.notify('reader', note(n));
    first = await server.toRoom('r', update, KEY);
    batched = (await server.request('POST', '/v1/publish', batch, BATCH)).json;
    revoked = token({ userId: 'revoked', iat: Math.floor(Date.now() / 1000) - 60 });
    assert.equal((await server.request('POST', '/v1/users/revoked/revoke')).status, 200);
    kept = await answers(server);
    assert.equal(kept['users/reader/notifications'].json.notifications.length, 5);
    assert.equal(batched.length, 12);
    await server.terminate(undefined, { keepData: true });
  });

  after(async () => {
    await redis.close();
    await rm(dataDir, { recursive: true, force: true });
  });

  test('a dry run writes nothing', async () => {
    const { code, stdout } = await migrate(dataDir, redis, { args: ['--dry-run'] });
    assert.equal(code, 0);
    assert.match(stdout, /^3 media items\n5 notifications, 4 of them unread\n2 idempotency keys\n1 revocations\nwould be migrated from /);
    assert.equal(await redis.command('DBSIZE'), ':0');
  });

  test('the nodes answer as the server did', async () => {
    const { code, stdout, stderr } = await migrate(dataDir, redis);
    assert.equal(code, 0, stderr);
    assert.equal(stderr, '');
    assert.match(stdout, /^3 media items\n5 notifications, 4 of them unread\n2 idempotency keys\n1 revocations\nmigrated from /);
    const again = await migrate(dataDir, redis);
    assert.equal(again.code, 0);
    assert.match(again.stdout, /^migrated before/);

    const server = await Server.start({ env: settings(redis) });
    assert.deepEqual(await answers(server), kept);
    await until(async () => (await server.metric('slop_media_items')) === 3, 'the items in the metrics');
    assert.equal(await server.metric('slop_idempotency_keys'), 3, 'a batch of twelve counts as two');
    assert.deepEqual(receipt(await server.toRoom('r', update, KEY)), receipt(first));
    assert.deepEqual((await server.request('POST', '/v1/publish', batch, BATCH)).json.map(receipt), batched.map(receipt));
    const reused = await server.request('POST', '/v1/rooms/r/events', { ...update, event: 'other' }, KEY);
    assert.equal(reused.status, 422);
    assert.deepEqual((await server.notify('reader', note(1))).id, 'n1');

    const media = await connect(server, { nsp: '/media', token: token({ userId: 'owner' }) });
    for (const [id, event] of [['running', 'mediaProgress'], ['done', 'mediaComplete'], ['failed', 'mediaError']]) {
      acks.media(await media.emit('subscribeMedia', id));
      assert.equal(events[event](await media.next(event)).mediaId, id);
    }
    const late = await server.request('POST', '/v1/media/running/progress', { progress: 5, stage: 'render' });
    assert.equal(late.status, 409, late.text);
    await server.progress('running', { progress: 13, stage: 'render' });
    assert.equal((await media.next('mediaProgress')).progress, 13);

    const reader = await connect(server, { nsp: '/notifications', token: token({ userId: 'reader' }) });
    for (const id of ['n4', 'n5']) assert.equal((await reader.next('notification')).id, id);
    assert.equal((await reader.emit('listNotifications')).unreadCount, 4);
    await server.notify('reader', note(6));
    assert.equal((await reader.next('notification')).id, 'n6');
    assert.deepEqual(reader.all('notification').map(({ id }) => id), ['n4', 'n5', 'n6'], 'those that were received do not come again');
    assert.equal((await reader.emit('markNotificationsRead', { upTo: 'n5' })).unreadCount, 1);

    const refused = await connect(server);
    assert.equal(acks.refused(await refused.emit('authenticate', { token: revoked })).error, 'Token has been revoked');

    const running = await migrate(dataDir, redis);
    assert.match(running.stdout, /^migrated before/);
    await server.close();
  });

  test('a prefix that is used or has data is refused', async () => {
    const server = await Server.start();
    const other = server.dataDir;
    await server.progress('x', { progress: 1, stage: 'render' });
    await server.terminate(undefined, { keepData: true });
    const data = await migrate(other, redis);
    assert.equal(data.code, 1);
    assert.equal(data.stderr, 'error: the prefix has data already: choose another REDIS_PREFIX, or remove its keys\n');

    const node = await Server.start({ env: settings(redis, 'used') });
    const running = await migrate(other, redis, { prefix: 'used' });
    assert.equal(running.stderr, 'error: running nodes (1) use the prefix: stop them, or choose another REDIS_PREFIX\n');
    await node.close();

    const empty = await mkdtemp(join(tmpdir(), 'slop-studios-e2e-'));
    const nothing = await migrate(empty, redis, { prefix: 'new' });
    assert.match(nothing.stderr, /^error: there is no store in .*: set DATA_DIR \(--data-dir\) to the folder of the server to migrate\n$/);
    const used = await Server.start();
    const locked = await migrate(used.dataDir, redis, { prefix: 'new' });
    assert.match(locked.stderr, /^error: the store in .* is in use by another process/);
    await used.close();
    for (const folder of [other, empty]) await rm(folder, { recursive: true, force: true });
  });
});

test('a migration that ends in the middle is completed by another run, and no node runs before', { timeout: 60_000 }, async () => {
  // There is room for some of the items.
  const redis = await Redis.start({ args: ['--maxmemory', '4mb'] });
  const server = await Server.start();
  const metadata = { text: 'x'.repeat(20_000) };
  for (let from = 0; from < 400; from += 40) {
    const item = (n) => ({ kind: 'complete', mediaId: `item-${n}`, url: 'https://example.com/a', metadata });
    await server.publish('/v1/publish', Array.from({ length: 40 }, (_, n) => item(from + n)));
  }
  await server.terminate(undefined, { keepData: true });
  const full = await migrate(server.dataDir, redis);
  assert.equal(full.code, 1);
  assert.match(full.stderr, /^error: the migration is not complete, and no node uses the prefix until it is: run it again: Redis: .*OOM/m);
  assert.equal(full.stderr.trim().split('\n').length, 2, full.stderr);
  const kept = Number((await redis.command('ZCARD {slop}:media')).slice(1));
  assert.ok(kept > 0 && kept < 400, `${kept}`);

  await redis.command('CONFIG SET maxmemory 0');
  await assert.rejects(Server.start({ env: settings(redis) }), /the migration to its prefix is not complete: run `slop-studios migrate` again/);
  const other = await Server.start();
  await other.terminate(undefined, { keepData: true });
  const mixed = await migrate(other.dataDir, redis);
  assert.match(mixed.stderr, /error: the migration of another folder to this prefix, .* is not complete/);
  await rm(other.dataDir, { recursive: true, force: true });

  for (const ms of [1, 10, 50]) await migrate(server.dataDir, redis, { killAfter: ms });
  const again = await migrate(server.dataDir, redis);
  assert.equal(again.code, 0, again.stderr);
  assert.match(again.stdout, /^(400 media items|migrated before)/);
  const node = await Server.start({ env: settings(redis) });
  for (const n of [0, 199, 399]) assert.equal((await node.request('GET', `/v1/media/item-${n}`)).status, 200);
  await node.close();
  await rm(server.dataDir, { recursive: true, force: true });
  await redis.close();
});

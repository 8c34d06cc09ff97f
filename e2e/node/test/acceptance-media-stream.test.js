// subscribeMedia during a stream of 1,000 progress events, at random moments: the snapshot, then live events;
// no gap, no duplicate, no step back.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { connect, TRANSPORTS } from '../client.js';
import { acks, events, receipt } from '../shapes.js';
import { Server, token } from '../server.js';
import { until } from '../wait.js';

const EVENTS = 1_000; // progress 0.1 … 100
const STREAMS = 6;
const WATCHERS = 6;

/** mulberry32: so that a failure can be run again with E2E_SEED. */
function generator(seed) {
  return (below) => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 4_294_967_296) * below);
  };
}

const step = (value) => {
  const number = Math.round(value * 10);
  assert.equal(value, number / 10, 'the very number that was published');
  return number;
};

describe('subscribing in the middle of a stream', () => {
  let server;
  before(async () => (server = await Server.start()));
  after(() => server.close());

  /**
   * One after the other over one keep-alive connection. `published.sent` is ahead of `published.stored` while a
   * request is under way, and whoever waits for `published.sent` acts just then.
   */
  async function stream(mediaId, published) {
    for (let n = 1; n <= EVENTS; n += 1) {
      const request = server.request('POST', `/v1/media/${mediaId}/progress`, { progress: n / 10, stage: `step ${n}` });
      published.sent = n;
      for (const due of published.due.splice(0)) due(n);
      const answer = await request;
      assert.ok(answer.status >= 200 && answer.status < 300, answer.text);
      if (n > 1) assert.ok(answer.reused, 'one connection for all');
      receipt(answer.json);
      published.stored = n;
    }
    published.ended = true;
    for (const due of published.due.splice(0)) due(EVENTS);
  }

  /** Resolves while request `n` is under way. */
  async function moment(published, n) {
    while (published.sent < n && !published.ended) await new Promise((resolve) => published.due.push(resolve));
  }

  /** Subscribes and unsubscribes at random moments until the stream ends; returns how many windows were looked at. */
  async function watch(client, mediaId, published, random, exact) {
    let windows = 0;
    for (let at = random(EVENTS / 4); at < EVENTS - 1; at = published.sent + random(EVENTS / 10)) {
      await moment(published, at);
      const mark = client.mark();
      const before = published.stored;
      client.send('subscribeMedia', mediaId); // without a callback: the same promise
      await client.fence();
      acks.media(await client.emit('unsubscribeMedia', mediaId));
      check(client.log.slice(mark), before, exact);

      const again = client.mark();
      const stored = published.stored;
      const subscribed = client.emit('subscribeMedia', mediaId);
      await moment(published, published.sent + random(60));
      acks.media(await subscribed);
      acks.media(await client.emit('unsubscribeMedia', mediaId));
      const window = client.log.slice(again);
      assert.equal(window[0].name, 'ack:subscribeMedia', 'the ack comes first');
      assert.equal(window.at(-1).name, 'ack:unsubscribeMedia', 'and nothing comes after the last');
      check(window, stored, exact);
      windows += 2;
    }
    return windows;
  }

  /** What one subscription saw: a snapshot at least as new as what was `stored` before, then the very next each time. */
  function check(window, stored, exact) {
    const seen = window.filter(({ name }) => name === 'mediaProgress').map(({ args }) => step(events.mediaProgress(args[0]).progress));
    if (stored > 0) assert.ok(seen.length > 0, 'a snapshot, as the item is known');
    if (seen.length === 0) return;
    assert.ok(seen[0] >= stored, `the snapshot ${seen[0]} is older than ${stored}, which was stored before subscribing`);
    for (let n = 1; n < seen.length; n += 1) {
      const what = `${seen.slice(Math.max(0, n - 3), n + 2)} (after ${n} of ${seen.length})`;
      if (exact) assert.equal(seen[n], seen[n - 1] + 1, `gap, duplicate or step back: ${what}`);
      else assert.ok(seen[n] > seen[n - 1], `duplicate or step back: ${what}`);
    }
  }

  for (let run = 1; run <= STREAMS; run += 1) {
    test(`stream ${run} of ${STREAMS}: ${WATCHERS} that come and go, and ${WATCHERS} that stay`, async (t) => {
      const seed = Number(process.env.E2E_SEED ?? Math.floor(Math.random() * 2 ** 31));
      const random = generator(seed);
      t.diagnostic(`E2E_SEED=${seed}`);
      const mediaId = `stream-${run}`;
      const published = { sent: 0, stored: 0, ended: false, due: [] };
      const options = { nsp: '/media' };
      const guests = await Promise.all(Array.from({ length: WATCHERS }, () => connect(server, options)));
      const residents = await Promise.all(Array.from({ length: WATCHERS }, () => connect(server, options)));

      const stay = residents.map(async (client) => {
        await moment(published, random(EVENTS - 10));
        const mark = client.mark();
        const stored = published.stored;
        acks.media(await client.emit('subscribeMedia', mediaId));
        await until(() => published.ended, 'end of the stream', 60_000);
        await client.fence();
        const window = client.log.slice(mark);
        assert.equal(window[0].name, 'ack:subscribeMedia', 'the ack comes first');
        check(window, stored, true);
        assert.equal(client.all('mediaProgress').at(-1).progress, 100, 'up to the end');
      });
      const comeAndGo = guests.map((client) => watch(client, mediaId, published, random, true));
      const [windows] = await Promise.all([Promise.all(comeAndGo), Promise.all(stay), stream(mediaId, published)]);
      t.diagnostic(`${windows.reduce((sum, count) => sum + count)} subscriptions came and went`);
      for (const client of [...guests, ...residents]) client.close();
    });
  }

  test('the owner, subscribed in the middle of it too, sees each event once', async () => {
    const mediaId = 'owned-stream';
    const published = { sent: 0, stored: 0, ended: false, due: [] };
    await server.progress(mediaId, { progress: 0, stage: 'owned', ownerId: 'owner' });
    const client = await connect(server, { nsp: '/media', token: token({ userId: 'owner' }) });
    const mark = client.mark();
    const middle = moment(published, EVENTS / 2).then(() => client.emit('subscribeMedia', mediaId));
    await Promise.all([stream(mediaId, published), middle]);
    await client.fence();
    const log = client.log.slice(mark).filter(({ name }) => name === 'mediaProgress' || name === 'ack:subscribeMedia');
    const at = log.findIndex(({ name }) => name === 'ack:subscribeMedia');
    const seen = log.map(({ args }) => args[0].progress);
    // Live for its owner from the first; the snapshot right after the ack repeats the last one, as a snapshot does.
    const live = seen.filter((_, n) => n !== at && n !== at + 1).map(step);
    assert.deepEqual(live, Array.from({ length: EVENTS }, (_, n) => n + 1));
    assert.equal(seen[at + 1], seen[at - 1], 'the snapshot is the last state');
  });

  for (const way of ['polling', 'upgrade']) {
    test(`${way}: progress may be merged while a poll is away, but never repeats or steps back, and ends at the end`, async (t) => {
      const seed = Number(process.env.E2E_SEED ?? Math.floor(Math.random() * 2 ** 31));
      const random = generator(seed);
      t.diagnostic(`E2E_SEED=${seed}`);
      const mediaId = `stream-${way}`;
      const published = { sent: 0, stored: 0, ended: false, due: [] };
      const watchers = Array.from({ length: WATCHERS }, async () => {
        await moment(published, random(EVENTS / 2));
        const client = await connect(server, { nsp: '/media', ...TRANSPORTS[way], transports: TRANSPORTS[way].transports });
        const mark = client.mark();
        const stored = published.stored;
        acks.media(await client.emit('subscribeMedia', mediaId));
        await until(() => published.ended, 'end of the stream', 60_000);
        await client.fence();
        check(client.log.slice(mark), stored, false);
        assert.equal(client.all('mediaProgress').at(-1).progress, 100);
        client.close();
      });
      await Promise.all([stream(mediaId, published), ...watchers]);
    });
  }
});

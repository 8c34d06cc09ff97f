// Readers that stop: what waits for them is bounded, nobody else notices, and when they go on they get what counts.
import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { after, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Server } from '../server.js';
import { until, within } from '../wait.js';

const ITEMS = 100;
const KIB = 1024;
// Small, so that not the kernel but the server holds what the readers don't take.
const SEND_BUFFER_BYTES = 16 * KIB;
const MESSAGE = 'x'.repeat(4 * KIB);

/** A process of stock clients (readers.js). */
class Readers {
  static all = new Set();

  static async start(server, clients) {
    const readers = new Readers();
    const program = fileURLToPath(new URL('../readers.js', import.meta.url));
    readers.child = fork(program, [server.url, String(clients), String(ITEMS)]);
    Readers.all.add(readers);
    await within(once(readers.child, 'message'), 60_000, 'subscribed readers');
    return readers;
  }

  stop() {
    this.child.kill('SIGSTOP');
  }

  goOn() {
    this.child.kill('SIGCONT');
  }

  async states() {
    const answer = once(this.child, 'message');
    this.child.send('state');
    return (await within(answer, 30_000, 'the state of the readers'))[0];
  }

  /** Waits until all have heard the end of their item, and checks what else each has heard. */
  async heardAll(check) {
    let states = [];
    const unfinished = () => states.filter(({ ends }) => ends === 0);
    await until(
      async () => {
        states = await this.states();
        return unfinished().length === 0;
      },
      'end of every item',
      60_000,
    ).catch(() => assert.fail(`${unfinished().length} readers have no end, such as ${JSON.stringify(unfinished()[0])}`));
    for (const state of states) {
      assert.deepEqual({ ends: state.ends, back: state.back, late: state.late }, { ends: 1, back: 0, late: 0 }, JSON.stringify(state));
      check(state);
    }
  }

  end() {
    this.child.kill('SIGKILL');
    Readers.all.delete(this);
  }
}

/** Publishes progress of all items again and again, then their ends; remembers the last of each. */
class Jobs {
  last = new Map();
  #step = 0;

  constructor(server, steps) {
    this.server = server;
    this.steps = steps;
    this.open = Array.from({ length: ITEMS }, (_, n) => `item-${n}`);
  }

  async progress() {
    this.#step += 1;
    const progress = (100 * this.#step) / this.steps;
    await this.#publish(this.open.map((mediaId) => ({ kind: 'progress', mediaId, progress, stage: 'render', message: MESSAGE })));
    for (const mediaId of this.open) this.last.set(mediaId, progress);
  }

  async complete(count) {
    const done = this.open.splice(0, count);
    await this.#publish(done.map((mediaId) => ({ kind: 'complete', mediaId, url: `https://cdn.example/${mediaId}` })));
  }

  async #publish(items) {
    const results = await this.server.publish('/v1/publish', items);
    for (const result of results) assert.equal(result.stored, true, JSON.stringify(result));
  }
}

async function residentBytes(server) {
  const status = await readFile(`/proc/${server.child.pid}/status`, 'utf8');
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)[1]) * KIB;
}

after(() => {
  for (const readers of Readers.all) readers.end();
});

describe('readers that stop', () => {
  test('1,000 of 2,000, for a minute: bounded, unnoticed, and up to date when they go on', { timeout: 240_000 }, async () => {
    const MINUTE_MS = 60_000;
    const PAUSE_MS = 250;
    const OUTBOX_HARD_BYTES = 32 * KIB;
    const server = await Server.start({
      env: {
        SEND_BUFFER_BYTES: String(SEND_BUFFER_BYTES),
        OUTBOX_SOFT_BYTES: String(OUTBOX_HARD_BYTES / 2),
        OUTBOX_HARD_BYTES: String(OUTBOX_HARD_BYTES),
        // They stay connected, for as long as they are stopped.
        WRITE_STALL_MS: '300000',
        PING_INTERVAL_MS: '300000',
      },
    });
    const [going, stopped] = [await Readers.start(server, 1_000), await Readers.start(server, 1_000)];
    const jobs = new Jobs(server, 1_000);
    for (let warm = 0; warm < 10; warm += 1) await jobs.progress();
    const before = await residentBytes(server);

    stopped.stop();
    let [most, mostWaiting] = [0, 0];
    const begun = performance.now();
    for (let half = 1; half <= 2; half += 1) {
      while (performance.now() - begun < (half * MINUTE_MS) / 2) {
        await jobs.progress();
        most = Math.max(most, await residentBytes(server));
        mostWaiting = Math.max(mostWaiting, await server.metric('slop_outbox_bytes'));
        await delay(PAUSE_MS);
      }
      // Half of the items end on the way, and half at the end.
      await jobs.complete(ITEMS / 2);
    }
    const bound = 1_000 * OUTBOX_HARD_BYTES;
    assert.ok(most - before <= bound, `${(most - before) / KIB} KiB more than before, of ${bound / KIB} allowed`);
    const replaced = await server.metric('slop_latest_replaced_total');
    assert.ok(replaced > 10_000, `the queues filled: ${replaced}`);
    assert.ok(mostWaiting > 1_000 * MESSAGE.length, `for each some progress waits: ${mostWaiting}`);
    assert.equal(await server.metric('slop_disconnects_total{reason="outbox full"}'), 0);

    await going.heardAll(({ connects, item, last }) => assert.deepEqual([connects, last], [1, jobs.last.get(item)]));
    stopped.goOn();
    await stopped.heardAll(({ connects, item, last }) => assert.deepEqual([connects, last], [1, jobs.last.get(item)]));
    await until(async () => (await server.metric('slop_outbox_bytes')) === 0, 'empty outboxes');
    for (const readers of [going, stopped]) readers.end();
    await server.close();
  });

  test('those that take nothing for too long are closed, and recover', { timeout: 120_000 }, async () => {
    const server = await Server.start({
      env: { SEND_BUFFER_BYTES: String(SEND_BUFFER_BYTES), WRITE_STALL_MS: '3000' },
    });
    const [going, stopped] = [await Readers.start(server, 200), await Readers.start(server, 200)];
    const jobs = new Jobs(server, 10_000);
    await jobs.progress();
    stopped.stop();
    const closed = () => server.metric('slop_disconnects_total{reason="write stalled"}');
    await until(
      async () => {
        await jobs.progress();
        return (await closed()) >= 200;
      },
      'closed connections of all that stopped',
      60_000,
    );
    assert.equal(await closed(), 200, 'only those that stopped are closed');
    assert.equal(await server.metric('slop_outbox_bytes'), 0, 'nothing waits for those who are gone');
    await jobs.complete(ITEMS);
    await going.heardAll(({ connects }) => assert.equal(connects, 1));
    stopped.goOn();
    await stopped.heardAll(({ connects, recovered }) => assert.deepEqual([connects, recovered], [2, 1]));
    for (const readers of [going, stopped]) readers.end();
    await server.close();
  });
});

// Nothing accepted is lost on three nodes either: nodes and Redis are killed, nodes are stopped, their connections to Redis are
// cut, and the stock clients get everything once and in one order, through a balancer that is not sticky.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { Cluster } from '../cluster.js';
import { allHeard, Member, Publisher, random, SOON } from '../members.js';

/** Faults of each kind. */
const COUNTS = { kill: 30, redis: 5, stop: 20, cut: 20 };

function shuffled(counts) {
  const all = Object.entries(counts).flatMap(([kind, count]) => Array.from({ length: count }, () => kind));
  for (let n = all.length - 1; n > 0; n -= 1) {
    const other = random(n + 1);
    [all[n], all[other]] = [all[other], all[n]];
  }
  return all;
}

/** Stops a node, mostly for less and sometimes for more than its lease. */
async function stop(cluster, index) {
  const { child } = cluster.nodes[index];
  child.kill('SIGSTOP');
  await delay(random(10) === 0 ? 6_000 : 50 + random(1_500));
  child.kill('SIGCONT');
}

async function cut(cluster, index) {
  const line = cluster.lines[index];
  switch (random(4)) {
    case 0:
      return line.cut();
    case 1:
      return line.swallowAnswer();
    default:
      return line.silence(random(2) ? 'up' : 'down', 100 + random(2_500));
  }
}

test('200 members of 20 rooms on three nodes, 200 events a second, and 75 faults', { timeout: 400_000 }, async () => {
  // Clients of a node that is stopped notice it by its heartbeats.
  const cluster = await Cluster.start({ env: { PING_INTERVAL_MS: '1000', PING_TIMEOUT_MS: '2000', SHARDS: '1' } });
  const rooms = Array.from({ length: 20 }, (_, n) => `room-${n}`);
  const options = { ...SOON, timeout: 3_000 };
  const members = Array.from({ length: 200 }, (_, n) => {
    const transports = n % 10 === 0 ? ['polling', 'websocket'] : ['websocket'];
    return new Member(cluster.url, rooms[n % 20], { ...options, transports });
  });
  await Promise.all(members.map((member) => member.join()));
  const publisher = new Publisher(rooms, 200, (n) => (n % 2 ? 'durable' : 'recoverable'));
  const running = publisher.run(() => cluster.nodes[random(3)].url);
  const faults = { kill: (index) => cluster.replace(index), stop: (index) => stop(cluster, index), cut: (index) => cut(cluster, index) };
  // One node at a time has a fault, so that the others show that they go on. Redis fails beside.
  for (const kind of shuffled(COUNTS)) {
    await delay(50 + random(300));
    if (kind === 'redis') await cluster.redis.restart();
    else await faults[kind](random(3));
  }
  publisher.stopped = true;
  const published = await running;
  await allHeard(members, publisher);
  const connects = members.reduce((sum, member) => sum + member.connects - 1, 0);
  const recovered = members.reduce((sum, member) => sum + member.recovered, 0);
  console.log(`# ${published} published, ${publisher.retries} retries, ${connects} reconnects, ${recovered} recovered`);
  assert.ok(connects >= members.length, `only ${connects} reconnects`);
  assert.ok(recovered >= 0.99 * connects, `${recovered} of ${connects} were recovered`);
  for (const member of members) member.socket.disconnect();
  await cluster.close();
});

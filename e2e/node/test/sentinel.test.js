// A primary with two replicas: the Sentinels name another one when it is killed, and the nodes go over to that.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Watched } from '../cluster.js';
import { Member, Publisher, SOON } from '../members.js';
import { SECRET, Server } from '../server.js';
import { until } from '../wait.js';

describe('a failover', () => {
  let redis;
  before(async () => (redis = await Watched.start()), { timeout: 120_000 });
  after(() => redis.close());

  for (const replicas of [2, 0]) {
    test(`under load, with REDIS_WAIT=${replicas}`, { timeout: 180_000 }, async () => {
      const env = {
        REDIS_URL: redis.url,
        REDIS_PREFIX: `wait-${replicas}`,
        REDIS_WAIT: String(replicas),
        CLUSTER_SECRET: SECRET,
        NODE_ADDRESS: '127.0.0.1:0',
      };
      const nodes = await Promise.all([0, 1].map(() => Server.start({ env })));
      const rooms = ['a', 'b', 'c', 'd'];
      const members = rooms.flatMap((room) => nodes.map((node) => new Member(node.url, room, SOON)));
      await Promise.all(members.map((member) => member.join()));
      const publisher = new Publisher(rooms, 50);
      let turn = 0;
      const running = publisher.run(() => nodes[(turn += 1) % 2].url);
      await until(() => publisher.accepted.get('a') > 20, 'publishes');
      await redis.failOver();
      // And back: the first primary has a history of its own by then.
      if (replicas === 2) await redis.failOver();
      const accepted = publisher.accepted.get('a');
      await until(() => publisher.accepted.get('a') > accepted + 20, 'publishes afterwards', 60_000);
      publisher.stopped = true;
      await running;
      // Who was not recovered knows it. Everybody else has heard every event once and in order.
      await until(() => members.every((member) => member.heard === publisher.accepted.get(member.room)), 'the last events');
      for (const member of members) assert.deepEqual(member.wrong, []);
      if (replicas === 2) {
        // What was accepted is in the log of the primary.
        for (const room of rooms) {
          const answer = await redis.command(`LLEN {wait-2}:log:/:${room}`);
          assert.ok(Number(answer.slice(1)) >= publisher.accepted.get(room), `${room}: ${answer}`);
        }
      }
      for (const member of members) member.socket.disconnect();
      await Promise.all(nodes.map((node) => node.terminate()));
    });
  }
});

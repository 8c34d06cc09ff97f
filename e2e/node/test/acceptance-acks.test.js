// 1,000 stock clients that emit joinRoom in the same tick as `connect` all get their ack.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { io } from 'socket.io-client';
import { acks, receipt } from '../shapes.js';
import { Server } from '../server.js';
import { until, within } from '../wait.js';

const CLIENTS = 1_000;
const ROUNDS = 10;
const ROUND_MS = 60_000;

describe('1,000 clients that emit as they connect', () => {
  let server;
  before(async () => (server = await Server.start()));
  after(() => server.close());

  async function round(transport, room) {
    const seen = { connected: 0, acked: 0, joined: 0, updates: 0, lost: new Set() };
    const sockets = [];
    const answers = Array.from({ length: CLIENTS }, () => {
      const socket = io(server.url, { forceNew: true, reconnection: false, transports: [transport], timeout: ROUND_MS });
      sockets.push(socket);
      return new Promise((resolve, reject) => {
        socket.on('connect_error', reject);
        socket.on('disconnect', (reason) => reject(new Error(`disconnected: ${reason}`)));
        socket.on('roomJoined', () => (seen.joined += 1));
        socket.on('projectUpdate', () => (seen.updates += 1));
        socket.on('connect', () => {
          seen.connected += 1;
          seen.lost.add(socket.id);
          socket.emit('joinRoom', room, (answer) => {
            seen.acked += 1;
            seen.lost.delete(socket.id);
            resolve(answer);
          });
        });
      });
    });
    try {
      const all = await within(Promise.all(answers), ROUND_MS, () => `ack for ${seen.lost.size} of ${seen.connected} connected`);
      for (const answer of all) assert.equal(acks.room(answer).room, room);
      assert.deepEqual([seen.connected, seen.acked, seen.joined, seen.lost.size], [CLIENTS, CLIENTS, CLIENTS, 0]);
      // And each is a member, once.
      assert.equal(receipt(await server.toRoom(room, { event: 'projectUpdate', data: room })).delivered, CLIENTS);
      await until(() => seen.updates >= CLIENTS, 'event for each of them', ROUND_MS);
      assert.equal(seen.updates, CLIENTS);
    } finally {
      for (const socket of sockets) {
        socket.off();
        socket.disconnect();
        socket.io._close();
      }
    }
    // The next round starts when this one's clients have left.
    await until(async () => (await server.toRoom(room, { event: 'projectUpdate', data: 0 })).delivered === 0, 'empty room');
  }

  for (let n = 1; n <= ROUNDS; n += 1) {
    test(`websocket, round ${n} of ${ROUNDS}`, () => round('websocket', `round-${n}`));
  }
  test('polling', () => round('polling', 'round-polling'));
});

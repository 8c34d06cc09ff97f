import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { connect } from '../client.js';
import { acks, events, problem, receipt } from '../shapes.js';
import { Server } from '../server.js';

const RESERVED = [
  ...Object.keys(events),
  ...['connect', 'connect_error', 'disconnect', 'disconnecting', 'newListener', 'removeListener'],
];

describe('custom events to rooms', () => {
  let server;
  before(async () => (server = await Server.start()));
  after(() => server.close());

  test('reach the members, in order, and nobody else', async () => {
    const [one, two, out] = await Promise.all([connect(server), connect(server), connect(server)]);
    for (const client of [one, two]) acks.room(await client.emit('joinRoom', 'project-1'));
    acks.room(await out.emit('joinRoom', 'project-2'));
    const sent = Array.from({ length: 50 }, (_, n) => ({ n, title: `change ${n}` }));
    for (const data of sent) {
      assert.equal(receipt(await server.toRoom('project-1', { event: 'projectUpdate', data })).delivered, 2);
    }
    for (const client of [one, two, out]) await client.fence();
    assert.deepEqual(one.all('projectUpdate'), sent);
    assert.deepEqual(two.all('projectUpdate'), sent);
    assert.deepEqual(out.all('projectUpdate'), []);
    acks.room(await two.emit('leaveRoom', 'project-1'));
    assert.equal(receipt(await server.toRoom('project-1', { event: 'projectUpdate', data: 1 })).delivered, 1);
    assert.equal(receipt(await server.toRoom('empty-room', { event: 'projectUpdate', data: 1 })).delivered, 0);
  });

  for (const nsp of ['/', '/media', '/notifications']) {
    test(`go to ${nsp} when it is named`, async () => {
      const client = await connect(server, { nsp });
      acks.room(await client.emit('joinRoom', 'shared'));
      assert.equal(receipt(await server.toRoom('shared', { event: 'note', data: nsp, namespace: nsp })).delivered, 1);
      assert.equal(await client.next('note'), nsp);
      acks.room(await client.emit('leaveRoom', 'shared'));
    });
  }

  for (const [what, data] of [
    ['an object', { a: { b: [1, 2, { c: null }] } }],
    ['an array', [1, 'two', null, [3]]],
    ['a string', 'text with "quotes", \\, \u2028, \u001e, \u0000 and 🎬'],
    ['a number', 0.1],
    ['false', false],
    ['null', null],
    ['what looks like an attachment', { _placeholder: true, num: 0 }],
    ['100,000 bytes of two-byte letters', 'é'.repeat(50_000)],
  ]) {
    for (const transport of ['websocket', 'polling']) {
      test(`data that is ${what} passes through unchanged on ${transport}`, async () => {
        const client = await connect(server, { transports: [transport] });
        const room = `data-${transport}`;
        acks.room(await client.emit('joinRoom', room));
        await server.toRoom(room, { event: 'projectUpdate', data });
        await client.fence();
        assert.deepEqual(client.all('projectUpdate'), [data]);
        acks.room(await client.emit('leaveRoom', room));
      });
    }
  }

  for (const event of ['projectUpdate', 'my event', 'событие', '__proto__', 'ping', 'message', 'error', 'reconnect']) {
    test(`any other name will do: ${event}`, async () => {
      const client = await connect(server);
      const room = `names-${client.id.slice(0, 8)}`;
      acks.room(await client.emit('joinRoom', room));
      await server.toRoom(room, { event, data: 1 });
      assert.equal(await client.next(event), 1);
    });
  }

  for (const delivery of ['recoverable', 'latest', 'durable']) {
    test(`delivery ${delivery}`, async () => {
      const client = await connect(server);
      const room = `delivery-${delivery}`;
      acks.room(await client.emit('joinRoom', room));
      const body = { event: 'projectUpdate', data: { delivery }, delivery };
      const answer = await server.request('POST', `/v1/rooms/${room}/events`, body);
      assert.equal(answer.status, 200, answer.text);
      assert.equal(receipt(answer.json).stored, delivery === 'durable');
      assert.deepEqual(await client.next('projectUpdate'), { delivery });
    });
  }

  for (const event of RESERVED) {
    test(`the name ${event} is refused to a publisher`, async () => {
      const client = await connect(server);
      acks.room(await client.emit('joinRoom', 'reserved'));
      const mark = client.mark();
      const answer = await server.request('POST', '/v1/rooms/reserved/events', { event, data: { message: 'forged' } });
      problem(answer, [400, 422], 'event');
      await client.fence();
      assert.deepEqual(client.names(mark), ['pong', 'ack:ping']);
    });
  }
});

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { connect } from '../client.js';
import { acks, events, problem, receipt } from '../shapes.js';
import { Server, token } from '../server.js';

describe('POST /v1/publish', () => {
  let server;
  before(async () => (server = await Server.start()));
  after(() => server.close());
  const publish = (batch, options) => server.request('POST', '/v1/publish', batch, options);

  test('everything in one batch, a receipt for each, in order', async () => {
    const auth = { token: token({ userId: 'u-1' }) };
    const root = await connect(server, auth);
    const media = await connect(server, { ...auth, nsp: '/media' });
    const notifications = await connect(server, { ...auth, nsp: '/notifications' });
    acks.room(await root.emit('joinRoom', 'project-1'));
    acks.media(await media.emit('subscribeMedia', 'm1'));
    acks.media(await media.emit('subscribeMedia', 'm2'));
    const answer = await publish([
      { kind: 'progress', mediaId: 'm1', progress: 10, stage: 's', message: 'first' },
      { kind: 'complete', mediaId: 'm1', url: 'u' },
      { kind: 'error', mediaId: 'm2', error: 'e', code: 'c' },
      { kind: 'notification', userId: 'u-1', type: 'info', title: 't', message: 'm' },
      { kind: 'roomEvent', room: 'project-1', event: 'projectUpdate', data: { n: 1 } },
      { kind: 'roomEvent', room: 'project-1', event: 'projectUpdate', data: { n: 2 } },
    ]);
    assert.equal(answer.status, 200);
    assert.deepEqual(answer.json.map((each) => receipt(each).delivered), [1, 1, 1, 1, 1, 1]);
    // m1 ends in the same batch: its progress may already be merged away, its result never.
    assert.deepEqual(events.mediaComplete(await media.next('mediaComplete')), { mediaId: 'm1', url: 'u' });
    assert.deepEqual(events.mediaError(await media.next('mediaError')), { mediaId: 'm2', error: 'e', code: 'c' });
    events.notification(await notifications.next('notification'));
    await root.fence();
    assert.deepEqual(root.all('projectUpdate'), [{ n: 1 }, { n: 2 }]);
  });

  test('one that is refused does not stop the next', async () => {
    const client = await connect(server, { nsp: '/media' });
    acks.media(await client.emit('subscribeMedia', 'm3'));
    const answer = await publish([
      { kind: 'progress', mediaId: 'm3', progress: 50, stage: 's' },
      { kind: 'progress', mediaId: 'm3', progress: 40, stage: 'back' },
      { kind: 'progress', mediaId: 'm3', progress: 'x', stage: 's' },
      { kind: 'nonsense' },
      { kind: 'roomEvent', room: 'r', event: 'welcome', data: {} },
      { kind: 'progress', mediaId: 'm3', progress: 60, stage: 's' },
    ]);
    assert.equal(answer.status, 207);
    assert.equal(answer.json.length, 6);
    receipt(answer.json[0]);
    receipt(answer.json[5]);
    assert.deepEqual(answer.json.slice(1, 5).map(({ status }) => status), [409, 422, 422, 422]);
    await client.fence();
    assert.deepEqual(client.all('mediaProgress').filter(({ stage }) => stage === 'back'), []);
    assert.equal(client.all('mediaProgress').at(-1).progress, 60);
  });

  test('a thousand progress events in ten batches: no step back, no duplicate, and the last one', async () => {
    const clients = await Promise.all(
      ['websocket', 'polling'].map((transport) => connect(server, { nsp: '/media', transports: [transport] })),
    );
    for (const client of clients) acks.media(await client.emit('subscribeMedia', 'm4'));
    for (let from = 1; from <= 1_000; from += 100) {
      const batch = Array.from({ length: 100 }, (_, n) => ({ kind: 'progress', mediaId: 'm4', progress: (from + n) / 10, stage: 's' }));
      assert.equal((await publish(batch)).status, 200);
    }
    for (const client of clients) {
      await client.fence();
      const seen = client.all('mediaProgress').map(({ progress }) => progress);
      for (let n = 1; n < seen.length; n += 1) assert.ok(seen[n] > seen[n - 1], `${seen[n - 1]}, ${seen[n]}`);
      assert.equal(seen.at(-1), 100);
    }
  });

  test('a repeat with the same Idempotency-Key gets the same receipts, and delivers nothing again', async () => {
    const client = await connect(server);
    acks.room(await client.emit('joinRoom', 'project-2'));
    const batch = [1, 2, 3].map((data) => ({ kind: 'roomEvent', room: 'project-2', event: 'projectUpdate', data }));
    const options = { headers: { 'idempotency-key': 'batch-1' } };
    const first = await publish(batch, options);
    const second = await publish(batch, options);
    assert.deepEqual(second.json, first.json);
    assert.deepEqual([first, second].map(({ headers }) => headers['idempotent-replayed']), [undefined, 'true']);
    await client.fence();
    assert.deepEqual(client.all('projectUpdate'), [1, 2, 3]);
  });

  for (const [what, body] of [
    ['an object', {}],
    ['no JSON', '['],
    ['too many', Array.from({ length: 1_001 }, () => ({ kind: 'roomEvent', room: 'r', event: 'e', data: 1 }))],
  ]) {
    test(`a batch that is ${what} is refused as a whole`, async () => {
      problem(await publish(body), [400, 413, 422]);
    });
  }
});

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { connect } from '../client.js';
import { acks, events, problem, receipt } from '../shapes.js';
import { Server, token } from '../server.js';

describe('media', () => {
  let server;
  let serial = 0;
  let media; // an id of its own for each test
  before(async () => (server = await Server.start()));
  after(() => server.close());
  const fresh = () => (media = `media-${(serial += 1)}`);
  const watch = async (options) => connect(server, { nsp: '/media', ...options });

  test('subscribed before work starts: the ack, no snapshot; then progress and the result', async () => {
    const client = await watch();
    const mark = client.mark();
    assert.equal(acks.media(await client.emit('subscribeMedia', fresh())).mediaId, media);
    await client.fence();
    assert.deepEqual(client.names(mark), ['ack:subscribeMedia', 'pong', 'ack:ping']);

    const first = receipt(await server.progress(media, { progress: 0, stage: 'queued' }));
    assert.equal(first.delivered, 1);
    await server.progress(media, { progress: 12.5, stage: 'rendering', message: 'frame 1 of 8' });
    await server.complete(media, { url: 'https://cdn.example.org/m.mp4' });
    assert.deepEqual(events.mediaProgress(await client.next('mediaProgress')), { mediaId: media, progress: 0, stage: 'queued' });
    assert.deepEqual(events.mediaProgress(await client.next('mediaProgress')), {
      mediaId: media,
      progress: 12.5,
      stage: 'rendering',
      message: 'frame 1 of 8',
    });
    assert.deepEqual(events.mediaComplete(await client.next('mediaComplete')), {
      mediaId: media,
      url: 'https://cdn.example.org/m.mp4',
    });
  });

  test('every optional field passes through', async () => {
    const client = await watch();
    acks.media(await client.emit('subscribeMedia', fresh()));
    const metadata = { width: 1920, nested: { list: [1, null, 'é🎬'], big: 2 ** 53 - 1 } };
    await server.complete(media, { url: '/m.mp4', thumbnailUrl: '/m.jpg', metadata });
    assert.deepEqual(events.mediaComplete(await client.next('mediaComplete')), {
      mediaId: media,
      url: '/m.mp4',
      thumbnailUrl: '/m.jpg',
      metadata,
    });
    acks.media(await client.emit('subscribeMedia', fresh()));
    await server.fail(media, { error: 'out of memory', code: 'OOM' });
    assert.deepEqual(events.mediaError(await client.next('mediaError')), { mediaId: media, error: 'out of memory', code: 'OOM' });
    acks.media(await client.emit('subscribeMedia', fresh()));
    await server.fail(media, { error: 'no code' });
    assert.deepEqual(events.mediaError(await client.next('mediaError')), { mediaId: media, error: 'no code' });
  });

  for (const [event, publish, payload] of [
    ['mediaProgress', (id) => server.progress(id, { progress: 40, stage: 's', message: 'm' }), { progress: 40, stage: 's', message: 'm' }],
    ['mediaComplete', (id) => server.complete(id, { url: 'u', thumbnailUrl: 't' }), { url: 'u', thumbnailUrl: 't' }],
    ['mediaError', (id) => server.fail(id, { error: 'e', code: 'c' }), { error: 'e', code: 'c' }],
  ]) {
    test(`the ack, then the snapshot, where the last event was ${event}`, async () => {
      fresh();
      await server.progress(media, { progress: 10, stage: 'early' });
      await publish(media);
      const client = await watch();
      const mark = client.mark();
      acks.media(await client.emit('subscribeMedia', media));
      assert.deepEqual(events[event](await client.next(event)), { mediaId: media, ...payload });
      await client.fence();
      assert.deepEqual(client.names(mark), ['ack:subscribeMedia', event, 'pong', 'ack:ping'], 'only the last event');
    });
  }

  test('without a callback the snapshot still comes', async () => {
    await server.progress(fresh(), { progress: 1, stage: 's' });
    const client = await watch();
    client.send('subscribeMedia', media);
    events.mediaProgress(await client.next('mediaProgress'));
  });

  test('subscribing twice delivers once; unsubscribing ends it; an unknown one may be unsubscribed', async () => {
    const client = await watch();
    acks.media(await client.emit('subscribeMedia', fresh()));
    acks.media(await client.emit('subscribeMedia', media));
    await server.progress(media, { progress: 1, stage: 's' });
    await client.fence();
    assert.equal(client.all('mediaProgress').length, 1);
    const mark = client.mark();
    assert.equal(acks.media(await client.emit('unsubscribeMedia', media)).mediaId, media);
    assert.equal(receipt(await server.progress(media, { progress: 2, stage: 's' })).delivered, 0);
    acks.media(await client.emit('unsubscribeMedia', media));
    acks.media(await client.emit('unsubscribeMedia', 'never-heard-of'));
    await client.fence();
    assert.deepEqual(client.names(mark).filter((name) => name.startsWith('media')), []);
  });

  test('only subscribers get it, and only of their item', async () => {
    const one = await watch();
    const two = await watch();
    const root = await connect(server);
    acks.media(await one.emit('subscribeMedia', fresh()));
    const mine = media;
    acks.media(await two.emit('subscribeMedia', fresh()));
    assert.equal(receipt(await server.progress(mine, { progress: 5, stage: 's' })).delivered, 1);
    events.mediaProgress(await one.next('mediaProgress'));
    await two.fence();
    await root.fence();
    assert.deepEqual(two.all('mediaProgress'), []);
    assert.deepEqual(root.all('mediaProgress'), []);
  });

  for (const nsp of ['/', '/notifications']) {
    test(`on ${nsp} both are refused`, async () => {
      const client = await connect(server, { nsp });
      assert.match(acks.refused(await client.emit('subscribeMedia', 'm')).error, /only on \/media/);
      assert.match(acks.refused(await client.emit('unsubscribeMedia', 'm')).error, /only on \/media/);
    });
  }

  for (const [what, id] of [
    ['missing', undefined],
    ['empty', ''],
    ['a number', 7],
    ['null', null],
    ['an object', { mediaId: 'm' }],
    ['an array', ['m']],
    ['binary', Buffer.from('m')],
  ]) {
    test(`a media id that is ${what} is refused`, async () => {
      const client = await watch();
      const args = id === undefined ? [] : [id];
      acks.refused(await client.emit('subscribeMedia', ...args));
      acks.refused(await client.emit('unsubscribeMedia', ...args));
    });
  }

  test('ids of any script, spaces and slashes', async () => {
    const client = await watch();
    const id = `клип/№ ${fresh()} 🎬?x=1`;
    acks.media(await client.emit('subscribeMedia', id));
    await server.progress(id, { progress: 1, stage: 's' });
    assert.equal((await client.next('mediaProgress')).mediaId, id);
  });

  describe('an owner', () => {
    test('gets the events of all own items on /media, once each, subscribed or not', async () => {
      const alice = { token: token({ userId: 'alice' }) };
      const plain = await watch(alice);
      const subscribed = await watch(alice);
      const root = await connect(server, alice);
      const bob = await watch({ token: token({ userId: 'bob' }) });
      fresh();
      acks.media(await subscribed.emit('subscribeMedia', media));
      const body = { progress: 3, stage: 's', ownerId: 'alice' };
      assert.equal(receipt(await server.progress(media, body)).delivered, 2);
      await server.complete(media, { url: 'u' });
      for (const client of [plain, subscribed]) {
        assert.deepEqual(events.mediaProgress(await client.next('mediaProgress')), { mediaId: media, progress: 3, stage: 's' });
        events.mediaComplete(await client.next('mediaComplete'));
        await client.fence();
        assert.equal(client.all('mediaProgress').length, 1);
        assert.equal(client.all('mediaComplete').length, 1);
      }
      for (const client of [root, bob]) {
        await client.fence();
        assert.deepEqual(client.names().filter((name) => name.startsWith('media')), []);
      }
    });

    test('may subscribe; others and anonymous may not', async () => {
      await server.progress(fresh(), { progress: 3, stage: 's', ownerId: 'carol' });
      const carol = await watch({ token: token({ userId: 'carol' }) });
      acks.media(await carol.emit('subscribeMedia', media));
      events.mediaProgress(await carol.next('mediaProgress'));
      for (const options of [{}, { token: token({ userId: 'dave' }) }]) {
        const other = await watch(options);
        assert.equal(acks.refused(await other.emit('subscribeMedia', media)).error, 'Not allowed');
        await server.progress(media, { progress: 4, stage: 's' });
        await other.fence();
        assert.deepEqual(other.all('mediaProgress'), []);
      }
    });

    test('becoming known ends what others subscribed to before, silently and before the first event', async () => {
      const owner = await watch({ token: token({ userId: 'erin' }) });
      const other = await watch({ token: token({ userId: 'frank' }) });
      acks.media(await owner.emit('subscribeMedia', fresh()));
      acks.media(await other.emit('subscribeMedia', media));
      const mark = other.mark();
      assert.equal(receipt(await server.progress(media, { progress: 1, stage: 's', ownerId: 'erin' })).delivered, 1);
      events.mediaProgress(await owner.next('mediaProgress'));
      await server.complete(media, { url: 'u' });
      await other.fence();
      assert.deepEqual(other.names(mark), ['pong', 'ack:ping']);
      assert.equal(acks.refused(await other.emit('subscribeMedia', media)).error, 'Not allowed');
    });

    test('who logs out, or becomes another, loses the subscription to an owned item only', async () => {
      for (const leave of [
        (client) => client.emit('logout'),
        (client) => client.emit('authenticate', { token: token({ userId: 'someone-else' }) }),
      ]) {
        const client = await watch({ token: token({ userId: 'grace' }) });
        await server.progress(fresh(), { progress: 1, stage: 's', ownerId: 'grace' });
        const owned = media;
        await server.progress(fresh(), { progress: 1, stage: 's' });
        const common = media;
        acks.media(await client.emit('subscribeMedia', owned));
        acks.media(await client.emit('subscribeMedia', common));
        assert.equal((await leave(client)).success, true);
        const mark = client.mark();
        await server.progress(owned, { progress: 2, stage: 's' });
        await server.progress(common, { progress: 2, stage: 's' });
        await client.fence();
        const got = client.log.slice(mark).filter(({ name }) => name === 'mediaProgress');
        assert.deepEqual(got.map(({ args }) => args[0].mediaId), [common]);
      }
    });

    test("anonymous sockets get no event of a user who isn't there", async () => {
      const client = await watch();
      assert.equal(receipt(await server.progress(fresh(), { progress: 1, stage: 's', ownerId: 'nobody' })).delivered, 0);
      await client.fence();
      assert.deepEqual(client.all('mediaProgress'), []);
    });
  });

  describe('the life of an item', () => {
    test('progress is clamped to 0–100, and the receipt says so', async () => {
      const client = await watch();
      acks.media(await client.emit('subscribeMedia', fresh()));
      for (const [progress, shown] of [[-5, 0], [50, 50], [150, 100]]) {
        const { warnings = [] } = receipt(await server.progress(media, { progress, stage: 's' }));
        assert.equal((await client.next('mediaProgress')).progress, shown);
        assert.deepEqual(warnings.map(({ field }) => field), progress === shown ? [] : ['progress']);
      }
    });

    test('a step back is refused with 409 and reaches nobody; the same value is not a step back', async () => {
      const client = await watch();
      acks.media(await client.emit('subscribeMedia', fresh()));
      await server.progress(media, { progress: 50, stage: 'a' });
      problem(await server.request('POST', `/v1/media/${media}/progress`, { progress: 49.9, stage: 'b' }), 409);
      await server.progress(media, { progress: 50, stage: 'c' });
      await client.fence();
      assert.deepEqual(client.all('mediaProgress').map(({ stage }) => stage), ['a', 'c']);
    });

    for (const end of ['complete', 'error']) {
      test(`after ${end} nothing more is accepted, but for a new attempt`, async () => {
        const client = await watch();
        const body = end === 'complete' ? { url: 'u' } : { error: 'e' };
        acks.media(await client.emit('subscribeMedia', fresh()));
        await server.progress(media, { progress: 90, stage: 'first' });
        await server.publish(`/v1/media/${media}/${end}`, body);
        await client.fence();
        const mark = client.mark();
        problem(await server.request('POST', `/v1/media/${media}/progress`, { progress: 95, stage: 'late' }), 409);
        await client.fence();
        assert.deepEqual(client.names(mark).filter((name) => name.startsWith('media')), []);
        await server.progress(media, { progress: 1, stage: 'second', attempt: 2 });
        await server.complete(media, { url: 'v', attempt: 2 });
        await client.fence();
        assert.equal(client.all('mediaProgress').at(-1).stage, 'second');
        events.mediaProgress(client.all('mediaProgress').at(-1));
        assert.equal(client.all('mediaComplete').at(-1).url, 'v');
      });
    }

    test('GET tells the last state', async () => {
      await server.progress(fresh(), { progress: 33, stage: 'asked-for' });
      const answer = await server.request('GET', `/v1/media/${media}`);
      assert.equal(answer.status, 200);
      assert.ok(answer.text.includes('asked-for') && answer.text.includes(media));
      problem(await server.request('GET', '/v1/media/never-heard-of'), 404);
    });
  });
});

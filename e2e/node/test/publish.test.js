import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { connect } from '../client.js';
import { acks, problem } from '../shapes.js';
import { Server, token } from '../server.js';

describe('what a publisher may not do', () => {
  let server;
  let client;
  let heard = 0;
  before(async () => {
    server = await Server.start();
    client = await connect(server, { nsp: '/media' });
    acks.media(await client.emit('subscribeMedia', 'm'));
    heard = client.mark();
  });
  after(() => server.close());

  // Whatever was refused: nobody heard of it, and the client is untouched.
  const silent = async () => {
    const mark = heard;
    await client.fence();
    heard = client.mark();
    assert.deepEqual(client.names(mark).filter((name) => name.startsWith('media') || name.startsWith('local')), []);
  };

  for (const [what, key] of [
    ['no key', null],
    ['a wrong key', 'wrong'],
    ["a user's token", token({ userId: 'u' })],
  ]) {
    test(`${what}: 401`, async () => {
      for (const [method, path, body] of [
        ['POST', '/v1/media/m/progress', { progress: 1, stage: 's' }],
        ['POST', '/v1/media/m/complete', { url: 'u' }],
        ['POST', '/v1/media/m/error', { error: 'e' }],
        ['POST', '/v1/users/u/notifications', { type: 'info', title: 't', message: 'm' }],
        ['POST', '/v1/rooms/r/events', { event: 'e', data: 1 }],
        ['POST', '/v1/publish', []],
        ['GET', '/v1/media/m', undefined],
        ['GET', '/v1/users/u/notifications', undefined],
      ]) {
        problem(await server.request(method, path, body, { key }), 401);
      }
      await silent();
    });
  }

  for (const [path, body, field] of [
    ['/v1/media/m/progress', { stage: 's' }, 'progress'],
    ['/v1/media/m/progress', { progress: '50', stage: 's' }, 'progress'],
    ['/v1/media/m/progress', { progress: null, stage: 's' }, 'progress'],
    ['/v1/media/m/progress', { progress: 50 }, 'stage'],
    ['/v1/media/m/progress', { progress: 50, stage: 7 }, 'stage'],
    ['/v1/media/m/progress', { progress: 50, stage: 's', message: 7 }, 'message'],
    ['/v1/media/m/progress', { progress: 50, stage: 's', attempt: 'two' }, 'attempt'],
    ['/v1/media/m/complete', {}, 'url'],
    ['/v1/media/m/complete', { url: 7 }, 'url'],
    ['/v1/media/m/complete', { url: 'u', metadata: 'no object' }, 'metadata'],
    ['/v1/media/m/error', {}, 'error'],
    ['/v1/media/m/error', { error: { text: 'x' } }, 'error'],
    ['/v1/users/u/notifications', { title: 't', message: 'm' }, 'type'],
    ['/v1/users/u/notifications', { type: 'fatal', title: 't', message: 'm' }, 'type'],
    ['/v1/users/u/notifications', { type: 'info', message: 'm' }, 'title'],
    ['/v1/users/u/notifications', { type: 'info', title: 't' }, 'message'],
    ['/v1/users/u/notifications', { type: 'info', title: 't', message: 'm', data: [1] }, 'data'],
    ['/v1/rooms/r/events', { data: 1 }, 'event'],
    ['/v1/rooms/r/events', { event: 7, data: 1 }, 'event'],
    ['/v1/rooms/r/events', { event: '', data: 1 }, 'event'],
    ['/v1/rooms/r/events', { event: 'e', data: 1, namespace: '/nonsense' }, 'namespace'],
    ['/v1/rooms/r/events', { event: 'e', data: 1, delivery: 'maybe' }, 'delivery'],
  ]) {
    test(`POST ${path} ${JSON.stringify(body)}: 400 or 422 that names ${field}`, async () => {
      problem(await server.request('POST', path, body), [400, 422], field);
      await silent();
    });
  }

  for (const [what, text] of [
    ['no JSON', 'progress=50'],
    ['JSON that ends early', '{"progress": 50'],
    ['an array', '[]'],
    ['an array of the right values', '[50, "stage", "message"]'],
    ['null', 'null'],
    ['a number JSON does not know', '{"progress": NaN, "stage": "s"}'],
    ['a number too large', '{"progress": 1e999, "stage": "s"}'],
    ['deep nesting', `{"progress": 1, "stage": ${'['.repeat(100_000)}${']'.repeat(100_000)}}`],
    ['nothing', ''],
  ]) {
    test(`a body that is ${what}: 400 or 422`, async () => {
      problem(await server.request('POST', '/v1/media/m/progress', text), [400, 422]);
      await silent();
    });
  }

  test('unknown paths and methods get an answer, and the server stays healthy', async () => {
    assert.equal((await server.request('POST', '/v1/media/m/nonsense', {})).status, 404);
    const wrongMethod = await server.request('DELETE', '/v1/media/m/progress');
    assert.ok([404, 405].includes(wrongMethod.status), `${wrongMethod.status}`);
    for (const path of ['/health/live', '/health/ready']) {
      assert.equal((await server.request('GET', path, undefined, { key: null })).status, 200, path);
    }
    await silent();
  });
});

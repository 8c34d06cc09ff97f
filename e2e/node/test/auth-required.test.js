import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { connect, open, VERSIONS } from '../client.js';
import { acks, events } from '../shapes.js';
import { Server, token } from '../server.js';

describe('AUTH_REQUIRED=true', () => {
  let server;
  before(async () => (server = await Server.start({ env: { AUTH_REQUIRED: 'true' } })));
  after(() => server.close());

  for (const [version, io] of Object.entries(VERSIONS)) {
    for (const transport of ['websocket', 'polling']) {
      for (const nsp of ['/', '/media', '/notifications']) {
        test(`${version} ${transport} ${nsp}: anonymous is refused, and gets no event`, async () => {
          const client = open(server, { nsp, io, transports: [transport] });
          const error = await client.next('local:connect_error');
          assert.equal(error.message, 'Unauthorized');
          assert.deepEqual(error.data, { code: 'UNAUTHORIZED' });
          assert.deepEqual(client.names(), ['local:connect_error']);
        });
      }
    }
  }

  for (const [what, bad] of [
    ['wrong', () => 'wrong'],
    ['expired', () => token({ userId: 'u', exp: Math.floor(Date.now() / 1000) - 3600 })],
    ['nobody\'s', () => token({})],
  ]) {
    test(`a token that is ${what} is refused with connect_error`, async () => {
      const client = open(server, { token: bad() });
      const error = await client.next('local:connect_error');
      assert.equal(error.data.code, 'UNAUTHORIZED');
      assert.deepEqual(client.names(), ['local:connect_error']);
    });
  }

  test('a good token is let in, and a second namespace without one does not disturb it', async () => {
    const root = await connect(server, { token: token({ userId: 'u-1' }) });
    events.authenticated(await root.next('authenticated'));
    const media = root.of('/media');
    assert.equal((await media.next('local:connect_error')).message, 'Unauthorized');
    acks.room(await root.emit('joinRoom', 'project-1'));
    const again = await root.of('/notifications', { token: token({ userId: 'u-1' }) }).ready();
    events.authenticated(await again.next('authenticated'));
  });
});

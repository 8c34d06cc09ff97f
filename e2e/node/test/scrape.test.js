import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { after, before, describe, test } from 'node:test';
import { connect } from '../client.js';
import { Server } from '../server.js';

// Of Debian's package `prometheus`, which is too large to be installed for one test.
const hasPromtool = spawnSync('promtool', ['--version']).error === undefined;

describe('/metrics', { skip: !hasPromtool && 'promtool is not installed (Debian: apt-get install prometheus)' }, () => {
  let server;
  before(async () => (server = await Server.start()));
  after(() => server.close());

  test('promtool has nothing to say of it', async () => {
    const client = await connect(server, { nsp: '/media' });
    client.socket.emit('nonsense');
    await client.fence();
    await server.progress('m', { progress: 1, stage: 's' });
    await server.request('GET', '/v1/nothing', undefined, { key: 'wrong' });
    const { text } = await server.request('GET', '/metrics', undefined, { headers: { accept: 'text/plain;version=0.0.4' } });
    const check = spawn('promtool', ['check', 'metrics'], { stdio: ['pipe', 'pipe', 'pipe'] });
    let said = '';
    for (const stream of [check.stdout, check.stderr]) stream.setEncoding('utf8').on('data', (part) => (said += part));
    check.stdin.end(text);
    const [code] = await once(check, 'close');
    assert.deepEqual({ code, said }, { code: 0, said: '' });
  });
});

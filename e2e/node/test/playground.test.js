// `make cluster`, without its build: what it prints can be used, and Ctrl-C ends all of it.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { connect } from '../client.js';
import { acks } from '../shapes.js';
import { binary } from '../server.js';
import { until, within } from '../wait.js';

const script = fileURLToPath(new URL('../playground.js', import.meta.url));

const isAlive = (pid) => {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
};

test('a cluster to try out', { timeout: 60_000 }, async (context) => {
  const child = spawn('node', [script], { env: { ...process.env, PORT: '0', SLOP_STUDIOS_BIN: binary } });
  const clients = [];
  context.after(() => {
    clients.forEach((client) => client.close());
    child.kill('SIGTERM');
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (output += text));
  await until(() => output.includes('Stop with Ctrl-C'), () => `guide, but: ${output}`, 30_000);
  const rows = () => [...output.matchAll(/node (\d) +(http:\S+) +pid (\d+)/g)].map(([, n, url, pid]) => ({ n, url, pid: Number(pid) }));
  const [one, two, three] = rows();
  const [, url] = /proxy +(http:\S+)/.exec(output);
  const [, token] = /token of the user.*\n +(\S+)/.exec(output);
  const [, key] = /publisher key:\n +(\S+)/.exec(output);
  const publish = async (node, progress) => {
    const answer = await fetch(`${node.url}/v1/media/demo/progress`, {
      method: 'POST',
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
      body: JSON.stringify({ progress, stage: 'render' }),
    });
    assert.equal(answer.status, 200);
    assert.equal((await answer.json()).stored, true);
  };

  const options = { token, nsp: '/media', reconnection: true, reconnectionDelay: 20, reconnectionDelayMax: 200 };
  for (let n = 0; n < 3; n += 1) clients.push(await connect({ url, clients: new Set() }, options));
  for (const client of clients) acks.media(await client.emit('subscribeMedia', 'demo'));
  await publish(two, 1);
  for (const client of clients) assert.equal((await client.next('mediaProgress')).progress, 1);

  process.kill(one.pid, 'SIGKILL');
  await until(() => output.includes('node 1 has ended (SIGKILL): Enter starts it again'), 'the end of node 1');
  await publish(three, 2);
  for (const client of clients) assert.equal((await client.next('mediaProgress')).progress, 2);
  const again = clients.filter((client) => client.all('local:connect').length > 1);
  assert.equal(again.length, 1, 'one client was on the first node');
  assert.equal(again[0].socket.recovered, true);

  child.stdin.write('\n');
  await until(() => rows().length === 4, 'the first node again');
  const [, , , first] = rows();
  assert.deepEqual([first.n, first.url], ['1', one.url]);
  await publish(first, 3);
  for (const client of clients) assert.equal((await client.next('mediaProgress')).progress, 3);

  child.kill('SIGINT');
  const [code] = await within(once(child, 'exit'), 15_000, 'the end');
  assert.equal(code, 0, output);
  for (const { pid } of rows()) assert.equal(isAlive(pid), false);
});

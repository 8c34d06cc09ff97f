// `make cluster`: Redis, three nodes, and a proxy that is not sticky, to try a cluster out. All of it ends with Ctrl-C, and
// nothing is kept. PORT is the proxy's port (3000; 0 for free ports); the nodes have the next ones.
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { createInterface } from 'node:readline';
import { Balancer, Redis } from './cluster.js';
import { binary, Server, token } from './server.js';

const NODES = 3;
const DAYS = 7;
const port = Number(process.env.PORT ?? 3000);
const secret = randomBytes(32).toString('hex');
const key = randomBytes(16).toString('hex');
const user = token({ userId: 'dev', exp: Math.floor(Date.now() / 1000) + DAYS * 86_400 }, { secret });

const nodes = [];
let redis, balancer, isEnding;

/** Starts a node in this place of the list, and says when it has ended. */
async function start(index) {
  const env = {
    REDIS_URL: redis.url,
    JWT_SECRET: secret,
    CLUSTER_SECRET: secret,
    API_KEYS: key,
    NODE_ADDRESS: '127.0.0.1:0',
    CORS_ORIGIN: '*',
    LOG_LEVEL: process.env.LOG_LEVEL ?? 'error',
  };
  const wanted = nodes[index]?.port ?? (port === 0 ? 0 : port + 1 + index);
  const node = await Server.start({ port: wanted, env, detached: true });
  nodes[index] = node;
  node.child.stderr.on('data', (text) => process.stderr.write(`node ${index + 1}: ${text}`));
  node.hasEnded = false;
  node.exited.then(({ code, signal }) => {
    node.hasEnded = true;
    if (!isEnding) console.log(`node ${index + 1} has ended (${signal ?? `exit code ${code}`}): Enter starts it again`);
  });
  return node;
}

const row = (node, index) => `  node ${index + 1}  ${node.url}  pid ${node.child.pid}`;

function guide() {
  const [one, two] = nodes;
  return `
The cluster is ready. Redis: redis-cli -s ${redis.folder}/socket
${nodes.map(row).join('\n')}
  proxy   ${balancer.url}  sends each connection to the next node

token of the user "dev", valid for ${DAYS} days:
  ${user}
publisher key:
  ${key}

To try it, paste in a second shell, to listen on node 1:
  ${binary} listen --url ${one.url} --media demo --token ${user}
in a third shell, to publish on node 2:
  ${binary} publish --url ${two.url} --key ${key} progress demo --progress 42 --stage render
To see a node die, listen through the proxy, kill node after node, and publish in between:
  ${binary} listen --url ${balancer.url} --media demo --token ${user}
  kill -9 ${one.child.pid}
  ${binary} publish --url ${balancer.url} --key ${key} progress demo --progress 43 --stage render
A page gets the stock client from ${balancer.url}/socket.io/socket.io.js; its socket.recovered is true after a kill.

Enter starts the nodes again that have ended. Stop with Ctrl-C.
`;
}

/** Ends the nodes, then Redis. */
async function end(exitCode) {
  if (isEnding) return;
  isEnding = true;
  await balancer?.close();
  const living = nodes.filter((node) => !node.hasEnded);
  await Promise.all(living.map((node) => node.terminate().catch((error) => console.error(error.message))));
  await redis?.close();
  process.exit(exitCode);
}

async function startAgain() {
  for (const [index, node] of nodes.entries()) {
    if (node.hasEnded) console.log(row(await start(index), index));
  }
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => end(0));
try {
  execFileSync('redis-server', ['--version'], { stdio: 'ignore' });
  redis = await Redis.start({ detached: true });
  for (let index = 0; index < NODES; index += 1) await start(index);
  balancer = await Balancer.over(nodes.map((node) => node.port), port);
  console.log(guide());
} catch (error) {
  const isMissing = error.code === 'ENOENT';
  console.error(isMissing ? 'error: redis-server is missing (Debian: apt-get install redis-server)' : `error: ${error.message}`);
  await end(1);
}
createInterface({ input: process.stdin }).on('line', () => startAgain().catch((error) => console.error(`error: ${error.message}`)));

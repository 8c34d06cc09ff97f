// Several servers on one Redis of their own, behind a balancer that sends each connection to the next node.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import http from 'node:http';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { SECRET, Server } from './server.js';
import { until } from './wait.js';

export class Redis {
  #stopped = false;

  /** `detached`: in a process group of its own, so that Ctrl-C on the terminal does not end it. */
  static async start({ fsync = 'always', args = [], detached = false } = {}) {
    const redis = new Redis();
    redis.detached = detached;
    redis.folder = await mkdtemp(join(tmpdir(), 'slop-studios-redis-'));
    redis.fsync = fsync;
    redis.args = args;
    redis.url = `redis+unix://${redis.folder}/socket`;
    await redis.#run();
    return redis;
  }

  async #run() {
    const durable = ['--appendonly', this.fsync === 'no' ? 'no' : 'yes', '--appendfsync', this.fsync];
    const settings = ['--port', '0', '--unixsocket', 'socket', '--save', '', ...durable, ...this.args];
    const program = process.env.REDIS_SERVER ?? 'redis-server';
    this.child = spawn(program, settings, { cwd: this.folder, stdio: 'ignore', detached: this.detached });
    this.exited = once(this.child, 'exit');
    process.on('exit', () => this.child.kill('SIGKILL'));
    await until(async () => (await this.command('PING').catch(() => '')) === '+PONG', 'Redis');
  }

  /** Has Redis carry out a command; returns the first line of the answer. */
  async command(line) {
    const socket = connect(join(this.folder, 'socket'));
    try {
      await once(socket, 'connect');
      socket.write(`${line}\r\n`);
      const [data] = await once(socket, 'data');
      return data.toString('utf8').split('\r\n')[0];
    } finally {
      socket.destroy();
    }
  }

  /** SIGKILL, and a start with the same files. */
  async restart() {
    this.child.kill('SIGKILL');
    await this.exited;
    await this.#run();
  }

  signal(name) {
    this.child.kill(name);
  }

  async close() {
    if (this.#stopped) return;
    this.#stopped = true;
    this.child.kill('SIGKILL');
    await this.exited;
    await rm(this.folder, { recursive: true, force: true });
  }
}

/** A free TCP port. Another program may take it before it is used; then its user fails. */
async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** A primary, two replicas, and three Sentinels that watch over them. */
export class Watched {
  static async start() {
    const watched = new Watched();
    watched.folder = await mkdtemp(join(tmpdir(), 'slop-studios-sentinel-'));
    watched.ports = await Promise.all([0, 1, 2].map(freePort));
    watched.sentinelPorts = await Promise.all([0, 1, 2].map(freePort));
    watched.servers = [];
    for (const index of [0, 1, 2]) await watched.#server(index, watched.ports[0]);
    await until(async () => (await watched.#info(0)).includes('connected_slaves:2'), 'replicas');
    for (const index of [0, 1, 2]) await watched.#sentinel(index);
    watched.url = `redis+sentinel://${watched.sentinelPorts.map((port) => `127.0.0.1:${port}`).join(',')}/main`;
    await until(async () => (await Promise.all(watched.sentinelPorts.map((port) => ask(port, 'SENTINEL ckquorum main')))).every((answer) => answer.startsWith('+OK 3')), 'the quorum', 60_000);
    return watched;
  }

  async #server(index, primary) {
    const cwd = join(this.folder, `server-${index}`);
    await mkdir(cwd, { recursive: true });
    const port = this.ports[index];
    const of = port === primary ? [] : ['--replicaof', `127.0.0.1 ${primary}`];
    const settings = ['--bind', '127.0.0.1', '--port', `${port}`, '--save', '', '--appendonly', 'yes', '--appendfsync', 'always', '--repl-diskless-sync-delay', '0', ...of];
    this.servers[index] = child(settings, cwd);
    await until(async () => (await ask(port, 'PING').catch(() => '')).startsWith('+PONG'), 'Redis');
  }

  async #sentinel(index) {
    const cwd = join(this.folder, `sentinel-${index}`);
    await mkdir(cwd, { recursive: true });
    const port = this.sentinelPorts[index];
    const lines = ['bind 127.0.0.1', `port ${port}`, `sentinel monitor main 127.0.0.1 ${this.ports[0]} 2`, 'sentinel down-after-milliseconds main 1000', 'sentinel failover-timeout main 5000', ''];
    await writeFile(join(cwd, 'sentinel.conf'), lines.join('\n'));
    this.servers.push(child(['sentinel.conf', '--sentinel'], cwd));
    await until(async () => (await ask(port, 'PING').catch(() => '')).startsWith('+PONG'), 'a Sentinel');
  }

  #info(index) {
    return ask(this.ports[index], 'INFO replication');
  }

  /** The index of the primary, by the Sentinels. */
  async primary() {
    const answers = await Promise.all(this.sentinelPorts.map((port) => ask(port, 'SENTINEL get-master-addr-by-name main')));
    const ports = answers.map((answer) => Number(answer.split('\r\n')[4]));
    return ports.every((port) => port === ports[0]) ? this.ports.indexOf(ports[0]) : -1;
  }

  /** SIGKILL of the primary, until another one is; then the killed one is a replica. */
  async failOver() {
    const before = await this.primary();
    this.servers[before].kill('SIGKILL');
    await once(this.servers[before], 'exit');
    await until(async () => ![before, -1].includes(await this.primary()), 'another primary', 60_000);
    const after = await this.primary();
    await this.#server(before, this.ports[after]);
    await until(async () => (await this.#info(after)).includes('connected_slaves:2'), 'two replicas', 60_000);
  }

  async command(line) {
    return ask(this.ports[await this.primary()], line);
  }

  async close() {
    for (const server of this.servers) server.kill('SIGKILL');
    await rm(this.folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

function child(settings, cwd) {
  const started = spawn(process.env.REDIS_SERVER ?? 'redis-server', settings, { cwd, stdio: 'ignore' });
  process.on('exit', () => started.kill('SIGKILL'));
  return started;
}

/** The answer of a server on this machine to a command; it must be short. */
async function ask(port, line) {
  const socket = connect(port, '127.0.0.1');
  try {
    await once(socket, 'connect');
    socket.write(`${line}\r\n`);
    const [data] = await once(socket, 'data');
    return data.toString('utf8');
  } finally {
    socket.destroy();
  }
}

/** The way of one node to Redis, which can be cut. */
export class Line {
  #pairs = new Set();
  /** The direction in which nothing passes: `up` to Redis, or `down` to the node. */
  #silent = null;
  #swallow = false;

  static async to(redis, name) {
    const line = new Line();
    const path = join(redis.folder, `line-${name}`);
    line.server = createServer((node) => line.#forward(node, join(redis.folder, 'socket')));
    line.server.listen(path);
    await once(line.server, 'listening');
    line.url = `redis+unix://${path}`;
    return line;
  }

  #forward(node, path) {
    const redis = connect(path);
    const pair = [node, redis];
    this.#pairs.add(pair);
    const pass = (from, to, way) =>
      from.on('data', (data) => {
        if (way === 'down' && this.#swallow) {
          this.#swallow = false;
          return this.cut();
        }
        if (this.#silent === way) return;
        if (!to.write(data)) {
          from.pause();
          to.once('drain', () => from.resume());
        }
      });
    pass(node, redis, 'up');
    pass(redis, node, 'down');
    for (const end of pair) {
      end.on('error', () => {});
      end.on('close', () => {
        this.#pairs.delete(pair);
        pair.forEach((other) => other.destroy());
      });
    }
  }

  /** Closes all connections. */
  cut() {
    for (const pair of this.#pairs) pair.forEach((end) => end.destroy());
  }

  /** Loses what is said in one direction, and the connections with it, after a while. */
  async silence(way, ms) {
    this.#silent = way;
    await delay(ms);
    this.#silent = null;
    this.cut();
  }

  /** Loses the next answer of Redis, and the connections with it: what was asked is carried out. */
  swallowAnswer() {
    this.#swallow = true;
  }

  close() {
    this.server.close();
    this.cut();
  }
}

/** Sends each connection to the next of its ports that accepts it. */
export class Balancer {
  #next = 0;
  #sockets = new Set();

  static async over(ports, port = 0) {
    const balancer = new Balancer();
    balancer.ports = ports;
    balancer.server = createServer((client) => balancer.#serve(client, ports.length));
    balancer.server.listen(port, '127.0.0.1');
    await once(balancer.server, 'listening');
    balancer.url = `http://127.0.0.1:${balancer.server.address().port}`;
    return balancer;
  }

  #serve(client, attempts) {
    client.on('error', () => {});
    if (attempts === 0 || client.destroyed) return client.destroy();
    const port = this.ports[this.#next++ % this.ports.length];
    const upstream = connect(port, '127.0.0.1');
    const refused = () => this.#serve(client, attempts - 1);
    upstream.once('error', refused);
    upstream.once('connect', () => {
      upstream.off('error', refused);
      for (const [one, other] of [[client, upstream], [upstream, client]]) {
        one.setNoDelay(true);
        this.#sockets.add(one);
        one.on('error', () => {});
        one.on('close', () => {
          this.#sockets.delete(one);
          other.destroy();
        });
        one.pipe(other);
      }
    });
  }

  async close() {
    this.server.close();
    for (const socket of this.#sockets) socket.destroy();
  }
}

/** An agent whose requests each have a connection of their own, so that the balancer spreads them. */
export const spread = () => new http.Agent({ keepAlive: false });

export class Cluster {
  static async start({ nodes = 3, env = {}, redis = {} } = {}) {
    const cluster = new Cluster();
    cluster.redis = await Redis.start(redis);
    cluster.env = { CLUSTER_SECRET: SECRET, NODE_ADDRESS: '127.0.0.1:0', ...env };
    const each = Array.from({ length: nodes }, (_, index) => index);
    cluster.lines = await Promise.all(each.map((index) => Line.to(cluster.redis, index)));
    cluster.nodes = await Promise.all(each.map((index) => cluster.#node(index)));
    cluster.balancer = await Balancer.over(cluster.nodes.map((node) => node.port));
    cluster.url = cluster.balancer.url;
    return cluster;
  }

  #node(index, port) {
    return Server.start({ env: { ...this.env, REDIS_URL: this.lines[index].url }, port });
  }

  /** SIGKILL of a node; another one starts on its port. */
  async replace(index) {
    const { port } = this.nodes[index];
    await this.nodes[index].kill();
    this.nodes[index] = await this.#node(index, port);
  }

  async close() {
    await this.balancer.close();
    for (const node of this.nodes) node.closeClients();
    await Promise.all(this.nodes.map((node) => node.terminate()));
    for (const line of this.lines) line.close();
    await this.redis.close();
  }
}

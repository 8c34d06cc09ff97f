// Several servers on one Redis of their own, behind a balancer that sends each connection to the next node.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import http from 'node:http';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SECRET, Server } from './server.js';
import { until } from './wait.js';

export class Redis {
  #stopped = false;

  static async start({ fsync = 'always', args = [] } = {}) {
    const redis = new Redis();
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
    this.child = spawn(program, settings, { cwd: this.folder, stdio: 'ignore' });
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

/** Sends each connection to the next of its ports that accepts it. */
export class Balancer {
  #next = 0;
  #sockets = new Set();

  static async over(ports) {
    const balancer = new Balancer();
    balancer.ports = ports;
    balancer.server = createServer((client) => balancer.#serve(client, ports.length));
    balancer.server.listen(0, '127.0.0.1');
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
  static async start({ nodes = 3, env = {}, redis = {}, url } = {}) {
    const cluster = new Cluster();
    cluster.redis = await Redis.start(redis);
    cluster.env = { REDIS_URL: url ?? cluster.redis.url, CLUSTER_SECRET: SECRET, NODE_ADDRESS: '127.0.0.1:0', ...env };
    cluster.nodes = await Promise.all(Array.from({ length: nodes }, () => Server.start({ env: cluster.env })));
    cluster.balancer = await Balancer.over(cluster.nodes.map((node) => node.port));
    cluster.url = cluster.balancer.url;
    return cluster;
  }

  /** SIGKILL of a node; another one starts on its port. */
  async replace(index) {
    const { port } = this.nodes[index];
    await this.nodes[index].kill();
    this.nodes[index] = await Server.start({ env: this.env, port });
  }

  async close() {
    await this.balancer.close();
    for (const node of this.nodes) node.closeClients();
    await Promise.all(this.nodes.map((node) => node.terminate()));
    await this.redis.close();
  }
}

// A TCP proxy whose connections can be cut: what a tunnel, a phone's network or a balancer does to a client.
import { once } from 'node:events';
import { connect, createServer } from 'node:net';

export class Proxy {
  #pairs = new Set();
  /** While true, connections are refused. */
  blocked = false;
  /** So many answers to a CONNECT are lost, and their connections with them. */
  swallow = 0;
  /** A pattern. The first message of a client that fits is lost, and all connections with it. */
  loseEmit = null;

  /** Forwards to a port of this machine. */
  static async to(port) {
    const proxy = new Proxy();
    proxy.server = createServer((client) => proxy.#forward(client, port));
    proxy.server.listen(0, '127.0.0.1');
    await once(proxy.server, 'listening');
    proxy.url = `http://127.0.0.1:${proxy.server.address().port}`;
    return proxy;
  }

  #forward(client, port) {
    if (this.blocked) return client.resetAndDestroy();
    const upstream = connect(port, '127.0.0.1');
    const pair = { client, upstream };
    this.#pairs.add(pair);
    client.setNoDelay(true);
    upstream.setNoDelay(true);
    // Before the pipes, so that what is lost does not get through.
    client.on('data', (data) => {
      if (!this.loseEmit?.test(unmasked(data))) return;
      this.loseEmit = null;
      this.cut();
    });
    client.pipe(upstream);
    upstream.on('data', (data) => {
      if (this.swallow > 0 && /40(\/\w+,)?\{"sid"/.test(data.toString('latin1'))) {
        this.swallow -= 1;
        this.cut();
      }
    });
    upstream.pipe(client);
    for (const end of [client, upstream]) {
      end.on('error', () => {});
      end.on('close', () => {
        if (pair.silent) return;
        this.#pairs.delete(pair);
        client.destroy();
        upstream.destroy();
      });
    }
  }

  get connections() {
    return this.#pairs.size;
  }

  /** Resets every connection. With `silently` the server's side stays open, and hears no more of its client. */
  cut({ silently = false } = {}) {
    for (const pair of this.#pairs) {
      pair.silent = silently;
      this.#pairs.delete(pair);
      pair.client.unpipe();
      pair.upstream.unpipe();
      pair.client.resetAndDestroy();
      if (silently) pair.upstream.resume();
      else pair.upstream.resetAndDestroy();
    }
  }

  async close() {
    this.cut();
    this.server.close();
    await once(this.server, 'close');
  }
}

/** The text of a client's whole WebSocket frames, of at most 64 KiB each; of anything else, the text as it is. */
function unmasked(data) {
  let text = '';
  for (let at = 0; at + 6 <= data.length; ) {
    if ((data[at + 1] & 0x80) === 0) return data.toString('latin1');
    const short = data[at + 1] & 0x7f;
    const [length, mask] = short < 126 ? [short, at + 2] : [data.readUInt16BE(at + 2), at + 4];
    for (let i = 0; i < length; i += 1) text += String.fromCharCode(data[mask + 4 + i] ^ data[mask + (i % 4)]);
    at = mask + 4 + length;
  }
  return text;
}

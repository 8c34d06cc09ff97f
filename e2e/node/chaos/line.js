// The network between one client and the server, as it fails: each connection through it can be ended, silenced or slowed.
import { once } from 'node:events';
import { connect, createServer } from 'node:net';

/** What the server answers to a CONNECT, and what a client sends to probe a WebSocket for an upgrade. */
const CONNECTED = /40(\/\w+,)?\{"sid"/;
const PROBE = /2probe/;

export class Line {
  #pairs = new Set();
  /** Those too of which one side is not told of its end. */
  #ends = new Set();
  /** While true, new connections are reset. */
  blocked = false;
  /** So many answers to a CONNECT are lost, and their connections with them. */
  swallow = 0;
  /** So many connections are reset while they upgrade. */
  cutUpgrades = 0;
  /** How often each fault really met a connection. */
  counts = {};

  /** Forwards to a port of this machine. */
  static async to(port) {
    const line = new Line();
    line.server = createServer((client) => line.#forward(client, port));
    line.server.listen(0, '127.0.0.1');
    await once(line.server, 'listening');
    line.url = `http://127.0.0.1:${line.server.address().port}`;
    return line;
  }

  #forward(client, port) {
    if (this.blocked) return client.resetAndDestroy();
    const upstream = connect(port, '127.0.0.1');
    const pair = { client, upstream, silent: false };
    this.#pairs.add(pair);
    for (const end of [client, upstream]) {
      end.setNoDelay(true);
      this.#ends.add(end);
      end.on('close', () => this.#ends.delete(end));
    }
    this.#carry(pair, client, upstream, (data) => this.cutUpgrades > 0 && isProbe(data), 'cutUpgrades');
    this.#carry(pair, upstream, client, (data) => this.swallow > 0 && CONNECTED.test(data.toString('latin1')), 'swallow');
  }

  #carry(pair, from, to, isTrap, trap) {
    from.on('data', (data) => {
      if (pair.silent) return;
      if (isTrap(data)) {
        this[trap] -= 1;
        this.#count(trap);
        return this.#end(pair, 'rst');
      }
      if (!to.write(data)) from.pause();
    });
    to.on('drain', () => {
      if (!pair.stalled) from.resume();
    });
    from.on('error', () => {});
    from.on('end', () => {
      if (!pair.silent) to.end();
    });
    from.on('close', () => {
      if (pair.silent || !this.#pairs.delete(pair)) return;
      // Whatever the other side was sent before goes out before its end.
      if (from.errored) to.resetAndDestroy();
      else to.destroySoon();
    });
  }

  #count(what) {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }

  /** Ends every connection: `fin` and `rst` on both sides; `half` on the client's, while the server hears nothing more. */
  cut(how) {
    for (const pair of [...this.#pairs]) {
      this.#count(how);
      this.#end(pair, how);
    }
  }

  #end(pair, how) {
    this.#pairs.delete(pair);
    if (how === 'fin') {
      pair.client.end();
      pair.upstream.end();
      // Who does not answer a FIN is ended some time later all the same.
      setTimeout(() => [pair.client, pair.upstream].forEach((end) => end.destroy()), 200).unref();
      return;
    }
    pair.silent = true;
    pair.client.resetAndDestroy();
    if (how === 'half') {
      pair.upstream.resume();
      pair.upstream.on('end', () => pair.upstream.end());
    } else pair.upstream.resetAndDestroy();
  }

  /** From now on nothing gets through the connections that stand, either way, and neither side is told. */
  silence() {
    for (const pair of this.#pairs) {
      this.#count('silent');
      pair.silent = true;
      this.#pairs.delete(pair);
      pair.client.resume();
      pair.upstream.resume();
      for (const end of [pair.client, pair.upstream]) end.on('end', () => end.end());
    }
  }

  /** For so long everything waits, both ways, and then goes on. */
  stall(ms) {
    for (const pair of this.#pairs) {
      this.#count('stall');
      pair.stalled = true;
      pair.client.pause();
      pair.upstream.pause();
      setTimeout(() => {
        pair.stalled = false;
        pair.client.resume();
        pair.upstream.resume();
      }, ms).unref();
    }
  }

  heal() {
    this.blocked = false;
    this.swallow = 0;
    this.cutUpgrades = 0;
  }

  async close() {
    this.blocked = true;
    this.server.close();
    for (const end of this.#ends) end.destroy();
    await once(this.server, 'close');
  }
}

/** A client's frame is masked, so the probe is looked for under the mask; a polling client's body has it in the clear. */
function isProbe(data) {
  if (PROBE.test(data.toString('latin1'))) return true;
  for (let at = 0; at + 12 <= data.length; at += 1) {
    if (data[at] !== 0x81 || data[at + 1] !== (0x80 | 6)) continue;
    const mask = data.subarray(at + 2, at + 6);
    const text = Buffer.from(data.subarray(at + 6, at + 12).map((byte, index) => byte ^ mask[index % 4]));
    if (text.toString('latin1') === '2probe') return true;
  }
  return false;
}

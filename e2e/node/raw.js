// Engine.IO by hand: for what no stock client would send.
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import { connect as tcp } from 'node:net';
import { WebSocket } from 'ws';
import { DEADLINE, within } from './wait.js';

/** A WebSocket session whose messages are read one by one. */
export class Raw {
  messages = [];
  #read = 0;
  #wake = () => {};

  static async open(server, query = '') {
    const raw = new Raw();
    raw.ws = new WebSocket(`ws://127.0.0.1:${server.port}/socket.io/?EIO=4&transport=websocket${query}`, {
      skipUTF8Validation: false,
      perMessageDeflate: false,
    });
    raw.ws.on('error', () => {}); // told by `closed`
    raw.closed = new Promise((resolve) => {
      raw.ws.on('close', (code, reason) => {
        raw.end = { code, reason: String(reason) };
        raw.#wake();
        resolve(raw.end);
      });
    });
    raw.ws.on('message', (data, binary) => {
      raw.messages.push(binary ? data : data.toString());
      raw.#wake();
    });
    await within(once(raw.ws, 'open'), DEADLINE, 'an open WebSocket');
    return raw;
  }

  /** A session that stands on the default namespace, its welcome read. */
  static async connected(server) {
    const raw = await Raw.open(server);
    raw.sid = JSON.parse((await raw.next('0')).slice(1)).sid;
    raw.send('40');
    await raw.next('40');
    await raw.next('42["welcome"');
    return raw;
  }

  send(data) {
    if (this.ws.readyState === WebSocket.OPEN) this.ws.send(data);
  }

  /** A text frame of these bytes, valid or not. */
  sendText(bytes) {
    this.ws.send(bytes, { binary: false });
  }

  /** The next message that starts so; heartbeats are answered on the way. Null where the connection ended first. */
  async nextOrEnd(prefix, ms = DEADLINE) {
    const found = (async () => {
      for (;;) {
        while (this.#read < this.messages.length) {
          const message = this.messages[this.#read++];
          if (message === '2' && prefix !== '2') this.send('3');
          else if (typeof message === 'string' && message.startsWith(prefix)) return message;
        }
        if (this.end) return null;
        await new Promise((resolve) => (this.#wake = resolve));
      }
    })();
    return within(found, ms, () => `${prefix}… (had ${this.messages.map(String).join(' ').slice(0, 300)})`);
  }

  async next(prefix, ms) {
    const message = await this.nextOrEnd(prefix, ms);
    if (message === null) throw new Error(`closed (${this.end.code}) before ${prefix}…`);
    return message;
  }

  /** Whether it still answers: true, or false where the connection has ended. */
  async alive() {
    const id = 1 + randomBytes(4).readUInt32BE() % 1_000_000;
    this.send(`42${id}["ping"]`);
    return (await this.nextOrEnd(`43${id}[`)) !== null;
  }

  close() {
    this.ws.terminate();
  }
}

/** One HTTP request on a connection of its own; `bodyText` may be bytes. */
export async function ask(server, query, { method = 'GET', body, headers = {}, signal } = {}) {
  const request = http.request(`${server.url}/socket.io/?${query}`, { method, headers, signal, agent: false });
  request.end(body);
  const [response] = await within(once(request, 'response'), DEADLINE, `an answer to ${method} ?${query}`);
  const chunks = [];
  for await (const chunk of response) chunks.push(chunk);
  const text = Buffer.concat(chunks).toString('utf8');
  let json;
  try {
    json = JSON.parse(text);
  } catch {
    json = undefined;
  }
  return { status: response.statusCode, headers: response.headers, text, json };
}

/** A polling session that stands on the default namespace, its welcome read. */
export async function polling(server) {
  const opened = await ask(server, 'EIO=4&transport=polling');
  const { sid } = JSON.parse(opened.text.slice(1));
  const session = {
    sid,
    poll: (options) => ask(server, `EIO=4&transport=polling&sid=${sid}`, options),
    post: (body, headers = { 'content-type': 'text/plain;charset=UTF-8' }) =>
      ask(server, `EIO=4&transport=polling&sid=${sid}`, { method: 'POST', body, headers }),
    /** Polls until a packet starts so. */
    async next(prefix) {
      for (;;) {
        const answer = await session.poll();
        if (answer.status !== 200) throw new Error(`poll: ${answer.status} ${answer.text}`);
        const packets = answer.text.split('\u001e');
        if (packets.includes('2')) await session.post('3');
        const found = packets.find((packet) => packet.startsWith(prefix));
        if (found !== undefined) return found;
      }
    },
    async alive() {
      const posted = await session.post('42777["ping"]');
      if (posted.status !== 200) return false;
      await session.next('43777[');
      return true;
    },
  };
  await session.post('40');
  await session.next('42["welcome"');
  return session;
}

/** A TCP connection after the WebSocket handshake, for frames that `ws` would not write. Resolves `ended` when the server ends it. */
export async function bare(server) {
  const socket = tcp(server.port, '127.0.0.1');
  const ended = new Promise((resolve) => {
    socket.on('error', resolve);
    socket.on('end', resolve);
    socket.on('close', resolve);
  });
  socket.write(
    'GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
      `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${randomBytes(16).toString('base64')}\r\n\r\n`,
  );
  let head = '';
  while (!head.includes('\r\n\r\n')) head += (await within(once(socket, 'data'), DEADLINE, 'the handshake'))[0].toString('latin1');
  if (!head.startsWith('HTTP/1.1 101')) throw new Error(head);
  socket.resume();
  return { socket, ended };
}

/** A frame by its parts, masked with zeros unless told not to be. */
export function frame({ fin = true, rsv = 0, opcode, payload = Buffer.alloc(0), masked = true, length = payload.length }) {
  const head = [(fin ? 0x80 : 0) | (rsv << 4) | opcode];
  const mask = masked ? 0x80 : 0;
  if (length < 126) head.push(mask | length);
  else if (length < 65_536) head.push(mask | 126, length >> 8, length & 0xff);
  else {
    const wide = Buffer.alloc(8);
    wide.writeBigUInt64BE(BigInt(length));
    head.push(mask | 127, ...wide);
  }
  return Buffer.concat([Buffer.from(head), masked ? Buffer.alloc(4) : Buffer.alloc(0), Buffer.from(payload)]);
}

// Bad input gets what the protocol says, and no other connection notices: two bystanders, one on each transport,
// ping all the time.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect as tcp } from 'node:net';
import { after, afterEach, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { WebSocket } from 'ws';
import { connect } from '../client.js';
import { ask, bare, frame, polling, Raw } from '../raw.js';
import { acks } from '../shapes.js';
import { Server } from '../server.js';
import { DEADLINE, within } from '../wait.js';

describe('hostile input', () => {
  let server;
  let bystanders;
  let watching = true;
  before(async () => {
    server = await Server.start({ env: { CONNECT_TIMEOUT_MS: '1500' } });
    bystanders = await Promise.all(
      ['websocket', 'polling'].map(async (transport) => {
        const client = await connect(server, { transports: [transport] });
        const bystander = { client, pongs: 0 };
        bystander.loop = (async () => {
          for (; watching; bystander.pongs += 1) {
            acks.ping(await client.emit('ping'));
            await delay(20); // the pace of a person who looks, not a wait for anything
          }
        })();
        bystander.loop.catch(() => {}); // told in `after`
        return bystander;
      }),
    );
  });
  afterEach(async () => {
    for (const { client } of bystanders) {
      await client.fence();
      assert.deepEqual(client.all('local:disconnect'), [], 'a bystander was disconnected');
    }
  });
  after(async () => {
    watching = false;
    for (const { loop, pongs } of bystanders) {
      await loop;
      assert.ok(pongs > 50, `${pongs} pongs`);
    }
    await server.close();
  });

  const show = (frames) => frames.map((part) => (typeof part === 'string' ? part : `<${part.length} bytes>`)).join(' ').slice(0, 60);

  /** Sends the frames on a connected session; what became of it. */
  async function send(frames) {
    const raw = await Raw.connected(server);
    for (const part of frames) raw.send(part);
    const alive = await raw.alive();
    raw.close();
    return { alive, raw };
  }

  describe('packets that end the connection', () => {
    for (const frames of [
      // Engine.IO
      ['x'],
      [''],
      ['9'],
      ['abc'],
      ['2'], // a heartbeat in the wrong direction
      // Socket.IO
      ['4'],
      ['4abc'],
      ['49'],
      ['4-1["ping"]'],
      ['42{}'],
      ['42[]'],
      ['42"ping"'],
      ['42["ping"'],
      ['42["ping"]]'],
      ['42[null]'],
      ['42[{}]'],
      ['42[["ping"]]'],
      ['42[true]'],
      ['42abc["ping"]'],
      ['42-1["ping"]'],
      ['42/media'],
      ['43{"a":1}'],
      ['40/media,[1]'],
      ['40/media,"x"'],
      ['40/media,{"token":'],
      // attachments
      ['45-["x"]'],
      ['45x-["x"]'],
      ['451["x",{"_placeholder":true,"num":0}]'],
      ['4599999999999999999999-["x"]'],
      ['451-["x",{"_placeholder":true,"num":0}]', '421["ping"]'],
      ['451-["joinRoom",{"_placeholder":true,"num":7}]', Buffer.from('x')],
      ['451-["joinRoom",{"_placeholder":true,"num":-1}]', Buffer.from('x')],
      ['451-["joinRoom",{"_placeholder":true,"num":"0"}]', Buffer.from('x')],
      [Buffer.from('no header')],
      [Buffer.from('no header'), Buffer.from('twice')],
    ]) {
      test(show(frames), async () => {
        const { alive } = await send(frames);
        assert.equal(alive, false, 'the connection should have been closed');
      });
    }

    test('a text frame that is not UTF-8', async () => {
      const raw = await Raw.connected(server);
      raw.sendText(Buffer.from([0x34, 0x32, 0x5b, 0x22, 0xff, 0xfe, 0x22, 0x5d]));
      assert.equal((await within(raw.closed, DEADLINE, 'close')).code, 1007);
    });

    test('a message over the limit, whole or in pieces', async () => {
      const big = `42["joinRoom","${'x'.repeat(1_200_000)}"]`;
      const whole = await Raw.connected(server);
      whole.send(big);
      await within(whole.closed, DEADLINE, 'close');
      const pieces = await Raw.connected(server);
      for (let at = 0; at < big.length && !pieces.end; at += 100_000) {
        pieces.ws.send(big.slice(at, at + 100_000), { fin: at + 100_000 >= big.length });
      }
      await within(pieces.closed, DEADLINE, 'close');
    });

    test('more attachments than anyone needs', async () => {
      const count = 5_000;
      const places = Array.from({ length: count }, (_, num) => ({ _placeholder: true, num }));
      const { alive } = await send([`45${count}-${JSON.stringify(['x', ...places])}`, ...places.map(() => Buffer.from('x'))]);
      assert.equal(alive, false);
    });

    test('an attachment that never comes, then the end', async () => {
      const raw = await Raw.connected(server);
      raw.send('451-["joinRoom",{"_placeholder":true,"num":0}]');
      raw.close();
      await raw.closed;
    });
  });

  describe('frames that end the connection', () => {
    for (const [what, bytes] of [
      ['not masked', frame({ opcode: 1, payload: '40', masked: false })],
      ['with a reserved bit', frame({ opcode: 1, payload: '40', rsv: 4 })],
      ['of a reserved kind', frame({ opcode: 3, payload: '40' })],
      ['a control frame too long', frame({ opcode: 9, payload: 'x'.repeat(126) })],
      ['a control frame in pieces', frame({ opcode: 9, payload: 'x', fin: false })],
      ['a continuation of nothing', frame({ opcode: 0, payload: '40' })],
      ['a message inside another', Buffer.concat([frame({ opcode: 1, payload: '4', fin: false }), frame({ opcode: 1, payload: '0' })])],
      ['of an absurd length', frame({ opcode: 1, payload: '40', length: 2 ** 53 })],
      ['a close of one byte', frame({ opcode: 8, payload: 'x' })],
    ]) {
      test(what, async () => {
        const { socket, ended } = await bare(server);
        socket.write(bytes);
        await within(ended, DEADLINE, 'the end of the connection');
        socket.destroy();
      });
    }
  });

  describe('packets that are answered or ignored', () => {
    test('an unknown namespace gets a connect error, and the rest goes on', async () => {
      const raw = await Raw.connected(server);
      raw.send('40/random,');
      assert.equal(await raw.next('44'), '44/random,{"message":"Invalid namespace"}');
      raw.send('40/random,{"token":"x"}');
      assert.equal(await raw.next('44'), '44/random,{"message":"Invalid namespace"}');
      assert.equal(await raw.alive(), true);
      raw.close();
    });

    for (const frames of [
      ['4399["an ack of nothing"]'],
      ['430[]'],
      ['42["joinRoom",{"_placeholder":true,"num":0}]'],
      ['42["heartbeat",{"__proto__":{"timestamp":5},"timestamp":5,"timestamp":"twice"}]'],
      ['42["heartbeat",{"timestamp":123456789012345678901234567890}]'],
      ['42["joinRoom","\\u0000"]'],
      ['42["ping"]', '3'],
    ]) {
      test(show(frames), async () => {
        const { alive } = await send(frames);
        assert.equal(alive, true, 'the connection should have stayed');
      });
    }

    test('ten thousand events in one go are all answered, in order', async () => {
      const raw = await Raw.connected(server);
      const count = 10_000;
      for (let id = 0; id < count; id += 1) raw.send(`42${id}["joinRoom","r${id % 100}"]`);
      for (let id = 0; id < count; id += 1) {
        assert.match(await raw.next('43'), new RegExp(`^43${id}\\[\\{`));
      }
      raw.close();
    });

    test('one message in a thousand pieces, pings between them', async () => {
      const raw = await Raw.connected(server);
      const text = `425["joinRoom","${'é'.repeat(500)}"]`;
      const bytes = Buffer.from(text);
      for (let at = 0; at < bytes.length; at += 1) {
        raw.ws.send(bytes.subarray(at, at + 1), { binary: false, fin: at === bytes.length - 1 });
        if (at % 100 === 0) raw.ws.ping();
      }
      assert.match(await raw.next('435['), /"success":false/);
      raw.close();
    });
  });

  describe('packets that may do either, but harm nobody', () => {
    const deep = (open, close, depth = 200_000) => open.repeat(depth) + close.repeat(depth);
    for (const [what, frames] of [
      ['an array 200,000 deep', [`421["joinRoom",${deep('[', ']')}]`]],
      ['an object 100,000 deep', [`421["authenticate",${'{"token":'.repeat(100_000)}1${'}'.repeat(100_000)}]`]],
      ['deep and never closed', [`421["joinRoom",${'['.repeat(500_000)}`]],
      ['a connect 100,000 deep', [`40/media,{"token":${deep('[', ']', 100_000)}}`]],
      ['an ack 100,000 deep', [`431${deep('[', ']', 100_000)}`]],
      ['an ack id of 2^53 + 1', ['429007199254740993["ping"]']],
      ['an ack id of 2^64', ['4218446744073709551616["ping"]']],
      ['an ack id of a thousand digits', [`42${'9'.repeat(1_000)}["ping"]`]],
      ['an ack id with zeros before it', ['42007["ping"]']],
      ['a number no float holds', ['421["heartbeat",{"timestamp":1e999}]']],
      ['a number of 100,000 digits', [`421["heartbeat",{"timestamp":${'9'.repeat(100_000)}}]`]],
      ['a lone surrogate', ['421["joinRoom","\\ud800"]']],
      ['an event with a number for a name', ['421[5,"x"]']],
      ['events with reserved names', ['421["connect"]', '422["disconnect"]', '423["newListener"]', '424["error"]']],
      ['an event name of 100,000 letters', [`421["${'x'.repeat(100_000)}"]`]],
      ['a second CONNECT', ['40', '40']],
      ['a CONNECT error from a client', ['44{"message":"x"}']],
      ['OPEN, UPGRADE and NOOP', ['0{"sid":"x"}', '5', '6']],
      ['a namespace of 100,000 letters', [`40/${'x'.repeat(100_000)},`]],
      ['a namespace with a query', ['40/media?token=x,']],
      ['ten thousand namespaces', Array.from({ length: 10_000 }, (_, n) => `40/n${n},`)],
      ['an event for a namespace not connected', ['42/media,9["ping"]']],
      ['a disconnect of a namespace not connected', ['41/media,']],
      ['disconnect, go on, and connect again', ['41', '429["ping"]', '40']],
      ['an event of nothing', ['42']],
      ['an ack without an id', ['43[]']],
      ['zero attachments', ['450-["ping"]']],
      ['one attachment for two places', ['451-["joinRoom",{"_placeholder":true,"num":0},{"_placeholder":true,"num":0}]', Buffer.from('x')]],
      ['an attachment nothing refers to', ['451-["ping"]', Buffer.from('x')]],
    ]) {
      test(what, async () => {
        const raw = await Raw.connected(server);
        for (const part of frames) raw.send(part);
        await raw.alive(); // or ended; never stuck
        for (const message of raw.messages) {
          assert.ok(!/^43(\/media,9|9\[)/.test(String(message)), `answered what it should not: ${message}`);
          const big = /^43(\d{16,})\[/.exec(String(message));
          if (big) assert.ok(frames[0].startsWith(`42${big[1]}[`), `another id came back: ${big[1]}`);
        }
        raw.close();
      });
    }
  });

  describe('who never says what it wants', () => {
    test('a session without CONNECT is closed after the connect timeout', async () => {
      const raw = await Raw.open(server);
      await raw.next('0');
      await within(raw.closed, DEADLINE, 'close');
      assert.equal(raw.messages.filter((message) => String(message).startsWith('4')).length, 0);
    });

    test('an event before CONNECT is not answered', async () => {
      const raw = await Raw.open(server);
      await raw.next('0');
      raw.send('421["ping"]');
      await within(raw.closed, DEADLINE, 'close');
      assert.equal(raw.messages.filter((message) => String(message).startsWith('4')).length, 0);
    });
  });

  describe('HTTP', () => {
    for (const [what, query, options, code, message] of [
      ['no transport', 'EIO=4', {}, 0, 'Transport unknown'],
      ['an unknown transport', 'EIO=4&transport=carrier-pigeon', {}, 0, 'Transport unknown'],
      ['a transport JavaScript knows', 'EIO=4&transport=constructor', {}, 0, 'Transport unknown'],
      ['no version', 'transport=polling', {}, 5, 'Unsupported protocol version'],
      ['version 3', 'EIO=3&transport=polling', {}, 5, 'Unsupported protocol version'],
      ['version x', 'EIO=x&transport=polling', {}, 5, 'Unsupported protocol version'],
      ['a handshake by POST', 'EIO=4&transport=polling', { method: 'POST', body: '40' }, 2, 'Bad handshake method'],
      ['a handshake by DELETE', 'EIO=4&transport=polling', { method: 'DELETE' }, 2, 'Bad handshake method'],
      ['a WebSocket without an upgrade', 'EIO=4&transport=websocket', {}, 3, 'Bad request'],
      ['an unknown session, GET', 'EIO=4&transport=polling&sid=unknown', {}, 1, 'Session ID unknown'],
      ['an unknown session, POST', 'EIO=4&transport=polling&sid=unknown', { method: 'POST', body: '40' }, 1, 'Session ID unknown'],
      ['a session JavaScript knows', 'EIO=4&transport=polling&sid=__proto__', {}, 1, 'Session ID unknown'],
    ]) {
      test(`${what}: 400, ${message}`, async () => {
        const answer = await ask(server, query, options);
        assert.equal(answer.status, 400);
        assert.deepEqual(answer.json, { code, message });
      });
    }

    test("a client's socket id is no session id", async () => {
      const victim = bystanders[1].client;
      for (const method of ['GET', 'POST']) {
        const answer = await ask(server, `EIO=4&transport=polling&sid=${victim.id}`, { method, body: method === 'POST' ? '41' : undefined });
        assert.deepEqual([answer.status, answer.json], [400, { code: 1, message: 'Session ID unknown' }]);
      }
    });

    test("polling with a WebSocket session's id: 400, and that session lives", async () => {
      const raw = await Raw.connected(server);
      for (const method of ['GET', 'POST']) {
        const answer = await ask(server, `EIO=4&transport=polling&sid=${raw.sid}`, { method, body: method === 'POST' ? '41' : undefined });
        assert.equal(answer.status, 400);
        // Node's server tells that there is such a session; it need not be told.
        assert.ok(['Bad request', 'Session ID unknown'].includes(answer.json?.message), answer.text);
      }
      assert.equal(await raw.alive(), true);
      raw.close();
    });

    test('an upgrade to an unknown session is refused with 400', async () => {
      const ws = new WebSocket(`ws://127.0.0.1:${server.port}/socket.io/?EIO=4&transport=websocket&sid=unknown`);
      ws.on('error', () => {});
      const [request, response] = await within(once(ws, 'unexpected-response'), DEADLINE, 'a refusal');
      assert.equal(response.statusCode, 400);
      request.destroy();
    });

    test("a second WebSocket for a WebSocket session takes nothing over", async () => {
      const raw = await Raw.connected(server);
      const thief = new WebSocket(`ws://127.0.0.1:${server.port}/socket.io/?EIO=4&transport=websocket&sid=${raw.sid}`);
      thief.on('error', () => {});
      const gone = new Promise((resolve) => thief.on('close', resolve));
      thief.on('open', () => ['2probe', '5', '421["getConnectionInfo"]'].forEach((packet) => thief.send(packet)));
      const heard = [];
      thief.on('message', (data) => heard.push(String(data)));
      await within(gone, DEADLINE, 'the end of the second');
      assert.deepEqual(heard.filter((message) => message.startsWith('4')), []);
      assert.equal(await raw.alive(), true);
      raw.close();
    });

    test('two polls at once: the second gets 400 and the session ends', async () => {
      const session = await polling(server);
      const first = session.poll();
      const second = session.poll();
      const statuses = (await Promise.all([first, second])).map(({ status }) => status).sort();
      assert.deepEqual(statuses, [200, 400]);
      const after = await session.poll();
      assert.deepEqual([after.status, after.json?.code], [400, 1]);
    });

    test('a poll that is cancelled leaves no stuck session', async () => {
      const session = await polling(server);
      const cancel = new AbortController();
      const poll = session.poll({ signal: cancel.signal });
      const cancelled = assert.rejects(poll);
      // The bystander's round trip lets the poll reach the server first.
      await bystanders[0].client.fence();
      cancel.abort();
      await cancelled;
      // The end of the cancelled connection and the next requests arrive in any order; each of them may meet the session's end.
      const posted = await session.post('42778["ping"]');
      const answer = posted.status === 200 ? await session.poll() : posted;
      if (answer.status === 200) assert.match(answer.text, /43778\[/);
      else assert.deepEqual([answer.status, answer.json?.code], [400, 1]);
    });

    for (const [what, body, type] of [
      ['an unknown packet', 'abc'],
      ['an unknown packet after a good one', '42["ping"]\u001eabc'],
      ['nothing', ''],
      ['a separator alone', '\u001e'],
      ['base64 that is none', 'b!!!not-base64!!!'],
      ['an attachment without a header', 'bAAAA'],
      ['what is not UTF-8', Buffer.from([0x34, 0x32, 0x5b, 0x22, 0xff, 0xfe, 0x22, 0x5d])],
      ['a malformed event', '42{}'],
    ]) {
      test(`a body that is ${what}: 400 or the end of that session`, async () => {
        const session = await polling(server);
        const posted = await session.post(body, { 'content-type': type ?? 'text/plain;charset=UTF-8' });
        assert.ok([200, 400].includes(posted.status), `${posted.status}`);
        if (posted.status === 400) return;
        const poll = await session.poll();
        assert.ok(poll.status === 400 || poll.text.split('\u001e').includes('1'), `the session went on: ${poll.status} ${poll.text}`);
      });
    }

    test('a body over the limit: 413', async () => {
      const session = await polling(server);
      const answer = await session.post(`42["joinRoom","${'x'.repeat(1_200_000)}"]`);
      assert.equal(answer.status, 413);
    });

    test('a probe that is abandoned, or wrong, leaves the polling session alive', async () => {
      for (const spoil of [
        (ws) => ws.terminate(),
        (ws) => ws.send('2nonsense'),
        (ws) => ws.send('abc'),
        (ws) => ws.send(Buffer.from('2probe')),
        (ws) => ws.once('message', () => ws.terminate()).send('2probe'),
      ]) {
        const session = await polling(server);
        const ws = new WebSocket(`ws://127.0.0.1:${server.port}/socket.io/?EIO=4&transport=websocket&sid=${session.sid}`);
        ws.on('error', () => {});
        await within(once(ws, 'open'), DEADLINE, 'an open WebSocket');
        spoil(ws);
        assert.equal(await session.alive(), true);
        if (ws.readyState === WebSocket.OPEN) ws.terminate();
        assert.equal(await session.alive(), true);
      }
    });

    for (const [what, bytes] of [
      ['not HTTP', 'HELO example.org\r\n\r\n'],
      ['binary', Buffer.from([0x16, 0x03, 0x01, 0x00, 0xff, 0x01, 0x00, 0x0d, 0x0a, 0x0d, 0x0a])],
      ['a request line that is too long', `GET /socket.io/?${'x'.repeat(200_000)} HTTP/1.1\r\nHost: x\r\n\r\n`],
      ['headers that are too long', `GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\nX-Big: ${'x'.repeat(600_000)}\r\n\r\n`],
      ['two lengths', 'POST /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n40x'],
      ['a negative length', 'POST /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n'],
      ['an upgrade without a key', 'GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n'],
    ]) {
      test(`a request that is ${what}: an error or the end`, async () => {
        const socket = tcp(server.port, '127.0.0.1');
        let answer = '';
        const done = new Promise((resolve) => {
          socket.on('data', (data) => {
            answer += data.toString('latin1');
            if (answer.includes('\r\n\r\n')) resolve();
          });
          socket.on('error', resolve);
          socket.on('close', resolve);
          socket.on('end', resolve);
        });
        socket.write(bytes);
        await within(done, DEADLINE, 'an answer or the end');
        assert.ok(answer === '' || /^HTTP\/1\.1 4\d\d/.test(answer), answer.slice(0, 100));
        socket.destroy();
      });
    }
  });
});

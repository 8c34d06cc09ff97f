// The stock client with options that few use, and clients that this server does not speak to.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import { after, before, describe, test } from 'node:test';
import { io } from 'socket.io-client';
import { Server, token } from '../server.js';
import { within } from '../wait.js';

const require = createRequire(import.meta.url);
const DEADLINE = 15_000;

describe('clients of other kinds', () => {
  let server;
  const sockets = [];
  const open = (options) => {
    const socket = io(server.url, { forceNew: true, reconnectionDelay: 50, ...options });
    sockets.push(socket);
    return socket;
  };
  const connected = (socket) =>
    within(
      new Promise((resolve, reject) => socket.on('connect', resolve).on('connect_error', reject)),
      DEADLINE,
      'a connection',
    );
  before(async () => {
    server = await Server.start({ env: { LOG_LEVEL: 'error' } });
  });
  after(async () => {
    for (const socket of sockets) socket.close();
    await server.close();
  });

  for (const transport of ['polling', 'websocket']) {
    test(`forceBase64 over ${transport}`, async () => {
      const socket = open({ transports: [transport], forceBase64: true, auth: { token: token({ userId: 'u' }) } });
      await connected(socket);
      // Binary data means nothing to the contract, and breaks nothing.
      socket.emit('unknown', Buffer.from([1, 2, 3]));
      const answer = await socket.timeout(DEADLINE).emitWithAck('getConnectionInfo');
      assert.equal(answer.socketId, socket.id);
    });
  }

  test('protocols, of which the first is taken', async () => {
    const socket = open({ transports: ['websocket'], protocols: ['studio.v1', 'studio.v0'] });
    await connected(socket);
    assert.equal(socket.io.engine.transport.ws.protocol, 'studio.v1');
  });

  test('auth as a function that takes its time', async () => {
    const socket = open({ auth: (give) => setTimeout(() => give({ token: token({ userId: 'late' }) }), 11_000) });
    const authenticated = once(socket, 'authenticated');
    const [{ userId }] = await within(authenticated, 20_000, 'the answer to a late token');
    assert.equal(userId, 'late');
  });

  test('the msgpack parser: a connect_error that says why, and no further try', async () => {
    const socket = open({ parser: require('socket.io-msgpack-parser') });
    let errors = 0;
    socket.on('connect_error', () => errors++);
    const [error] = await within(once(socket, 'connect_error'), DEADLINE, 'a connect_error');
    assert.match(error.message, /MessagePack/);
    assert.equal(socket.active, false);
    const other = open({ parser: require('socket.io-msgpack-parser'), transports: ['polling'] });
    const [again] = await within(once(other, 'connect_error'), DEADLINE, 'a connect_error');
    assert.match(again.message, /MessagePack/);
    assert.equal(errors, 1);
  });

  test('a client of Engine.IO 3', async () => {
    const response = await fetch(`${server.url}/socket.io/?EIO=3&transport=polling`);
    assert.equal(response.status, 400);
    assert.deepEqual(await response.json(), { code: 5, message: 'Unsupported protocol version' });
  });

  test('a session that the server ends: transport close, and the client comes back', async () => {
    const short = await Server.start({ env: { CONNECT_TIMEOUT_MS: '300' } });
    const socket = io(short.url, {
      forceNew: true,
      transports: ['polling'],
      reconnectionDelay: 50,
      // It never says who it is, and so joins no namespace.
      auth: () => {},
    });
    sockets.push(socket);
    const [reason] = await within(once(socket.io, 'close'), DEADLINE, 'the end of the session');
    assert.equal(reason, 'transport close');
    await within(once(socket.io, 'reconnect'), DEADLINE, 'another connection');
    socket.close();
    await short.close();
  });
});

// The server's own TLS: stock clients over https and wss, and a certificate that is replaced while they are there.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import { after, before, describe, test } from 'node:test';
import tls from 'node:tls';
import { CertificateFiles, make } from '../certificate.js';
import { connect, open, TRANSPORTS, VERSIONS } from '../client.js';
import { Proxy } from '../proxy.js';
import { acks } from '../shapes.js';
import { Server, token } from '../server.js';
import { DEADLINE, until, within } from '../wait.js';

describe('TLS', () => {
  let files;
  let server;
  before(async () => {
    const certificate = await make();
    files = await CertificateFiles.of(certificate);
    server = await Server.start({ env: files.env, ca: certificate.cert });
  });
  after(async () => {
    await server.close();
    await files.remove();
  });

  for (const [version, io] of Object.entries(VERSIONS)) {
    for (const [way, options] of Object.entries(TRANSPORTS)) {
      test(`${version} ${way}`, async () => {
        const client = await connect(server, { io, transports: undefined, ...options, token: token({ userId: 'u' }) });
        const media = await client.of('/media').ready();
        acks.room(await client.emit('joinRoom', 'project-1'));
        acks.media(await media.emit('subscribeMedia', `m-${version}-${way}`));
        const large = 'x'.repeat(200_000);
        await server.toRoom('project-1', { event: 'projectUpdate', data: { large } });
        assert.equal((await client.next('projectUpdate')).large, large);
        await server.progress(`m-${version}-${way}`, { progress: 10, stage: 'one' });
        assert.equal((await media.next('mediaProgress')).progress, 10);
        const transport = () => client.socket.io.engine.transport.name;
        if (way === 'upgrade') await until(() => transport() === 'websocket', 'upgrade');
        else assert.equal(transport(), way);
        await client.fence();
        client.close();
      });
    }
  }

  test('whoever does not trust the certificate stays out', async () => {
    for (const transports of [['polling'], ['websocket']]) {
      const client = open(server, { transports, ca: undefined });
      await client.next('local:connect_error');
    }
    await until(async () => (await server.metric('slop_tls_handshakes_failed_total')) >= 2, 'a count of them');
  });

  test('plain HTTP is not answered', async () => {
    const request = http.get({ port: server.port, host: '127.0.0.1', path: '/health/live' });
    const [error] = await within(once(request, 'error').catch((thrown) => [thrown]), DEADLINE, 'the end of the connection');
    assert.match(error.code, /ECONNRESET|HPE_INVALID_CONSTANT|EPIPE/);
  });

  test('a client that was cut off gets what it missed', async () => {
    const proxy = await Proxy.to(server.port);
    const at = { url: proxy.url.replace('http', 'https'), ca: server.ca, clients: server.clients };
    const client = await connect(at, { reconnection: true, reconnectionDelay: 20, reconnectionDelayMax: 100 });
    acks.room(await client.emit('joinRoom', 'cut'));
    await server.toRoom('cut', { event: 'projectUpdate', data: 1 });
    assert.equal(await client.next('projectUpdate'), 1);
    proxy.blocked = true;
    proxy.cut();
    await client.next('local:disconnect');
    await server.toRoom('cut', { event: 'projectUpdate', data: 2 });
    proxy.blocked = false;
    assert.equal(await client.next('projectUpdate'), 2);
    assert.equal(client.socket.recovered, true);
    client.close();
    await proxy.close();
  });
});

describe('SIGHUP with a new certificate', () => {
  const CLIENTS = 12;
  const ROTATIONS = 5;

  test('under load no connection is dropped and no event is lost', { timeout: 120_000 }, async (t) => {
    const [first, ...renewed] = await Promise.all(Array.from({ length: 1 + ROTATIONS }, make));
    const files = await CertificateFiles.of(first);
    // A client that polls makes new connections all the time: it trusts them all.
    const server = await Server.start({ env: files.env, ca: [first, ...renewed].map(({ cert }) => cert) });
    t.after(async () => {
      await server.close();
      await files.remove();
    });
    const ways = Object.values(TRANSPORTS);
    const clients = await Promise.all(
      Array.from({ length: CLIENTS }, (_, n) => connect(server, { transports: undefined, ...ways[n % ways.length] })),
    );
    for (const client of clients) acks.room(await client.emit('joinRoom', 'busy'));

    let sent = 0;
    let stopped = false;
    const publishing = (async () => {
      while (!stopped) {
        await server.toRoom('busy', { event: 'projectUpdate', data: sent });
        sent += 1;
      }
    })();
    try {
      let rotations = 0;
      for (const next of renewed) {
        await files.replace(next);
        server.child.kill('SIGHUP');
        rotations += 1;
        await until(async () => (await server.metric('slop_tls_certificate_reloads_total')) >= rotations, 'reload');
        // Who comes now sees the new one, and who trusts only the first stays out.
        const peer = tls.connect({ port: server.port, host: '127.0.0.1', ca: next.cert });
        await within(once(peer, 'secureConnect'), DEADLINE, 'a handshake with the new certificate');
        peer.destroy();
        const late = await connect(server, { ca: next.cert });
        await late.fence();
        late.close();
        await open(server, { ca: first.cert }).next('local:connect_error');
        const before = sent;
        await until(() => sent > before + 20, 'more events');
      }
    } finally {
      stopped = true;
      await publishing;
    }
    for (const client of clients) {
      const what = client.socket.io.engine?.transport.name;
      await until(() => client.all('projectUpdate').length >= sent, `all of ${sent} events by ${what}: ${client.names().slice(-3)}`);
      assert.deepEqual(client.all('projectUpdate'), Array.from({ length: sent }, (_, n) => n));
      assert.ok(!client.names().includes('local:disconnect'), 'it stayed connected');
    }
  });
});

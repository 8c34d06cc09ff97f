import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { connect } from '../client.js';
import { acks, events, receipt } from '../shapes.js';
import { Server, token } from '../server.js';

describe('notifications', () => {
  let server;
  before(async () => (server = await Server.start()));
  after(() => server.close());
  const NSP = '/notifications';

  for (const type of ['info', 'success', 'warning', 'error']) {
    test(`${type}: to the user's sockets on ${NSP}, with the server's id and time`, async () => {
      const user = `user-${type}`;
      const one = await connect(server, { nsp: NSP, token: token({ userId: user }) });
      const two = await connect(server, { nsp: NSP, token: token({ userId: user }) });
      const elsewhere = await connect(server, { token: token({ userId: user }) });
      const other = await connect(server, { nsp: NSP, token: token({ userId: 'other' }) });
      const anonymous = await connect(server, { nsp: NSP });
      const body = { type, title: 'Render done', message: 'Your clip is ready 🎬' };
      assert.equal(receipt(await server.notify(user, body)).delivered, 2);
      const got = events.notification(await one.next('notification'));
      assert.deepEqual({ ...got, id: undefined, timestamp: undefined }, { ...body, id: undefined, timestamp: undefined });
      assert.ok(!('data' in got));
      assert.deepEqual(await two.next('notification'), got, 'the same for each socket');
      for (const client of [elsewhere, other, anonymous]) {
        await client.fence();
        assert.deepEqual(client.all('notification'), []);
      }
    });
  }

  test('data passes through; ids differ', async () => {
    const client = await connect(server, { nsp: NSP, token: token({ userId: 'u-1' }) });
    const data = { mediaId: 'm', nested: { list: [1, null, true, 'é'] } };
    await server.notify('u-1', { type: 'info', title: 't', message: 'm', data });
    await server.notify('u-1', { type: 'info', title: 't', message: 'm' });
    const first = events.notification(await client.next('notification'));
    const second = events.notification(await client.next('notification'));
    assert.deepEqual(first.data, data);
    assert.notEqual(first.id, second.id);
  });

  test('the id of the publisher is kept, and makes the publish idempotent', async () => {
    const client = await connect(server, { nsp: NSP, token: token({ userId: 'u-2' }) });
    const body = { type: 'success', title: 't', message: 'm', id: 'order-17' };
    receipt(await server.notify('u-2', body));
    receipt(await server.notify('u-2', body));
    await server.notify('u-2', { ...body, id: 'order-18' });
    assert.equal(events.notification(await client.next('notification')).id, 'order-17');
    assert.equal(events.notification(await client.next('notification')).id, 'order-18');
    await client.fence();
    assert.equal(client.all('notification').length, 2);
  });

  test('an Idempotency-Key returns the first receipt and delivers once', async () => {
    const client = await connect(server, { nsp: NSP, token: token({ userId: 'u-3' }) });
    const body = { type: 'info', title: 't', message: 'm' };
    const options = { headers: { 'idempotency-key': 'key-1' } };
    const first = receipt(await server.notify('u-3', body, options));
    assert.deepEqual(await server.notify('u-3', body, options), first);
    await server.notify('u-3', { ...body, message: 'next' });
    await client.next('notification');
    assert.equal((await client.next('notification')).message, 'next');
  });

  test('after authenticating they come, those that waited first; after logout no more', async () => {
    const client = await connect(server, { nsp: NSP });
    await server.notify('u-4', { type: 'info', title: 't', message: 'early' });
    acks.authenticate(await client.emit('authenticate', { token: token({ userId: 'u-4' }) }));
    assert.equal((await client.next('notification')).message, 'early');
    await server.notify('u-4', { type: 'info', title: 't', message: 'now' });
    assert.equal((await client.next('notification')).message, 'now');
    acks.logout(await client.emit('logout'));
    assert.equal(receipt(await server.notify('u-4', { type: 'info', title: 't', message: 'late' })).delivered, 0);
    await client.fence();
    assert.equal(client.all('notification').length, 2);
  });

  test('two devices mark them as read: the count never steps back, in callbacks and events in the order of arrival', async () => {
    const devices = [];
    for (let n = 0; n < 2; n++) devices.push(await connect(server, { nsp: NSP, token: token({ userId: 'u-6' }) }));
    const ids = Array.from({ length: 20 }, (_, n) => `id-${n}`);
    for (const id of ids) await server.notify('u-6', { type: 'info', title: 't', message: 'm', id });
    for (const device of devices) assert.equal((await device.emit('listNotifications')).unreadCount, ids.length);
    const begin = devices.map((device) => device.mark());
    await Promise.all(ids.map((id, n) => devices[n % 2].emit('markNotificationsRead', { ids: [id] })));
    for (const [n, device] of devices.entries()) {
      await device.fence();
      const counts = device.log
        .slice(begin[n])
        .map(({ name, args }) => (name === 'unreadCount' ? args[0].count : args[0]?.unreadCount))
        .filter((count) => count !== undefined);
      assert.ok(counts.length >= 20, `${counts}`);
      assert.deepEqual(counts, [...counts].sort((a, b) => b - a));
      assert.equal(counts.at(-1), 0);
    }
  });

  test('GET lists them, newest first', async () => {
    for (const id of ['first', 'second', 'third']) await server.notify('u-5', { type: 'info', title: 't', message: 'm', id });
    const all = await server.request('GET', '/v1/users/u-5/notifications');
    assert.equal(all.status, 200);
    const at = ['third', 'second', 'first'].map((id) => all.text.indexOf(`"${id}"`));
    assert.ok(at[0] >= 0 && at[0] < at[1] && at[1] < at[2], all.text);
  });
});

// The chaos test's model on made-up histories, and one short round of it against the real server. `make chaos` runs it for hours, and
// `make chaos-mutants` shows that it would notice.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { Model } from '../chaos/model.js';
import { plan } from '../chaos/plan.js';
import { report, tally } from '../chaos/report.js';
import { Round, buildFaults } from '../chaos/round.js';

describe('the model', () => {
  /** A socket in the room `open-1`, and events 1, 2, … of it that are accepted when asked for. */
  function room({ rules = 0, relaxed = false } = {}) {
    const clock = { ms: 100_000 };
    const model = new Model({ rules, recoveryMs: 10_000, relaxed, serverMs: () => clock.ms, nowMs: () => clock.ms });
    const seat = model.seat('c', '/');
    const connect = (recovered, token = null) => {
      seat.connecting(token);
      seat.joined({ id: 'id', recovered });
      if (!recovered) seat.told('welcome', { socketId: 'id' });
    };
    const call = (name, argument, answer = { success: true }) => seat.answered(seat.call(name, argument), answer);
    const begin = (serial, more = {}) =>
      model.publish({ serial, index: serial, kind: 'room', topic: '/ open-1', ns: '/', channel: 'room:open-1', delivery: 'recoverable', key: 'update', ...more });
    const accept = (serial, more) => model.answered(begin(serial, more));
    connect(false);
    call('joinRoom', 'open-1');
    return { clock, model, seat, connect, call, begin, accept, get: (serial) => seat.received(serial, '/'), found: () => tally(model.violations) };
  }

  const CASES = {
    'what came once and in order is right': [({ accept, get, call }) => [accept(1), get(1), accept(2), get(2), call('ping')], {}],
    'an event that is left out is missed by the next one': [({ accept, get }) => [accept(1), accept(2), get(2)], { missed: 1 }],
    'or by the next answer': [({ accept, call }) => [accept(1), call('ping')], { missed: 1 }],
    'or in the end': [({ accept, seat }) => [accept(1), seat.settle()], { missed: 1 }],
    'twice is noticed': [({ accept, get }) => [accept(1), get(1), get(1)], { twice: 1 }],
    'so is another order': [({ begin, model, get }) => [begin(1), begin(2), get(2), get(1)].concat(model.events.size), { order: 1 }],
    'and an order among rooms': [
      ({ accept, get, call, seat }) => {
        call('joinRoom', 'lobby');
        accept(1, { topic: '/ lobby', channel: 'room:lobby' });
        accept(2);
        seat.drop(() => true);
        get(2);
        get(1);
      },
      { order: 1 },
    ],
    'a room that was left gives nothing': [({ accept, get, call }) => [call('leaveRoom', 'open-1'), accept(1), get(1)], { leak: 1 }],
    'a leave without an answer may have been carried out or not': [
      ({ accept, get, seat }) => {
        seat.unanswered(seat.call('leaveRoom', 'open-1'), 'timeout');
        accept(1);
        get(1);
        accept(2);
        seat.settle();
      },
      {},
    ],
    'what came before the join is not for it': [({ accept, call, get }) => [accept(1, { topic: '/ lobby', channel: 'room:lobby' }), call('joinRoom', 'lobby'), get(1)], { leak: 1 }],
    'a recovered session misses nothing': [
      ({ accept, seat, connect, call }) => [seat.left('transport close'), accept(1), connect(true), call('ping')],
      { missed: 1 },
    ],
    'a new one may': [
      ({ accept, seat, connect, clock, call }) => [seat.left('transport close'), accept(1), (clock.ms += 20_000), connect(false), call('ping')],
      {},
    ],
    'who was away for a moment comes back to its session': [({ seat, connect }) => [seat.left('transport close'), connect(false)], { 'not recovered': 1 }],
    'a kill loses no recoverable event': [
      ({ accept, seat, model, clock, connect, call }) => [accept(1), model.ended('kill', (clock.ms += 5_000)), seat.left(''), connect(true), call('ping')],
      { missed: 1 },
    ],
    'a change from before a kill is in the session': [
      ({ call, model, clock, seat, connect }) => [call('joinRoom', 'lobby'), model.ended('kill', (clock.ms += 5_000)), seat.left(''), connect(false)],
      { 'not recovered': 1 },
    ],
    'unless the server stood still since the change': [
      ({ call, model, clock, seat, connect }) => {
        call('joinRoom', 'lobby');
        const from = (clock.ms += 10);
        clock.ms += 5_000;
        model.thawed(from);
        model.ended('kill', (clock.ms += 5));
        seat.left('');
        connect(false);
      },
      {},
    ],
    'of the newest only that has to come': [
      ({ accept, get, call }) => [accept(1, { delivery: 'latest' }), accept(2, { delivery: 'latest' }), get(2), call('ping')],
      {},
    ],
    'rules in force end what they do not allow': [({ model, accept, get }) => [model.reloading(3), model.reloaded(3), accept(1, lobby), get(1)], { leak: 1 }, ['lobby']],
    'what was refused is not seen': [({ begin, model, get }) => [model.refused(begin(1)), get(1)], { refused: 1 }],
    'a revocation that was answered holds for a session that comes back': [
      ({ model, seat, connect, accept, get, call }) => {
        const token = { user: 'alice', jti: 't', iat: 0, exp: 1_000_000, key: 0, issuedMs: 0 };
        call('authenticate', token, { success: true, userId: 'alice' });
        const mine = { topic: '/ user:alice', channel: 'user:alice' };
        accept(1, mine);
        seat.left('transport close');
        model.revoked(model.revoke({ jti: 't' }));
        connect(true);
        get(1);
        call('ping');
      },
      { leak: 1, 'no authError': 1 },
    ],
    'a join that is refused to nobody is no join': [
      ({ call }) => call('joinRoom', 'auth-1'),
      { 'let in': 1 },
      [],
      { rules: 1 },
    ],
  };
  const lobby = { topic: '/ lobby', channel: 'room:lobby' };
  for (const [name, [play, found, rooms = [], options]] of Object.entries(CASES)) {
    test(name, () => {
      const world = room(options);
      for (const more of rooms) world.call('joinRoom', more);
      play(world);
      assert.deepEqual(world.found(), found);
    });
  }

  test('a seed is a plan', () => {
    assert.deepEqual(plan(5), plan(5));
    assert.notDeepEqual(plan(5).steps, plan(6).steps);
  });
});

test('a short round of chaos', { timeout: 150_000 }, async () => {
  const seed = Number(process.env.CHAOS_SEED ?? 1);
  const folder = mkdtempSync(join(tmpdir(), 'slop-studios-chaos-faults-'));
  console.log(`seed ${seed}`);
  const round = await new Round(seed, { libraries: buildFaults(folder), steps: 60 }).run();
  rmSync(folder, { recursive: true });
  assert.ok(round.recoveries > 20 && round.checked > 500, `it did little: ${JSON.stringify(round.steps)}, ${round.recoveries} recoveries`);
  if (round.violations.length > 0) assert.fail(report(round, mkdtempSync(join(tmpdir(), 'slop-studios-chaos-'))));
});

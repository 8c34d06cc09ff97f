// Strict checks of every payload of the contract: the exact keys, their types and formats, and optional
// fields absent rather than null. Each check returns its value, so that it can be written in line.
import assert from 'node:assert/strict';

const show = (value) => JSON.stringify(value)?.slice(0, 300);
const say = (ok, what, value) => assert.ok(ok, `expected ${what}, got ${show(value)}`);

export const isString = (value) => say(typeof value === 'string' && value !== '', 'a non-empty string', value);
const isBoolean = (value) => say(typeof value === 'boolean', 'a boolean', value);
const isRecord = (value) =>
  say(typeof value === 'object' && value !== null && !Array.isArray(value), 'an object', value);
const is = (wanted) => (value) => say(value === wanted, show(wanted), value);
const oneOf = (...wanted) => (value) => say(wanted.includes(value), `one of ${wanted}`, value);
const isCount = (value) => say(Number.isSafeInteger(value) && value >= 0, 'a count', value);

/** `toISOString()`'s format, and a time of this test run. */
export const isIso = (value) => {
  say(typeof value === 'string' && /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/.test(value), 'an ISO time', value);
  isNow(Date.parse(value));
};
const isNow = (value) =>
  say(Number.isSafeInteger(value) && Math.abs(Date.now() - value) < 60_000, 'epoch milliseconds of about now', value);
const isLatency = (value) => say(value === null || (Number.isFinite(value) && value >= 0), 'null or ≥ 0', value);
const isProgress = (value) => say(Number.isFinite(value) && value >= 0 && value <= 100, 'a number of 0–100', value);
const isStrings = (value) =>
  say(Array.isArray(value) && value.every((item) => typeof item === 'string'), 'an array of strings', value);

/** An object of exactly these keys; those of `optional` may be absent, but then not be there as null. */
const object = (name, required, optional = {}) => (value) => {
  try {
    isRecord(value);
    const known = { ...required, ...optional };
    for (const key of Object.keys(value)) assert.ok(Object.hasOwn(known, key), `unknown key ${key}`);
    for (const key of Object.keys(required)) assert.ok(Object.hasOwn(value, key), `no ${key}`);
    for (const key of Object.keys(value)) {
      try {
        known[key](value[key]);
      } catch (error) {
        throw new Error(`${key}: ${error.message}`);
      }
    }
  } catch (error) {
    assert.fail(`${name}: ${error.message} in ${show(value)}`);
  }
  return value;
};

// Server events.
export const events = {
  welcome: object('welcome', { message: isString, socketId: isString, serverTime: isIso }),
  authenticated: object('authenticated', { userId: isString, authenticatedAt: isIso }, { email: isString }),
  authError: object('authError', { message: isString }),
  loggedOut: object('loggedOut', { message: isString }),
  roomJoined: object('roomJoined', { room: isString, success: is(true) }),
  roomLeft: object('roomLeft', { room: isString, success: is(true) }),
  pong: object('pong', { timestamp: isNow }),
  heartbeatAck: object('heartbeatAck', { timestamp: isNow, serverTime: isIso, latency: isLatency }),
  notification: object(
    'notification',
    {
      id: isString,
      type: oneOf('info', 'success', 'warning', 'error'),
      title: isString,
      message: isString,
      timestamp: isIso,
    },
    { data: isRecord },
  ),
  mediaProgress: object(
    'mediaProgress',
    { mediaId: isString, progress: isProgress, stage: isString },
    { message: isString },
  ),
  mediaComplete: object(
    'mediaComplete',
    { mediaId: isString, url: isString },
    { thumbnailUrl: isString, metadata: isRecord },
  ),
  mediaError: object('mediaError', { mediaId: isString, error: isString }, { code: isString }),
};

// Callback responses. A refusal is `{success: false, error}` and nothing else, whatever was asked.
export const acks = {
  refused: object('a refusal', { success: is(false), error: isString }),
  authenticate: object('authenticate()', { success: is(true), userId: isString }),
  logout: object('logout()', { success: is(true) }),
  room: object('joinRoom()/leaveRoom()', { success: is(true), room: isString }),
  getConnectionInfo: object('getConnectionInfo()', {
    socketId: isString,
    connected: isBoolean,
    rooms: isStrings,
    authenticated: isBoolean,
    connectedAt: isIso,
  }),
  ping: object('ping()', { timestamp: isNow }),
  heartbeat: object('heartbeat()', { timestamp: isNow, serverTime: isIso, latency: isLatency }),
  media: object('subscribeMedia()/unsubscribeMedia()', { success: is(true), mediaId: isString }),
};

// What the publisher gets.
const isWarnings = (value) => {
  say(Array.isArray(value) && value.length > 0, 'an array that is not empty', value);
  value.forEach(object('a warning', { field: isString, message: isString }));
};
export const receipt = object('a receipt', { id: isString, stored: isBoolean, delivered: isCount }, { warnings: isWarnings });

/** An RFC 9457 answer of that status that speaks of `field`, where one is to blame. */
export function problem(answer, statuses, field) {
  const wanted = [statuses].flat();
  assert.ok(wanted.includes(answer.status), `expected ${wanted}, got ${answer.status} ${answer.text}`);
  assert.match(answer.type, /^application\/problem\+json/);
  isRecord(answer.json);
  isString(answer.json.title);
  assert.equal(answer.json.status, answer.status);
  if (field) assert.ok(answer.text.includes(field), `the field ${field} is not named in ${answer.text}`);
  return answer.json;
}

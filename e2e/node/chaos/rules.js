// The rules for rooms that a server is given, and what the model says of them.

export const USERS = ['alice', 'bob', 'carol'];
export const NAMESPACES = ['/', '/media', '/notifications'];
/** Nobody but the batches' publisher publishes to the last. */
export const ROOMS = ['open-1', 'auth-1', 'vip-alice', 'lobby', 'open-batch'];

/** Each a list of `[pattern, allow]`; the first that fits decides, and without one a room is open. */
export const RULES = [
  [],
  [['auth-*', 'authenticated'], ['vip-alice', { user: 'alice' }]],
  [['open-*', 'anyone'], ['*', 'authenticated']],
  [['lobby', 'nobody'], ['auth-*', { user: 'bob' }], ['vip-alice', { user: 'alice' }]],
];

const fits = (pattern, room) =>
  pattern.endsWith('*') ? room.startsWith(pattern.slice(0, -1)) : pattern === room;

/** Whether a user, or nobody (`null`), may be in a room. */
export function allows(rules, user, room) {
  const allow = rules.find(([pattern]) => fits(pattern, room))?.[1] ?? 'anyone';
  if (allow === 'anyone') return true;
  if (allow === 'nobody') return false;
  return allow === 'authenticated' ? user !== null : user === allow.user;
}

/** The configuration file with these rules and secrets. */
export function toml({ rules, secret, previous }) {
  const lines = [`jwt_secret = ${JSON.stringify(secret)}`];
  if (previous.length > 0) lines.push(`jwt_previous_secrets = ${JSON.stringify(previous.join(','))}`);
  for (const [name, allow] of RULES[rules]) {
    const value = typeof allow === 'string' ? JSON.stringify(allow) : `{ user = ${JSON.stringify(allow.user)} }`;
    lines.push('[[rooms]]', `name = ${JSON.stringify(name)}`, `allow = ${value}`);
  }
  return `${lines.join('\n')}\n`;
}

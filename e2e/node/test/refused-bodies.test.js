// Publishes that are refused before their body has come: the status arrives, whatever sends it, and no reset.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import http from 'node:http';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { API_KEY, Server, token } from '../server.js';

const REPEATS = 20;
const body = (bytes) => JSON.stringify({ progress: 1, stage: 'x'.repeat(bytes) });
const scoped = token({ userId: 'worker', publish: 'notify' });

const REFUSALS = {
  'a wrong key: 401': { key: 'wrong', bytes: 900_000, status: 401 },
  'no scope for it: 403': { key: scoped, bytes: 900_000, status: 403 },
  'more than may come: 413': { key: API_KEY, bytes: 1_100_000, status: 413 },
  'much more than may come: 413': { key: API_KEY, bytes: 4_000_000, status: 413 },
  'no JSON: 415': { key: API_KEY, bytes: 900_000, status: 415, type: 'text/plain' },
};

const CLIENTS = {
  http: (url, { key, bytes, type }) =>
    new Promise((resolve, reject) => {
      const text = body(bytes);
      const headers = { authorization: `Bearer ${key}`, 'content-type': type, 'content-length': text.length };
      const request = http.request(url, { method: 'POST', headers, agent: false }, (response) => {
        response.resume().on('end', () => resolve(response.statusCode));
      });
      request.on('error', reject).end(text);
    }),
  fetch: async (url, { key, bytes, type }) => {
    const headers = { authorization: `Bearer ${key}`, 'content-type': type };
    const response = await fetch(url, { method: 'POST', headers, body: body(bytes) });
    await response.text();
    return response.status;
  },
  curl: async (url, { key, bytes, type }, directory) => {
    const file = join(directory, 'body.json');
    await writeFile(file, body(bytes));
    const { stdout } = await promisify(execFile)('curl', [
      ...['--silent', '--show-error', '--output', '/dev/null', '--write-out', '%{http_code}'],
      ...['--header', `Authorization: Bearer ${key}`, '--header', `Content-Type: ${type}`],
      ...['--data-binary', `@${file}`, url],
    ]);
    return Number(stdout);
  },
};

describe('a body that nobody reads', () => {
  let server;
  before(async () => {
    server = await Server.start({ env: { PUBLISH_CLAIM: 'publish' } });
  });
  after(() => server.close());

  for (const [client, post] of Object.entries(CLIENTS)) {
    for (const [what, { type = 'application/json', status, ...refusal }] of Object.entries(REFUSALS)) {
      test(`${client}, ${what}`, async () => {
        for (let time = 0; time < REPEATS; time++) {
          const answer = await post(`${server.url}/v1/media/m/progress`, { ...refusal, type }, server.dataDir);
          assert.equal(answer, status, `time ${time}`);
        }
      });
    }
  }
});

test('a publisher past its rate: 429', async () => {
  const server = await Server.start({ env: { PUBLISH_RATE_PER_KEY: '1' } });
  for (const [client, post] of Object.entries(CLIENTS)) {
    const refusal = { key: API_KEY, bytes: 900_000, type: 'application/json' };
    const answers = [];
    while (answers.at(-1) !== 429) {
      answers.push(await post(`${server.url}/v1/media/m/progress`, refusal, server.dataDir));
      assert.ok(answers.length < 100, `${client}: ${answers}`);
    }
  }
  await server.close();
});

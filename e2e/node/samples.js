// Runs the contract's own sample code (fixtures/contract, verbatim), and that of docs/. Only the address and the tokens are
// substituted; what a snippet takes for granted (`socket`) stands in a prelude before it, and a line after it exports what it
// declared.
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { pathToFileURL, fileURLToPath } from 'node:url';
import { join } from 'node:path';

const fixtures = new URL('./fixtures/contract/', import.meta.url);
// Inside node_modules, so that `import … from 'socket.io-client'` is resolved as anywhere else.
const scratch = fileURLToPath(new URL('./node_modules/.cache/slop-studios-e2e/', import.meta.url));
let serial = 0;

export const text = (name) => readFile(new URL(`${name}.js`, fixtures), 'utf8');

const root = new URL('../../', import.meta.url);

/** The code of a page (README.md, docs/delivery.md) in one language, block by block. */
export async function blocks(page, language) {
  const lines = await readFile(new URL(page, root), 'utf8');
  return [...lines.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\`$`, 'gms'))].map(([, code]) => code);
}

/** Imports the snippet as a module; `given` are names in its scope, `lines` collects what it prints. */
export async function run(name, { source: found, url, token, given = {}, exported = [], wrap = (source) => source } = {}) {
  let source = found ?? (await text(name));
  if (url !== undefined) source = source.replaceAll('http://localhost:3000', url);
  if (token !== undefined) source = source.replaceAll(/'(your-)?jwt-token'/g, () => JSON.stringify(token));
  const lines = [];
  const print = (...args) => lines.push(args.map(String).join(' '));
  const scope = { ...given, console: { log: print, error: print } };
  const key = `slopStudiosSample${(serial += 1)}`;
  globalThis[key] = scope;
  const body = [
    `const { ${Object.keys(scope).join(', ')} } = globalThis[${JSON.stringify(key)}];`,
    wrap(source),
    `export { ${exported.join(', ')} };`,
  ].join('\n');
  await mkdir(scratch, { recursive: true });
  const file = join(scratch, `${process.pid}-${serial}-${name}.mjs`);
  await writeFile(file, body);
  try {
    return { ...(await import(pathToFileURL(file))), lines };
  } finally {
    rmSync(file); // not awaited: the caller is back before anything of the network comes in
    delete globalThis[key];
  }
}

/** Fails where a fixture is not in the contract word for word. */
export function assertVerbatim(contract, name, snippet) {
  assert.ok(contract.includes(`\`\`\`javascript\n${snippet}\`\`\``), `fixtures/contract/${name}.js is not the contract's text`);
}

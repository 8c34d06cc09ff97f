// Tests the checker of the chaos test: a server that drops, doubles, swaps, leaks or forgets an event now and then must be caught,
// and the same server must pass when it behaves.
//
// The misbehaviour is mutants.patch, applied to a copy of the tree below target/, so that the product has none of it.
//
//   node e2e/node/chaos/mutants.js
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** What each may be caught by. */
const MUTANTS = {
  drop: ['missed'],
  double: ['twice'],
  swap: ['missed', 'order'],
  leak: ['leak'],
  forget: ['missed', 'no snapshot', 'greeting', 'no authError'],
};
const SEEDS = [1, 2, 3];
/** What the checker must see without: it costs time, and has a test of its own. */
const WITHOUT = ['kill', 'term', 'rotate', 'disk', 'clock', 'freezeLong', 'freeze', 'silent'];
const SIZE = { steps: 60, without: WITHOUT, pause: 120 };

const root = fileURLToPath(new URL('../../..', import.meta.url));
const folder = join(root, 'target', 'mutants');
const source = join(folder, 'source');
const patch = fileURLToPath(new URL('mutants.patch', import.meta.url));
const run = (command, args, options = {}) => execFileSync(command, args, { stdio: ['ignore', 'inherit', 'inherit'], ...options });

process.env.SLOP_STUDIOS_BIN = build();
const { Round } = await import('./round.js');
const { report, line } = await import('./report.js');

let failed = false;
for (const seed of SEEDS.slice(0, 1)) {
  // The same binary, so that it is the misbehaviour that is caught and not the build.
  const round = await play('none', seed);
  if (round.violations.length === 0) console.log('ok: the server that behaves passes');
  else fail(`the server that behaves is not passed:\n${report(round, mkdtempSync(join(tmpdir(), 'slop-studios-mutants-')))}`);
}
for (const [mutant, kinds] of Object.entries(MUTANTS)) {
  let caught;
  for (const seed of SEEDS) {
    caught = (await play(mutant, seed)).violations.find(({ kind }) => kinds.includes(kind));
    if (caught) break;
  }
  if (caught) console.log(`ok: ${mutant} is caught: ${caught.kind}, expected ${caught.expected}, got ${caught.got}`);
  else fail(`the mutant ${mutant} is not caught by seeds ${SEEDS}`);
}
process.exit(failed ? 1 : 0);

function fail(text) {
  failed = true;
  console.log(`FAILED: ${text}`);
}

async function play(mutant, seed) {
  const began = performance.now();
  const round = await new Round(seed, { ...SIZE, env: { SLOP_MUTANT: mutant } }).run();
  console.log(`${mutant}: ${line(round, performance.now() - began)}`);
  return round;
}

/** The path of the patched binary. What did not change since the last time is not compiled again. */
function build() {
  rmSync(source, { recursive: true, force: true });
  mkdirSync(source, { recursive: true });
  const files = execFileSync('git', ['ls-files', '-z', 'Cargo.toml', 'Cargo.lock', 'crates', 'docs', 'clippy.toml'], { cwd: root });
  run('tar', ['-cf', join(folder, 'source.tar'), '--null', '--files-from=-'], { cwd: root, input: files, stdio: ['pipe', 'inherit', 'inherit'] });
  run('tar', ['-xf', join(folder, 'source.tar'), '-C', source]);
  rmSync(join(folder, 'source.tar'));
  try {
    // As outside of any repository, where the patch's paths are those of the folder.
    run('git', ['apply', patch], { cwd: source, env: { ...process.env, GIT_CEILING_DIRECTORIES: folder } });
  } catch {
    console.error(
      `FAILED: ${patch} does not apply any more, because what it changes has changed. Apply it to a copy of the tree by hand, and\n` +
        'write it anew by `git diff`.',
    );
    process.exit(1);
  }
  const target = join(folder, 'build');
  run('cargo', ['build', '--locked', '--quiet', '--bin', 'slop-studios', '--target-dir', target], { cwd: source });
  return join(target, 'debug', 'slop-studios');
}

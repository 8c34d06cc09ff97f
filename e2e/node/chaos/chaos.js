// The chaos test from the command line: rounds with one seed after another for CHAOS_SECONDS, or the one round of CHAOS_SEED.
//
//   node e2e/node/chaos/chaos.js            an hour
//   CHAOS_SEED=7 node e2e/node/chaos/chaos.js   the round of that seed, again
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Round, buildFaults } from './round.js';
import { report, line, total } from './report.js';

const reports = process.env.CHAOS_REPORTS ?? fileURLToPath(new URL('../../../target/chaos', import.meta.url));
const one = process.env.CHAOS_SEED;
const seconds = Number(process.env.CHAOS_SECONDS ?? 3_600);
const relaxed = process.env.CHAOS_RELAXED === '1';
const without = (process.env.CHAOS_WITHOUT ?? '').split(',').filter(Boolean);
const folder = mkdtempSync(join(tmpdir(), 'slop-studios-chaos-faults-'));
const libraries = buildFaults(folder);
mkdirSync(reports, { recursive: true });

const sums = [];
const end = performance.now() + seconds * 1_000;
let seed = one === undefined ? Math.floor(Math.random() * 1_000_000_000) : Number(one);
do {
  const began = performance.now();
  console.log(`seed ${seed}  (again: CHAOS_SEED=${seed} make chaos)`);
  const round = await new Round(seed, { libraries, relaxed, without }).run();
  sums.push(round);
  console.log(line(round, performance.now() - began));
  if (round.violations.length > 0) console.log(report(round, reports));
  seed += 1;
} while (one === undefined && performance.now() < end);
console.log(total(sums));
rmSync(folder, { recursive: true, force: true });
process.exit(sums.some(({ violations }) => violations.length > 0) ? 1 : 0);

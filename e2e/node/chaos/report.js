// What a round did, in a line, and what it found, so that one can act on it.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

const sum = (counts) => Object.values(counts).reduce((all, count) => all + count, 0);
const list = (counts) => Object.entries(counts).map(([name, count]) => `${name} ${count}`).join(', ');

/** One line for a round. */
export function line({ seed, steps, cuts, recoveries, anew, published, checked, calls, unanswered, violations }, ms) {
  const { kill = 0, term = 0, freeze = 0, freezeLong = 0, reload = 0, rotate = 0 } = steps;
  return (
    `seed ${seed}: ${Math.round(ms / 1_000)} s, ${sum(steps)} steps, ${sum(cuts)} connections cut, ${kill} kills, ${term} stops, ` +
    `${freeze + freezeLong} freezes, ${reload + rotate} reloads, ${recoveries} recoveries (${anew} anew), ${published} published, ` +
    `${checked} events checked, ${calls} calls (${unanswered} unanswered), ${violations.length} violations`
  );
}

/** The sum of all rounds. */
export function total(rounds) {
  const add = (pick) => {
    const all = {};
    for (const round of rounds) for (const [name, count] of Object.entries(pick(round))) all[name] = (all[name] ?? 0) + count;
    return all;
  };
  const number = (name) => rounds.reduce((all, round) => all + round[name], 0);
  return [
    `${rounds.length} rounds: ${number('recoveries')} recoveries, ${number('anew')} new sessions in place of old ones, ${number('published')} events published ` +
      `in ${number('attempts')} attempts (${number('givenUp')} given up), ${number('checked')} received and checked, ${number('calls')} calls`,
    `  steps: ${list(add(({ steps }) => steps))}`,
    `  connections cut: ${list(add(({ cuts }) => cuts))}`,
    `  violations: ${rounds.reduce((all, { violations }) => all + violations.length, 0)} ${list(add(({ violations }) => tally(violations)))}`,
    ...rounds.filter(({ violations }) => violations.length > 0).map(({ seed }) => `  CHAOS_SEED=${seed} make chaos`),
  ].join('\n');
}

export function tally(violations) {
  const kinds = {};
  for (const { kind } of violations) kinds[kind] = (kinds[kind] ?? 0) + 1;
  return kinds;
}

/** The first violations of a round; all of them, with the history of each client, are in a file. */
export function report({ seed, violations, log }, folder) {
  const file = join(folder, `${seed}.txt`);
  const text = (violation, history) => {
    const { kind, step, during, socket, ms, expected, got, event } = violation;
    const lines = [
      `VIOLATION ${kind}: seed ${seed}, step ${step} (${during}), ${socket ?? 'no client'}, ${ms} ms`,
      `  expected: ${expected}`,
      `  got:      ${got}`,
      ...(event === undefined || expected === event ? [] : [`  event:    ${event}`]),
      ...(history > 0 ? ['  history of that client:', ...violation.history.slice(-history).map((entry) => `    ${entry}`)] : []),
    ];
    return lines.join('\n');
  };
  writeFileSync(file, `${violations.map((violation) => text(violation, 400)).join('\n\n')}\n\nThe server's log:\n${log}`);
  const shown = violations.slice(0, 5).map((violation) => text(violation, 25));
  return [...shown, `${violations.length} violations: ${JSON.stringify(tally(violations))}; all with their histories: ${file}`, `again: CHAOS_SEED=${seed} make chaos`].join('\n');
}

// Waiting with a deadline. Nothing in this suite sleeps for luck.
import { setTimeout as delay } from 'node:timers/promises';

export const DEADLINE = 15_000;

/** The promise's outcome, or an error that names what was waited for. */
export async function within(promise, ms, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${typeof what === 'function' ? what() : what} within ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Polls a condition until it holds (returns its value), or fails at the deadline. */
export async function until(condition, what, ms = DEADLINE) {
  const end = performance.now() + ms;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (performance.now() > end) throw new Error(`no ${what} within ${ms} ms`);
    await delay(5);
  }
}

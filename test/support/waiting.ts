/** Waiting in unit tests: turns of the event loop until something is true, with an end. */
import { setImmediate as nextTurn } from 'node:timers/promises';

/** Generous: the machine may be loaded. A test that works never comes near it. */
const LIMIT_MS = 20_000;

/** @throws Error when `condition` has not come true after `limitMs` */
export async function until(condition: () => boolean, what: string, limitMs = LIMIT_MS): Promise<void> {
  const deadlineMs = Date.now() + limitMs;
  while (!condition()) {
    if (Date.now() > deadlineMs) throw new Error(`no ${what} within ${limitMs / 1000} s`);
    await nextTurn();
  }
}

/** Lets everything that is ready run: `count` whole turns of the event loop. */
export async function turns(count = 5): Promise<void> {
  for (let i = 0; i < count; i++) await nextTurn();
}

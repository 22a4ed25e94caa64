/** Waiting with an end: every wait of an end-to-end test has a limit, generous enough for TCG on a loaded machine. */
import { setTimeout as sleep } from 'node:timers/promises';

const POLL_MS = 50;

/** @throws Error when `promise` takes longer than `timeoutMs` */
export async function withLimit<T>(promise: Promise<T>, timeoutMs: number, what: string): Promise<T> {
  const limit = Promise.withResolvers<never>();
  const timer = setTimeout(() => limit.reject(new Error(`no ${what} within ${timeoutMs / 1000} s`)), timeoutMs);
  try {
    return await Promise.race([promise, limit.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** Asks again and again. @throws Error when `condition` has not come true within `timeoutMs` */
export async function waitUntil(
  condition: () => boolean | Promise<boolean>,
  timeoutMs: number,
  what: string,
): Promise<void> {
  const deadlineMs = Date.now() + timeoutMs;
  while (!(await condition())) {
    if (Date.now() > deadlineMs) throw new Error(`no ${what} within ${timeoutMs / 1000} s`);
    await sleep(POLL_MS);
  }
}

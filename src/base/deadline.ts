/** Waiting with a limit: for calls that answer somebody, while the work that they asked for goes on. */
import type { TargetError } from './errors.ts';

/** The result of `work`, or a rejection with `late()` when it is not there in `limitMs`. The work is not ended. */
export async function withinDeadline<T>(work: Promise<T>, limitMs: number, late: () => TargetError): Promise<T> {
  const deadline = Promise.withResolvers<never>();
  const timer = setTimeout(() => deadline.reject(late()), limitMs);
  try {
    return await Promise.race([work, deadline.promise]);
  } finally {
    clearTimeout(timer);
  }
}

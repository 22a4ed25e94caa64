/** Raised when Ringhost itself is wrong. Never for input: input errors are `TargetError`s or statuses. */
export class AssertionError extends Error {
  override readonly name = 'AssertionError';
}

/** Stops with `message` when `condition` is false. Stays on in production; keep the message a constant on hot paths. */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}

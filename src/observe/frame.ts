/** What the dashboard is told each second. */
import type { LogEvent } from './event-log.ts';
import type { Rates } from './rates.ts';

export interface Frame {
  /** Milliseconds since 1970. */
  readonly timeMs: number;
  readonly rates: Rates;
  /** New since the frame before. */
  readonly events: readonly LogEvent[];
}

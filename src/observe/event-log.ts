/** The newest lines of the log, for those who look at the daemon while it runs. */
import type { LogFields, LogLevel } from '../base/log.ts';

export interface LogEvent {
  /** Rises by one with each. */
  readonly id: number;
  /** Milliseconds since 1970. */
  readonly timeMs: number;
  readonly level: LogLevel;
  readonly message: string;
  readonly fields: LogFields;
}

const EVENTS_MAX = 200;

export class EventLog {
  readonly #events: LogEvent[] = [];
  #nextId = 1;

  add(level: LogEvent['level'], message: string, fields: LogEvent['fields']): void {
    this.#events.push({ id: this.#nextId++, timeMs: Date.now(), level, message, fields });
    if (this.#events.length > EVENTS_MAX) this.#events.shift();
  }

  /** Those that came after the one of this id, oldest first; 0 for all that are kept. */
  since(id: number): readonly LogEvent[] {
    return this.#events.filter((event) => event.id > id);
  }
}

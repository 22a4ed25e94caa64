/** What the rooms log through. The daemon gives it a destination; a reactor's lines travel to the main thread. */
export type LogLevel = 'debug' | 'info' | 'warn' | 'error';
export type LogFields = Readonly<Record<string, string | number | boolean>>;

export interface Logger {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
}

export const SILENT: Logger = { debug() {}, info() {}, warn() {}, error() {} };

/** A logger that adds `fields` to every line. */
export function withFields(log: Logger, fields: LogFields): Logger {
  return {
    debug: (message, own) => log.debug(message, { ...fields, ...own }),
    info: (message, own) => log.info(message, { ...fields, ...own }),
    warn: (message, own) => log.warn(message, { ...fields, ...own }),
    error: (message, own) => log.error(message, { ...fields, ...own }),
  };
}

/** For what guests and front-ends get wrong: the first few lines of each key, then one line that says the rest is kept back. */
export class LimitedLog {
  readonly #log: Logger;
  readonly #linesMax: number;
  readonly #counts = new Map<string, number>();

  constructor(log: Logger, linesMax = 5) {
    this.#log = log;
    this.#linesMax = linesMax;
  }

  warn(key: string, message: string, fields?: LogFields): void {
    const count = (this.#counts.get(key) ?? 0) + 1;
    this.#counts.set(key, count);
    if (count < this.#linesMax) this.#log.warn(message, fields);
    else if (count === this.#linesMax) this.#log.warn(`${message} (further lines of this kind are not shown)`, fields);
  }
}

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

/** How long the lines of one kind are counted together. */
const WINDOW_MS = 60_000;

interface Count {
  lines: number;
  sinceMs: number;
}

/**
 * For what guests and front-ends get wrong: the first few lines of each kind in a minute, the last of them with a remark
 * that further ones are kept back.
 */
export class LimitedLog {
  readonly #log: Logger;
  readonly #linesMax: number;
  readonly #counts = new Map<string, Count>();

  constructor(log: Logger, linesMax = 5) {
    this.#log = log;
    this.#linesMax = linesMax;
  }

  /** `key` names the kind; there are only as many as the code has. */
  warn(key: string, message: string, fields?: LogFields): void {
    const nowMs = Date.now();
    let count = this.#counts.get(key);
    if (count === undefined || nowMs - count.sinceMs >= WINDOW_MS) {
      count = { lines: 0, sinceMs: nowMs };
      this.#counts.set(key, count);
    }
    count.lines++;
    if (count.lines < this.#linesMax) this.#log.warn(message, fields);
    else if (count.lines === this.#linesMax) {
      this.#log.warn(`${message} (more of this kind within a minute are not shown)`, fields);
    }
  }
}

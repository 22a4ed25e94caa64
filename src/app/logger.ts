/** The daemon's log: pino, for people on a terminal and as JSON lines otherwise. To standard error. */
import pino from 'pino';
import { prettyFactory } from 'pino-pretty';
import type { LogFields, Logger, LogLevel } from '../base/log.ts';
import { EventLog } from '../observe/event-log.ts';
import { LogDestination } from './log-destination.ts';

const STDERR = 2;

/** SPDK's names of levels, which its RPC uses, most severe first. */
const SPDK_LEVELS = { ERROR: 'error', WARNING: 'warn', NOTICE: 'info', INFO: 'info', DEBUG: 'debug' } as const;
export type SpdkLevel = keyof typeof SPDK_LEVELS;

export class DaemonLog implements Logger {
  /** The newest lines, for the dashboard. */
  readonly events = new EventLog();
  readonly #pino: pino.Logger;
  #level: SpdkLevel = 'NOTICE';
  #printLevel: SpdkLevel = 'NOTICE';

  constructor(format: 'text' | 'json') {
    const pretty = prettyFactory({ ignore: 'pid,hostname', translateTime: 'SYS:yyyy-mm-dd HH:MM:ss.l' });
    const shape = format === 'json' ? (line: string): string => line : pretty;
    const destination = new LogDestination(STDERR, (lines) => {
      const msg = `${lines} lines of the log were lost: it took none for a while`;
      return shape(`${JSON.stringify({ level: pino.levels.values['warn'], time: Date.now(), msg })}\n`);
    });
    this.#pino = pino({ level: 'info', base: null }, { write: (line) => destination.write(shape(line)) });
  }

  get level(): SpdkLevel {
    return this.#level;
  }

  set level(level: SpdkLevel) {
    this.#level = level;
    this.#pino.level = SPDK_LEVELS[level];
  }

  /** Kept for SPDK's clients: there is one destination, so `level` decides. */
  get printLevel(): SpdkLevel {
    return this.#printLevel;
  }

  set printLevel(level: SpdkLevel) {
    this.#printLevel = level;
    this.level = level;
  }

  debug(message: string, fields: LogFields = {}): void {
    this.#write('debug', message, fields);
  }

  info(message: string, fields: LogFields = {}): void {
    this.#write('info', message, fields);
  }

  warn(message: string, fields: LogFields = {}): void {
    this.#write('warn', message, fields);
  }

  error(message: string, fields: LogFields = {}): void {
    this.#write('error', message, fields);
  }

  #write(level: LogLevel, message: string, fields: LogFields): void {
    if (this.#pino.isLevelEnabled(level)) this.events.add(level, message, fields);
    this.#pino[level](fields, message);
  }
}

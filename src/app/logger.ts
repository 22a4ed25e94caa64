/** The daemon's log: pino, for people on a terminal and as JSON lines otherwise. To standard error. */
import pino from 'pino';
import { prettyFactory } from 'pino-pretty';
import type { LogFields, Logger } from '../base/log.ts';
import { LogDestination } from './log-destination.ts';

const STDERR = 2;

/** SPDK's names of levels, which its RPC uses, most severe first. */
const SPDK_LEVELS = { ERROR: 'error', WARNING: 'warn', NOTICE: 'info', INFO: 'info', DEBUG: 'debug' } as const;
export type SpdkLevel = keyof typeof SPDK_LEVELS;

export class DaemonLog implements Logger {
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
    this.#pino.debug(fields, message);
  }

  info(message: string, fields: LogFields = {}): void {
    this.#pino.info(fields, message);
  }

  warn(message: string, fields: LogFields = {}): void {
    this.#pino.warn(fields, message);
  }

  error(message: string, fields: LogFields = {}): void {
    this.#pino.error(fields, message);
  }
}

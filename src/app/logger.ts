/** The daemon's log: pino, for people on a terminal and as JSON lines otherwise. To standard error. */
import pino from 'pino';
import { prettyFactory } from 'pino-pretty';
import { TargetError } from '../base/errors.ts';
import type { LogFields, Logger, LogLevel } from '../base/log.ts';
import { EventLog } from '../observe/event-log.ts';
import { LogDestination } from './log-destination.ts';

const STDERR = 2;

/** SPDK's names of levels, which its RPC uses, most severe first. */
const SPDK_LEVELS = { ERROR: 'error', WARNING: 'warn', NOTICE: 'info', INFO: 'info', DEBUG: 'debug' } as const;
export type SpdkLevel = keyof typeof SPDK_LEVELS;

/** Parts of the daemon that can have levels of their own; what is in none of them has the log's. */
export const LOG_ROOMS = ['bdev', 'http', 'reactor', 'rpc', 'vhost'] as const;
export type LogRoom = (typeof LOG_ROOMS)[number];

export class DaemonLog implements Logger {
  /** The newest lines, for the dashboard. */
  readonly events = new EventLog();
  readonly #pino: pino.Logger;
  readonly #rooms = new Map<LogRoom, SpdkLevel>();
  #level: SpdkLevel = 'NOTICE';
  #printLevel: SpdkLevel = 'NOTICE';

  constructor(format: 'text' | 'json') {
    const pretty = prettyFactory({ ignore: 'pid,hostname', translateTime: 'SYS:yyyy-mm-dd HH:MM:ss.l' });
    const shape = format === 'json' ? (line: string): string => line : pretty;
    const destination = new LogDestination(STDERR, (lines) => {
      const msg = `${lines} lines of the log were lost: it took none for a while`;
      return shape(`${JSON.stringify({ level: pino.levels.values['warn'], time: Date.now(), msg })}\n`);
    });
    this.#pino = pino({ level: 'debug', base: null }, { write: (line) => destination.write(shape(line)) });
  }

  get level(): SpdkLevel {
    return this.#level;
  }

  set level(level: SpdkLevel) {
    this.#level = level;
  }

  /** Kept for SPDK's clients: there is one destination, so `level` decides. */
  get printLevel(): SpdkLevel {
    return this.#printLevel;
  }

  set printLevel(level: SpdkLevel) {
    this.#printLevel = level;
    this.level = level;
  }

  levelOf(room: LogRoom): SpdkLevel {
    return this.#rooms.get(room) ?? this.#level;
  }

  /** Undefined: that of the log, whatever it becomes. */
  setLevelOf(room: LogRoom, level: SpdkLevel | undefined): void {
    if (level === undefined) this.#rooms.delete(room);
    else this.#rooms.set(room, level);
  }

  /** All levels, as `setLevels` takes them. */
  get levels(): string {
    return [this.#level, ...[...this.#rooms].map(([room, level]) => `${room}=${level}`)].join();
  }

  /** `debug`, or `vhost=debug,rpc=error`, or both. @throws TargetError `EINVAL` */
  setLevels(text: string): void {
    for (const part of text.split(',')) {
      const [first = '', second] = part.split('=');
      const level = (second ?? first).toUpperCase();
      if (!isSpdkLevel(level)) throw new TargetError('EINVAL', `${part}: choose of ${levelNames()}`);
      if (second === undefined) this.level = level;
      else this.setLevelOf(roomNamed(first), level);
    }
  }

  /** The log as a part of the daemon writes it. */
  room(room: LogRoom): Logger {
    return {
      debug: (message, fields) => this.#write('debug', message, fields, room),
      info: (message, fields) => this.#write('info', message, fields, room),
      warn: (message, fields) => this.#write('warn', message, fields, room),
      error: (message, fields) => this.#write('error', message, fields, room),
    };
  }

  debug(message: string, fields?: LogFields): void {
    this.#write('debug', message, fields);
  }

  info(message: string, fields?: LogFields): void {
    this.#write('info', message, fields);
  }

  warn(message: string, fields?: LogFields): void {
    this.#write('warn', message, fields);
  }

  error(message: string, fields?: LogFields): void {
    this.#write('error', message, fields);
  }

  #write(level: LogLevel, message: string, fields: LogFields = {}, room?: LogRoom): void {
    const least = SPDK_LEVELS[room === undefined ? this.#level : this.levelOf(room)];
    if (SEVERITY[level] < SEVERITY[least]) return;
    this.events.add(level, message, fields);
    this.#pino[level](fields, message);
  }
}

const SEVERITY: Readonly<Record<LogLevel, number>> = { debug: 0, info: 1, warn: 2, error: 3 };

function isSpdkLevel(text: string): text is SpdkLevel {
  return Object.hasOwn(SPDK_LEVELS, text);
}

function levelNames(): string {
  return Object.keys(SPDK_LEVELS).join(', ').toLowerCase();
}

/** @throws TargetError `EINVAL` */
export function roomNamed(text: string): LogRoom {
  const room = LOG_ROOMS.find((name) => name === text);
  if (room !== undefined) return room;
  throw new TargetError('EINVAL', `the log has no "${text}": choose of ${LOG_ROOMS.join(', ')}`);
}

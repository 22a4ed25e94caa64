/**
 * The old side of an upgrade (docs/upgrade.md): starts the new daemon, lets it make everything ready while this one
 * serves, stops the rings, and gives them over. Until the new one says that it takes them this one can go on, and does
 * so when anything fails; the new one touches no ring before it says so.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { TargetError } from '../base/errors.ts';
import { FdList } from '../base/fd-list.ts';
import type { Logger } from '../base/log.ts';
import { closeFd } from '../sys/events.ts';
import { socketPair } from '../sys/socket.ts';
import { clockNs } from '../sys/thread.ts';
import { type FrozenState, HANDOVER_VERSION, HandoverChannel, type Offer } from './handover-channel.ts';
import { HANDOVER_VARIABLE } from './predecessor.ts';

/** The descriptor of the new daemon's end of the channel, after standard input, output and error. */
const CHILD_FD = 3;
/** From the moment in which the new one may take the rings until it has said so. It only has to write a message. */
const TAKE_MS_MAX = 5_000;
/** After that, until the old one may end: what is left to do keeps no guest waiting. */
const LEAVE_MS_MAX = 30_000;
const NS_PER_MS = 1e6;

/** What an upgrade needs of the daemon. */
export interface UpgradeSource {
  /** Throws when something cannot be handed over. */
  offer(fds: FdList): Omit<Offer, 'type' | 'version'>;
  /** What can be done before guests wait. */
  catchUp(): Promise<void>;
  /** Guests wait, with nothing in flight. Throws `ETIMEDOUT` when requests are not done in time. */
  freeze(withinMs: number): Promise<void>;
  save(fds: FdList): Promise<FrozenState>;
  /** The new daemon is ready. What is left to do before it has everything. */
  settle(withinMs: number): Promise<void>;
  /** Guests go on. */
  thaw(): Promise<void>;
}

export interface UpgradeOptions {
  /** The program to start. Default: the one that this process runs. */
  readonly exec?: string | undefined;
  /** Its arguments. Default: those of this process. */
  readonly args?: readonly string[] | undefined;
  /** How long guests may wait at most, in milliseconds: otherwise this daemon goes on. */
  readonly pauseMsMax: number;
  /** How long the new daemon may take to make everything ready. */
  readonly startMsMax: number;
}

export interface Upgraded {
  readonly pid: number;
  /** How long no request was taken. */
  readonly pauseMs: number;
  readonly sessions: number;
}

export class Upgrade {
  /** The new daemon has the rings. */
  isTaken = false;
  readonly #source: UpgradeSource;
  readonly #options: UpgradeOptions;
  readonly #log: Logger;
  readonly #successor: Successor;

  constructor(source: UpgradeSource, options: UpgradeOptions, log: Logger) {
    this.#source = source;
    this.#options = options;
    this.#log = log;
    this.#successor = new Successor(options);
  }

  /** Ends the new daemon, if it has not taken over. */
  abort(): void {
    this.#successor.kill();
  }

  /** Closes this side of the channel: the new daemon may use the sockets that were left to it. */
  finish(): void {
    this.#successor.channel.close();
  }

  /**
   * Resolves when guests are served by the new daemon. Throws when it failed and this one serves them; or, with
   * `isTaken`, nobody does any more.
   */
  async run(): Promise<Upgraded> {
    const { startMsMax, pauseMsMax } = this.#options;
    const successor = this.#successor;
    let frozenNs = 0;
    let sessions = 0;
    try {
      await successor.within(startMsMax, 'to be ready', (channel) => this.#prepare(channel));
      await this.#source.catchUp();
      frozenNs = clockNs();
      await this.#source.freeze(pauseMsMax);
      const fds = new FdList();
      const state = await this.#source.save(fds);
      sessions = state.controllers.filter(({ session }) => session !== null).length;
      const leftMs = (): number => Math.max(0, pauseMsMax - (clockNs() - frozenNs) / NS_PER_MS);
      await successor.within(leftMs(), 'to take the sessions', async (channel) => {
        await channel.send({ type: 'state', ...state }, fds);
        await channel.receive('ready');
      });
      await this.#source.settle(leftMs());
      await this.#give();
    } catch (error) {
      successor.kill();
      if (frozenNs > 0) await this.#source.thaw();
      await successor.exited;
      const { code, message } = error as TargetError;
      throw new TargetError(code, `${message}. This daemon serves on.`, { cause: error });
    }
    this.isTaken = true;
    return await this.#settle(frozenNs, sessions);
  }

  async #prepare(channel: HandoverChannel): Promise<void> {
    const fds = new FdList();
    const offer = this.#source.offer(fds);
    await channel.send({ type: 'offer', version: HANDOVER_VERSION, ...offer }, fds);
    await channel.receive('prepared');
  }

  /** Throws when the new daemon is dead and has touched nothing. */
  async #give(): Promise<void> {
    const successor = this.#successor;
    const taking = (async () => {
      await successor.channel.send({ type: 'go' });
      await successor.channel.receive('taken');
    })();
    const isTaken = taking.then(
      () => true,
      () => false,
    );
    await successor.within(TAKE_MS_MAX, 'to take the rings', () => taking).catch(() => successor.kill());
    // What it said before it died counts.
    if (!(await isTaken)) throw new TargetError('EIO', 'the new version ended before it took the rings');
  }

  async #settle(frozenNs: number, sessions: number): Promise<Upgraded> {
    const { pid } = this.#successor;
    try {
      const serve = (channel: HandoverChannel) => channel.receive('serving');
      const { message } = await this.#successor.within(LEAVE_MS_MAX, 'to settle', serve);
      const pauseMs = Math.round((message.sinceNs - frozenNs) / 1e4) / 100;
      this.#log.info(`process ${pid} has taken over`, { sessions, pauseMs });
      return { pid, pauseMs, sessions };
    } catch (error) {
      this.#successor.kill();
      throw new TargetError('EIO', `the new version took over and failed: ${(error as Error).message}`, {
        cause: error,
      });
    }
  }
}

/** The new daemon. */
class Successor {
  readonly channel: HandoverChannel;
  /** Resolves when the process has ended. */
  readonly exited: Promise<void>;
  readonly #child: ChildProcess;
  #end: TargetError | null = null;

  constructor({ exec, args = process.argv.slice(2) }: UpgradeOptions) {
    const own = [...process.execArgv, process.argv[1] as string];
    const [command, first] = exec === undefined ? [process.execPath, own] : [exec, []];
    const [ours, theirs] = socketPair();
    this.channel = new HandoverChannel(ours);
    try {
      this.#child = spawn(command, [...first, ...args], {
        stdio: ['inherit', 'inherit', 'inherit', theirs],
        env: { ...process.env, [HANDOVER_VARIABLE]: String(CHILD_FD) },
      });
    } catch (error) {
      this.channel.close();
      throw new TargetError('EINVAL', `${command} cannot be started: ${(error as Error).message}`, { cause: error });
    } finally {
      closeFd(theirs);
    }
    this.exited = new Promise((resolve) => {
      const ended = (how: string): void => {
        this.#end ??= new TargetError('EIO', `the new version ${how}`);
        resolve();
      };
      this.#child.once('error', (error) => ended(`cannot be started: ${error.message}`));
      this.#child.once('exit', (status, signal) => ended(`ended with ${signal ?? `status ${status}`}: see the log`));
    });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }

  /** Throws when it ends before, or `ETIMEDOUT`. */
  async within<T>(limitMs: number, purpose: string, work: (channel: HandoverChannel) => Promise<T>): Promise<T> {
    const { promise: late, reject } = Promise.withResolvers<never>();
    const text = `the new version needed more than ${Math.round(limitMs)} ms ${purpose}`;
    const timer = setTimeout(() => reject(new TargetError('ETIMEDOUT', text)), limitMs);
    const running = work(this.channel).catch(async (error: unknown) => {
      // That the channel broke says less than how the process ended, which is known a moment later.
      if ((error as TargetError).code !== 'EPIPE') throw error;
      await this.exited;
      throw this.#end;
    });
    try {
      return await Promise.race([running, late]);
    } finally {
      clearTimeout(timer);
      running.catch(() => undefined);
    }
  }
}

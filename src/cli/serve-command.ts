/** `ringhost serve`: runs the daemon until it is told to stop. */

import { resolve as resolvePath } from 'node:path';
import { readyBanner } from '../app/banner.ts';
import { Daemon, REACTOR_DEATH_EXIT_CODE } from '../app/daemon.ts';
import { DaemonLog } from '../app/logger.ts';
import { checkOptions, type DaemonOptions, type RawOptions } from '../app/options.ts';
import { Predecessor } from '../app/predecessor.ts';
import { diskConfig, SocketDirectory } from '../app/serve-disk.ts';
import { TargetError } from '../base/errors.ts';

export interface ServeOptions extends RawOptions {
  readonly logFormat?: string | undefined;
  /** Of the log, or of parts of the daemon: `debug`, `vhost=debug,rpc=error`. */
  readonly logLevel?: string | undefined;
  /** File with a disk: it alone is served. */
  readonly disk?: string | undefined;
  /** `key=value` for it. */
  readonly diskOptions?: readonly string[];
  /** No place for sockets was given: a disk has them in a directory of its own. */
  readonly hasOwnSockets?: boolean;
}

/** Resolves with the exit code. */
export async function runServeCommand(raw: ServeOptions): Promise<number> {
  const log = new DaemonLog(
    raw.logFormat === 'json' || (raw.logFormat === undefined && !process.stderr.isTTY) ? 'json' : 'text',
  );
  let stopRequested: ((signal: string) => void) | undefined;
  const stopping = new Promise<string>((resolve) => (stopRequested = resolve));
  const onSignal = (signal: string): void => stopRequested?.(signal);
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  // Before it has started there is nothing to read again.
  process.on('SIGHUP', () => undefined);
  // Without a listener it opens Node's debugger on a port of loopback, to whoever is on the machine.
  process.on('SIGUSR1', () => log.info('SIGUSR1 has no effect'));
  if (!setLevels(log, raw.logLevel)) return 1;
  let daemon: Daemon;
  let sockets: SocketDirectory | null = null;
  let predecessor: Predecessor | null = null;
  try {
    predecessor = await Predecessor.meet();
    if (raw.disk !== undefined && raw.hasOwnSockets === true) sockets = new SocketDirectory(undefined);
    const onReactorDeath = (error: Error): void => {
      log.error(`a reactor died, so the daemon ends; front-ends with reconnect= wait for it: ${error.stack}`);
      process.exit(REACTOR_DEATH_EXIT_CODE);
    };
    daemon = await Daemon.start(daemonOptions(raw, sockets), log, onReactorDeath, predecessor);
  } catch (error) {
    if (predecessor !== null) {
      await predecessor.fail((error as Error).message);
      // What was made so far is still the other daemon's.
      process.exit(1);
    }
    sockets?.remove();
    if (!(error instanceof TargetError)) throw error;
    process.stderr.write(`ringhost: ${error.message}\n`);
    return 1;
  }
  process.on('SIGHUP', () => daemon.renewSecrets(() => daemonOptions(raw, sockets)));
  // Nobody reads it, or there is no room: the daemon serves all the same.
  process.stdout.on('error', () => undefined);
  if (predecessor === null) process.stdout.write(readyBanner(daemon));
  const end = await Promise.race([stopping, daemon.replaced]);
  if (typeof end === 'number') process.exit(end);
  log.info(`${end}: stopping`);
  await daemon.stop();
  sockets?.remove();
  log.info('stopped');
  return 0;
}

function daemonOptions(raw: ServeOptions, sockets: SocketDirectory | null): DaemonOptions {
  const places = sockets === null ? {} : { socketDirectory: sockets.path, rpcSocket: sockets.rpcSocket };
  const options = checkOptions({ ...raw, ...places });
  if (raw.disk === undefined) return options;
  const path = resolvePath(raw.disk);
  return { ...options, ownConfig: diskConfig(path, undefined, pairsOf(raw.diskOptions ?? [])) };
}

function pairsOf(words: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    words.map((word) => {
      const at = word.indexOf('=');
      if (at <= 0) throw new TargetError('EINVAL', `${word}: give options of a disk as KEY=VALUE`);
      return [word.slice(0, at), word.slice(at + 1)];
    }),
  );
}

/** False when it cannot be done, which was said. */
function setLevels(log: DaemonLog, levels: string | undefined): boolean {
  try {
    if (levels !== undefined) log.setLevels(levels);
    return true;
  } catch (error) {
    process.stderr.write(`ringhost: --log-level: ${(error as Error).message}\n`);
    return false;
  }
}

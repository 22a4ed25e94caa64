/** `ringhost serve`: runs the daemon until it is told to stop. */

import { readyBanner } from '../app/banner.ts';
import { Daemon, REACTOR_DEATH_EXIT_CODE } from '../app/daemon.ts';
import { DaemonLog } from '../app/logger.ts';
import { checkOptions, type RawOptions } from '../app/options.ts';
import { TargetError } from '../base/errors.ts';

export interface ServeOptions extends RawOptions {
  readonly logFormat?: string | undefined;
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
  let daemon: Daemon;
  try {
    daemon = await Daemon.start(checkOptions(raw), log, (error) => {
      log.error(`a reactor died, so the daemon ends; front-ends with reconnect= wait for it: ${error.stack}`);
      process.exit(REACTOR_DEATH_EXIT_CODE);
    });
  } catch (error) {
    if (!(error instanceof TargetError)) throw error;
    process.stderr.write(`ringhost: ${error.message}\n`);
    return 1;
  }
  // Nobody reads it, or there is no room: the daemon serves all the same.
  process.stdout.on('error', () => undefined);
  process.stdout.write(readyBanner(daemon));
  const signal = await stopping;
  log.info(`${signal}: stopping`);
  await daemon.stop();
  log.info('stopped');
  return 0;
}

/** `ringhost upgrade`: has a running daemon hand everything over to a new one. */
import { TargetError } from '../base/errors.ts';
import { connectTo, type DaemonAccess } from './daemon-access.ts';
import { reporting } from './reporting.ts';

export interface UpgradeCommandOptions {
  readonly daemon: DaemonAccess;
  readonly exec: string | undefined;
  /** Of the new daemon; none: those of the one that runs. */
  readonly args: readonly string[];
  /** Milliseconds, as typed; undefined for the default of the method. */
  readonly maxPause: string | undefined;
}

/** The daemon has limits of its own. */
const ANSWER_MS_MAX = 10 * 60_000;

/** Prints what came of it. Resolves with the exit code. */
export function runUpgradeCommand({ daemon, exec, args, maxPause }: UpgradeCommandOptions): Promise<number> {
  return reporting('upgrade', async () => {
    using client = await connectTo(daemon, { timeoutMs: ANSWER_MS_MAX });
    const result = await client.call('framework_upgrade', {
      ...(exec === undefined ? {} : { exec }),
      ...(args.length === 0 ? {} : { args: [...args] }),
      ...(maxPause === undefined ? {} : { max_pause_ms: parseMs(maxPause) }),
    });
    const { pid, sessions, pause_ms: pauseMs } = result;
    process.stdout.write(`process ${pid} has taken over ${sessions} sessions, which paused for ${pauseMs} ms\n`);
    return 0;
  });
}

function parseMs(text: string): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && value > 0) return value;
  throw new TargetError('EINVAL', `--max-pause ${text}: give a whole number of milliseconds, such as 100`);
}

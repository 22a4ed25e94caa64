/** Tells systemd, where it started the daemon (`Type=notify`), that this process is ready, and that it is the one. */
import { execFile } from 'node:child_process';
import type { Logger } from '../base/log.ts';

const ANSWER_MS_MAX = 10_000;

/** Resolves when systemd knows. An error is logged: guests are served all the same. */
export async function announceReady(log: Logger): Promise<void> {
  if (process.env['NOTIFY_SOCKET'] === undefined) return;
  const args = ['--ready', `--pid=${process.pid}`];
  await new Promise<void>((resolve) => {
    execFile('systemd-notify', args, { timeout: ANSWER_MS_MAX }, (error) => {
      if (error !== null) log.error(`systemd could not be told that the daemon is ready: ${error.message}`);
      resolve();
    });
  });
}

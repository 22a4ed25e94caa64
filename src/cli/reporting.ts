/** How a command that the daemon refuses, or that is given something wrong, ends: with one line that says so. */
import { TargetError } from '../base/errors.ts';
import { RpcCallError } from '../rpc/client.ts';

/** Resolves with the exit code: that of `run`, or 1 when it was refused. `name`: as typed after `ringhost`. */
export async function reporting(name: string, run: () => Promise<number>): Promise<number> {
  try {
    return await run();
  } catch (error) {
    if (!(error instanceof TargetError || error instanceof RpcCallError)) throw error;
    process.stderr.write(`ringhost ${name}: ${error.message}\n`);
    return 1;
  }
}

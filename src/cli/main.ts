/** The command line: `ringhost [serve] …`, `ringhost rpc …`. */
import { createProgram } from './program.ts';

async function main(argv: readonly string[]): Promise<void> {
  // `rpc` has the command line of SPDK's rpc.py, which is its own affair.
  if (argv[0] === 'rpc') {
    const { runRpcCommand } = await import('./rpc-command.ts');
    process.exitCode = await runRpcCommand(argv.slice(1), {
      stdin: process.stdin,
      stdout: process.stdout,
      stderr: process.stderr,
      env: process.env,
    });
    return;
  }
  await createProgram().parseAsync([...argv], { from: 'user' });
}

await main(process.argv.slice(2));

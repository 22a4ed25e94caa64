/** `ringhost setup` on this machine. */
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { errnoName, strerror, TargetError } from '../base/errors.ts';
import { runSetup, type SetupAction, type SetupHost } from './setup-command.ts';

const ACTIONS: readonly SetupAction[] = ['config', 'status', 'reset'];

const HOST: SetupHost = {
  root: '/',
  print: (line) => process.stdout.write(`${line}\n`),
  write(path, text) {
    try {
      writeFileSync(path, text);
    } catch (error) {
      const errno = (error as NodeJS.ErrnoException).errno ?? 0;
      throw new TargetError(errnoName(errno), `cannot write ${path}: ${strerror(errno)}. This needs root`);
    }
  },
  loadModule(name) {
    try {
      execFileSync('modprobe', [name], { stdio: 'ignore' });
    } catch (error) {
      throw new TargetError('ENOENT', `modprobe ${name} failed: the kernel has no such module`, { cause: error });
    }
  },
};

/** Returns the exit code. */
export function setUpHost(action: string, devices: string | undefined, hugepages: string | undefined): number {
  const known = ACTIONS.find((candidate) => candidate === action);
  const mib = hugepages === undefined ? undefined : Number(hugepages);
  try {
    if (known === undefined) throw new TargetError('EINVAL', `"${action}" is not one of ${ACTIONS.join(', ')}`);
    if (mib !== undefined && !(Number.isSafeInteger(mib) && mib >= 0)) {
      throw new TargetError('EINVAL', `--hugepages ${hugepages}: give a number of MiB, such as 1024`);
    }
    runSetup(known, { devices: devices?.split(',') ?? [], hugepagesMib: mib }, HOST);
    return 0;
  } catch (error) {
    if (!(error instanceof TargetError)) throw error;
    process.stderr.write(`ringhost setup: ${error.message}\n`);
    return 1;
  }
}

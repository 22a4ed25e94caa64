/** `ringhost doctor`: the checks, on this machine. */
import { spawnSync } from 'node:child_process';
import { accessSync, constants, readdirSync, readFileSync, statSync } from 'node:fs';
import { type DoctorHost, examine, findingText } from '../app/doctor.ts';

const MACHINE: Omit<DoctorHost, 'addonProblem' | 'ioUringProblem'> = {
  read: (path) => orNull(() => readFileSync(path, 'utf8')),
  list: (path) => orNull(() => readdirSync(path)) ?? [],
  stat: (path) => orNull(() => statSync(path)),
  canUse: (path) => {
    if (orNull(() => statSync(path)) === null) return null;
    return orNull(() => accessSync(path, constants.R_OK | constants.W_OK)) !== null;
  },
  run: (command, args) => {
    const { status, stdout } = spawnSync(command, args, { encoding: 'utf8' });
    return status === 0 ? stdout : null;
  },
  nodeVersion: process.versions.node,
  arch: process.arch,
};

/** Prints what was found. Resolves with the exit code: 1 when something fails. */
export async function runDoctorCommand(rpcSocket: string): Promise<number> {
  const findings = examine({ ...MACHINE, ...(await tryAddon()) }, rpcSocket);
  for (const finding of findings) process.stdout.write(`${findingText(finding)}\n`);
  const count = (level: string): number => findings.filter((finding) => finding.level === level).length;
  process.stdout.write(`${count('fail')} failures, ${count('warn')} warnings\n`);
  return count('fail') > 0 ? 1 : 0;
}

async function tryAddon(): Promise<Pick<DoctorHost, 'addonProblem' | 'ioUringProblem'>> {
  try {
    const { ioUringProblem } = await import('../app/capabilities.ts');
    return { addonProblem: null, ioUringProblem: ioUringProblem() };
  } catch (error) {
    return { addonProblem: (error as Error).message, ioUringProblem: 'it was not tried' };
  }
}

/** `undefined` counts as an answer. */
function orNull<T>(ask: () => T): T | null {
  try {
    return ask();
  } catch {
    return null;
  }
}

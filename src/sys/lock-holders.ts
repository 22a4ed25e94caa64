/** Who holds a lock on a file, as far as /proc shows it to this process (proc(5), /proc/pid/fdinfo). */
import { readdirSync, readFileSync, statSync } from 'node:fs';

export interface LockHolder {
  readonly pid: number;
  readonly command: string;
}

/** Processes with a locked descriptor of the file. What a dead process left in flight belongs to none. */
export function lockHolders(filename: string): LockHolder[] {
  const file = orNull(() => statSync(filename));
  if (file === null) return [];
  const holds = (pid: string, fd: string): boolean => {
    const open = orNull(() => statSync(`/proc/${pid}/fd/${fd}`));
    if (open === null || open.dev !== file.dev || open.ino !== file.ino) return false;
    return orNull(() => readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'utf8'))?.includes('\nlock:') === true;
  };
  return readdirSync('/proc')
    .filter((pid) => /^\d+$/.test(pid))
    .filter((pid) => (orNull(() => readdirSync(`/proc/${pid}/fd`)) ?? []).some((fd) => holds(pid, fd)))
    .map((pid) => ({
      pid: Number(pid),
      command: orNull(() => readFileSync(`/proc/${pid}/comm`, 'utf8'))?.trim() ?? '',
    }));
}

/** A process may end while it is looked at, or may not be ours to look at. */
function orNull<T>(look: () => T): T | null {
  try {
    return look();
  } catch {
    return null;
  }
}

/** Accounts by name, and how the daemon becomes one of them for good. */
import { execFileSync } from 'node:child_process';
import { closeSync, openSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { TargetError } from '../base/errors.ts';

const ROOT = 0;

export interface Account {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
}

/** By name or number, as the machine's name service knows it. Throws `EINVAL` when it does not. */
export function findAccount(text: string): Account {
  const [name = text, , uid, gid] = lookUp('passwd', text, '--user');
  return { name, uid: Number(uid), gid: Number(gid) };
}

/** Number of a group. */
export function findGroup(text: string): number {
  if (/^\d+$/.test(text)) return Number(text);
  return Number(lookUp('group', text, '--socket-group')[2]);
}

function lookUp(database: 'passwd' | 'group', key: string, option: string): string[] {
  try {
    return execFileSync('getent', [database, key], { encoding: 'utf8' }).trim().split(':');
  } catch {
    throw new TargetError(
      'EINVAL',
      database === 'group'
        ? `${option} ${key}: this machine knows no such group: groupadd --system ${key} makes it`
        : `${option} ${key}: this machine knows no such user: useradd --system ${key} makes it`,
    );
  }
}

/**
 * Throws `EACCES` when `account` could not make sockets in these directories, `EPERM` when this process cannot become
 * it. Before other threads are started: for a moment all of them are that account.
 */
export function checkAccount({ name, uid, gid }: Account, directories: readonly string[]): void {
  const own = process.geteuid?.() ?? 0;
  if (own === uid) return;
  if (own !== ROOT) throw new TargetError('EPERM', `--user ${name}: only root can become another user`);
  const ownGroup = process.getegid?.() ?? ROOT;
  process.setegid?.(gid);
  process.seteuid?.(uid);
  try {
    for (const directory of directories) {
      const probe = join(directory, `.ringhost-${process.pid}`);
      closeSync(openSync(probe, 'wx'));
      unlinkSync(probe);
    }
  } catch (error) {
    throw new TargetError('EACCES', `--user ${name} cannot make sockets: ${(error as Error).message}`);
  } finally {
    process.seteuid?.(ROOT);
    process.setegid?.(ownGroup);
  }
}

/** Makes all threads of the process those of `account`, without a way back. `groups` are kept beside its own. */
export function becomeAccount({ name, uid, gid }: Account, groups: readonly number[]): void {
  if (process.geteuid?.() === uid) return;
  // Node's types do not know it.
  (process as { initgroups?(user: string, group: number): void }).initgroups?.(name, gid);
  process.setgroups?.([...new Set([...(process.getgroups?.() ?? []), ...groups])]);
  process.setgid?.(gid);
  process.setuid?.(uid);
}

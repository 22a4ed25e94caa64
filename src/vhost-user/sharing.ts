/**
 * Finds out whether a front-end really shares the memory it sends: QEMU without `share=on` sends a descriptor, but maps
 * it privately, so that the two sides never see each other's writes and the guest hangs at its first request.
 */
import { fstatSync, readFileSync } from 'node:fs';

export const SHARE_HINT =
  'guest memory is not shared with this process: give QEMU ' +
  '`-object memory-backend-memfd,id=mem,size=SIZE,share=on -numa node,memdev=mem` (or `-machine memory-backend=mem`)';

/** True when the process maps the file of `fd` privately. False when it does not, or when nobody lets us look. */
export function isMappedPrivately(pid: number, fd: number): boolean {
  let maps: string;
  let file: { ino: number; dev: number };
  try {
    file = fstatSync(fd);
    maps = readFileSync(`/proc/${pid}/maps`, 'latin1');
  } catch {
    return false;
  }
  // address perms offset major:minor inode path; perms end with `p` (private) or `s` (shared). proc(5).
  for (const line of maps.split('\n')) {
    const [, permissions, , device, inode] = line.split(/ +/);
    if (permissions?.[3] === 'p' && inode === String(file.ino) && device === formatDevice(file.dev)) return true;
  }
  return false;
}

/** As proc(5) prints it; the split of dev_t is that of gnu_dev_major and gnu_dev_minor. */
function formatDevice(device: number): string {
  const major = Math.floor(device / 256) & 0xfff;
  const minor = (device & 0xff) | (Math.floor(device / 4096) & 0xfff00);
  return `${major.toString(16).padStart(2, '0')}:${minor.toString(16).padStart(2, '0')}`;
}

/** The file behind file disks: on the disk of the checkout, every block written. */
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  fsyncSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { ROOT } from './targets/target.ts';

const CHUNK_BYTES = 1 << 20;

/** Makes a file in a directory of its own, and returns its path. */
export function makeFile(sizeBytes: number): string {
  const parent = join(ROOT, '.ringhost');
  mkdirSync(parent, { recursive: true });
  const path = join(mkdtempSync(join(parent, 'bench-')), 'disk');
  const fd = openSync(path, 'w');
  const chunk = new Uint8Array(CHUNK_BYTES).fill(0x5a);
  for (let at = 0; at < sizeBytes; at += CHUNK_BYTES) writeSync(fd, chunk);
  fsyncSync(fd);
  closeSync(fd);
  // Out of the page cache, as fio would take it: the same for whichever target comes first.
  execFileSync('dd', [`of=${path}`, 'oflag=nocache', 'conv=notrunc,fdatasync', 'count=0', 'status=none']);
  return path;
}

/** Another one of its size, of which nothing was written: a daemon has its files alone. */
export function makeFileBeside(path: string): string {
  const other = `${path}-2`;
  const fd = openSync(other, 'w');
  ftruncateSync(fd, statSync(path).size);
  closeSync(fd);
  return other;
}

/** Removes what `makeFile` made, and what was made beside it. */
export function removeFile(path: string): void {
  rmSync(dirname(path), { recursive: true, force: true });
}

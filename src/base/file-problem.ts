/** What keeps a file from being used, in words, and what to do about it: for the errors of commands. */
import { existsSync } from 'node:fs';
import { dirname } from 'node:path';

/** `error`: what a function of node:fs threw for `path`. */
export function fileProblem(path: string, error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  const directory = dirname(path);
  if (code === 'ENOENT' && !existsSync(directory)) return `there is no directory ${directory}: create it first`;
  if (code === 'ENOENT') return `there is no file ${path}`;
  if (code === 'EACCES') return `this user may not use ${path}: ls -ld ${directory} ${path} says who may`;
  if (code === 'EISDIR') return `${path} is a directory: name a file`;
  if (code === 'ENOTDIR') return `${path}: one of its directories is a file`;
  return `${path}: ${message}`;
}

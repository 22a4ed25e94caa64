/** Counts this process's descriptors, so that a test can show that none was leaked. */
import { readdirSync } from 'node:fs';

/** Open descriptors of the process, without the one that the count itself needs. */
export function openFdCount(): number {
  return readdirSync('/proc/self/fd').length - 1;
}

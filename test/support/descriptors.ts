/** Counts this process's descriptors, so that a test can show that none was leaked. */
import { readdirSync, readlinkSync } from 'node:fs';
import { truncationEventFd } from '../../src/sys/mapping.ts';

/** Opened by the first guarded mapping, and kept: it must not look like a leak of the test that comes first. */
truncationEventFd();

/**
 * Open descriptors of the process, without the one that the count itself needs. The process may close one of its own
 * at any time: only more than before is a leak.
 */
export function openFdCount(): number {
  return readdirSync('/proc/self/fd').length - 1;
}

/** What the open descriptors are, as the kernel names them, for the message of a test that found one too many. */
export function openFdNames(): string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return [`${fd} ${readlinkSync(`/proc/self/fd/${fd}`)}`];
    } catch {
      return []; // The one that the list itself needed.
    }
  });
}

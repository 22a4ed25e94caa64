/**
 * Descriptors of a message of plain data: they travel beside it (SCM_RIGHTS), and in it stand their places in a list.
 */
import { TargetError } from './errors.ts';

/** Of no descriptor. */
const NOWHERE = -1;

export class FdList {
  readonly fds: number[];

  /** `fds`: as they were received; whoever takes one owns it. */
  constructor(fds: readonly number[] = []) {
    this.fds = [...fds];
  }

  /** The place of a descriptor, which stays the caller's. A negative one is none. */
  put(fd: number): number {
    return fd < 0 ? NOWHERE : this.fds.push(fd) - 1;
  }

  /** As `take`, but undefined for none. */
  find(place: number): number | undefined {
    return place === NOWHERE ? undefined : this.take(place);
  }

  /** What `put` was given; -1 for none. Throws `EPROTO` when no descriptor came for the place. */
  take(place: number): number {
    if (place === NOWHERE) return NOWHERE;
    const fd = this.fds[place];
    if (fd === undefined) throw new TargetError('EPROTO', `descriptor ${place} of ${this.fds.length} did not come`);
    return fd;
  }
}

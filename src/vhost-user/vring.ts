/** What a front-end told us of one virtqueue. Descriptors are owned here until they are replaced. */
import { closeFd } from '../sys/events.ts';
import { NO_FD } from './device.ts';

/** Front-end virtual addresses of the three parts. */
export interface VringAddresses {
  readonly descriptor: number;
  readonly used: number;
  readonly available: number;
}

type FdSlot = 'kickFd' | 'callFd' | 'errFd';

export class Vring {
  readonly index: number;
  size = 0;
  nextAvail = 0;
  addresses: VringAddresses | null = null;
  kickFd = NO_FD;
  callFd = NO_FD;
  errFd = NO_FD;
  /** A kick descriptor came, or the front-end said that there is none: the ring is started. */
  isStarted = false;
  /** SET_VRING_ENABLE. Only counts when protocol features were negotiated. */
  isEnabled = false;
  /** A reactor works on it. */
  isRunning = false;

  constructor(index: number) {
    this.index = index;
  }

  get isConfigured(): boolean {
    return this.size > 0 && this.addresses !== null && this.isStarted;
  }

  /** Takes over `fd` in place of the old one. */
  replaceFd(slot: FdSlot, fd: number): void {
    if (this[slot] !== NO_FD) closeFd(this[slot]);
    this[slot] = fd;
  }

  /** Back to what it was before the first message about it. */
  reset(): void {
    this.replaceFd('kickFd', NO_FD);
    this.replaceFd('callFd', NO_FD);
    this.replaceFd('errFd', NO_FD);
    this.size = 0;
    this.nextAvail = 0;
    this.addresses = null;
    this.isStarted = false;
    this.isEnabled = false;
  }
}

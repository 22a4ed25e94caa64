/** What a front-end told us of one virtqueue. Descriptors are owned here until they are replaced. */
import { TargetError } from '../base/errors.ts';
import type { FdList } from '../base/fd-list.ts';
import { guestAddressOf, hostAddressOf, type MemoryRegionInfo, NOWHERE } from '../memory/guest-memory.ts';
import { closeFd } from '../sys/events.ts';
import { QUEUE_SIZE_MAX } from '../virtio/features.ts';
import { PACKED_BASE_FIRST, packedSlotsInFlight, ringBytes } from '../virtio/ring-shape.ts';
import { NO_FD, type VringLog } from './device.ts';
import type { NotificationKind } from './inband.ts';

/** Front-end virtual addresses of the three parts. */
export interface VringAddresses {
  readonly descriptor: number;
  readonly used: number;
  readonly available: number;
}

type FdSlot = 'kickFd' | 'callFd' | 'errFd';
const FD_SLOTS: readonly FdSlot[] = ['kickFd', 'callFd', 'errFd'];
const KIND_OF = { kickFd: 'kick', callFd: 'call', errFd: 'err' } as const;
/** In place of a descriptor: one that is lent. */
const BORROWED = 'borrowed';

/** A virtqueue as it is handed over. */
export interface VringRecord {
  readonly index: number;
  readonly size: number;
  readonly base: number | null;
  readonly placeBefore: number | null;
  readonly addresses: VringAddresses | null;
  readonly usedLogAddress: number | null;
  readonly isStarted: boolean;
  readonly isEnabled: boolean;
  readonly fds: Readonly<Record<FdSlot, number | typeof BORROWED>>;
}

export class Vring {
  readonly index: number;
  size = 0;
  /** Where it goes on, as `Ring.base` has it; null while nobody has said so. */
  base: number | null = null;
  /** Where it stood before `begin`. */
  #placeBefore: number | null = null;
  addresses: VringAddresses | null = null;
  /**
   * Guest physical address of the used ring, or of a packed ring's device event suppression, when writes to the ring go
   * into the dirty log, or null.
   */
  usedLogAddress: number | null = null;
  kickFd = NO_FD;
  callFd = NO_FD;
  errFd = NO_FD;
  /** A kick descriptor came, or the front-end said that there is none: the ring is started. */
  isStarted = false;
  /** SET_VRING_ENABLE. Only counts when protocol features were negotiated. */
  isEnabled = false;
  /** A reactor works on it. */
  isRunning = false;
  readonly #borrowed = new Set<FdSlot>();

  constructor(index: number) {
    this.index = index;
  }

  /** As it was before the first message about it, for all that can be seen. */
  get isUntouched(): boolean {
    const isSilent = FD_SLOTS.every((slot) => this[slot] === NO_FD);
    const isUnset = this.size === 0 && this.base === null && this.addresses === null;
    return isSilent && isUnset && !this.isStarted && !this.isEnabled;
  }

  get isConfigured(): boolean {
    return this.size > 0 && this.addresses !== null && this.isStarted;
  }

  setSize(size: number, isPacked: boolean): void {
    if (size === 0 || size > QUEUE_SIZE_MAX || !hasSize(size, isPacked)) {
      const what = isPacked ? 'a number' : 'a power of two';
      throw new TargetError('VHOST_VRING_NUM', `queue size ${size} is not ${what} from 1 to ${QUEUE_SIZE_MAX}`);
    }
    this.size = size;
  }

  /** The device was reset by its status: the ring begins anew unless the front-end says otherwise. */
  begin(): void {
    this.#placeBefore = this.base ?? this.#placeBefore;
    this.base = null;
  }

  /**
   * For GET_VRING_BASE. QEMU up to 7.2 sets the status to 0 when a guest is paused or migrated, and asks afterwards
   * where its rings stood: what it is told is where they go on.
   */
  place(isPacked: boolean): number {
    return this.base ?? this.#placeBefore ?? this.baseOr(isPacked);
  }

  /** Where the ring goes on; where a new one begins unless the front-end has said so. */
  baseOr(isPacked: boolean): number {
    return this.base ?? (isPacked ? PACKED_BASE_FIRST : 0);
  }

  /** As `baseOr`. Throws when a ring of its size cannot stand there: features may have changed since both were set. */
  checkedBase(isPacked: boolean): number {
    const base = this.baseOr(isPacked);
    const isInside = isPacked ? packedSlotsInFlight(base, this.size) >= 0 : base <= 0xffff;
    if (isInside && hasSize(this.size, isPacked)) return base;
    const what = `queue ${this.index} of ${this.size} entries cannot go on at 0x${base.toString(16)}`;
    throw new TargetError('VHOST_VRING_BASE', what);
  }

  /** Virtio 1.3 §2.7, §2.8: descriptors are aligned to 16, the available ring to 2, all other parts to 4 bytes. */
  checkAlignment(isPacked: boolean, { descriptor, available, used }: VringAddresses): void {
    if (descriptor % 16 === 0 && available % (isPacked ? 4 : 2) === 0 && used % 4 === 0) return;
    throw new TargetError('VHOST_VRING_ADDR', `addresses of queue ${this.index} are not aligned`);
  }

  /** Of the ring's parts; throws when they are not in the memory. */
  hostAddresses(isPacked: boolean, regions: readonly MemoryRegionInfo[]) {
    const addresses = this.addresses ?? { descriptor: 0, available: 0, used: 0 };
    const bytes = ringBytes(isPacked, this.size);
    const descriptorAddress = hostAddressOf(regions, addresses.descriptor, bytes.descriptor);
    const availableAddress = hostAddressOf(regions, addresses.available, bytes.available);
    const usedAddress = hostAddressOf(regions, addresses.used, bytes.used);
    if (descriptorAddress === NOWHERE || availableAddress === NOWHERE || usedAddress === NOWHERE) {
      throw new TargetError('VHOST_VRING_ADDR', `queue ${this.index} does not lie in the guest memory`);
    }
    // Regions may be mapped at odd addresses on either side: an atomic access must not cross a cache line.
    const host = { descriptor: descriptorAddress, available: availableAddress, used: usedAddress };
    this.checkAlignment(isPacked, host);
    return { descriptorAddress, availableAddress, usedAddress };
  }

  /** Where the device's own writes are in the guest. A packed ring's descriptors are not at the address to log. */
  loggedRing(isPacked: boolean, regions: readonly MemoryRegionInfo[]): VringLog['ring'] {
    if (this.usedLogAddress === null || this.addresses === null) return null;
    const used = isPacked ? guestAddressOf(regions, this.addresses.descriptor) : this.usedLogAddress;
    return { used, notification: this.usedLogAddress };
  }

  /** Takes over `fd` in place of the old one; one that is borrowed stays somebody else's. */
  replaceFd(slot: FdSlot, fd: number, isBorrowed = false): void {
    if (this[slot] !== NO_FD && !this.#borrowed.has(slot)) closeFd(this[slot]);
    this[slot] = fd;
    if (isBorrowed) this.#borrowed.add(slot);
    else this.#borrowed.delete(slot);
  }

  save(fds: FdList): VringRecord {
    const { index, size, base, addresses, usedLogAddress, isStarted, isEnabled } = this;
    const place = (slot: FdSlot) => (this.#borrowed.has(slot) ? BORROWED : fds.put(this[slot]));
    return {
      ...{ index, size, base, placeBefore: this.#placeBefore, addresses, usedLogAddress, isStarted, isEnabled },
      fds: { kickFd: place('kickFd'), callFd: place('callFd'), errFd: place('errFd') },
    };
  }

  /** `lend`: an own descriptor in place of one that the front-end never gave. */
  load(record: VringRecord, fds: FdList, lend: (kind: NotificationKind) => number): void {
    this.size = record.size;
    this.base = record.base;
    this.#placeBefore = record.placeBefore;
    this.addresses = record.addresses;
    this.usedLogAddress = record.usedLogAddress;
    this.isStarted = record.isStarted;
    this.isEnabled = record.isEnabled;
    for (const slot of FD_SLOTS) {
      const place = record.fds[slot];
      if (place === BORROWED) this.replaceFd(slot, lend(KIND_OF[slot]), true);
      else this.replaceFd(slot, fds.take(place));
    }
  }

  /** Back to what it was before the first message about it. */
  reset(): void {
    this.replaceFd('kickFd', NO_FD);
    this.replaceFd('callFd', NO_FD);
    this.replaceFd('errFd', NO_FD);
    this.size = 0;
    this.base = null;
    this.#placeBefore = null;
    this.addresses = null;
    this.usedLogAddress = null;
    this.isStarted = false;
    this.isEnabled = false;
  }
}

function hasSize(size: number, isPacked: boolean): boolean {
  return isPacked || (size & (size - 1)) === 0;
}

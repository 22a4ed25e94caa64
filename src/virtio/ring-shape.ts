/** What both ends of a vhost-user session have to know of a virtqueue: its parts, and where it goes on. */
export interface RingSetup {
  /** Entries: of a split ring a power of two. */
  readonly size: number;
  /**
   * Host addresses of the three parts, each wholly inside one memory region. Of a packed ring the second is the
   * driver's event suppression structure and the third the device's.
   */
  readonly descriptorAddress: number;
  readonly availableAddress: number;
  readonly usedAddress: number;
  readonly hasEventIdx: boolean;
  /** Where to go on, as SET_VRING_BASE gives it: see `Ring.base`. */
  readonly base: number;
  /** Where it keeps what is in flight; null or left out for nowhere. */
  readonly inflight?: InflightArea | null;
}

/** A ring's part of the in-flight region (QEMU docs/interop/vhost-user.rst, "Inflight I/O tracking"). */
export interface InflightArea {
  /** Host address, aligned to 8. */
  readonly address: number;
  /** Heads, or descriptors of a packed ring, that it has room for. */
  readonly entries: number;
}

/** Bytes of the area of a ring of at most `entries`. */
export function inflightBytes(isPacked: boolean, entries: number): number {
  return isPacked ? 32 + 32 * entries : 16 + 16 * entries;
}

export interface RingFormat {
  /** VIRTIO_F_RING_PACKED. */
  readonly isPacked: boolean;
  /** VIRTIO_F_IN_ORDER. */
  readonly isInOrder: boolean;
}

/** Bytes of the three parts of a ring of `size` entries (virtio 1.3 §2.7, §2.8). */
export function ringBytes(isPacked: boolean, size: number): { descriptor: number; available: number; used: number } {
  if (isPacked) return { descriptor: 16 * size, available: 4, used: 4 };
  return { descriptor: 16 * size, available: 6 + 2 * size, used: 6 + 8 * size };
}

/** Where both sides of a ring stand before its first chain. */
export const PACKED_BASE_FIRST = 0x8000_8000;

/** No place. */
export const NOWHERE = -1;
const USED_SHIFT = 16;
const WRAP_SHIFT = 15;
const PLACE_MASK = 0x7fff;

/**
 * Descriptors of a ring of `size` that were taken and not used yet where it stands at `base`; `NOWHERE` when no ring
 * can stand there. An upper half of 0 is that of a front-end which knows one position only: both sides stand there.
 */
export function packedSlotsInFlight(base: number, size: number): number {
  const used = base >>> USED_SHIFT === 0 ? base & 0xffff : base >>> USED_SHIFT;
  const turns = ((base >>> WRAP_SHIFT) ^ (used >>> WRAP_SHIFT)) & 1;
  const distance = (base & PLACE_MASK) - (used & PLACE_MASK) + turns * size;
  const isInside = (base & PLACE_MASK) < size && (used & PLACE_MASK) < size;
  return isInside && distance >= 0 && distance <= size ? distance : NOWHERE;
}

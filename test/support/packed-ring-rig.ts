/** A packed ring with both sides in one process. */
import { PackedDriverRing } from '../../src/initiator/packed-driver-ring.ts';
import { PackedRing } from '../../src/virtio/packed-ring.ts';
import { PACKED_BASE_FIRST } from '../../src/virtio/ring-shape.ts';
import { type RingRigOptions, TwoSidedRing } from './ring-rig.ts';

const ADDRESS_HIGH = 2 ** 32;
const LAYOUT = {
  createDriver: (...args: ConstructorParameters<typeof PackedDriverRing>) => new PackedDriverRing(...args),
  createDevice: (...args: ConstructorParameters<typeof PackedRing>) => new PackedRing(...args),
  baseFirst: PACKED_BASE_FIRST,
};

export class PackedRingRig extends TwoSidedRing<PackedDriverRing, PackedRing> {
  constructor(options: RingRigOptions = {}) {
    super(LAYOUT, options);
  }

  /** Writes a descriptor of the ring, all of it as given. */
  write(place: number, gpa: number, lengthBytes: number, id: number, flags: number): void {
    const { ring32 } = this.driver;
    ring32[4 * place] = gpa % ADDRESS_HIGH;
    ring32[4 * place + 1] = gpa / ADDRESS_HIGH;
    ring32[4 * place + 2] = lengthBytes;
    ring32[4 * place + 3] = id | (flags << 16);
  }
}

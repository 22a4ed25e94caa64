/** A packed ring with both sides in one process, as `RingRig` has it for split ones. */
import type { Segment } from '../../src/initiator/driver-ring.ts';
import { OwnedMemory } from '../../src/initiator/owned-memory.ts';
import { PackedDriverRing } from '../../src/initiator/packed-driver-ring.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { PackedRing } from '../../src/virtio/packed-ring.ts';
import { PACKED_BASE_FIRST } from '../../src/virtio/ring-shape.ts';
import { RIG_GUEST_ADDRESS, type RingRigOptions } from './split-ring-rig.ts';

const RIG_BYTES = 4 << 20;
const ADDRESS_HIGH = 2 ** 32;

export class PackedRingRig {
  readonly memory: OwnedMemory;
  /** The device's map of the same memory. */
  readonly guest: GuestMemory;
  readonly driver: PackedDriverRing;
  readonly size: number;
  readonly hasEventIdx: boolean;
  device: PackedRing;

  /** `base` as SET_VRING_BASE has it. */
  constructor(options: RingRigOptions = {}) {
    const { size = 8, hasEventIdx = false, base = PACKED_BASE_FIRST } = options;
    this.size = size;
    this.hasEventIdx = hasEventIdx;
    this.memory = new OwnedMemory(options.regions ?? [{ guestAddress: RIG_GUEST_ADDRESS, sizeBytes: RIG_BYTES }]);
    this.guest = new GuestMemory(
      this.memory.regions.map(({ guestAddress, sizeBytes, userAddress }) => ({
        guestAddress,
        sizeBytes,
        userAddress,
        hostAddress: userAddress,
      })),
    );
    const region = this.memory.regions[0];
    this.driver = new PackedDriverRing(this.memory, { size, hasEventIdx, base, ...(region && { region }) });
    this.device = this.startDevice(base);
  }

  /** A device's ring over the same memory, as after a stop and a start. */
  startDevice(base: number): PackedRing {
    return new PackedRing(
      {
        size: this.size,
        descriptorAddress: this.memory.userAddressOf(this.driver.descriptorAddress),
        availableAddress: this.memory.userAddressOf(this.driver.availableAddress),
        usedAddress: this.memory.userAddressOf(this.driver.usedAddress),
        hasEventIdx: this.hasEventIdx,
        base,
      },
      this.guest,
    );
  }

  /** Builds a chain and shows it to the device. Returns its head. */
  submit(segments: readonly Segment[], tableAddress?: number): number {
    const head =
      tableAddress === undefined ? this.driver.addChain(segments) : this.driver.addIndirect(segments, tableAddress);
    this.driver.expose(head);
    this.driver.publish();
    return head;
  }

  /** Writes a descriptor of the ring, all of it as given. */
  write(place: number, gpa: number, lengthBytes: number, id: number, flags: number): void {
    const { ring32 } = this.driver;
    ring32[4 * place] = gpa % ADDRESS_HIGH;
    ring32[4 * place + 1] = gpa / ADDRESS_HIGH;
    ring32[4 * place + 2] = lengthBytes;
    ring32[4 * place + 3] = id | (flags << 16);
  }

  close(): void {
    this.device.close();
    this.guest.close();
    this.memory.close();
  }
}

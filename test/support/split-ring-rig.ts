/**
 * A split ring with both sides in one process: the initiator's driver ring over memory that the device's ring maps too.
 */

import { DescriptorFlag, type Segment } from '../../src/initiator/driver-ring.ts';
import { OwnedMemory, type OwnedRegionOptions } from '../../src/initiator/owned-memory.ts';
import { SplitDriverRing } from '../../src/initiator/split-driver-ring.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { SplitRing } from '../../src/virtio/split-ring.ts';

export interface RingRigOptions {
  /** Entries. Default 8. */
  readonly size?: number;
  readonly hasEventIdx?: boolean;
  /** First value of both indices. Default 0. */
  readonly base?: number;
  /** Default: one region of 4 MiB above 4 GiB. The ring lies in the first. */
  readonly regions?: readonly OwnedRegionOptions[];
}

export const RIG_GUEST_ADDRESS = 2 ** 32;
const RIG_BYTES = 4 << 20;

export class RingRig {
  readonly memory: OwnedMemory;
  /** The device's map of the same memory. */
  readonly guest: GuestMemory;
  readonly driver: SplitDriverRing;
  readonly size: number;
  readonly hasEventIdx: boolean;
  device: SplitRing;

  constructor(options: RingRigOptions = {}) {
    const { size = 8, hasEventIdx = false, base = 0 } = options;
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
    this.driver = new SplitDriverRing(this.memory, { size, hasEventIdx, base, ...(region && { region }) });
    this.device = this.startDevice(base);
  }

  /** A device's ring over the same memory, as after a stop and a start. */
  startDevice(base: number): SplitRing {
    return new SplitRing(
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

  /**
   * Builds a chain whose first `directCount` buffers are descriptors of the ring and whose others are in a table at
   * `tableAddress`. Returns its head.
   */
  addMixed(segments: readonly Segment[], directCount: number, tableAddress: number): number {
    if (directCount === 0) return this.driver.addIndirect(segments, tableAddress);
    const rest = segments.slice(directCount);
    const placeholder: Segment = { gpa: tableAddress, lengthBytes: 16 * rest.length, isWritable: false };
    const head = this.driver.addChain(rest.length === 0 ? segments : [...segments.slice(0, directCount), placeholder]);
    if (rest.length === 0 || head < 0) return head;
    const table = new Uint8Array(16 * rest.length);
    const view = new DataView(table.buffer);
    rest.forEach(({ gpa, lengthBytes, isWritable }, i) => {
      const flags = (isWritable ? DescriptorFlag.write : 0) | (i < rest.length - 1 ? DescriptorFlag.next : 0);
      view.setBigUint64(16 * i, BigInt(gpa), true);
      view.setUint32(16 * i + 8, lengthBytes, true);
      view.setUint16(16 * i + 12, flags, true);
      view.setUint16(16 * i + 14, i + 1, true);
    });
    this.memory.write(tableAddress, table);
    let last = head;
    for (let i = 0; i < directCount; i++) last = (this.driver.descriptors[4 * last + 3] as number) >>> 16;
    this.driver.writeDescriptor(last, tableAddress, table.length, DescriptorFlag.indirect, 0);
    return head;
  }

  /** Builds a direct chain and shows it to the device. Returns its head. */
  submit(segments: readonly Segment[]): number {
    const head = this.driver.addChain(segments);
    this.driver.expose(head);
    this.driver.publish();
    return head;
  }

  /** Shows head `head` to the device, whatever it is. */
  show(head: number): void {
    this.driver.expose(head);
    this.driver.publish();
  }

  close(): void {
    this.device.close();
    this.guest.close();
    this.memory.close();
  }
}

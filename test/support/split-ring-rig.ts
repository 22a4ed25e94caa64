/** A split ring with both sides in one process. */
import { DescriptorFlag, type Segment } from '../../src/initiator/driver-ring.ts';
import { SplitDriverRing } from '../../src/initiator/split-driver-ring.ts';
import { SplitRing } from '../../src/virtio/split-ring.ts';
import { type RingRigOptions, TwoSidedRing } from './ring-rig.ts';

const LAYOUT = {
  createDriver: (...args: ConstructorParameters<typeof SplitDriverRing>) => new SplitDriverRing(...args),
  createDevice: (...args: ConstructorParameters<typeof SplitRing>) => new SplitRing(...args),
  baseFirst: 0,
};

export class RingRig extends TwoSidedRing<SplitDriverRing, SplitRing> {
  constructor(options: RingRigOptions = {}) {
    super(LAYOUT, options);
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
}

/** A ring with both sides in one process, and an area in which the device keeps what it has in flight. */
import { type DriverRing, NO_HEAD, type Segment } from '../../src/initiator/driver-ring.ts';
import { Chain } from '../../src/virtio/chain.ts';
import type { Ring } from '../../src/virtio/ring.ts';
import { type InflightArea, inflightBytes } from '../../src/virtio/ring-shape.ts';
import { RIG_GUEST_ADDRESS, type TwoSidedRing } from './ring-rig.ts';

/** Where buffers are. */
export const SPACE = RIG_GUEST_ADDRESS + (2 << 20);
export const BUFFER: Segment = { gpa: SPACE, lengthBytes: 16, isWritable: true };

export class InflightRig<Driver extends DriverRing, Device extends Ring> {
  readonly ring: TwoSidedRing<Driver, Device>;
  readonly area: InflightArea;
  /** The area as the specification lays it out. */
  readonly view: DataView;
  readonly chain = new Chain();
  readonly #bytes: Uint8Array;

  /** The area is zeroed, and no device has seen it. */
  constructor(ring: TwoSidedRing<Driver, Device>, isPacked: boolean, entries = ring.size) {
    this.ring = ring;
    const lengthBytes = inflightBytes(isPacked, entries);
    const gpa = ring.memory.allocate(lengthBytes, { alignment: 64 });
    this.area = { address: ring.memory.userAddressOf(gpa), entries };
    this.#bytes = ring.memory.bytes(gpa, lengthBytes);
    this.#bytes.fill(0);
    this.view = new DataView(this.#bytes.buffer, this.#bytes.byteOffset, this.#bytes.byteLength);
  }

  get device(): Device {
    return this.ring.device;
  }

  get driver(): Driver {
    return this.ring.driver;
  }

  /** The back-end was killed, or had stopped; another one goes on from `base`. */
  restart(base: number): Device {
    this.ring.device.close();
    this.ring.device = this.ring.startDevice(base, this.area);
    return this.ring.device;
  }

  submit(count: number, segments: readonly Segment[] = [BUFFER]): number[] {
    return Array.from({ length: count }, () => this.ring.submit(segments));
  }

  take(): number {
    return this.device.pop(this.chain) ? this.chain.head : NO_HEAD;
  }

  takeAll(): number[] {
    const heads: number[] = [];
    for (let head = this.take(); head !== NO_HEAD; head = this.take()) heads.push(head);
    return heads;
  }

  /** Heads that the driver gets back; their descriptors are free again. */
  collect(): number[] {
    const heads: number[] = [];
    for (let head = this.driver.popUsed(); head !== NO_HEAD; head = this.driver.popUsed()) {
      this.driver.freeChain(head);
      heads.push(head);
    }
    return heads;
  }

  snapshot(): Uint8Array {
    return this.#bytes.slice();
  }

  restore(bytes: Uint8Array): void {
    this.#bytes.set(bytes);
  }

  close(): void {
    this.ring.close();
  }
}

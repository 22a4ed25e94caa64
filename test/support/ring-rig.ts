/**
 * A ring with both sides in one process, whatever its layout: the initiator's driver ring over memory that the device's
 * ring maps too.
 */
import type { DriverRing, DriverRingOptions, Segment } from '../../src/initiator/driver-ring.ts';
import { OwnedMemory, type OwnedRegionOptions } from '../../src/initiator/owned-memory.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import type { Ring } from '../../src/virtio/ring.ts';
import type { InflightArea, RingSetup } from '../../src/virtio/ring-shape.ts';

export interface RingRigOptions {
  /** Entries. Default 8. */
  readonly size?: number;
  readonly hasEventIdx?: boolean;
  /** Where both sides begin, as SET_VRING_BASE has it. Default: where new rings do. */
  readonly base?: number;
  /** Default: one region of 4 MiB above 4 GiB. The ring lies in the first. */
  readonly regions?: readonly OwnedRegionOptions[];
}

/** How the sides of one layout are made. */
interface RingLayout<Driver, Device> {
  readonly createDriver: (memory: OwnedMemory, options: DriverRingOptions) => Driver;
  readonly createDevice: (setup: RingSetup, guest: GuestMemory) => Device;
  /** Where new rings begin. */
  readonly baseFirst: number;
}

export const RIG_GUEST_ADDRESS = 2 ** 32;
const RIG_BYTES = 4 << 20;

export class TwoSidedRing<Driver extends DriverRing, Device extends Ring> {
  readonly memory: OwnedMemory;
  /** The device's map of the same memory. */
  readonly guest: GuestMemory;
  readonly driver: Driver;
  readonly size: number;
  readonly hasEventIdx: boolean;
  device: Device;
  readonly #layout: RingLayout<Driver, Device>;

  constructor(layout: RingLayout<Driver, Device>, options: RingRigOptions) {
    const { size = 8, hasEventIdx = false, base = layout.baseFirst } = options;
    this.#layout = layout;
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
    this.driver = layout.createDriver(this.memory, { size, hasEventIdx, base, ...(region && { region }) });
    this.device = this.startDevice(base);
  }

  /** A device's ring over the same memory, as after a stop and a start. */
  startDevice(base: number, inflight: InflightArea | null = null): Device {
    const { size, hasEventIdx, driver } = this;
    const hostOf = (gpa: number): number => this.memory.userAddressOf(gpa);
    const setup = {
      size,
      descriptorAddress: hostOf(driver.descriptorAddress),
      availableAddress: hostOf(driver.availableAddress),
      usedAddress: hostOf(driver.usedAddress),
      hasEventIdx,
      base,
      inflight,
    };
    return this.#layout.createDevice(setup, this.guest);
  }

  /** Builds a chain, direct or in a table, and shows it to the device. Returns its head. */
  submit(segments: readonly Segment[], tableAddress?: number): number {
    const head =
      tableAddress === undefined ? this.driver.addChain(segments) : this.driver.addIndirect(segments, tableAddress);
    this.show(head);
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

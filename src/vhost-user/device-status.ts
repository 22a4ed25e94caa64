/**
 * The device status (virtio 1.3 §2.1) of a device behind vhost-user (SET_STATUS, GET_STATUS): what the front-end says
 * of its driver, and DEVICE_NEEDS_RESET, which is the device's to say: a driver has broken a queue, and nothing more is
 * taken from that one until it was stopped and set up again.
 */
const DRIVER_OK = 4n;
const DEVICE_NEEDS_RESET = 64n;

export class DeviceStatus {
  #told = 0n;
  readonly #broken = new Set<number>();

  get value(): bigint {
    return this.#broken.size === 0 ? this.#told : this.#told | DEVICE_NEEDS_RESET;
  }

  /** What the front-end says. One that writes back what it has read does not say that the device needs a reset. */
  tell(value: bigint): void {
    this.#told = value & ~DEVICE_NEEDS_RESET;
  }

  /** A queue broke. @returns whether the driver has to be told by a change of the configuration (§2.1.2) */
  queueBroke(index: number): boolean {
    const isNews = this.#broken.size === 0;
    this.#broken.add(index);
    return isNews && (this.#told & DRIVER_OK) !== 0n;
  }

  queueStopped(index: number): void {
    this.#broken.delete(index);
  }
}

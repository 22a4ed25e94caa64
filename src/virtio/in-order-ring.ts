/**
 * A ring whose chains go back to the driver in the order in which it made them available (VIRTIO_F_IN_ORDER, virtio 1.3
 * §2.7.9, §2.8.9). What completes before its turn waits here.
 */
import { assert } from '../base/assert.ts';
import type { DirtyLog } from '../memory/dirty-log.ts';
import type { Chain, RingFault } from './chain.ts';
import type { Recovery, Ring } from './ring.ts';

/** Of a head, in `#lengths`: what its chain will say is not known yet, or will not be here. */
const PENDING = -1;
const LEFT = -2;

export class InOrderRing implements Ring {
  readonly #ring: Ring;
  readonly #size: number;
  /** Heads in the order in which they were taken: `#count` from place `#first` on, modulo the size. */
  readonly #order: Uint16Array;
  readonly #lengths: Float64Array;
  #first = 0;
  #count = 0;
  #hasLeft = false;

  constructor(ring: Ring) {
    this.#ring = ring;
    this.#size = ring.size;
    this.#order = new Uint16Array(ring.size);
    this.#lengths = new Float64Array(ring.size);
  }

  get size(): number {
    return this.#size;
  }

  get fault(): RingFault {
    return this.#ring.fault;
  }

  get base(): number {
    return this.#ring.base;
  }

  /** Those that wait for their turn count too. */
  get inFlightCount(): number {
    return this.#ring.inFlightCount;
  }

  get recovery(): Recovery {
    return this.#ring.recovery;
  }

  get againCount(): number {
    return this.#ring.againCount;
  }

  hasAvailable(): boolean {
    return this.#ring.hasAvailable();
  }

  look(): number {
    return this.#ring.look();
  }

  pop(chain: Chain): boolean {
    if (!this.#ring.pop(chain)) return false;
    this.#order[this.#placeOf(this.#count++)] = chain.head;
    this.#lengths[chain.head] = PENDING;
    return true;
  }

  unpop(head: number): void {
    assert(this.#order[this.#placeOf(--this.#count)] === head, 'the last chain is put back');
    this.#ring.unpop(head);
  }

  push(head: number, lengthBytes: number): void {
    assert(this.#lengths[head] === PENDING, 'a chain is returned once');
    this.#lengths[head] = lengthBytes;
    if (this.#hasLeft) this.#leaveBehind();
    while (this.#count > 0) {
      const next = this.#order[this.#first] as number;
      const length = this.#lengths[next] as number;
      if (length < 0) break;
      this.#ring.push(next, length);
      this.#first = this.#placeOf(1);
      this.#count--;
    }
  }

  leave(head: number): void {
    this.#ring.leave(head);
    this.#lengths[head] = LEFT;
    this.#hasLeft = true;
    this.#leaveBehind();
  }

  /** The turn of what is done and comes after one that is left will not come. */
  #leaveBehind(): void {
    let isBehind = false;
    for (let i = 0; i < this.#count; i++) {
      const head = this.#order[this.#placeOf(i)] as number;
      if (this.#lengths[head] === LEFT) isBehind = true;
      else if (isBehind && this.#lengths[head] !== PENDING) {
        this.#ring.leave(head);
        this.#lengths[head] = LEFT;
      }
    }
  }

  publish(): boolean {
    return this.#ring.publish();
  }

  disarmKick(): void {
    this.#ring.disarmKick();
  }

  armKick(): boolean {
    return this.#ring.armKick();
  }

  markUsed(log: DirtyLog, gpa: number): void {
    this.#ring.markUsed(log, gpa);
  }

  markNotification(log: DirtyLog, gpa: number): void {
    this.#ring.markNotification(log, gpa);
  }

  close(): void {
    this.#ring.close();
  }

  #placeOf(offset: number): number {
    const place = this.#first + offset;
    return place < this.#size ? place : place - this.#size;
  }
}

/**
 * Random writes and reads on a disk, every byte of which is known: what a read finds is compared with what was written
 * last, at the end with all of it. Requests in flight never overlap, so that their order does not matter.
 */
import { IoStatus, IoType } from '../../src/bdev/bdev-io.ts';
import type { DiskRig, Segment } from './disk-rig.ts';

const PLACE_BYTES = 16 * 1024;

export class VerifiedLoad {
  /** Requests that did not succeed. */
  failures = 0;
  readonly #rig: DiskRig;
  readonly #depth: number;
  /** The stamp of each place of the disk; 0: never written. */
  readonly #stamps: Uint32Array;
  readonly #lanes: Promise<void>[] = [];
  #left = 0;
  #state: number;
  #serial = 1;

  constructor(rig: DiskRig, { depth, seed }: { depth: number; seed: number }) {
    this.#rig = rig;
    this.#depth = depth;
    this.#state = seed;
    this.#stamps = new Uint32Array(Math.floor((rig.blocks * rig.blockSize) / PLACE_BYTES));
  }

  /** Starts so many requests more, `depth` at a time. */
  begin(requests: number): void {
    this.#left = Math.max(0, this.#left) + requests;
    for (let lane = 0; lane < this.#depth; lane++) this.#lanes.push(this.#lane(lane));
  }

  /** Polls until they are over. */
  async settle(): Promise<void> {
    await this.#rig.polled(Promise.all(this.#lanes.splice(0)));
  }

  async run(requests: number): Promise<void> {
    this.begin(requests);
    await this.settle();
  }

  /** Compares the whole disk. */
  async verify(): Promise<void> {
    for (let place = 0; place < this.#stamps.length; place++) {
      const segments = this.#segments(0);
      const status = await this.#rig.polled(this.#submit(IoType.read, place, segments));
      if (status !== IoStatus.success) throw new Error(`place ${place} cannot be read`);
      this.#compare(place, segments);
    }
  }

  /** Its places are those with its number modulo the depth. */
  async #lane(lane: number): Promise<void> {
    while (this.#left-- > 0) {
      const places = Math.floor((this.#stamps.length - lane - 1) / this.#depth) + 1;
      const place = lane + this.#depth * this.#random(places);
      const segments = this.#segments(lane);
      if (this.#random(3) > 0) {
        const stamp = this.#serial++;
        this.#rig.scatter(segments, pattern(place, stamp));
        if ((await this.#submit(IoType.write, place, segments)) === IoStatus.success) this.#stamps[place] = stamp;
        else this.failures++;
      } else if ((await this.#submit(IoType.read, place, segments)) === IoStatus.success) {
        this.#compare(place, segments);
      } else {
        this.failures++;
      }
    }
  }

  #submit(type: IoType, place: number, segments: readonly Segment[]): Promise<IoStatus> {
    const blocks = PLACE_BYTES / this.#rig.blockSize;
    return this.#rig.submit(type, place * blocks, blocks, segments);
  }

  #segments(lane: number): Segment[] {
    const offset = lane * (PLACE_BYTES + 1024);
    return [
      { offset, length: 5 * 1024 },
      { offset: offset + 6 * 1024, length: PLACE_BYTES - 5 * 1024 },
    ];
  }

  #compare(place: number, segments: readonly Segment[]): void {
    const stamp = this.#stamps[place] as number;
    const wanted = stamp === 0 ? Buffer.alloc(PLACE_BYTES) : pattern(place, stamp);
    if (Buffer.compare(this.#rig.gather(segments), wanted) !== 0) {
      throw new Error(`place ${place} does not hold what write ${stamp} put there`);
    }
  }

  #random(below: number): number {
    this.#state = (Math.imul(this.#state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((this.#state / 2 ** 32) * below);
  }
}

function pattern(place: number, stamp: number): Buffer {
  const bytes = Buffer.alloc(PLACE_BYTES);
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, PLACE_BYTES / 4);
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(stamp, 2_654_435_761) ^ (place << 16) ^ i;
  return bytes;
}

/** A daemon with a scsi controller on one core and a blk controller beside it, and a driver of each. */
import { deepEqual, equal } from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { ScsiInitiator, type ScsiInitiatorOptions } from '../../src/initiator/scsi-initiator.ts';
import { type ScsiAddress, senseText } from '../../src/initiator/scsi-request.ts';
import { MIB, pattern, sameBytes } from './blk-case-helpers.ts';
import { RinghostDaemon } from './fixtures/targets.ts';

export const CTRLR = 'scsi.0';
export const BLOCK_BYTES = 512;

export class ScsiBench {
  readonly daemon: RinghostDaemon;
  readonly #bystander: BlkInitiator;
  readonly #open: { close(): void }[] = [];
  #round = 0;

  private constructor(daemon: RinghostDaemon, bystander: BlkInitiator) {
    this.daemon = daemon;
    this.#bystander = bystander;
  }

  static async start(): Promise<ScsiBench> {
    const daemon = await RinghostDaemon.start();
    const neighbour = await daemon.create({ sizeBytes: 16 * MIB });
    await daemon.rpc.call('vhost_create_scsi_controller', { ctrlr: CTRLR });
    return new ScsiBench(daemon, await BlkInitiator.connect(neighbour.path));
  }

  get path(): string {
    return join(this.daemon.directory, CTRLR);
  }

  async connect(options: ScsiInitiatorOptions = {}): Promise<ScsiInitiator> {
    const host = await ScsiInitiator.connect(this.path, options);
    this.#open.push(host);
    return host;
  }

  /** Makes a RAM disk and shows it. */
  async addDisk(bdev: string, target: number, more: { lun?: number; sizeMiB?: number } = {}): Promise<number> {
    const { lun = 0, sizeMiB = 4 } = more;
    const num_blocks = (sizeMiB * MIB) / BLOCK_BYTES;
    await this.daemon.rpc.call('bdev_malloc_create', { name: bdev, num_blocks, block_size: BLOCK_BYTES });
    const params = { ctrlr: CTRLR, scsi_target_num: target, bdev_name: bdev, lun };
    return await this.daemon.rpc.call('vhost_scsi_controller_add_target', params);
  }

  async removeTarget(target: number): Promise<void> {
    await this.daemon.rpc.call('vhost_scsi_controller_remove_target', { ctrlr: CTRLR, scsi_target_num: target });
  }

  /** The blk controller beside still serves right data, and nothing of the daemon's own went wrong. */
  async checkNeighbour(): Promise<void> {
    this.daemon.checkAlive();
    deepEqual(
      this.daemon.log.split('\n').filter((line) => /"level":[56]0|AssertionError/.test(line)),
      [],
    );
    const data = pattern(4096, ++this.#round);
    await this.#bystander.write(this.#round * 8, data);
    sameBytes(await this.#bystander.read(this.#round * 8, data.length), data, 'the neighbour');
  }

  /** Ends the drivers of the case, and deletes every disk that it made. */
  async clear(): Promise<void> {
    for (const one of this.#open.splice(0)) one.close();
    const bdevs = await this.daemon.rpc.call('bdev_get_bdevs', {});
    for (const { name } of bdevs) if (!name.startsWith('Test')) await this.daemon.rpc.call('delete_bdev', { name });
  }

  /** Open descriptors of the daemon. */
  fds(): number {
    return readdirSync(`/proc/${this.daemon.pid}/fd`).length;
  }

  /** Lines of the daemon's memory map. */
  mappings(): number {
    return readFileSync(`/proc/${this.daemon.pid}/maps`, 'utf8').split('\n').length;
  }

  async close(): Promise<void> {
    this.#bystander.close();
    await this.clear();
    await this.daemon.close();
  }
}

export function inquiry(evpd = 0, page = 0): number[] {
  return [0x12, evpd, page, 0, 255, 0];
}

export function read10(block: number, count: number): number[] {
  return [0x28, 0, ...be32(block), 0, count >> 8, count & 0xff, 0];
}

export function write10(block: number, count: number): number[] {
  return [0x2a, 0, ...be32(block), 0, count >> 8, count & 0xff, 0];
}

export const TEST_UNIT_READY = [0, 0, 0, 0, 0, 0];

/** Takes the unit attentions of a LUN; returns them. */
export async function attentions(host: ScsiInitiator, address: ScsiAddress): Promise<string[]> {
  const told: string[] = [];
  for (;;) {
    const { response, status, sense } = await host.command({ ...address, cdb: TEST_UNIT_READY });
    equal(response, 0);
    if (status === 0) return told;
    told.push(senseText(sense));
  }
}

function be32(value: number): number[] {
  return [value >>> 24, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff];
}

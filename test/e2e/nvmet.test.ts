/**
 * Disks on Linux's own NVMe/TCP target: nvmet in a guest, found by its discovery service, with digests, by two ports.
 * A front-end puts verified load on the disk through vhost-user, from before the first fault until after the last one:
 * the target stands still, loses a port, says that a path is inaccessible, and is restarted. Requests wait, none fails,
 * and every block holds what was written last.
 */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFailed, test } from 'vitest';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import type { Result } from '../../src/rpc/methods.ts';
import { freePort } from '../support/free-port.ts';
import { Daemon } from './daemon.ts';
import { Guest } from './guest.ts';
import { whyNoGuests } from './requirements.ts';
import { waitUntil } from './wait.ts';

const NQN = 'nqn.2026-01.io.ringhost:nvmet';
const UUID = '6e766d65-7400-4000-8000-000000000001';
const DISK_BYTES = 16 << 20;
/** Above the slots that `Guest` gives to its disks. */
const DISK_SLOT = 0x1e;
const WORKERS = 16;
const BLOCKS_PER_WORKER = 16;
const BLOCK_BYTES = 4096;
const KEEP_ALIVE_MS = 2000;
/** For waits; TCG on a busy machine. */
const LONG_MS = 240_000;
const CONFIG = '/sys/kernel/config/nvmet';

/**
 * In the guest: nvmet serves the disk by two ports. The guest's address is 127.0.0.1, the one by which the host reaches
 * it, because a discovery log says where the target believes it is; so the address must not be on `lo`, and may be used
 * on an Ethernet.
 */
const setUp = (disk: string, ports: readonly number[]): string => `
  modprobe -a virtio_net nvmet_tcp
  mount -t configfs none /sys/kernel/config
  for scope in all eth0; do echo 1 >/proc/sys/net/ipv4/conf/$scope/route_localnet; done
  ip addr add 127.0.0.1/24 dev eth0
  ip link set eth0 up
  cd ${CONFIG}
  mkdir subsystems/${NQN}
  echo 1 >subsystems/${NQN}/attr_allow_any_host
  mkdir subsystems/${NQN}/namespaces/1
  echo ${disk} >subsystems/${NQN}/namespaces/1/device_path
  echo ${UUID} >subsystems/${NQN}/namespaces/1/device_uuid
  echo 1 >subsystems/${NQN}/namespaces/1/enable
  for port in ${ports.join(' ')}; do
    mkdir ports/$port
    echo tcp >ports/$port/addr_trtype
    echo ipv4 >ports/$port/addr_adrfam
    echo 0.0.0.0 >ports/$port/addr_traddr
    echo $port >ports/$port/addr_trsvcid
    ln -s ${CONFIG}/subsystems/${NQN} ports/$port/subsystems/${NQN}
  done`;

/** Writes and reads of blocks each of which belongs to one worker, so that it is known what a read must find. */
class Load {
  /** Requests that were done. */
  done = 0;
  readonly #disk: BlkInitiator;
  readonly #versions = new Uint32Array(WORKERS * BLOCKS_PER_WORKER);
  readonly #workers: Promise<void>[];
  #isStopped = false;

  constructor(disk: BlkInitiator) {
    this.#disk = disk;
    this.#workers = Array.from({ length: WORKERS }, (_, worker) => this.#work(worker));
    // Whoever waits for the load hears of it.
    for (const worker of this.#workers) worker.catch(() => undefined);
  }

  /** Until every worker has begun and ended requests after now; throws what one of them met. */
  async goesOn(): Promise<void> {
    const wanted = this.done + 8 * WORKERS;
    const goes = waitUntil(() => this.done >= wanted, LONG_MS, 'progress of the load');
    await Promise.race([goes, Promise.all(this.#workers).then(() => goes)]);
  }

  /** Ends it and reads everything once more. */
  async finish(): Promise<void> {
    this.#isStopped = true;
    await Promise.all(this.#workers);
    for (let block = 0; block < this.#versions.length; block++) await this.#check(block);
  }

  async #work(worker: number): Promise<void> {
    while (!this.#isStopped) {
      const block = worker * BLOCKS_PER_WORKER + Math.floor(Math.random() * BLOCKS_PER_WORKER);
      if (Math.random() < 0.3) await this.#check(block);
      else {
        const version = (this.#versions[block] as number) + 1;
        await this.#disk.write(sectorOf(block), contentOf(block, version));
        this.#versions[block] = version;
      }
      this.done++;
    }
  }

  async #check(block: number): Promise<void> {
    const found = Buffer.from(await this.#disk.read(sectorOf(block), BLOCK_BYTES));
    const version = this.#versions[block] as number;
    if (found.equals(contentOf(block, version))) return;
    throw new Error(
      `block ${block} begins with ${found.readUInt32LE(0)}.${found.readUInt32LE(4)}, not with ${version}`,
    );
  }
}

const sectorOf = (block: number): number => (block * BLOCK_BYTES) / 512;

function contentOf(block: number, version: number): Buffer {
  const content = Buffer.alloc(BLOCK_BYTES);
  if (version === 0) return content;
  for (let at = 0; at < BLOCK_BYTES; at += 8) {
    content.writeUInt32LE(block, at);
    content.writeUInt32LE(version, at + 4);
  }
  return content;
}

describe.skipIf(whyNoGuests() !== null)("a disk on Linux's NVMe/TCP target", () => {
  const directory = mkdtempSync(join(import.meta.dirname, '../../build/nvmet-'));
  let ports: [number, number];
  let guest: Guest;
  let daemon: Daemon;
  let disk: BlkInitiator;
  let load: Load;

  const discovers = (name: string, port: number): Promise<unknown> =>
    daemon.rpc('bdev_nvme_start_discovery', {
      ...{ name, trtype: 'tcp', traddr: '127.0.0.1', adrfam: 'ipv4', trsvcid: String(port) },
      ...{ wait_for_attach: true, attach_timeout_ms: LONG_MS, hdgst: true, ddgst: true },
      ...{ keep_alive_timeout_ms: KEEP_ALIVE_MS, reconnect_delay_sec: 1 },
    });
  /** The ports by which there are paths. */
  async function paths(): Promise<string> {
    const controllers = (await daemon.rpc('bdev_nvme_get_controllers')) as Result<'bdev_nvme_get_controllers'>;
    const ids = controllers.flatMap(({ ctrlrs }) =>
      ctrlrs.flatMap((one) => [one.trid, ...(one.alternate_trids ?? [])]),
    );
    return ids
      .map(({ trsvcid }) => trsvcid)
      .toSorted()
      .join();
  }
  async function disksAre(...wanted: readonly string[]): Promise<void> {
    const names = async () =>
      ((await daemon.rpc('bdev_get_bdevs')) as Result<'bdev_get_bdevs'>).map(({ name }) => name);
    await waitUntil(async () => (await names()).join() === wanted.join(), LONG_MS, `disks ${wanted.join()}`);
  }
  const link = (port: number): string => `${CONFIG}/ports/${port}/subsystems/${NQN}`;
  const setAccess = async (port: number, state: string): Promise<void> =>
    void (await guest.run(`echo ${state} >${CONFIG}/ports/${port}/ana_groups/1/ana_state`));
  const setUpTarget = async (): Promise<void> =>
    void (await guest.run(setUp(await guest.devicePathAt(DISK_SLOT), ports)));

  beforeAll(async () => {
    const image = join(directory, 'disk');
    writeFileSync(image, '');
    truncateSync(image, DISK_BYTES);
    ports = [await freePort(), await freePort()];
    const forwards = ports.map((port) => `hostfwd=tcp:127.0.0.1:${port}-127.0.0.1:${port}`).join();
    daemon = await Daemon.start({ args: ['--mode', 'interrupt'] });
    guest = await Guest.start({
      name: 'nvmet',
      cpus: 1,
      memoryMiB: 512,
      qemuArgs: [
        ...['-netdev', `user,id=net,restrict=on,net=127.0.0.0/24,host=127.0.0.2,${forwards}`],
        ...['-device', 'virtio-net-pci,netdev=net,romfile='],
        ...['-drive', `if=none,id=disk,format=raw,file=${image}`],
        ...['-device', `virtio-blk-pci,drive=disk,addr=${DISK_SLOT.toString(16)}`],
      ],
    });
    await setUpTarget();
  });

  afterAll(async () => {
    disk?.close();
    await daemon?.close();
    await guest?.close();
    rmSync(directory, { recursive: true, force: true });
  });

  beforeEach(() => {
    onTestFailed(() => console.log(`--- the end of the daemon's log\n${daemon.log()}`));
  });

  test('is found by discovery, as one controller with a path for each port', async () => {
    await discovers('Nvme', ports[0]);
    await discovers('Other', ports[1]);
    expect(await paths()).toBe(ports.map(String).toSorted().join());
    const bdevs = (await daemon.rpc('bdev_get_bdevs')) as Result<'bdev_get_bdevs'>;
    expect(bdevs).toMatchObject([{ name: 'Nvme0n1', uuid: UUID, num_blocks: DISK_BYTES / 512, block_size: 512 }]);
    await daemon.rpc('vhost_create_blk_controller', { ctrlr: 'vhost.0', dev_name: 'Nvme0n1' });
    disk = await BlkInitiator.connect(daemon.socketPath('vhost.0'), { timeoutMs: LONG_MS });
    load = new Load(disk);
    await load.goesOn();
  });

  test('has a second one beside it as soon as the target lists that, until it does not', async () => {
    const other = `${CONFIG}/subsystems/${NQN}-2`;
    await guest.run(`truncate -s 8M /run/disk
      mkdir -p ${other}/namespaces/1
      echo 1 >${other}/attr_allow_any_host
      cd ${other}/namespaces/1
      echo 1 >buffered_io
      echo /run/disk >device_path
      echo 1 >enable
      ln -s ${other} ${link(ports[0])}-2`);
    await disksAre('Nvme0n1', 'Nvme1n1');
    await guest.run(`rm ${link(ports[0])}-2`);
    await disksAre('Nvme0n1');
    await load.goesOn();
  });

  test('lets in the host whose name it knows, and no other', async () => {
    const closed = `${CONFIG}/subsystems/${NQN}-3`;
    const host = 'nqn.2014-08.org.example:host';
    await guest.run(`truncate -s 8M /run/closed
      mkdir -p ${closed}/namespaces/1 ${CONFIG}/hosts/${host}
      ln -s ${CONFIG}/hosts/${host} ${closed}/allowed_hosts/${host}
      cd ${closed}/namespaces/1
      echo 1 >buffered_io
      echo /run/closed >device_path
      echo 1 >enable
      ln -s ${closed} ${link(ports[1])}-3`);
    const attach = (params: Readonly<Record<string, unknown>>): Promise<unknown> =>
      daemon.rpc('bdev_nvme_attach_controller', {
        ...{ name: 'Closed', trtype: 'tcp', traddr: '127.0.0.1', adrfam: 'ipv4', trsvcid: String(ports[1]) },
        ...{ subnqn: `${NQN}-3`, ...params },
      });
    await expect(attach({})).rejects.toThrow(/the target refuses: .*host/i);
    expect(await attach({ hostnqn: host })).toEqual(['Closedn1']);
    await daemon.rpc('bdev_nvme_detach_controller', { name: 'Closed' });
    await guest.run(`rm ${link(ports[1])}-3`);
    await load.goesOn();
  });

  test('goes on by the other port when a path is inaccessible', async () => {
    const [first, second] = ports;
    await setAccess(first, 'inaccessible');
    await load.goesOn();
    await setAccess(first, 'non-optimized');
    await setAccess(second, 'inaccessible');
    await load.goesOn();
    await setAccess(second, 'optimized');
    await load.goesOn();
  });

  test('goes on by the other port when one is shut down, and by that one later', async () => {
    for (const port of ports) {
      await guest.run(`rm ${link(port)}`);
      await load.goesOn();
      await guest.run(`ln -s ${CONFIG}/subsystems/${NQN} ${link(port)}`);
    }
  });

  test('waits for a target that stands still, for longer than the keep-alive timeout', async () => {
    await guest.qmp('stop');
    await waitUntil(() => daemon.log().includes('no answer to a keep-alive'), LONG_MS, 'end of a connection');
    const before = load.done;
    await sleep(KEEP_ALIVE_MS / 2);
    expect(load.done).toBe(before);
    await guest.qmp('cont');
    await load.goesOn();
  });

  test('waits for a target that is restarted', async () => {
    await guest.reboot();
    await setUpTarget();
    await load.goesOn();
  });

  test('holds what was written last', async () => await load.finish());
});

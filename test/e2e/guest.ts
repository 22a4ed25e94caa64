/**
 * A Linux guest under QEMU's TCG with vhost-user disks, driven from a test: `run()` executes shell scripts in it.
 * The guest's console goes to build/e2e/NAME.console.log, and its end into the message of every failure.
 */
import { copyFileSync, createWriteStream, mkdirSync, mkdtempSync, rmSync, type WriteStream } from 'node:fs';
import { appendFile, readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CpioArchive } from '../../scripts/guest/cpio.ts';
import { ensureGuestImage, type GuestImage } from '../../scripts/guest/image.ts';
import { TestChild } from './child.ts';
import { GuestAgent, type GuestResult } from './guest-agent.ts';
import { QmpClient } from './qmp.ts';
import { waitUntil } from './wait.ts';

/** Where the guest's memory lies, always shared with the back-end: the last is the mount point of a hugetlbfs. */
export type GuestMemory = 'memfd' | 'hugetlb-memfd' | { readonly hugetlbfs: string };

export interface VhostUserDisk {
  /** Names the device towards QEMU (`device_del`) and `devicePath()`. */
  readonly id: string;
  readonly socketPath: string;
  /** Virtqueues. Default 1. */
  readonly queues?: number;
  /** More device properties, as on QEMU's command line: `queue-size=256`, `config-wce=off`. */
  readonly properties?: readonly string[];
  /** Seconds between QEMU's tries to reconnect. Default: it never does. */
  readonly reconnectS?: number;
}

export interface GuestOptions {
  /** Names the log file. */
  readonly name: string;
  readonly disks?: readonly VhostUserDisk[];
  readonly memory?: GuestMemory;
  readonly memoryMiB?: number;
  readonly cpus?: number;
  readonly qemuArgs?: readonly string[];
  /**
   * Cache of translated code. Default 32: a small one, because stale code makes every write to its page slow, most of
   * all after a reboot. A guest that runs Node.js wants more.
   */
  readonly translatedCodeMiB?: number;
  /** As for QEMU's -machine. Default: `pc`, or `virt` on ARM. */
  readonly machine?: string;
  /** More of the kernel's command line. */
  readonly kernelArgs?: string;
  /** Files beside those of the image. */
  readonly files?: CpioArchive;
}

export interface RunOptions {
  /** Default two minutes. */
  readonly timeoutMs?: number;
}

const LOG_DIR = join(import.meta.dirname, '..', '..', 'build', 'e2e');
const BOOT_MAX_MS = 180_000;
const RUN_MAX_MS = 120_000;
const DEVICE_MAX_MS = 60_000;
const MIGRATION_MAX_MS = 300_000;
/** How long the guest may stand still: QEMU goes on copying until what is left takes no longer. */
const DOWNTIME_MS_MAX = 2000;
const FIRST_PASS_BYTES_PER_S = 24 << 20;
const CONSOLE_TAIL_CHARACTERS = 6_000;
/** Room for `addMemory()`. */
const DIMM_SLOTS = 4;
const MEMORY_MAX_MIB = 4096;
const IS_ARM = process.arch === 'arm64';
/** The first PCI slot of our disks; the ones below belong to QEMU's own devices. */
const DISK_SLOT_FIRST = 0x10;

export class Guest {
  readonly #options: GuestOptions;
  readonly #directory: string;
  readonly #log: WriteStream;
  #qmp: QmpClient;
  readonly #agent: GuestAgent;
  readonly #diskSlots = new Map<string, number>();
  #qemu: TestChild | null = null;
  #migrations = 0;
  #console = '';
  #isClosed = false;

  private constructor(options: GuestOptions, directory: string, qmp: QmpClient, agent: GuestAgent) {
    this.#options = options;
    this.#directory = directory;
    this.#qmp = qmp;
    this.#agent = agent;
    mkdirSync(LOG_DIR, { recursive: true });
    this.#log = createWriteStream(join(LOG_DIR, `${options.name}.console.log`));
  }

  /** Starts QEMU and waits until the guest answers. @throws Error with the console's end when it does not */
  static async start(options: GuestOptions): Promise<Guest> {
    const image = await ensureGuestImage((line) => console.log(`guest image: ${line}`));
    const directory = mkdtempSync(join(tmpdir(), 'ringhost-guest-'));
    const qmp = await QmpClient.listen(join(directory, 'qmp'));
    const agent = await GuestAgent.listen(join(directory, 'agent'));
    const guest = new Guest(options, directory, qmp, agent);
    try {
      await guest.#boot(image);
    } catch (error) {
      await guest.close();
      throw guest.#explain(error);
    }
    return guest;
  }

  /** Everything that the guest printed on its console, from all its boots. */
  get console(): string {
    return this.#console;
  }

  /** Pid of QEMU. */
  get pid(): number {
    return this.#qemu?.pid ?? 0;
  }

  /** Runs a shell script in the guest (`bash -eu -o pipefail`). @throws Error with the console's end when it fails */
  async run(script: string, options: RunOptions = {}): Promise<GuestResult> {
    const result = await this.tryRun(script, options);
    if (result.status !== 0) {
      const output = `${result.stdout}${result.stderr}`.slice(-CONSOLE_TAIL_CHARACTERS);
      throw this.#explain(
        new Error(`the guest's script ended with ${result.status}:\n${script}\n--- its output\n${output}`),
      );
    }
    return result;
  }

  /** As `run`, for scripts that may fail. @throws Error when there is no answer in time, or QEMU ends */
  async tryRun(script: string, { timeoutMs = RUN_MAX_MS }: RunOptions = {}): Promise<GuestResult> {
    try {
      return await this.#agent.run(script, timeoutMs);
    } catch (error) {
      throw this.#explain(error);
    }
  }

  /** Executes a QMP command. */
  async qmp(command: string, args: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    return await this.#qmp.execute(command, args);
  }

  /** Waits for a line on the guest's console. */
  async waitFor(pattern: RegExp, timeoutMs = RUN_MAX_MS): Promise<void> {
    try {
      await waitUntil(() => pattern.test(this.#console), timeoutMs, `${pattern} on the guest's console`);
    } catch (error) {
      throw this.#explain(error);
    }
  }

  /** The block device of a disk, such as `/dev/vda`. Waits for it to appear. */
  async devicePath(id: string): Promise<string> {
    const slot = this.#diskSlots.get(id);
    if (slot === undefined) throw new Error(`the guest has no disk ${id}`);
    return await this.devicePathAt(slot);
  }

  /** The block device of the virtio disk in a PCI slot, for disks that came by `qemuArgs`. */
  async devicePathAt(slot: number): Promise<string> {
    const pattern = `/sys/bus/pci/devices/0000:00:${slot.toString(16)}.0/virtio*/block/*`;
    const { stdout } = await this.run(`until ls -d ${pattern} 2>/dev/null; do sleep 0.2; done`, {
      timeoutMs: DEVICE_MAX_MS,
    });
    return `/dev/${stdout.trim().split('/').at(-1)}`;
  }

  /** The block device of a LUN of a SCSI target. Waits for it to appear. */
  async scsiDevicePath(target: number, lun = 0): Promise<string> {
    const pattern = `/sys/class/scsi_device/*:0:${target}:${lun}/device/block/*`;
    const { stdout } = await this.run(`until ls -d ${pattern} 2>/dev/null; do sleep 0.1; done`);
    return `/dev/${stdout.trim().split('/').at(-1)}`;
  }

  /** Plugs a disk into the running guest. */
  async addDisk(disk: VhostUserDisk): Promise<void> {
    const slot = this.#takeSlot(disk.id);
    const backend = { type: 'socket', data: socketBackend(disk) };
    await this.qmp('chardev-add', { id: `${disk.id}-socket`, backend });
    const properties = Object.fromEntries((disk.properties ?? []).map((property) => splitProperty(property)));
    await this.qmp('device_add', {
      driver: 'vhost-user-blk-pci',
      id: disk.id,
      chardev: `${disk.id}-socket`,
      addr: slot.toString(16),
      'num-queues': disk.queues ?? 1,
      ...properties,
    });
  }

  /** Unplugs a device and waits until the guest has let it go. */
  async unplug(id: string): Promise<void> {
    const removed = this.#qmp.nextEvent('DEVICE_DELETED', DEVICE_MAX_MS);
    await this.qmp('device_del', { id });
    await removed;
  }

  /** Unplugs a disk and waits until the guest has let it go. */
  async removeDisk(id: string): Promise<void> {
    await this.unplug(id);
    await this.qmp('chardev-remove', { id: `${id}-socket` });
    this.#diskSlots.delete(id);
  }

  /** Plugs shared memory into the running guest: QEMU sends its back-ends a new memory table. */
  async addMemory(id: string, sizeMiB: number): Promise<void> {
    const size = sizeMiB * 2 ** 20;
    await this.qmp('object-add', { 'qom-type': 'memory-backend-memfd', id: `${id}-memory`, size, share: true });
    await this.qmp('device_add', { driver: 'pc-dimm', id, memdev: `${id}-memory` });
  }

  /** Restarts the guest's system, as `reboot -f` does in it, and waits until the new one answers. */
  async reboot(): Promise<void> {
    const booted = this.#agent.nextBoot(BOOT_MAX_MS);
    // The script never ends: it is cut short by the new boot.
    this.#agent.run('reboot -f', BOOT_MAX_MS).catch(() => {});
    try {
      await booted;
    } catch (error) {
      throw this.#explain(error);
    }
  }

  /**
   * Moves the running guest to another QEMU on this host, live. Its disks come from other sockets there, by their ids,
   * and `qemuArgs` replace those of the start. Programs in the guest go on, and work for a while on memory that was
   * copied already.
   */
  async migrate(sockets: Readonly<Record<string, string>>, qemuArgs?: readonly string[]): Promise<void> {
    const name = `${this.#options.name}-${++this.#migrations}`;
    const image = await ensureGuestImage(() => {});
    const qmpPath = join(this.#directory, `qmp-${this.#migrations}`);
    const channel = `unix:${join(this.#directory, `migration-${this.#migrations}`)}`;
    const disks = (this.#options.disks ?? []).map((disk) => ({ ...disk, socketPath: sockets[disk.id] ?? '' }));
    this.#diskSlots.clear();
    const options = { ...this.#options, disks, ...(qemuArgs === undefined ? {} : { qemuArgs }) };
    const args = this.#qemuArgs(options, image, join(this.#directory, 'initramfs'), qmpPath);
    const source = { qemu: this.#qemu as TestChild, qmp: this.#qmp };
    const qmp = await QmpClient.listen(qmpPath);
    const qemu = new TestChild(`QEMU ${name}`, qemuCommand(), [...args, '-incoming', channel], this.#onConsole);
    try {
      await qmp.ready();
      const slow = { 'downtime-limit': DOWNTIME_MS_MAX, 'max-bandwidth': FIRST_PASS_BYTES_PER_S };
      await source.qmp.execute('migrate-set-parameters', slow);
      await source.qmp.execute('migrate', { uri: channel });
      await waitUntil(() => isCopiedOnce(source.qmp), MIGRATION_MAX_MS, 'end of the first pass over the memory');
      await source.qmp.execute('migrate-set-parameters', { 'max-bandwidth': 2 ** 40 });
      await waitUntil(() => isMigrated(source.qmp), MIGRATION_MAX_MS, 'end of the migration');
      await waitUntil(() => isRunning(qmp), MIGRATION_MAX_MS, 'guest that runs at its destination');
    } catch (error) {
      await qemu.stop('SIGKILL');
      throw this.#explain(new Error(`${(error as Error).message}\n--- QEMU at the destination\n${qemu.tail()}`));
    }
    this.#qemu = qemu;
    this.#qmp = qmp;
    this.#watch(qemu, qmp);
    source.qmp.close();
    await source.qemu.stop('SIGKILL');
  }

  /** Ends QEMU at once, as a crash of the hypervisor would. */
  async kill(): Promise<void> {
    await this.#qemu?.stop('SIGKILL');
  }

  /** Ends QEMU and removes what belongs to it. May be called twice. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    await this.#qemu?.stop('SIGKILL');
    this.#agent.close();
    this.#qmp.close();
    this.#log.end();
    rmSync(this.#directory, { recursive: true, force: true });
  }

  async #boot(image: GuestImage): Promise<void> {
    const initramfsPath = join(this.#directory, 'initramfs');
    copyFileSync(image.initramfsPath, initramfsPath);
    await appendFile(initramfsPath, await ownArchive());
    if (this.#options.files !== undefined) await appendFile(initramfsPath, this.#options.files.toBuffer());
    const booted = this.#agent.nextBoot(BOOT_MAX_MS);
    const args = this.#qemuArgs(this.#options, image, initramfsPath, join(this.#directory, 'qmp'));
    const qemu = new TestChild('QEMU', qemuCommand(), args, this.#onConsole);
    this.#qemu = qemu;
    const ended = this.#watch(qemu, this.#qmp);
    await Promise.race([Promise.all([this.#qmp.ready(), booted]), ended]);
    booted.catch(() => {}); // QEMU ended first: that was reported
  }

  readonly #onConsole = (text: string): void => {
    this.#console += text;
    this.#log.write(text);
  };

  /** Tells the agent when the guest's QEMU has ended. The promise returned is only ever rejected. */
  #watch(qemu: TestChild, qmp: QmpClient): Promise<never> {
    const ended = Promise.withResolvers<never>();
    ended.promise.catch(() => {}); // told to the caller, or through the agent
    void qemu.exited.then(({ code, signal }) => {
      const error = new Error(`QEMU ended (${signal ?? `exit code ${code}`})`);
      ended.reject(error);
      if (this.#qemu === qemu) this.#agent.fail(error); // else the guest lives elsewhere by now
      qmp.close(error);
    });
    return ended.promise;
  }

  #qemuArgs(options: GuestOptions, image: GuestImage, initramfsPath: string, qmpPath: string): string[] {
    const { cpus = 4, memoryMiB = 640, memory = 'memfd', disks = [], qemuArgs = [] } = options;
    const { machine = IS_ARM ? 'virt' : 'pc', translatedCodeMiB = 32 } = options;
    const kernelArgs = [
      `console=${IS_ARM ? 'ttyAMA0' : 'ttyS0'} loglevel=5 panic=-1 rdinit=/init.sh`,
      options.kernelArgs ?? '',
    ].join(' ');
    return [
      ...['-nodefaults', '-no-user-config', '-display', 'none', '-accel', `tcg,tb-size=${translatedCodeMiB}`],
      ...['-machine', `${machine},memory-backend=ram`, ...(IS_ARM ? ['-cpu', 'max'] : [])],
      ...['-smp', String(cpus), '-m', `${memoryMiB}M,slots=${DIMM_SLOTS},maxmem=${MEMORY_MAX_MIB}M`],
      ...['-object', `${memoryBackend(memory)},id=ram,size=${memoryMiB}M,share=on`],
      ...['-kernel', image.kernelPath, '-initrd', initramfsPath, '-append', kernelArgs],
      ...['-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console'],
      ...['-chardev', `socket,id=qmp,path=${qmpPath}`, '-mon', 'chardev=qmp,mode=control'],
      ...['-device', 'virtio-serial-pci', '-chardev', `socket,id=agent,path=${join(this.#directory, 'agent')}`],
      ...['-device', 'virtserialport,chardev=agent,name=agent'],
      ...disks.flatMap((disk) => this.#diskArgs(disk)),
      ...qemuArgs,
    ];
  }

  #diskArgs(disk: VhostUserDisk): string[] {
    const slot = this.#takeSlot(disk.id);
    const reconnect = disk.reconnectS === undefined ? '' : `,reconnect=${disk.reconnectS}`;
    const device = ['vhost-user-blk-pci', `id=${disk.id}`, `chardev=${disk.id}-socket`, `addr=${slot.toString(16)}`];
    return [
      ...['-chardev', `socket,id=${disk.id}-socket,path=${disk.socketPath}${reconnect}`],
      ...['-device', [...device, `num-queues=${disk.queues ?? 1}`, ...(disk.properties ?? [])].join(',')],
    ];
  }

  #takeSlot(id: string): number {
    let slot = DISK_SLOT_FIRST;
    while ([...this.#diskSlots.values()].includes(slot)) slot++;
    this.#diskSlots.set(id, slot);
    return slot;
  }

  #explain(error: unknown): Error {
    const message = error instanceof Error ? error.message : String(error);
    const stderr = this.#qemu?.tail() ?? '';
    const tail = this.#console.length > 0 ? this.#console.slice(-CONSOLE_TAIL_CHARACTERS) : stderr;
    return new Error(`${message}\n--- the end of the console of guest ${this.#options.name}\n${tail}`, {
      cause: error,
    });
  }
}

interface MigrationInfo {
  readonly status?: string;
  readonly 'error-desc'?: string;
  readonly ram?: { readonly 'dirty-sync-count': number };
}

async function isCopiedOnce(qmp: QmpClient): Promise<boolean> {
  const { ram } = (await qmp.execute('query-migrate')) as MigrationInfo;
  return (ram?.['dirty-sync-count'] ?? 0) > 1 || (await isMigrated(qmp));
}

/** @throws Error when it failed */
async function isMigrated(qmp: QmpClient): Promise<boolean> {
  const info = (await qmp.execute('query-migrate')) as MigrationInfo;
  if (info.status === 'failed') throw new Error(`the migration failed: ${info['error-desc'] ?? 'no reason given'}`);
  return info.status === 'completed';
}

async function isRunning(qmp: QmpClient): Promise<boolean> {
  return ((await qmp.execute('query-status')) as { running: boolean }).running;
}

function qemuCommand(): string {
  return IS_ARM ? 'qemu-system-aarch64' : 'qemu-system-x86_64';
}

function memoryBackend(memory: GuestMemory): string {
  if (memory === 'memfd') return 'memory-backend-memfd';
  if (memory === 'hugetlb-memfd') return 'memory-backend-memfd,hugetlb=on,hugetlbsize=2M';
  return `memory-backend-file,mem-path=${memory.hugetlbfs}`;
}

function socketBackend({ socketPath, reconnectS }: VhostUserDisk): Record<string, unknown> {
  return {
    addr: { type: 'unix', data: { path: socketPath } },
    server: false,
    ...(reconnectS === undefined ? {} : { reconnect: reconnectS }),
  };
}

function splitProperty(property: string): [string, string | number] {
  const [name = '', value = ''] = property.split('=');
  return [name, /^\d+$/.test(value) ? Number(value) : value];
}

/** What a run adds to the image: init and the agent. */
export async function ownArchive(): Promise<Buffer> {
  const archive = new CpioArchive();
  const sources = join(import.meta.dirname, 'guest');
  archive.addFile('init.sh', await readFile(join(sources, 'init.sh')), { isExecutable: true });
  archive.addFile('agent.sh', await readFile(join(sources, 'agent.sh')));
  return archive.toBuffer();
}

/**
 * QEMU's NVMe controller without a guest: registers are reached over the qtest socket, queues and data lie in the file
 * that is the machine's memory. What a test's driver sees is a device like any other: the registers are memory, and a
 * loop carries what is written there to QEMU and the status back.
 *
 * Debian's QEMU has no qtest accelerator: the machine runs 64 KiB of firmware that halts.
 */
import { mkdtempSync, openSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TargetError } from '../../src/base/errors.ts';
import type { DmaMemory, PcieDevice } from '../../src/nvme/pcie/device.ts';
import { IovaAllocator } from '../../src/sys/dma.ts';
import { closeFd } from '../../src/sys/events.ts';
import { Mapping, type MappingInfo, MappingViews } from '../../src/sys/mapping.ts';
import { TestChild } from '../e2e/child.ts';

const RAM_BYTES = 128 * 2 ** 20;
/** What lies below is the firmware's. */
const RAM_START = 2 * 2 ** 20;
const BAR = 0xfe00_0000;
const SLOT = 4;
const REGISTER_BYTES = 0x2000;
const FIRMWARE_BYTES = 0x1_0000;
const RESET_VECTOR = 0xfff0;
/** cli; hlt; jmp to the hlt. */
const HALT = [0xfa, 0xf4, 0xeb, 0xfd];
const CC = 5;
const CSTS = 7;
const DOORBELLS = 0x400;

interface QtestNamespace {
  readonly nsid: number;
  readonly blockBytes: number;
  readonly sizeBytes: number;
}

export interface QtestOptions {
  readonly namespaces: readonly QtestNamespace[];
  /** More properties of the controller, as on QEMU's command line. */
  readonly properties?: readonly string[];
}

export class QtestNvme implements PcieDevice {
  readonly address = `0000:00:0${SLOT}.0`;
  readonly vectors = 0;
  readonly registers = Mapping.anonymous(REGISTER_BYTES);
  readonly #directory: string;
  readonly #server: Server;
  #qemu: TestChild | null = null;
  #socket: Socket | null = null;
  readonly #ram: Mapping;
  readonly #ranges = new IovaAllocator(RAM_START, RAM_BYTES);
  readonly #views = new MappingViews();
  readonly #words: Uint32Array;
  /** As QEMU knows them. */
  readonly #sent: Uint32Array;
  #text = '';
  readonly #answers: ((value: bigint) => void)[] = [];
  #isOpen = true;
  #failure: Error | null = null;

  private constructor(directory: string, server: Server) {
    this.#directory = directory;
    this.#server = server;
    const path = join(directory, 'ram');
    writeFileSync(path, '');
    truncateSync(path, RAM_BYTES);
    const fd = openSync(path, 'r+');
    this.#ram = Mapping.file(fd, 0, RAM_BYTES);
    closeFd(fd);
    this.#words = new Uint32Array(this.#views.view(this.registers, 0, REGISTER_BYTES));
    this.#sent = new Uint32Array(this.#words.length);
  }

  static async start(options: QtestOptions): Promise<QtestNvme> {
    const directory = mkdtempSync(join(tmpdir(), 'ringhost-qtest-'));
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(join(directory, 'qtest'), resolve));
    const device = new QtestNvme(directory, server);
    try {
      await device.#boot(options);
    } catch (error) {
      device.close();
      throw error;
    }
    return device;
  }

  map(memory: MappingInfo): number {
    const offset = memory.address - this.#ram.address;
    if (offset < 0 || offset + memory.lengthBytes > RAM_BYTES) {
      throw new TargetError('ENOTSUP', 'the machine has other memory');
    }
    return offset;
  }

  unmap(): void {}

  allocate(lengthBytes: number): DmaMemory {
    const iova = this.#ranges.take(lengthBytes);
    if (iova < 0) throw new Error('the machine has no memory left');
    const address = this.#ram.address + iova;
    const views = new MappingViews();
    new Uint8Array(views.view(this.#ram, iova, lengthBytes)).fill(0);
    views.close();
    return { address, lengthBytes, iova, close: () => this.#ranges.release(iova, lengthBytes) };
  }

  setInterrupts(): void {}

  setBusMaster(): void {}

  reset(): boolean {
    return false;
  }

  isWantedBack(): boolean {
    return false;
  }

  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#qemu?.kill();
    this.#socket?.destroy();
    this.#server.close();
    this.#views.close();
    this.registers.close();
    this.#ram.close();
    rmSync(this.#directory, { recursive: true, force: true });
  }

  async #boot({ namespaces, properties = [] }: QtestOptions): Promise<void> {
    const firmware = Buffer.alloc(FIRMWARE_BYTES);
    firmware.set(HALT, RESET_VECTOR);
    const path = (name: string): string => join(this.#directory, name);
    writeFileSync(path('firmware'), firmware);
    const disks = namespaces.flatMap(({ nsid, blockBytes, sizeBytes }) => {
      const image = path(`disk${nsid}`);
      writeFileSync(image, '');
      truncateSync(image, sizeBytes);
      const sizes = `logical_block_size=${blockBytes},physical_block_size=${blockBytes}`;
      return [
        ...['-drive', `file=${image},if=none,id=d${nsid},format=raw,cache=unsafe,discard=unmap`],
        ...['-device', `nvme-ns,drive=d${nsid},bus=n,nsid=${nsid},${sizes}`],
      ];
    });
    const connected = new Promise<Socket>((resolve) => this.#server.once('connection', resolve));
    this.#qemu = new TestChild('QEMU', 'qemu-system-x86_64', [
      ...['-machine', 'q35,memory-backend=m', '-accel', 'tcg,tb-size=8', '-bios', path('firmware')],
      ...['-m', `${RAM_BYTES / 2 ** 20}`, '-nodefaults', '-display', 'none'],
      ...['-object', `memory-backend-file,id=m,mem-path=${path('ram')},size=${RAM_BYTES},share=on`],
      ...['-qtest', `unix:${path('qtest')}`, '-qtest-log', 'none'],
      ...['-device', ['nvme', 'id=n', 'serial=QTEST', `addr=${SLOT}.0`, ...properties].join(','), ...disks],
    ]);
    const ended = this.#qemu.exited.then(() => {
      throw new Error(`QEMU ended:\n${this.#qemu?.tail()}`);
    });
    ended.catch((error: Error) => {
      this.#failure = error;
    });
    this.#socket = await Promise.race([connected, ended]);
    this.#socket.setEncoding('latin1').on('data', (text: string) => this.#receive(text));
    this.#socket.on('error', () => undefined);
    await this.#configure(0x10, BAR);
    await this.#configure(0x14, 0);
    await this.#configure(4, 6);
    for (let word = 0; word < 0x40; word++) this.#words[word] = await this.#read(word);
    this.#sent.set(this.#words);
    void this.#carry();
  }

  /** Carries registers to and fro, until the end. */
  async #carry(): Promise<void> {
    try {
      while (this.#isOpen && this.#failure === null) {
        // The queues' addresses come before what enables them.
        for (let word = 9; word < 14; word++) this.#write(word);
        const wasCc = this.#sent[CC] !== this.#words[CC];
        this.#write(CC);
        if (wasCc && ((this.#words[CC] as number) & 1) === 0) this.#forgetQueues();
        for (let word = DOORBELLS; word < DOORBELLS + 64; word++) this.#write(word);
        if (wasCc || ((this.#words[CC] as number) & 1) !== ((this.#words[CSTS] as number) & 1)) {
          const status = await this.#read(CSTS);
          if (this.#isOpen) this.#words[CSTS] = status;
        }
        await new Promise((resolve) => setImmediate(resolve));
      }
    } catch (error) {
      this.#failure = error as Error;
    }
  }

  /** Disabling ends all queues: their doorbells are as new. */
  #forgetQueues(): void {
    this.#words.fill(0, DOORBELLS);
    this.#sent.fill(0, DOORBELLS);
  }

  #write(word: number): void {
    const value = this.#words[word] as number;
    if (value === this.#sent[word]) return;
    this.#sent[word] = value;
    void this.#command(`writel ${BAR + word * 4} ${value}`);
  }

  async #read(word: number): Promise<number> {
    return Number(await this.#command(`readl ${BAR + word * 4}`));
  }

  async #configure(offset: number, value: number): Promise<void> {
    await this.#command(`outl 0xcf8 ${0x8000_0000 + (SLOT << 11) + offset}`);
    await this.#command(`outl 0xcfc ${value}`);
  }

  #command(text: string): Promise<bigint> {
    return new Promise((resolve) => {
      this.#answers.push(resolve);
      this.#socket?.write(`${text}\n`);
    });
  }

  #receive(text: string): void {
    const lines = `${this.#text}${text}`.split('\n');
    this.#text = lines.pop() ?? '';
    for (const line of lines) {
      if (line.startsWith('IRQ')) continue;
      if (!line.startsWith('OK')) this.#failure = new Error(`qtest: ${line}`);
      this.#answers.shift()?.(BigInt(line.split(' ')[1] ?? 0));
    }
  }
}

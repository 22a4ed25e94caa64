/**
 * An NVMe drive in this process: what QEMU's cannot be made to do. It holds a driver to the letter of the specification
 * (PRP rules, queue life, what memory it may reach), and loses, repeats, delays and mixes up completions, fails and
 * vanishes as a test tells it to.
 */
import type { DmaMemory, PcieDevice } from '../../src/nvme/pcie/device.ts';
import { signalEventFd } from '../../src/sys/events.ts';
import { Mapping, type MappingInfo, MappingViews } from '../../src/sys/mapping.ts';

const REGISTER_BYTES = 0x2000;
const PAGE = 4096;
const Reg = { cap: 0, cc: 5, csts: 7, aqa: 9, asq: 10, acq: 12 } as const;
const [RDY, CFS] = [1, 2];

export interface ModelNamespace {
  readonly blockBytes: number;
  disk: Buffer;
}

/** What becomes of a completion. */
export type Fate = 'post' | 'lose' | 'twice' | 'hold';

interface Queue {
  readonly id: number;
  readonly iova: number;
  readonly size: number;
  head: number;
  tail: number;
}
interface CompletionQueue extends Queue {
  phase: number;
  readonly vector: number;
}
interface SubmissionQueue extends Queue {
  readonly completions: number;
}
export interface Completion {
  readonly queue: number;
  readonly cid: number;
  readonly opcode: number;
  readonly status: number;
  readonly dword0: number;
}

export interface ModelOptions {
  readonly queueEntriesMax?: number;
  readonly mdts?: number;
  readonly boundaryBlocks?: number;
  readonly vectors?: number;
  readonly queues?: number;
  readonly doorbellStride?: number;
  readonly namespaces?: ReadonlyMap<number, ModelNamespace>;
}

export class NvmeModel implements PcieDevice {
  readonly address = '0000:99:00.0';
  readonly registers = Mapping.anonymous(REGISTER_BYTES);
  readonly vectors: number;
  readonly namespaces: Map<number, ModelNamespace>;
  /** What the driver did that it may not. */
  readonly violations: string[] = [];
  /** Opcodes of I/O commands, as they came. */
  readonly seen: number[] = [];
  boundaryCrossings = 0;
  enables = 0;
  resets = 0;
  isBusMaster = true;
  isClosed = false;
  /** Somebody unbinds it, and waits. */
  isRequested = false;
  /** Decides about completions of I/O commands. */
  fateOf: (completion: Completion) => Fate = () => 'post';
  /** Status for a command, before it is carried out; 0 to carry it out. */
  statusOf: (opcode: number, nsid: number) => number = () => 0;
  /** Completions of one round come in the opposite order. */
  isBackwards = false;
  /** Nothing is carried out while true. */
  isStuck = false;
  /** Creates no queues. */
  refusesQueues = false;
  readonly held: Completion[] = [];
  readonly #options: ModelOptions;
  readonly #views = new MappingViews();
  readonly #words: Uint32Array;
  readonly #ranges: { iova: number; lengthBytes: number; bytes: Buffer; views: MappingViews }[] = [];
  #submissions = new Map<number, SubmissionQueue>();
  #completions = new Map<number, CompletionQueue>();
  #events: number[] = [];
  #pendingEvents: number[] = [];
  #eventFds: readonly number[] = [];
  #nextIova = 0x1_0000_0000;
  #wasEnabled = false;
  #isGone = false;
  #round: NodeJS.Immediate | null = null;

  constructor(options: ModelOptions = {}) {
    this.#options = options;
    this.vectors = options.vectors ?? 0;
    this.namespaces = new Map(options.namespaces ?? [[1, { blockBytes: 512, disk: Buffer.alloc(4 << 20) }]]);
    this.#words = new Uint32Array(this.#views.view(this.registers, 0, REGISTER_BYTES));
    this.#words[Reg.cap] = ((options.queueEntriesMax ?? 1024) - 1) | (1 << 16) | (1 << 24);
    this.#words[Reg.cap + 1] = (options.doorbellStride ?? 0) | (1 << 5);
    this.#words[2] = 0x0001_0400;
    const turn = (): void => {
      this.step();
      this.#round = setImmediate(turn);
    };
    this.#round = setImmediate(turn);
  }

  // What a driver calls.

  map(memory: MappingInfo): number {
    const iova = this.#nextIova;
    // A gap behind each range: what runs over its end is found.
    this.#nextIova += Math.ceil(memory.lengthBytes / PAGE + 1) * PAGE;
    const views = new MappingViews();
    const bytes = Buffer.from(views.view(memory, 0, memory.lengthBytes));
    this.#ranges.push({ iova, lengthBytes: memory.lengthBytes, bytes, views });
    return iova;
  }

  unmap(iova: number, lengthBytes: number): void {
    const index = this.#ranges.findIndex((range) => range.iova === iova && range.lengthBytes === lengthBytes);
    if (index < 0) throw new Error('memory is unmapped that was not mapped');
    this.#ranges[index]?.views.close();
    this.#ranges.splice(index, 1);
  }

  allocate(lengthBytes: number): DmaMemory {
    const mapping = Mapping.anonymous(lengthBytes);
    const iova = this.map(mapping);
    const close = (): void => {
      this.unmap(iova, lengthBytes);
      mapping.close();
    };
    return { address: mapping.address, lengthBytes, iova, close };
  }

  setInterrupts(eventFds: readonly number[]): void {
    this.#eventFds = eventFds;
  }

  setBusMaster(isOn: boolean): void {
    this.isBusMaster = isOn;
  }

  reset(): boolean {
    this.resets++;
    this.#stop();
    return true;
  }

  isWantedBack(): boolean {
    return this.isRequested;
  }

  close(): void {
    if (this.#round !== null) clearImmediate(this.#round);
    this.isClosed = true;
    if (this.#ranges.length > 0) this.violations.push(`${this.#ranges.length} ranges of memory are still mapped`);
    this.#views.close();
    this.registers.close();
  }

  // What a test does.

  /** Pulled out: every read gives ones. */
  remove(): void {
    this.#isGone = true;
    this.#words.fill(0xffff_ffff);
  }

  /** The fatal status of a controller that failed. */
  fail(): void {
    this.#words[Reg.csts] = (this.#words[Reg.csts] as number) | CFS;
    this.isStuck = true;
  }

  raiseEvent(type: number, info: number, page: number): void {
    this.#pendingEvents.push(type | (info << 8) | (page << 16));
  }

  post(completion: Completion): void {
    const submission = this.#submissions.get(completion.queue);
    const queue = submission === undefined ? undefined : this.#completions.get(submission.completions);
    if (submission === undefined || queue === undefined) return;
    queue.head = this.#doorbell(queue.id, 1);
    if ((queue.tail + 1) % queue.size === queue.head) throw new Error('a completion queue is full');
    const entry = this.#reach(queue.iova + queue.tail * 16, 16);
    if (entry === null) return;
    entry.writeUInt32LE(completion.dword0 >>> 0, 0);
    entry.writeUInt16LE(submission.head, 8);
    entry.writeUInt16LE(completion.queue, 10);
    entry.writeUInt16LE(completion.cid, 12);
    entry.writeUInt16LE((completion.status << 1) | queue.phase, 14);
    queue.tail = (queue.tail + 1) % queue.size;
    if (queue.tail === 0) queue.phase ^= 1;
    const fd = this.#eventFds[queue.vector];
    if (queue.vector >= 0 && fd !== undefined && fd >= 0) signalEventFd(fd);
  }

  /** @throws Error when the driver broke a rule, or did not give back what it had */
  check(): void {
    const crossings = this.boundaryCrossings === 0 ? [] : [`${this.boundaryCrossings} transfers cross a boundary`];
    const wrong = [...this.violations, ...crossings, ...(this.isClosed ? [] : ['it was not closed'])];
    if (wrong.length > 0) throw new Error(wrong.join('; '));
  }

  /** One look at registers and doorbells. */
  step(): void {
    if (this.#isGone || this.isClosed) return;
    const cc = this.#words[Reg.cc] as number;
    const isEnabled = (cc & 1) !== 0;
    if (isEnabled && !this.#wasEnabled) this.#start(cc);
    if (!isEnabled && this.#wasEnabled) this.#stop();
    if (((cc >>> 14) & 3) !== 0) this.#words[Reg.csts] = ((this.#words[Reg.csts] as number) & ~0xc) | 8;
    if (!this.#wasEnabled || this.isStuck) return;
    while (this.#events.length > 0 && this.#pendingEvents.length > 0) {
      const [cid, dword0] = [this.#events.shift() as number, this.#pendingEvents.shift() as number];
      this.post({ queue: 0, cid, opcode: 0x0c, status: 0, dword0 });
    }
    const done: Completion[] = [];
    for (const queue of [...this.#submissions.values()]) {
      queue.tail = this.#doorbell(queue.id, 0);
      if (queue.tail >= queue.size) {
        this.violations.push(`doorbell ${queue.tail} of a queue of ${queue.size}`);
        continue;
      }
      while (queue.head !== queue.tail) {
        const entry = this.#reach(queue.iova + queue.head * 64, 64);
        queue.head = (queue.head + 1) % queue.size;
        if (entry === null) continue;
        const completion = queue.id === 0 ? this.#admin(entry) : this.#io(queue.id, entry);
        if (completion !== null) done.push(completion);
      }
    }
    if (this.isBackwards) done.reverse();
    for (const completion of done) this.#release(completion);
  }

  #release(completion: Completion): void {
    const fate = completion.queue === 0 ? 'post' : this.fateOf(completion);
    if (fate === 'hold') this.held.push(completion);
    if (fate === 'post' || fate === 'twice') this.post(completion);
    if (fate === 'twice') this.post(completion);
  }

  #start(cc: number): void {
    this.#wasEnabled = true;
    this.enables++;
    const settings = [(cc >>> 7) & 0xf, (cc >>> 16) & 0xf, (cc >>> 20) & 0xf];
    if (settings.join() !== '0,6,4') this.violations.push(`CC says ${settings.join()}`);
    const words = this.#words;
    const address = (at: number): number => (words[at] as number) + (words[at + 1] as number) * 2 ** 32;
    const aqa = words[Reg.aqa] as number;
    const queue = (at: number, size: number) => ({ id: 0, iova: address(at), size: size + 1, head: 0, tail: 0 });
    words.fill(0, 0x400);
    this.#submissions = new Map([[0, { ...queue(Reg.asq, aqa & 0xfff), completions: 0 }]]);
    this.#completions = new Map([[0, { ...queue(Reg.acq, (aqa >>> 16) & 0xfff), phase: 1, vector: -1 }]]);
    words[Reg.csts] = RDY;
  }

  #stop(): void {
    this.#wasEnabled = false;
    this.isStuck = false;
    this.#submissions.clear();
    this.#completions.clear();
    this.#events = [];
    this.held.length = 0;
    this.#words[Reg.csts] = 0;
    this.#words[Reg.cc] = (this.#words[Reg.cc] as number) & ~1;
  }

  #doorbell(queue: number, which: 0 | 1): number {
    const stride = 1 << (this.#options.doorbellStride ?? 0);
    return this.#words[0x400 + (2 * queue + which) * stride] as number;
  }

  /** Memory at an I/O address, or null when the driver may not point there. */
  #reach(iova: number, lengthBytes: number): Buffer | null {
    const range = this.#ranges.find(
      (candidate) => iova >= candidate.iova && iova + lengthBytes <= candidate.iova + candidate.lengthBytes,
    );
    if (range === undefined || !this.isBusMaster) {
      this.violations.push(`DMA of ${lengthBytes} bytes at ${iova.toString(16)}`);
      return null;
    }
    return range.bytes.subarray(iova - range.iova, iova - range.iova + lengthBytes);
  }

  #admin(entry: Buffer): Completion | null {
    const [opcode, cid, nsid] = [entry.readUInt8(0), entry.readUInt16LE(2), entry.readUInt32LE(4)];
    const [cdw10, cdw11] = [entry.readUInt32LE(40), entry.readUInt32LE(44)];
    const answer = (status = 0, dword0 = 0): Completion => ({ queue: 0, cid, opcode, status, dword0 });
    const data = (): Buffer | null => this.#reach(Number(entry.readBigUInt64LE(24)), PAGE);
    if (opcode === 0x06) return answer(this.#identify(cdw10 & 0xff, nsid, data()));
    if (opcode === 0x09 && (cdw10 & 0xff) === 7) {
      const granted = Math.min((cdw11 & 0xffff) + 1, this.#options.queues ?? 64) - 1;
      return answer(0, granted | (granted << 16));
    }
    if (opcode === 0x09) return answer();
    if (opcode === 0x05 || opcode === 0x01) return answer(this.#createQueue(opcode === 0x05, entry));
    if (opcode === 0x02) {
      data()?.fill(0, 0, 512);
      return answer();
    }
    if (opcode === 0x08) {
      const index = this.held.findIndex(({ queue, cid: held }) => queue === (cdw10 & 0xffff) && held === cdw10 >>> 16);
      const [held] = index < 0 ? [] : this.held.splice(index, 1);
      if (held !== undefined) this.post({ ...held, status: 7 });
      return answer(0, held === undefined ? 1 : 0);
    }
    if (opcode === 0x0c) {
      this.#events.push(cid);
      return null;
    }
    return answer(0x4001);
  }

  #createQueue(isCompletion: boolean, entry: Buffer): number {
    const [cdw10, cdw11] = [entry.readUInt32LE(40), entry.readUInt32LE(44)];
    const [id, size, iova] = [cdw10 & 0xffff, (cdw10 >>> 16) + 1, Number(entry.readBigUInt64LE(24))];
    if (this.refusesQueues) return 0x4006;
    const other = isCompletion ? this.#completions : this.#submissions;
    if (id === 0 || other.has(id)) return 0x4101;
    if (size > (this.#options.queueEntriesMax ?? 1024) || size < 2) return 0x4102;
    if (iova % PAGE !== 0 || (cdw11 & 1) === 0) return 0x4013;
    const queue = { id, iova, size, head: 0, tail: 0 };
    if (isCompletion) this.#completions.set(id, { ...queue, phase: 1, vector: (cdw11 & 2) === 0 ? -1 : cdw11 >>> 16 });
    else if (!this.#completions.has(cdw11 >>> 16)) return 0x4100;
    else this.#submissions.set(id, { ...queue, completions: cdw11 >>> 16 });
    return 0;
  }

  #identify(cns: number, nsid: number, page: Buffer | null): number {
    if (page === null) return 0x4004;
    page.fill(0);
    if (cns === 1) {
      page.write('MODEL01'.padEnd(20), 4);
      page.write('A model of a drive'.padEnd(40), 24);
      page.writeUInt8(this.#options.mdts ?? 5, 77);
      page.writeUInt32LE(256, 516);
      page.writeUInt16LE(0b1100, 520);
      page.writeUInt8(1, 525);
      return 0;
    }
    if (cns === 2) {
      for (const [i, id] of [...this.namespaces.keys()].entries()) page.writeUInt32LE(id, 4 * i);
      return 0;
    }
    const namespace = this.namespaces.get(nsid);
    if (namespace === undefined) return 0x400b;
    if (cns !== 0) return 0x4002;
    page.writeBigUInt64LE(BigInt(namespace.disk.length / namespace.blockBytes), 0);
    page.writeUInt16LE(this.#options.boundaryBlocks ?? 0, 46);
    page.writeUInt8(Math.log2(namespace.blockBytes), 130);
    return 0;
  }

  #io(queue: number, entry: Buffer): Completion {
    const [opcode, cid, nsid] = [entry.readUInt8(0), entry.readUInt16LE(2), entry.readUInt32LE(4)];
    this.seen.push(opcode);
    const asked = this.statusOf(opcode, nsid);
    return { queue, cid, opcode, status: asked !== 0 ? asked : this.#carryOut(opcode, nsid, entry), dword0: 0 };
  }

  #carryOut(opcode: number, nsid: number, entry: Buffer): number {
    const namespace = this.namespaces.get(nsid);
    if (namespace === undefined) return 0x400b;
    const { blockBytes, disk } = namespace;
    if (opcode === 0) return 0;
    if (opcode === 9) {
      const ranges = this.#pages(entry, (entry.readUInt8(40) + 1) * 16)?.[0];
      if (ranges === undefined) return 0x4013;
      const [start, count] = [Number(ranges.readBigUInt64LE(8)), ranges.readUInt32LE(4)];
      if ((start + count) * blockBytes > disk.length) return 0x4080;
      disk.fill(0, start * blockBytes, (start + count) * blockBytes);
      return 0;
    }
    const [start, count] = [Number(entry.readBigUInt64LE(40)), entry.readUInt16LE(48) + 1];
    if ((start + count) * blockBytes > disk.length) return 0x4080;
    const bytes = disk.subarray(start * blockBytes, (start + count) * blockBytes);
    if (opcode === 8) {
      bytes.fill(0);
      return 0;
    }
    if (opcode !== 1 && opcode !== 2) return 0x4001;
    if (bytes.length > PAGE << (this.#options.mdts ?? 5)) return 0x4002;
    const boundary = this.#options.boundaryBlocks ?? 0;
    if (boundary > 0 && Math.floor(start / boundary) !== Math.floor((start + count - 1) / boundary)) {
      this.boundaryCrossings++;
    }
    const pages = this.#pages(entry, bytes.length);
    if (pages === null) return 0x4013;
    let at = 0;
    for (const page of pages) {
      if (opcode === 1) page.copy(bytes, at);
      else bytes.copy(page, 0, at, at + page.length);
      at += page.length;
    }
    return 0;
  }

  /** The data of a command, page by page; null, with a violation noted, when a rule of PRPs is broken. */
  #pages(entry: Buffer, lengthBytes: number): Buffer[] | null {
    const [first, second] = [Number(entry.readBigUInt64LE(24)), Number(entry.readBigUInt64LE(32))];
    const broken = (rule: string): null => {
      this.violations.push(`PRP: ${rule}`);
      return null;
    };
    if (first % 4 !== 0) return broken('the first entry is at no multiple of 4');
    const inFirst = Math.min(PAGE - (first % PAGE), lengthBytes);
    const entries = [{ iova: first, length: inFirst }];
    let left = lengthBytes - inFirst;
    if (left > PAGE) {
      if (second % 8 !== 0) return broken('the list is at no multiple of 8');
      const count = Math.ceil(left / PAGE);
      if ((second % PAGE) + 8 * count > PAGE) return broken('the list runs over its page');
      const list = this.#reach(second, 8 * count);
      if (list === null) return null;
      for (let i = 0; i < count; i++, left -= PAGE) {
        entries.push({ iova: Number(list.readBigUInt64LE(8 * i)), length: Math.min(PAGE, left) });
      }
    } else if (left > 0) entries.push({ iova: second, length: left });
    else if (second !== 0) return broken('there is a second entry, and nothing left for it');
    if (entries.slice(1).some(({ iova }) => iova % PAGE !== 0)) return broken('an entry does not begin a page');
    const pages = entries.map(({ iova, length }) => this.#reach(iova, length));
    return pages.some((page) => page === null) ? null : (pages as Buffer[]);
  }
}

/**
 * A PCI device in user space: VFIO's container, group and device (linux/vfio.h, type 1 IOMMU). Its registers are
 * mapped, its interrupts are eventfds, and it reaches only memory that was mapped for it. Main thread.
 */
import { closeSync, openSync, readlinkSync, readSync, writeSync } from 'node:fs';
import { basename } from 'node:path';
import { checkErrno, errnoName, strerror, TargetError } from '../base/errors.ts';
import { struct, u32, u64 } from '../base/struct.ts';
import { type DmaMapper, IovaAllocator, NO_IOVA } from './dma.ts';
import { closeFd, createEventFd, readEventFd } from './events.ts';
import { createMemoryFile, Mapping, type MappingInfo } from './mapping.ts';
import { native } from './native.ts';

const Request = {
  setIommu: 0x3b66,
  groupGetStatus: 0x3b67,
  groupSetContainer: 0x3b68,
  groupGetDeviceFd: 0x3b6a,
  getRegionInfo: 0x3b6c,
  getIrqInfo: 0x3b6d,
  setIrqs: 0x3b6e,
  reset: 0x3b6f,
  mapDma: 0x3b71,
  unmapDma: 0x3b72,
} as const;
const TYPE1V2_IOMMU = 3;
const GROUP_VIABLE = 1;
const REGION_BAR0 = 0;
const REGION_CONFIG = 7;
const REGION_CAN_MMAP = 4;
const IRQ_MSIX = 2;
/** Signalled when the kernel wants the device back: it is being unplugged, or unbound. */
const IRQ_REQUEST = 4;
const IRQ_SET = { dataNone: 1, dataEventFd: 4, actionTrigger: 32 } as const;
const DMA_READ_WRITE = 3;

const GroupStatus = struct('vfio_group_status', 8, { argsz: u32, flags: u32 });
const RegionInfo = struct('vfio_region_info', 32, {
  argsz: u32,
  flags: u32,
  index: u32,
  capOffset: u32,
  size: u64,
  offset: u64,
});
const IrqInfo = struct('vfio_irq_info', 16, { argsz: u32, flags: u32, index: u32, count: u32 });
const IrqSet = struct('vfio_irq_set', 20, { argsz: u32, flags: u32, index: u32, start: u32, count: u32 });
const DmaMap = struct('vfio_iommu_type1_dma_map', 32, { argsz: u32, flags: u32, vaddr: u64, iova: u64, size: u64 });
const DmaUnmap = struct('vfio_iommu_type1_dma_unmap', 24, { argsz: u32, flags: u32, iova: u64, size: u64 });

/** PCI command register: offset in configuration space, and its bits. */
const COMMAND = 4;
const COMMAND_MEMORY = 2;
const COMMAND_BUS_MASTER = 4;

/**
 * I/O addresses are handed out above what interrupts use (FEE00000h), and below 2^38, which the narrowest IOMMUs
 * translate.
 */
const IOVA_START = 2 ** 32;
const IOVA_END = 2 ** 38;

export class VfioDevice implements DmaMapper {
  readonly address: string;
  /** BAR 0. */
  readonly registers: Mapping;
  /** MSI-X vectors. */
  readonly vectors: number;
  readonly #container: number;
  readonly #group: number;
  readonly #device: number;
  readonly #configOffset: number;
  readonly #requestFd: number;
  readonly #iovas = new IovaAllocator(IOVA_START, IOVA_END);

  /** Throws `ENODEV`, or `EACCES` with what to do when the device is not ours to use. `address`: `0000:01:00.0`. */
  constructor(address: string) {
    this.address = address;
    const opened: number[] = [];
    try {
      const group = groupOf(address);
      opened.push(openDevice(`/dev/vfio/${group}`, address));
      opened.push(openDevice('/dev/vfio/vfio', address));
      [this.#group, this.#container] = opened as [number, number];
      this.#join(group);
      this.#device = control(this.#group, Request.groupGetDeviceFd, Buffer.from(`${address}\0`), `open ${address}`);
      opened.push(this.#device);
      this.#configOffset = this.#region(REGION_CONFIG).offset;
      this.setBusMaster(true);
      const bar = this.#region(REGION_BAR0);
      if ((bar.flags & REGION_CAN_MMAP) === 0 || bar.size === 0) {
        throw new TargetError('ENOTSUP', `the registers of ${address} cannot be mapped`);
      }
      this.registers = Mapping.file(this.#device, bar.offset, bar.size);
      this.vectors = this.#countVectors();
      this.#requestFd = createEventFd();
      opened.push(this.#requestFd);
      this.#setIrqs(IRQ_REQUEST, [this.#requestFd]);
    } catch (error) {
      for (const fd of opened.toReversed()) closeSync(fd);
      throw error;
    }
  }

  map(memory: MappingInfo): number {
    const iova = this.#iovas.take(memory.lengthBytes);
    if (iova === NO_IOVA) throw new TargetError('ENOMEM', `no I/O addresses are left for ${this.address}`);
    const bytes = DmaMap.encode({
      argsz: DmaMap.size,
      flags: DMA_READ_WRITE,
      vaddr: BigInt(memory.address),
      iova: BigInt(iova),
      size: BigInt(memory.lengthBytes),
    });
    const what = `map ${memory.lengthBytes} bytes for ${this.address} (a limit on locked memory: ulimit -l)`;
    try {
      // SAFETY: a live mapping; its owner withdraws it before it is unmapped.
      control(this.#container, Request.mapDma, bytes, what);
    } catch (error) {
      this.#iovas.release(iova, memory.lengthBytes);
      throw error;
    }
    return iova;
  }

  unmap(iova: number, lengthBytes: number): void {
    const value = { argsz: DmaUnmap.size, flags: 0, iova: BigInt(iova), size: BigInt(lengthBytes) };
    control(this.#container, Request.unmapDma, DmaUnmap.encode(value), `unmap memory of ${this.address}`);
    this.#iovas.release(iova, lengthBytes);
  }

  /** Zeroed memory that the device reaches; shared, so that it stays where it is when the process forks. */
  allocate(lengthBytes: number): MappingInfo & { readonly iova: number; close(): void } {
    const fd = createMemoryFile('ringhost-dma', lengthBytes);
    let mapping: Mapping;
    try {
      mapping = Mapping.file(fd, 0, lengthBytes);
    } finally {
      closeFd(fd);
    }
    try {
      const iova = this.map(mapping);
      const close = (): void => {
        this.unmap(iova, lengthBytes);
        mapping.close();
      };
      return { address: mapping.address, lengthBytes, iova, close };
    } catch (error) {
      mapping.close();
      throw error;
    }
  }

  /** Has every vector signal the eventfd in its place, -1 for none. */
  setInterrupts(eventFds: readonly number[]): void {
    this.#setIrqs(IRQ_MSIX, eventFds);
  }

  /**
   * True once the kernel waits for the device to be closed: somebody unplugs it, or unbinds it from vfio-pci. Whoever
   * does that hangs until then. Ask again and again.
   */
  isWantedBack(): boolean {
    return readEventFd(this.#requestFd) > 0;
  }

  #setIrqs(index: number, eventFds: readonly number[]): void {
    const bytes = new Uint8Array(IrqSet.size + 4 * eventFds.length);
    const flags = (eventFds.length === 0 ? IRQ_SET.dataNone : IRQ_SET.dataEventFd) | IRQ_SET.actionTrigger;
    IrqSet.encode({ argsz: bytes.length, flags, index, start: 0, count: eventFds.length }, bytes);
    const view = new DataView(bytes.buffer);
    for (const [i, fd] of eventFds.entries()) view.setInt32(IrqSet.size + 4 * i, fd, true);
    control(this.#device, Request.setIrqs, bytes, `set up interrupts of ${this.address}`);
  }

  /** Without it the device reaches no memory. */
  setBusMaster(isOn: boolean): void {
    const bytes = Buffer.alloc(2);
    readSync(this.#device, bytes, 0, 2, this.#configOffset + COMMAND);
    const others = bytes.readUInt16LE() & ~(COMMAND_MEMORY | COMMAND_BUS_MASTER);
    bytes.writeUInt16LE(others | COMMAND_MEMORY | (isOn ? COMMAND_BUS_MASTER : 0));
    writeSync(this.#device, bytes, 0, 2, this.#configOffset + COMMAND);
  }

  /** Function-level reset. False where the device has none. */
  reset(): boolean {
    return native.deviceControlValue(this.#device, Request.reset, 0) >= 0;
  }

  /** Every view of the registers is closed. */
  close(): void {
    this.registers.close();
    for (const fd of [this.#requestFd, this.#device, this.#container, this.#group]) closeSync(fd);
  }

  #join(group: string): void {
    const status = GroupStatus.encode({ argsz: GroupStatus.size, flags: 0 });
    control(this.#group, Request.groupGetStatus, status, `look at IOMMU group ${group}`);
    if ((GroupStatus.decode(status).flags & GROUP_VIABLE) === 0) {
      throw new TargetError(
        'EBUSY',
        `IOMMU group ${group} of ${this.address} has devices that a kernel driver uses: bind all of them to vfio-pci`,
      );
    }
    const container = new Uint8Array(Int32Array.of(this.#container).buffer);
    control(this.#group, Request.groupSetContainer, container, `use IOMMU group ${group}`);
    const set = native.deviceControlValue(this.#container, Request.setIommu, TYPE1V2_IOMMU);
    checkErrno(set, `cannot use the IOMMU for ${this.address}`);
  }

  #region(index: number): { size: number; offset: number; flags: number } {
    const bytes = RegionInfo.encode({ argsz: RegionInfo.size, flags: 0, index, capOffset: 0, size: 0n, offset: 0n });
    control(this.#device, Request.getRegionInfo, bytes, `inspect ${this.address}`);
    const { size, offset, flags } = RegionInfo.decode(bytes);
    return { size: Number(size), offset: Number(offset), flags };
  }

  #countVectors(): number {
    const bytes = IrqInfo.encode({ argsz: IrqInfo.size, flags: 0, index: IRQ_MSIX, count: 0 });
    control(this.#device, Request.getIrqInfo, bytes, `inspect the interrupts of ${this.address}`);
    return IrqInfo.decode(bytes).count;
  }
}

function control(fd: number, request: number, bytes: Uint8Array, what: string): number {
  // SAFETY: the structures say their own size, and have it.
  return checkErrno(native.deviceControl(fd, request, bytes), `cannot ${what}`);
}

function groupOf(address: string): string {
  try {
    return basename(readlinkSync(`/sys/bus/pci/devices/${address}/iommu_group`));
  } catch (error) {
    throw new TargetError('ENODEV', `there is no PCI device ${address} behind an IOMMU: ringhost setup status`, {
      cause: error,
    });
  }
}

function openDevice(path: string, address: string): number {
  try {
    return openSync(path, 'r+');
  } catch (error) {
    const errno = (error as NodeJS.ErrnoException).errno ?? 0;
    const name = errnoName(errno);
    if (name === 'EBUSY') throw new TargetError('EBUSY', `${address} is in use: another program has ${path}`);
    throw new TargetError(
      name === 'ENOENT' ? 'EACCES' : name,
      `cannot open ${path}: ${strerror(errno)}. Bind ${address} to vfio-pci (ringhost setup) and run as its owner`,
      { cause: error },
    );
  }
}

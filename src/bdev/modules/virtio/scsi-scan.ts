/**
 * What units a virtio-scsi target has and what they can do, asked by commands (SPC-4, SBC-3). What a unit answers is
 * checked before it is believed; what cannot be a disk is named with the reason.
 */
import { BUFFER_BYTES } from './layout.ts';
import { Opcode, ServiceAction, VpdPage } from './scsi-commands.ts';

/** Where a unit is. */
export interface UnitAddress {
  readonly target: number;
  readonly lun: number;
}

/** A unit that can be a disk. */
export interface UnitIdentity extends UnitAddress {
  readonly vendor: string;
  readonly model: string;
  readonly revision: string;
  /** Empty when it has none. */
  readonly serial: string;
  /** What tells it from every other unit, where it says so; otherwise empty. */
  readonly designators: string;
  readonly blockSizeBytes: number;
  readonly blockCount: number;
  readonly physicalBlockSizeBytes: number;
  readonly hasWriteCache: boolean;
  readonly isReadonly: boolean;
  readonly dataBytesMax: number;
  /** 0: it cannot unmap. */
  readonly unmapBlocksMax: number;
  /** 0: it has no WRITE SAME(16). */
  readonly zeroBlocksMax: number;
  readonly zeroMayUnmap: boolean;
}

export interface ScanResult {
  /** All that the target reports, whether or not it can be a disk. */
  readonly luns: readonly number[];
  readonly disks: readonly UnitIdentity[];
  /** Units that are none, as text. */
  readonly refused: readonly string[];
}

/**
 * Sends a command that needs `inBytes` of answer: those there are; null when the unit does not know the command or the
 * field, or is not there. Throws for everything else.
 */
export type AskUnit = (address: UnitAddress, cdb: readonly number[], inBytes: number) => Promise<Uint8Array | null>;

const REPORT_BYTES = 4096;
const VPD_BYTES = 252;
/** Without a limit of the unit's: what every device is said to take. */
const ZERO_BLOCKS_MAX = 0xffff;
const RANGE_BLOCKS_MAX = 2 ** 21;
const BLOCK_BYTES_MAX = 4096;
const TWO_32 = 2 ** 32;
const DIRECT_ACCESS = 0;
const CACHING_PAGE = 0x08;
/** Of REPORT LUNS: the LUN is in 14 bits of the first two bytes, by either method (SAM-5 §4.7.7). */
const LUN_MASK = 0x3fff;
const METHOD_SHIFT = 14;

/** All units of a target. No unit at all: an empty result. */
export async function scanTarget(ask: AskUnit, target: number): Promise<ScanResult> {
  const first = { target, lun: 0 };
  const inquiry = await ask(first, inquiryCdb(), 36);
  if (inquiry === null) return { luns: [], disks: [], refused: [] };
  const report = await ask(first, [Opcode.reportLuns, 0, 0, 0, 0, 0, ...u32(REPORT_BYTES), 0, 0], REPORT_BYTES);
  const luns: number[] = [];
  const disks: UnitIdentity[] = [];
  const refused: string[] = [];
  for (const lun of report === null ? [0] : lunsOf(report)) {
    const unit = await scanUnit(ask, { target, lun });
    if (unit === null) continue;
    luns.push(lun);
    if (typeof unit === 'string') refused.push(`target ${target} LUN ${lun} ${unit}`);
    else disks.push(unit);
  }
  return { luns, disks, refused };
}

/** A unit; why it cannot be a disk; or null, when there is none. */
async function scanUnit(ask: AskUnit, address: UnitAddress): Promise<UnitIdentity | string | null> {
  const inquiry = await ask(address, inquiryCdb(), 36);
  if (inquiry === null || inquiry.length < 36) return null;
  const qualifier = (inquiry[0] as number) >>> 5;
  const type = (inquiry[0] as number) & 0x1f;
  if (qualifier !== 0) return null;
  if (type !== DIRECT_ACCESS) return `is no disk (peripheral device type ${type})`;
  if ((await ask(address, [Opcode.testUnitReady, 0, 0, 0, 0, 0], 0)) === null) return 'is not ready';
  const capacity = await readCapacity(ask, address);
  if (capacity === null) return 'does not tell its capacity';
  const { blockSizeBytes, blockCount } = capacity;
  const isPower = blockSizeBytes >= 512 && (blockSizeBytes & (blockSizeBytes - 1)) === 0;
  if (!isPower || blockSizeBytes > BLOCK_BYTES_MAX) return `has blocks of ${blockSizeBytes} bytes`;
  if (!Number.isSafeInteger(blockCount * blockSizeBytes)) return `says that it has ${blockCount} blocks`;
  return {
    ...address,
    ...capacity,
    vendor: text(inquiry.subarray(8, 16)),
    model: text(inquiry.subarray(16, 32)),
    revision: text(inquiry.subarray(32, 36)),
    ...(await readNames(ask, address)),
    ...(await readCaching(ask, address)),
    ...(await readLimits(ask, address, blockSizeBytes)),
  };
}

interface Capacity {
  readonly blockSizeBytes: number;
  readonly blockCount: number;
  readonly physicalBlockSizeBytes: number;
}

async function readCapacity(ask: AskUnit, address: UnitAddress): Promise<Capacity | null> {
  const cdb = [Opcode.serviceActionIn16, ServiceAction.readCapacity16, ...zeroes(8), ...u32(32), 0, 0];
  const long = viewOf(await ask(address, cdb, 32), 14);
  if (long !== null) {
    const blockSizeBytes = long.getUint32(8);
    return {
      blockSizeBytes,
      blockCount: Number(long.getBigUint64(0)) + 1,
      physicalBlockSizeBytes: blockSizeBytes * 2 ** (long.getUint8(13) & 0xf),
    };
  }
  const short = viewOf(await ask(address, [Opcode.readCapacity10, ...zeroes(9)], 8), 8);
  // All ones: the capacity needs the command that the unit does not know.
  if (short === null || short.getUint32(0) === TWO_32 - 1) return null;
  const blockSizeBytes = short.getUint32(4);
  return { blockSizeBytes, blockCount: short.getUint32(0) + 1, physicalBlockSizeBytes: blockSizeBytes };
}

async function readNames(ask: AskUnit, address: UnitAddress): Promise<{ serial: string; designators: string }> {
  const pages = await readVpd(ask, address, VpdPage.supportedPages);
  const has = (page: number): boolean => pages?.subarray(4).includes(page) ?? false;
  const serial = has(VpdPage.serialNumber) ? await readVpd(ask, address, VpdPage.serialNumber) : null;
  const names = has(VpdPage.identification) ? await readVpd(ask, address, VpdPage.identification) : null;
  return {
    serial: serial === null ? '' : text(serial.subarray(4)),
    designators: names === null ? '' : designatorsOf(names),
  };
}

/** Designators of the unit itself, the vendor's own ones included: all that it is told by. */
function designatorsOf(page: Uint8Array): string {
  const found: string[] = [];
  for (let at = 4; at + 4 <= page.length; at += 4 + (page[at + 3] as number)) {
    const association = ((page[at + 1] as number) >>> 4) & 3;
    const bytes = page.subarray(at + 4, at + 4 + (page[at + 3] as number));
    if (association === 0) found.push(Buffer.from(bytes).toString('hex'));
  }
  return found.join(' ');
}

/** Without an answer: there may be a cache, and nothing is protected. */
async function readCaching(
  ask: AskUnit,
  address: UnitAddress,
): Promise<{ hasWriteCache: boolean; isReadonly: boolean }> {
  const mode = viewOf(await ask(address, [Opcode.modeSense6, 0x08, CACHING_PAGE, 0, 192, 0], 192), 4);
  if (mode === null) return { hasWriteCache: true, isReadonly: false };
  const isReadonly = (mode.getUint8(2) & 0x80) !== 0;
  const page = 4 + mode.getUint8(3);
  const isCaching = page + 3 <= mode.byteLength && (mode.getUint8(page) & 0x3f) === CACHING_PAGE;
  return { isReadonly, hasWriteCache: !isCaching || (mode.getUint8(page + 2) & 0x04) !== 0 };
}

type Limits = Pick<UnitIdentity, 'dataBytesMax' | 'unmapBlocksMax' | 'zeroBlocksMax' | 'zeroMayUnmap'>;

async function readLimits(ask: AskUnit, address: UnitAddress, blockSizeBytes: number): Promise<Limits> {
  const limits = viewOf(await readVpd(ask, address, VpdPage.blockLimits), 16);
  const provisioning = viewOf(await readVpd(ask, address, VpdPage.provisioning), 6);
  const word = (at: number): number => (limits !== null && limits.byteLength >= at + 4 ? limits.getUint32(at) : 0);
  const transferBlocks = word(8);
  const flags = provisioning?.getUint8(5) ?? 0;
  const canUnmap = (flags & 0x80) !== 0 && word(20) > 0 && word(24) > 0;
  const mayUnmap = (flags & 0x40) !== 0;
  const sameBlocks = word(36) > 0 ? ZERO_BLOCKS_MAX : word(40);
  const canZero = await hasCommand(ask, address, Opcode.writeSame16, mayUnmap || sameBlocks > 0);
  return {
    dataBytesMax: transferBlocks === 0 ? BUFFER_BYTES : Math.min(BUFFER_BYTES, transferBlocks * blockSizeBytes),
    unmapBlocksMax: canUnmap ? Math.min(word(20), RANGE_BLOCKS_MAX) : 0,
    zeroBlocksMax: canZero ? Math.min(sameBlocks === 0 ? ZERO_BLOCKS_MAX : sameBlocks, RANGE_BLOCKS_MAX) : 0,
    // Only where what is unmapped reads as zeroes.
    zeroMayUnmap: mayUnmap && (flags & 0x04) !== 0,
  };
}

/** Whether a unit knows a command; `otherwise` when it does not tell. */
async function hasCommand(ask: AskUnit, address: UnitAddress, opcode: number, otherwise: boolean): Promise<boolean> {
  const cdb = [Opcode.maintenanceIn, ServiceAction.reportSupportedOpcodes, 1, opcode, 0, 0, ...u32(64), 0, 0];
  const answer = await ask(address, cdb, 64);
  if (answer === null || answer.length < 4) return otherwise;
  return ((answer[1] as number) & 7) === 3;
}

/** The page, as long as it says that it is; null when the unit has none. */
async function readVpd(ask: AskUnit, address: UnitAddress, page: number): Promise<Uint8Array | null> {
  const bytes = await ask(address, [Opcode.inquiry, 1, page, 0, VPD_BYTES, 0], VPD_BYTES);
  if (bytes === null || bytes.length < 4 || bytes[1] !== page) return null;
  return bytes.subarray(0, 4 + (((bytes[2] as number) << 8) | (bytes[3] as number)));
}

function lunsOf(report: Uint8Array): number[] {
  const view = new DataView(report.buffer, report.byteOffset, report.byteLength);
  const luns: number[] = [];
  const end = report.length < 8 ? 0 : Math.min(report.length, 8 + view.getUint32(0));
  for (let at = 8; at + 8 <= end; at += 8) {
    const field = view.getUint16(at);
    // Peripheral device or flat space addressing; well-known units are no disks.
    if (field >>> METHOD_SHIFT <= 1) luns.push(field & LUN_MASK);
  }
  return luns;
}

function inquiryCdb(): readonly number[] {
  return [Opcode.inquiry, 0, 0, 0, 36, 0];
}

/** Null for an answer that is too short as well. */
function viewOf(bytes: Uint8Array | null, lengthMin: number): DataView | null {
  if (bytes === null || bytes.length < lengthMin) return null;
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function text(bytes: Uint8Array): string {
  return Buffer.from(bytes)
    .toString('latin1')
    .replace(/[^\x20-\x7e]/g, '')
    .trim();
}

function u32(value: number): number[] {
  return [value >>> 24, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff];
}

function zeroes(count: number): number[] {
  return Array.from({ length: count }, () => 0);
}

/** What a controller and its namespaces say of themselves (NVMe base 2.0 §5.17.2; NVM command set 1.0 §4.1.5). */
import { addr64 } from '../base/struct.ts';
import { withDashes } from '../base/uuid.ts';

export interface ControllerIdentity {
  readonly vendorId: number;
  readonly subsystemVendorId: number;
  readonly serialNumber: string;
  readonly modelNumber: string;
  readonly firmwareRevision: string;
  /** Largest transfer: 2^n pages of the smallest size; 0 without a limit. */
  readonly mdts: number;
  readonly controllerId: number;
  /** Granularity of the keep-alive timer in milliseconds; 0 without one. */
  readonly keepAliveGranularityMs: number;
  readonly hasDatasetManagement: boolean;
  readonly hasWriteZeroes: boolean;
  readonly hasVolatileWriteCache: boolean;
  readonly namespacesMax: number;
  /** Asymmetric Namespace Access: paths may differ in what they lead to. */
  readonly reportsAccess: boolean;
  readonly subsystemNqn: string;
  /** Fabrics: bytes of a command capsule with its in-capsule data, of a response capsule; where the data begins. */
  readonly commandCapsuleBytes: number;
  readonly responseCapsuleBytes: number;
  readonly inCapsuleDataOffsetBytes: number;
}

export interface NamespaceIdentity {
  readonly nsid: number;
  readonly blockCount: number;
  readonly blockSizeBytes: number;
  /** Bytes of metadata a block; such a namespace is not served. */
  readonly metadataBytes: number;
  /** Blocks that a transfer had better not cross a multiple of; 0 without. */
  readonly boundaryBlocks: number;
  /** Preferred write granularity in blocks: 1 when it is not said. */
  readonly writeGranularityBlocks: number;
  readonly deallocatedReadsZeroes: boolean;
  /** Lower-case hexadecimal digits; empty when there is none. */
  readonly nguid: string;
  readonly eui64: string;
  /** With dashes; empty when there is none. */
  readonly uuid: string;
}

const text = (bytes: Buffer, from: number, to: number): string =>
  bytes.toString('latin1', from, to).replace(/\0.*$/s, '').trim();
const hexOrNone = (bytes: Buffer): string => (bytes.every((byte) => byte === 0) ? '' : bytes.toString('hex'));

export function parseController(bytes: Buffer): ControllerIdentity {
  const optional = bytes.readUInt16LE(520);
  return {
    vendorId: bytes.readUInt16LE(0),
    subsystemVendorId: bytes.readUInt16LE(2),
    serialNumber: text(bytes, 4, 24),
    modelNumber: text(bytes, 24, 64),
    firmwareRevision: text(bytes, 64, 72),
    mdts: bytes.readUInt8(77),
    controllerId: bytes.readUInt16LE(78),
    keepAliveGranularityMs: bytes.readUInt16LE(320) * 100,
    hasDatasetManagement: (optional & (1 << 2)) !== 0,
    hasWriteZeroes: (optional & (1 << 3)) !== 0,
    hasVolatileWriteCache: (bytes.readUInt8(525) & 1) !== 0,
    namespacesMax: bytes.readUInt32LE(516),
    reportsAccess: (bytes.readUInt8(76) & (1 << 3)) !== 0,
    subsystemNqn: text(bytes, 768, 1024),
    commandCapsuleBytes: bytes.readUInt32LE(1792) * 16,
    responseCapsuleBytes: bytes.readUInt32LE(1796) * 16,
    inCapsuleDataOffsetBytes: bytes.readUInt16LE(1800) * 16,
  };
}

/** `descriptors`: the namespace identification descriptor list, when the controller has it. */
export function parseNamespace(nsid: number, bytes: Buffer, descriptors?: Buffer): NamespaceIdentity {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const format = bytes.readUInt8(26);
  // The index has six bits since NVMe 2.0: four, and two more above the bit that says where metadata goes.
  const at = 128 + 4 * ((format & 0xf) | ((format & 0x60) >> 1));
  const hasPreferences = (bytes.readUInt8(24) & (1 << 4)) !== 0;
  return {
    nsid,
    blockCount: addr64.read(view, 0),
    blockSizeBytes: 2 ** bytes.readUInt8(at + 2),
    metadataBytes: bytes.readUInt16LE(at),
    boundaryBlocks: bytes.readUInt16LE(46),
    writeGranularityBlocks: hasPreferences ? bytes.readUInt16LE(64) + 1 : 1,
    deallocatedReadsZeroes: (bytes.readUInt8(33) & 7) === 1,
    nguid: hexOrNone(bytes.subarray(104, 120)),
    eui64: hexOrNone(bytes.subarray(120, 128)),
    uuid: descriptors === undefined ? '' : uuidOf(descriptors),
  };
}

const DESCRIPTOR_UUID = 3;

function uuidOf(list: Buffer): string {
  for (let at = 0; at + 4 <= list.length; ) {
    const [type, length] = [list.readUInt8(at), list.readUInt8(at + 1)];
    if (length === 0 || at + 4 + length > list.length) return '';
    if (type === DESCRIPTOR_UUID && length === 16) return withDashes(hexOrNone(list.subarray(at + 4, at + 20)));
    at += 4 + length;
  }
  return '';
}

/** Ascending; the list ends with the first 0. */
export function parseNamespaceList(bytes: Buffer): number[] {
  const list: number[] = [];
  for (let at = 0; at + 4 <= bytes.length; at += 4) {
    const nsid = bytes.readUInt32LE(at);
    if (nsid === 0) break;
    list.push(nsid);
  }
  return list;
}

/**
 * virtio-blk as it is on the wire (virtio 1.3 §5.2): feature bits, configuration space, request types, status values.
 * Shared by the device (vhost/) and the driver side (initiator/).
 */
import { addr64, struct, u8, u16, u32 } from '../base/struct.ts';

export const BlkFeature = {
  SIZE_MAX: 1,
  SEG_MAX: 2,
  GEOMETRY: 4,
  RO: 5,
  BLK_SIZE: 6,
  FLUSH: 9,
  TOPOLOGY: 10,
  CONFIG_WCE: 11,
  MQ: 12,
  DISCARD: 13,
  WRITE_ZEROES: 14,
} as const;

/** §5.2.4, up to and including what a QEMU front-end asks for. Offsets in bytes, little-endian. */
export const BlkConfig = struct('virtio_blk_config', 60, {
  /** In 512-byte sectors, whatever the block size. */
  capacitySectors: addr64,
  sizeMax: u32,
  segMax: u32,
  cylinders: u16,
  heads: u8,
  sectors: u8,
  blockSizeBytes: u32,
  /** log2 of logical blocks per physical block. */
  physicalBlockExponent: u8,
  alignmentOffset: u8,
  minIoSizeBlocks: u16,
  optIoSizeBlocks: u32,
  /** 0 write-through, 1 write-back: the only field a driver may write. */
  writeback: u8,
  unused0: u8,
  queueCount: u16,
  maxDiscardSectors: u32,
  maxDiscardSegments: u32,
  discardSectorAlignment: u32,
  maxWriteZeroesSectors: u32,
  maxWriteZeroesSegments: u32,
  writeZeroesMayUnmap: u8,
  unused1: u8,
  unused2: u16,
});
export const BLK_CONFIG_WRITEBACK_OFFSET = 32;

export const BlkRequestType = {
  IN: 0,
  OUT: 1,
  FLUSH: 4,
  GET_ID: 8,
  GET_LIFETIME: 10,
  DISCARD: 11,
  WRITE_ZEROES: 13,
  SECURE_ERASE: 14,
} as const;

export const BlkStatus = { OK: 0, IOERR: 1, UNSUPP: 2 } as const;

/** Request header: u32 type, u32 reserved, u64 sector. */
export const BLK_HEADER_BYTES = 16;
/** Length of the serial that GET_ID returns, NUL-padded. */
export const BLK_ID_BYTES = 20;
/** One range of DISCARD and WRITE_ZEROES: u64 sector, u32 sectors, u32 flags. */
export const BLK_RANGE_BYTES = 16;
export const BLK_RANGE_UNMAP = 1;
export const SECTOR_BYTES = 512;

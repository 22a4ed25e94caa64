/** The part of SPC-4, SBC-3 and SAM-5 that a driver of disks uses, as numbers. */

/** Operation codes. Of the last two the service action is in the second byte. */
export const Opcode = {
  testUnitReady: 0x00,
  inquiry: 0x12,
  modeSense6: 0x1a,
  readCapacity10: 0x25,
  read10: 0x28,
  write10: 0x2a,
  synchronizeCache10: 0x35,
  unmap: 0x42,
  read16: 0x88,
  write16: 0x8a,
  writeSame16: 0x93,
  reportLuns: 0xa0,
  serviceActionIn16: 0x9e,
  maintenanceIn: 0xa3,
} as const;
export const ServiceAction = { readCapacity16: 0x10, reportSupportedOpcodes: 0x0c } as const;

/** SAM-5 §5.3.1. */
export const ScsiStatus = {
  good: 0x00,
  checkCondition: 0x02,
  busy: 0x08,
  taskSetFull: 0x28,
  taskAborted: 0x40,
} as const;

/** SPC-4 §4.5.6. */
export const SenseKey = {
  recoveredError: 0x1,
  notReady: 0x2,
  illegalRequest: 0x5,
  unitAttention: 0x6,
  abortedCommand: 0xb,
} as const;

/** Additional sense code and its qualifier, as one number. */
export const SenseCode = {
  becomingReady: 0x0401,
  invalidOpcode: 0x2000,
  lunNotSupported: 0x2500,
  capacityChanged: 0x2a09,
  lunsChanged: 0x3f0e,
} as const;

/** Pages of vital product data (SPC-4 §7.8, SBC-3 §6.5). */
export const VpdPage = {
  supportedPages: 0x00,
  serialNumber: 0x80,
  identification: 0x83,
  blockLimits: 0xb0,
  provisioning: 0xb2,
} as const;

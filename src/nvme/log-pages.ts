/** Log pages (NVMe base 2.0 §5.16.1). */

export const HEALTH_BYTES = 512;

/** The SMART / health log. */
export interface HealthLog {
  /** Bits: 0 spare, 1 temperature, 2 reliability, 3 read-only, 4 backup of volatile memory. */
  readonly criticalWarning: number;
  readonly temperatureKelvin: number;
  readonly availableSparePercent: number;
  readonly spareThresholdPercent: number;
  /** May exceed 100. */
  readonly percentageUsed: number;
  /** Thousands of 512-byte units. The counters are 128 bits wide. */
  readonly dataUnitsRead: bigint;
  readonly dataUnitsWritten: bigint;
  readonly hostReads: bigint;
  readonly hostWrites: bigint;
  readonly busyMinutes: bigint;
  readonly powerCycles: bigint;
  readonly powerOnHours: bigint;
  readonly unsafeShutdowns: bigint;
  readonly mediaErrors: bigint;
  readonly errorLogEntries: bigint;
  readonly warningTemperatureMinutes: number;
  readonly criticalTemperatureMinutes: number;
}

const u128 = (bytes: Buffer, at: number): bigint => bytes.readBigUInt64LE(at) + (bytes.readBigUInt64LE(at + 8) << 64n);

export function parseHealth(bytes: Buffer): HealthLog {
  return {
    criticalWarning: bytes.readUInt8(0),
    temperatureKelvin: bytes.readUInt16LE(1),
    availableSparePercent: bytes.readUInt8(3),
    spareThresholdPercent: bytes.readUInt8(4),
    percentageUsed: bytes.readUInt8(5),
    dataUnitsRead: u128(bytes, 32),
    dataUnitsWritten: u128(bytes, 48),
    hostReads: u128(bytes, 64),
    hostWrites: u128(bytes, 80),
    busyMinutes: u128(bytes, 96),
    powerCycles: u128(bytes, 112),
    powerOnHours: u128(bytes, 128),
    unsafeShutdowns: u128(bytes, 144),
    mediaErrors: u128(bytes, 160),
    errorLogEntries: u128(bytes, 176),
    warningTemperatureMinutes: bytes.readUInt32LE(192),
    criticalTemperatureMinutes: bytes.readUInt32LE(196),
  };
}

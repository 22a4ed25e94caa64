/**
 * The suites of libiscsi's `iscsi-test-cu`, what of each is skipped here and why. Numbers are those of libiscsi 1.19 in
 * Debian 12; docs/scsi.md lists them.
 */

/**
 * The disk that a suite is run on: physical blocks of 4 KiB and logical ones of 512 bytes, unless it says otherwise.
 */
export type ConformanceDisk = 'advanced' | 'plain' | 'readonly' | 'removable';

export interface IscsiSuite {
  readonly name: string;
  /** Tests that must at least pass. */
  readonly passed: number;
  /** Tests that the tool does not run here. */
  readonly skipped?: readonly string[];
  readonly why?: string;
  readonly disk?: ConformanceDisk;
}

const NO_COPY = 'EXTENDED COPY and RECEIVE COPY RESULTS are not offered: no known guest uses them.';
const NO_ATOMIC = 'WRITE ATOMIC(16) is not offered: a bdev does not promise it.';
const NEEDS_ISCSI = 'The tool needs a second session, or resets, which it can make over iSCSI only.';
const NO_SANITIZE = 'SANITIZE is not offered, and the tool asks before it tries.';
const NO_ZERO = 'A length of 0, up to the end of the disk, is not offered (WSNZ), as with LIO.';
const ONE_PATH = 'There is one path to a disk.';

const ACCESS = ['EA', 'WE', 'EARO', 'WERO', 'EAAR', 'WEAR'];

/** In the order of the tool. */
export const ISCSI_SUITES: readonly IscsiSuite[] = [
  { name: 'CompareAndWrite', passed: 4, skipped: ['InvalidDataOutSize'], why: 'The tool sends it over iSCSI only.' },
  {
    name: 'ExtendedCopy',
    passed: 0,
    skipped: ['Simple', 'ParamHdr', 'DescrLimits', 'DescrType', 'ValidTgtDescr', 'ValidSegDescr'],
    why: NO_COPY,
  },
  // With larger physical blocks its UnmapSingle asks for block i + 1 and expects a status from block i + 8 on.
  { name: 'GetLBAStatus', passed: 3, disk: 'plain' },
  { name: 'Inquiry', passed: 7 },
  { name: 'Mandatory', passed: 1 },
  { name: 'ModeSense6', passed: 5 },
  { name: 'NoMedia', passed: 1, disk: 'removable' },
  { name: 'OrWrite', passed: 6 },
  { name: 'Prefetch10', passed: 4 },
  { name: 'Prefetch16', passed: 4 },
  {
    name: 'PreventAllow',
    passed: 2,
    skipped: ['ITNexusLoss', 'Logout', 'WarmReset', 'ColdReset', 'LUNReset', '2ITNexuses'],
    why: NEEDS_ISCSI,
    disk: 'removable',
  },
  { name: 'PrinReadKeys', passed: 2 },
  { name: 'PrinServiceactionRange', passed: 1 },
  { name: 'PrinReportCapabilities', passed: 1 },
  { name: 'ProutRegister', passed: 1 },
  {
    name: 'ProutReserve',
    passed: 1,
    skipped: [...ACCESS.map((type) => `Access${type}`), ...ACCESS.map((type) => `Ownership${type}`)],
    why: NEEDS_ISCSI,
  },
  { name: 'ProutClear', passed: 1 },
  { name: 'ProutPreempt', passed: 0, skipped: ['RemoveRegistration'], why: NEEDS_ISCSI },
  { name: 'Read6', passed: 2 },
  { name: 'Read10', passed: 6 },
  { name: 'Read12', passed: 5 },
  { name: 'Read16', passed: 5 },
  { name: 'ReadCapacity10', passed: 1 },
  { name: 'ReadCapacity16', passed: 4 },
  { name: 'ReadDefectData10', passed: 1 },
  { name: 'ReadDefectData12', passed: 1 },
  { name: 'ReadOnly', passed: 1, disk: 'readonly' },
  { name: 'ReceiveCopyResults', passed: 0, skipped: ['CopyStatus', 'OpParams'], why: NO_COPY },
  { name: 'ReportSupportedOpcodes', passed: 4 },
  {
    name: 'Reserve6',
    passed: 1,
    skipped: ['2Initiators', 'Logout', 'ITNexusLoss', 'TargetColdReset', 'TargetWarmReset', 'LUNReset'],
    why: NEEDS_ISCSI,
  },
  {
    name: 'Sanitize',
    passed: 0,
    skipped: [
      ...['BlockErase', 'BlockEraseReserved', 'CryptoErase', 'CryptoEraseReserved', 'ExitFailureMode'],
      ...['InvalidServiceAction', 'Overwrite', 'OverwriteReserved', 'Readonly', 'Reservations', 'Reset'],
    ],
    why: NO_SANITIZE,
  },
  { name: 'StartStopUnit', passed: 3, disk: 'removable' },
  { name: 'TestUnitReady', passed: 1 },
  { name: 'Unmap', passed: 3 },
  { name: 'Verify10', passed: 8 },
  { name: 'Verify12', passed: 8 },
  { name: 'Verify16', passed: 8 },
  { name: 'Write10', passed: 6 },
  { name: 'Write12', passed: 5 },
  { name: 'Write16', passed: 5 },
  {
    name: 'WriteAtomic16',
    passed: 0,
    skipped: ['Simple', 'BeyondEol', 'ZeroBlocks', 'WriteProtect', 'DpoFua', 'VPD'],
    why: NO_ATOMIC,
  },
  { name: 'WriteSame10', passed: 9, skipped: ['ZeroBlocks'], why: NO_ZERO },
  { name: 'WriteSame16', passed: 9, skipped: ['ZeroBlocks'], why: NO_ZERO },
  { name: 'WriteVerify10', passed: 6 },
  { name: 'WriteVerify12', passed: 6 },
  { name: 'WriteVerify16', passed: 6 },
  {
    name: 'MultipathIO',
    passed: 0,
    skipped: ['Simple', 'Reset', 'CompareAndWrite', 'CompareAndWriteAsync'],
    why: ONE_PATH,
  },
];

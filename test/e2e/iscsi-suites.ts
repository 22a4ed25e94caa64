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
  /** Rows of the command table that it is about; none: the one whose name is that of the suite. */
  readonly commands?: readonly string[];
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
    commands: [],
    passed: 0,
    skipped: ['Simple', 'ParamHdr', 'DescrLimits', 'DescrType', 'ValidTgtDescr', 'ValidSegDescr'],
    why: NO_COPY,
  },
  // With larger physical blocks its UnmapSingle asks for block i + 1 and expects a status from block i + 8 on.
  { name: 'GetLBAStatus', passed: 3, disk: 'plain' },
  { name: 'Inquiry', passed: 7 },
  { name: 'Mandatory', commands: ['INQUIRY', 'READ CAPACITY(10)', 'TEST UNIT READY'], passed: 1 },
  { name: 'ModeSense6', passed: 5 },
  { name: 'NoMedia', commands: ['TEST UNIT READY', 'READ(10)', 'WRITE(10)'], passed: 1, disk: 'removable' },
  { name: 'OrWrite', commands: ['ORWRITE(16)'], passed: 6 },
  { name: 'Prefetch10', passed: 4 },
  { name: 'Prefetch16', passed: 4 },
  {
    name: 'PreventAllow',
    commands: ['PREVENT ALLOW MEDIUM REMOVAL'],
    passed: 2,
    skipped: ['ITNexusLoss', 'Logout', 'WarmReset', 'ColdReset', 'LUNReset', '2ITNexuses'],
    why: NEEDS_ISCSI,
    disk: 'removable',
  },
  { name: 'PrinReadKeys', commands: ['PERSISTENT RESERVE IN, READ KEYS'], passed: 2 },
  {
    name: 'PrinServiceactionRange',
    commands: [
      'PERSISTENT RESERVE IN, READ KEYS',
      'PERSISTENT RESERVE IN, READ RESERVATION',
      'PERSISTENT RESERVE IN, REPORT CAPABILITIES',
    ],
    passed: 1,
  },
  { name: 'PrinReportCapabilities', commands: ['PERSISTENT RESERVE IN, REPORT CAPABILITIES'], passed: 1 },
  {
    name: 'ProutRegister',
    commands: ['PERSISTENT RESERVE OUT, REGISTER', 'PERSISTENT RESERVE OUT, REGISTER AND IGNORE'],
    passed: 1,
  },
  {
    name: 'ProutReserve',
    commands: [
      'PERSISTENT RESERVE OUT, RESERVE',
      'PERSISTENT RESERVE OUT, RELEASE',
      'PERSISTENT RESERVE IN, READ RESERVATION',
    ],
    passed: 1,
    skipped: [...ACCESS.map((type) => `Access${type}`), ...ACCESS.map((type) => `Ownership${type}`)],
    why: NEEDS_ISCSI,
  },
  { name: 'ProutClear', commands: ['PERSISTENT RESERVE OUT, CLEAR'], passed: 1 },
  { name: 'ProutPreempt', commands: [], passed: 0, skipped: ['RemoveRegistration'], why: NEEDS_ISCSI },
  { name: 'Read6', passed: 2 },
  { name: 'Read10', passed: 6 },
  { name: 'Read12', passed: 5 },
  { name: 'Read16', passed: 5 },
  { name: 'ReadCapacity10', passed: 1 },
  { name: 'ReadCapacity16', passed: 4 },
  { name: 'ReadDefectData10', passed: 1 },
  { name: 'ReadDefectData12', passed: 1 },
  { name: 'ReadOnly', commands: ['WRITE(10)', 'WRITE SAME(10)', 'UNMAP'], passed: 1, disk: 'readonly' },
  { name: 'ReceiveCopyResults', commands: [], passed: 0, skipped: ['CopyStatus', 'OpParams'], why: NO_COPY },
  { name: 'ReportSupportedOpcodes', commands: ['REPORT SUPPORTED OPERATION CODES'], passed: 4 },
  {
    name: 'Reserve6',
    commands: ['RESERVE(6)', 'RELEASE(6)'],
    passed: 1,
    skipped: ['2Initiators', 'Logout', 'ITNexusLoss', 'TargetColdReset', 'TargetWarmReset', 'LUNReset'],
    why: NEEDS_ISCSI,
  },
  {
    name: 'Sanitize',
    commands: [],
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
    commands: [],
    passed: 0,
    skipped: ['Simple', 'BeyondEol', 'ZeroBlocks', 'WriteProtect', 'DpoFua', 'VPD'],
    why: NO_ATOMIC,
  },
  { name: 'WriteSame10', passed: 9, skipped: ['ZeroBlocks'], why: NO_ZERO },
  { name: 'WriteSame16', passed: 9, skipped: ['ZeroBlocks'], why: NO_ZERO },
  { name: 'WriteVerify10', commands: ['WRITE AND VERIFY(10)'], passed: 6 },
  { name: 'WriteVerify12', commands: ['WRITE AND VERIFY(12)'], passed: 6 },
  { name: 'WriteVerify16', commands: ['WRITE AND VERIFY(16)'], passed: 6 },
  {
    name: 'MultipathIO',
    commands: [],
    passed: 0,
    skipped: ['Simple', 'Reset', 'CompareAndWrite', 'CompareAndWriteAsync'],
    why: ONE_PATH,
  },
];

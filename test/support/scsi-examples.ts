/**
 * One byte-exact example of every command: what goes in, what comes out. `src/scsi/command-examples.test.ts` runs them
 * and fails when a command of the table has none; docs/scsi.md lists them as tested.
 */

/** The disk: 4096 blocks of 512 bytes, each full of the low byte of its address; thin, without a write cache. */
export const EXAMPLE_BLOCKS = 4096;
export const EXAMPLE_BLOCK_BYTES = 512;

interface Blocks {
  readonly blocks: number;
  readonly fill: number;
}

export interface Example {
  /** Name of the row. */
  readonly command: string;
  readonly cdb: string;
  /** Data-out: so many blocks full of this byte, or a parameter list. */
  readonly out?: Blocks | readonly Blocks[] | string;
  /** Data-in in hexadecimal, all of it; for blocks, how many of which byte. Default: none. */
  readonly gives?: Blocks | string;
  /** Byte that blocks are full of afterwards, by address. */
  readonly leaves?: Readonly<Record<number, number>>;
  /** Commands before it, each with its parameter list. */
  readonly after?: readonly (readonly [cdb: string, out: string])[];
}

const block = (fill: number, blocks = 1) => ({ blocks, fill });
const ZEROS_8 = '00 00 00 00 00 00 00 00';
const KEY = '00 00 00 00 00 00 0a bc';
const OTHER_KEY = '00 00 00 00 00 00 0d ef';
const REST = `${ZEROS_8}`;
/** Registers KEY; reserves as write exclusive. */
const REGISTERED = ['5f 00 00 00 00 00 00 00 18 00', `${ZEROS_8} ${KEY} ${REST}`] as const;
const RESERVED = ['5f 01 01 00 00 00 00 00 18 00', `${KEY} ${ZEROS_8} ${REST}`] as const;
const CACHING = '08 12 00 00 ff ff 00 00 ff ff ff ff 00 00 00 00 00 00 00 00';
const CONTROL = '0a 0a 00 10 00 00 00 00 ff ff 00 00';
const DESCRIPTOR = '00 00 10 00 00 00 02 00';
const LUN_0 = ZEROS_8;
const NO_SENSE = '70 00 00 00 00 00 00 0a 00 00 00 00 00 00 00 00 00 00';
/** The name of nexus 0 in a SAS TransportID, and that of nexus 1. */
const NEXUS_1 = '30 00 00 00 00 00 00 01';
const TRANSPORT_ID = '06 00 00 00 30 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00';

export const SCSI_EXAMPLES: readonly Example[] = [
  { command: 'TEST UNIT READY', cdb: '00 00 00 00 00 00' },
  { command: 'REQUEST SENSE', cdb: '03 00 00 00 12 00', gives: NO_SENSE },
  { command: 'READ(6)', cdb: '08 00 00 07 01 00', gives: block(0x07) },
  { command: 'WRITE(6)', cdb: '0a 00 00 07 01 00', out: block(0xa5), leaves: { 6: 6, 7: 0xa5, 8: 8 } },
  {
    command: 'INQUIRY',
    cdb: '12 00 00 00 24 00',
    gives:
      '00 00 06 12 5b 00 00 02 52 69 6e 67 68 6f 73 74 4d 61 6c 6c 6f 63 20 64 69 73 6b 20 20 20 20 20 30 30 30 31',
  },
  { command: 'MODE SELECT(6)', cdb: '15 10 00 00 10 00', out: `00 00 00 00 ${CONTROL}` },
  { command: 'RESERVE(6)', cdb: '16 00 00 00 00 00' },
  { command: 'RELEASE(6)', cdb: '17 00 00 00 00 00' },
  { command: 'MODE SENSE(6)', cdb: '1a 00 08 00 ff 00', gives: `1f 00 10 08 ${DESCRIPTOR} ${CACHING}` },
  { command: 'START STOP UNIT', cdb: '1b 00 00 00 01 00' },
  { command: 'PREVENT ALLOW MEDIUM REMOVAL', cdb: '1e 00 00 00 01 00' },
  { command: 'READ CAPACITY(10)', cdb: '25 00 00 00 00 00 00 00 00 00', gives: '00 00 0f ff 00 00 02 00' },
  { command: 'READ(10)', cdb: '28 18 00 00 01 02 00 00 01 00', gives: block(0x02) },
  { command: 'WRITE(10)', cdb: '2a 18 00 00 01 02 00 00 02 00', out: block(0xa5, 2), leaves: { 258: 0xa5, 259: 0xa5 } },
  { command: 'WRITE AND VERIFY(10)', cdb: '2e 02 00 00 00 04 00 00 01 00', out: block(0xa5), leaves: { 4: 0xa5 } },
  { command: 'VERIFY(10)', cdb: '2f 02 00 00 00 04 00 00 01 00', out: block(4) },
  { command: 'PRE-FETCH(10)', cdb: '34 00 00 00 00 04 00 00 01 00' },
  { command: 'SYNCHRONIZE CACHE(10)', cdb: '35 00 00 00 00 00 00 00 00 00' },
  { command: 'READ DEFECT DATA(10)', cdb: '37 00 1d 00 00 00 00 00 08 00', gives: '00 1d 00 00' },
  {
    command: 'WRITE SAME(10)',
    cdb: '41 00 00 00 00 04 00 00 02 00',
    out: block(0xa5),
    leaves: { 4: 0xa5, 5: 0xa5, 6: 6 },
  },
  {
    command: 'UNMAP',
    cdb: '42 00 00 00 00 00 00 00 18 00',
    out: '00 16 00 10 00 00 00 00 00 00 00 00 00 00 00 04 00 00 00 02 00 00 00 00',
    leaves: { 3: 3, 4: 0, 5: 0, 6: 6 },
  },
  { command: 'LOG SENSE', cdb: '4d 00 40 00 00 00 00 00 ff 00', gives: '00 00 00 02 00 2f' },
  { command: 'MODE SELECT(10)', cdb: '55 10 00 00 00 00 00 00 14 00', out: `${ZEROS_8} ${CONTROL}` },
  { command: 'RESERVE(10)', cdb: '56 00 00 00 00 00 00 00 00 00' },
  { command: 'RELEASE(10)', cdb: '57 00 00 00 00 00 00 00 00 00' },
  { command: 'MODE SENSE(10)', cdb: '5a 08 0a 00 00 00 00 00 ff 00', gives: `00 12 00 10 00 00 00 00 ${CONTROL}` },
  {
    command: 'PERSISTENT RESERVE IN, READ KEYS',
    after: [REGISTERED],
    cdb: '5e 00 00 00 00 00 00 00 ff 00',
    gives: `00 00 00 01 00 00 00 08 ${KEY}`,
  },
  {
    command: 'PERSISTENT RESERVE IN, READ RESERVATION',
    after: [REGISTERED, RESERVED],
    cdb: '5e 01 00 00 00 00 00 00 ff 00',
    gives: `00 00 00 01 00 00 00 10 ${KEY} 00 00 00 00 00 01 00 00`,
  },
  {
    command: 'PERSISTENT RESERVE IN, REPORT CAPABILITIES',
    cdb: '5e 02 00 00 00 00 00 00 ff 00',
    gives: '00 08 14 80 ea 01 00 00',
  },
  {
    command: 'PERSISTENT RESERVE IN, READ FULL STATUS',
    after: [REGISTERED, RESERVED],
    cdb: '5e 03 00 00 00 00 00 00 ff 00',
    gives: `00 00 00 01 00 00 00 30 ${KEY} 00 00 00 00 03 01 00 00 00 00 00 01 00 00 00 18 ${TRANSPORT_ID}`,
  },
  {
    command: 'PERSISTENT RESERVE OUT, REGISTER',
    cdb: '5f 00 00 00 00 00 00 00 18 00',
    out: `${ZEROS_8} ${KEY} ${REST}`,
  },
  {
    command: 'PERSISTENT RESERVE OUT, RESERVE',
    after: [REGISTERED],
    cdb: '5f 01 03 00 00 00 00 00 18 00',
    out: `${KEY} ${ZEROS_8} ${REST}`,
  },
  {
    command: 'PERSISTENT RESERVE OUT, RELEASE',
    after: [REGISTERED, RESERVED],
    cdb: '5f 02 01 00 00 00 00 00 18 00',
    out: `${KEY} ${ZEROS_8} ${REST}`,
  },
  {
    command: 'PERSISTENT RESERVE OUT, CLEAR',
    after: [REGISTERED],
    cdb: '5f 03 00 00 00 00 00 00 18 00',
    out: `${KEY} ${ZEROS_8} ${REST}`,
  },
  {
    command: 'PERSISTENT RESERVE OUT, PREEMPT',
    after: [REGISTERED, RESERVED],
    cdb: '5f 04 03 00 00 00 00 00 18 00',
    out: `${KEY} ${KEY} ${REST}`,
  },
  {
    command: 'PERSISTENT RESERVE OUT, PREEMPT AND ABORT',
    after: [REGISTERED, RESERVED],
    cdb: '5f 05 03 00 00 00 00 00 18 00',
    out: `${KEY} ${KEY} ${REST}`,
  },
  {
    command: 'PERSISTENT RESERVE OUT, REGISTER AND IGNORE',
    after: [REGISTERED],
    cdb: '5f 06 00 00 00 00 00 00 18 00',
    out: `${OTHER_KEY} ${OTHER_KEY} ${REST}`,
  },
  {
    command: 'PERSISTENT RESERVE OUT, REGISTER AND MOVE',
    after: [REGISTERED, RESERVED],
    cdb: '5f 07 00 00 00 00 00 00 30 00',
    out: `${KEY} ${OTHER_KEY} 00 00 00 01 00 00 00 18 ${TRANSPORT_ID.replace('30 00 00 00 00 00 00 00', NEXUS_1)}`,
  },
  { command: 'READ(16)', cdb: '88 18 00 00 00 00 00 00 01 02 00 00 00 01 00 00', gives: block(0x02) },
  {
    command: 'COMPARE AND WRITE',
    cdb: '89 00 00 00 00 00 00 00 00 04 00 00 00 01 00 00',
    out: [block(4), block(0xa5)],
    leaves: { 4: 0xa5 },
  },
  {
    command: 'WRITE(16)',
    cdb: '8a 08 00 00 00 00 00 00 00 04 00 00 00 01 00 00',
    out: block(0xa5),
    leaves: { 4: 0xa5 },
  },
  {
    command: 'ORWRITE(16)',
    cdb: '8b 00 00 00 00 00 00 00 00 04 00 00 00 01 00 00',
    out: block(0xa1),
    leaves: { 4: 0xa5 },
  },
  {
    command: 'WRITE AND VERIFY(16)',
    cdb: '8e 02 00 00 00 00 00 00 00 04 00 00 00 01 00 00',
    out: block(0xa5),
    leaves: { 4: 0xa5 },
  },
  { command: 'VERIFY(16)', cdb: '8f 06 00 00 00 00 00 00 00 04 00 00 00 01 00 00', out: block(4) },
  { command: 'PRE-FETCH(16)', cdb: '90 00 00 00 00 00 00 00 00 04 00 00 00 01 00 00' },
  { command: 'SYNCHRONIZE CACHE(16)', cdb: '91 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00' },
  {
    command: 'WRITE SAME(16)',
    cdb: '93 09 00 00 00 00 00 00 00 04 00 00 00 02 00 00',
    leaves: { 3: 3, 4: 0, 5: 0, 6: 6 },
  },
  {
    command: 'READ CAPACITY(16)',
    cdb: '9e 10 00 00 00 00 00 00 00 00 00 00 00 20 00 00',
    gives: `00 00 00 00 00 00 0f ff 00 00 02 00 00 00 c0 00 ${ZEROS_8} ${ZEROS_8}`,
  },
  {
    command: 'GET LBA STATUS',
    cdb: '9e 12 00 00 00 00 00 00 00 04 00 00 00 18 00 00',
    gives: '00 00 00 14 00 00 00 00 00 00 00 00 00 00 00 04 00 00 0f fc 00 00 00 00',
  },
  {
    command: 'REPORT LUNS',
    cdb: 'a0 00 00 00 00 00 00 00 00 20 00 00',
    gives: `00 00 00 08 00 00 00 00 ${LUN_0}`,
  },
  {
    command: 'REPORT SUPPORTED OPERATION CODES',
    cdb: 'a3 0c 01 25 00 00 00 00 00 ff 00 00',
    gives: '00 03 00 0a 25 00 ff ff ff ff 00 00 01 00',
  },
  { command: 'REPORT SUPPORTED TMFS', cdb: 'a3 0d 00 00 00 00 00 00 00 ff 00 00', gives: 'dc 03 00 00' },
  { command: 'READ(12)', cdb: 'a8 18 00 00 01 02 00 00 00 01 00 00', gives: block(0x02) },
  { command: 'WRITE(12)', cdb: 'aa 08 00 00 00 04 00 00 00 01 00 00', out: block(0xa5), leaves: { 4: 0xa5 } },
  {
    command: 'WRITE AND VERIFY(12)',
    cdb: 'ae 02 00 00 00 04 00 00 00 01 00 00',
    out: block(0xa5),
    leaves: { 4: 0xa5 },
  },
  { command: 'VERIFY(12)', cdb: 'af 02 00 00 00 04 00 00 00 01 00 00', out: block(4) },
  { command: 'READ DEFECT DATA(12)', cdb: 'b7 1d 00 00 00 00 00 00 00 08 00 00', gives: '00 1d 00 00 00 00 00 00' },
];

/** The text of docs/scsi.md: the command table, what tests it, and what conformance suites say. */
import { REMOVAL_DRAIN_MS_MAX, REMOVAL_MS_MAX } from '../src/base/limits.ts';
import { COMMANDS } from '../src/scsi/command-table.ts';
import {
  CLEAR_BYTES_MAX,
  TRANSFER_BYTES_MAX,
  UNMAP_BLOCKS_MAX,
  UNMAP_DESCRIPTORS_MAX,
  WRITE_SAME_BLOCKS_MAX,
} from '../src/scsi/unit-state.ts';
import { SCSI_LUNS_MAX, SCSI_TARGETS_MAX } from '../src/virtio/scsi.ts';
import { ISCSI_SUITES, type IscsiSuite } from '../test/e2e/iscsi-suites.ts';
import { SCSI_EXAMPLES } from '../test/support/scsi-examples.ts';

const MIB = 2 ** 20;

/** Commands that are known and not offered, with the reason. */
const NOT_OFFERED: readonly (readonly [name: string, why: string])[] = [
  ['EXTENDED COPY, RECEIVE COPY RESULTS', 'no known guest of a virtual disk uses them'],
  ['FORMAT UNIT, SANITIZE', 'to be done on the host'],
  ['READ LONG, WRITE LONG, READ(32) and other protection information', 'bdevs have none'],
  ['WRITE ATOMIC(16)', 'a bdev does not promise it'],
  ['LOG SELECT, WRITE BUFFER, READ BUFFER', 'there are no counters to reset and no firmware to load'],
  ['REPORT TARGET PORT GROUPS', 'there is one path to a disk'],
  ['SECURITY PROTOCOL IN, OUT', 'encryption belongs to the bdev'],
];

const TASK_MANAGEMENT: readonly (readonly [name: string, what: string])[] = [
  ['ABORT TASK, ABORT TASK SET, CLEAR TASK SET', 'the commands end with ABORTED'],
  ['LOGICAL UNIT RESET', 'the commands end with RESET; then 6/29/03'],
  ['I_T NEXUS RESET', 'as before, for all LUNs of the target; then 6/29/07'],
  ['QUERY TASK, QUERY TASK SET', 'FUNCTION SUCCEEDED while there is one'],
  ['CLEAR ACA', 'FUNCTION REJECTED: there is no auto contingent allegiance'],
];

const hex = (value: number): string => value.toString(16).padStart(2, '0').toUpperCase();
const plain = (name: string): string => name.replaceAll(/[^a-z0-9]/gi, '').toLowerCase();

/** Names of the rows that a suite is about. @throws Error when one is not in the table */
export function commandsOf({ name, commands }: IscsiSuite): readonly string[] {
  if (commands !== undefined) {
    const missing = commands.find((command) => COMMANDS.every((row) => row.name !== command));
    if (missing !== undefined) throw new Error(`there is no command ${missing}`);
    return commands;
  }
  const row = COMMANDS.find((candidate) => plain(candidate.name) === plain(name));
  if (row === undefined) throw new Error(`the suite ${name} has no command of its name`);
  return [row.name];
}

function commandTable(): string {
  const rows = COMMANDS.map((row) => {
    const code = row.serviceAction < 0 ? hex(row.opcode) : `${hex(row.opcode)}/${hex(row.serviceAction)}`;
    const support = row.needsUnmap ? 'when the bdev unmaps' : 'yes';
    const example = SCSI_EXAMPLES.some(({ command }) => command === row.name) ? 'yes' : 'no';
    const suites = ISCSI_SUITES.filter((suite) => suite.passed > 0 && commandsOf(suite).includes(row.name));
    const names = suites.map(({ name, passed }) => `${name} (${passed})`).join(', ');
    return `| ${code} | ${row.name} | ${row.usage.length} | ${support} | ${example} | ${names} |`;
  });
  const head = '| Code | Command | CDB bytes | Supported | Byte-exact test | Suites of iscsi-test-cu (tests passed) |';
  return [head, '|---|---|---|---|---|---|', ...rows].join('\n');
}

function skippedTable(): string {
  const rows = ISCSI_SUITES.filter(({ skipped }) => skipped !== undefined).map(
    ({ name, skipped = [], why = '' }) => `| ${name} | ${skipped.length} | ${skipped.join(', ')} | ${why} |`,
  );
  return ['| Suite | Skipped | Tests | Why |', '|---|---|---|---|', ...rows].join('\n');
}

export function scsiReference(): string {
  const passed = ISCSI_SUITES.reduce((sum, suite) => sum + suite.passed, 0);
  const skipped = ISCSI_SUITES.reduce((sum, suite) => sum + (suite.skipped?.length ?? 0), 0);
  return `# The SCSI target

<!-- Made by scripts/generate-docs.ts from the command table in src/scsi/ and the lists of the tests. Do not edit. -->

A vhost-user-scsi controller has up to ${SCSI_TARGETS_MAX} targets, each with up to ${SCSI_LUNS_MAX} LUNs; every LUN
shows one bdev. It claims SAM-5, SPC-4 and SBC-3, with virtio 1.3 as its transport: one initiator, the driver, and
one I_T nexus a target.

## Commands

The table below is the one that finds the code of a command, checks its CDB and answers REPORT SUPPORTED OPERATION
CODES. *Byte-exact test*: an example in \`test/support/scsi-examples.ts\`, which
\`src/scsi/command-examples.test.ts\` runs; it fails when a command has none. Beside it, every command is run with
random bits, in every state, by \`src/scsi/target-fuzz.test.ts\`.

${commandTable()}

Not offered, each answered with 5/20/00 (INVALID COMMAND OPERATION CODE) or, for a service action, 5/24/00:

${NOT_OFFERED.map(([name, why]) => `- ${name}: ${why}.`).join('\n')}

## Limits

| | |
|---|---|
| One READ, WRITE, VERIFY, ORWRITE | ${TRANSFER_BYTES_MAX / MIB} MiB |
| One COMPARE AND WRITE | 255 blocks, and 256 KiB |
| One WRITE SAME | ${WRITE_SAME_BLOCKS_MAX} blocks, at least one (WSNZ), ${CLEAR_BYTES_MAX / MIB} MiB a piece |
| One UNMAP | ${UNMAP_BLOCKS_MAX} blocks in ${UNMAP_DESCRIPTORS_MAX} descriptors |

The block limits page says the same. LBPRZ is set where the module promises that unmapped blocks read as zeroes: RAM
disks do. COMPARE AND WRITE and ORWRITE are atomic towards the commands of the same LUN; two LUNs that show one bdev
are two.

## Task management

A function is answered after the commands that it ends.

${TASK_MANAGEMENT.map(([name, what]) => `- ${name}: ${what}.`).join('\n')}

Task attributes: SIMPLE tasks run at once, an ORDERED one alone and in its turn, HEAD OF QUEUE before all that wait;
ACA is refused.

## Attach and detach

A LUN that comes, goes or grows is told by an event (RESCAN, REMOVED, PARAM CHANGE) and by unit attentions (6/3F/0E,
6/2A/09). Events wait for buffers of the driver; when too many wait, the next one has EVENTS_MISSED. A target that
is removed and a bdev that is deleted or vanishes take one path: new commands are refused, those in flight finish,
or are aborted after ${REMOVAL_DRAIN_MS_MAX / 1000} s, and the call is answered when it is over, or after
${REMOVAL_MS_MAX / 1000} s (see [decision 8](decisions/0008-overdue-requests-keep-their-memory.md)).

## Conformance

\`test/e2e/scsi-conformance.test.ts\` runs sg3-utils and every suite of libiscsi's \`iscsi-test-cu\` (Debian 12,
1.19) in a Linux guest against \`/dev/sgN\`. **${passed} tests pass, none fails, ${skipped} are skipped** by the
tool. In the same guest QEMU's own scsi-hd passed 83 of 215, failed 52 and skipped 80; the kernel's LIO (tcm_loop)
passed 105, failed 5 and skipped 105.

${skippedTable()}
`;
}

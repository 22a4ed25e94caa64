/** Any CDB with any buffers ends once, inside its buffers, with counts that add up. */
import { ok, strictEqual } from 'node:assert/strict';
import * as fc from 'fast-check';
import { ScsiStatus, ServiceResponse } from '../../../src/scsi/task.ts';
import { ALL_IO_TYPES } from '../../support/bdev-rig.ts';
import { ScsiRig } from '../../support/scsi-rig.ts';
import { BLOCKS, BUFFER_BYTES, type CdbRequest, cdbRequests } from '../cdb-case.ts';
import { defineFuzzer, type FuzzTarget } from '../fuzzer.ts';

interface Run {
  readonly request: CdbRequest;
  readonly lun: number;
  readonly nexus: number;
  readonly attribute: number;
  readonly isImmediate: boolean;
  readonly isFailing: boolean;
}

export const cdbRuns: fc.Arbitrary<Run[]> = fc.array(
  fc.record({
    request: cdbRequests,
    lun: fc.constantFrom(0, 0, 0, 0, 1, 5, 0xc101),
    nexus: fc.constantFrom(0, 0, 1),
    attribute: fc.constantFrom(0, 0, 0, 0, 1, 2, 3, 255),
    isImmediate: fc.boolean(),
    isFailing: fc.constantFrom(false, false, false, true),
  }),
  { minLength: 1, maxLength: 20 },
);

/** Opcode, status and sense of each command. */
export function tryCdbs(list: readonly Run[]): string[] {
  const rig = new ScsiRig({ nexusCount: 2, dataBytes: BUFFER_BYTES, hasWriteCache: true, blockCount: BLOCKS });
  rig.target.addLun(1, rig.unitOptions({ isRemovable: true, ioTypes: [0, 1, 2] }));
  rig.clearAttention(2);
  const outcomes: string[] = [];
  for (const { request, lun, nexus, attribute, isImmediate, isFailing } of list) {
    rig.disk.isImmediate = isImmediate;
    rig.disk.failing.clear();
    if (isFailing) for (const type of ALL_IO_TYPES) rig.disk.failing.add(type);
    const dataOut = request.dataOut === null ? undefined : bytesOf(request.dataOut);
    const inBytes = dataOut === undefined ? request.dataIn : 0;
    const out = dataOut === undefined ? {} : { out: dataOut };
    const answer = rig.run(request.cdb, { in: inBytes, lun, nexus, attribute, ...out });
    rig.checkGuards(inBytes, dataOut);
    strictEqual(answer.transferred + answer.residual, inBytes + (dataOut?.length ?? 0));
    ok(Math.min(answer.transferred, answer.residual) >= 0);
    ok((Object.values(ServiceResponse) as number[]).includes(answer.response));
    strictEqual(answer.status === ScsiStatus.checkCondition, answer.sense !== '');
    outcomes.push(`${request.cdb[0]} ${answer.status} ${answer.sense}`);
  }
  rig.close();
  return outcomes;
}

function bytesOf({ head, fill, size }: NonNullable<CdbRequest['dataOut']>): Uint8Array {
  const bytes = new Uint8Array(size).fill(fill);
  bytes.set(head);
  return bytes;
}

class CdbTarget implements FuzzTarget<Run[]> {
  readonly counts: Record<string, number> = { commands: 0 };

  attempt(list: Run[]): void {
    tryCdbs(list);
    this.counts['commands'] = (this.counts['commands'] ?? 0) + list.length;
  }

  close(): void {}
}

export const cdb = defineFuzzer<Run[]>({
  name: 'cdb',
  purpose: 'SCSI commands with any data buffers',
  cases: cdbRuns,
  open: () => new CdbTarget(),
});

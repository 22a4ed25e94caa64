/** Every command of the table, once, byte by byte. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { EXAMPLE_BLOCK_BYTES, EXAMPLE_BLOCKS, type Example, SCSI_EXAMPLES } from '../../test/support/scsi-examples.ts';
import { ScsiRig } from '../../test/support/scsi-rig.ts';
import { COMMANDS, findCommand } from './command-table.ts';

let rig: ScsiRig;
beforeEach(() => {
  rig = new ScsiRig({ blockCount: EXAMPLE_BLOCKS, nexusCount: 2 });
  for (let at = 0; at < rig.disk.bytes.length; at++) rig.disk.bytes[at] = Math.floor(at / EXAMPLE_BLOCK_BYTES);
});
afterEach(() => rig.close());

function bytesOf(data: Example['out']): Uint8Array {
  if (data === undefined) return new Uint8Array(0);
  if (typeof data === 'string') return Uint8Array.from(data.split(' '), (digits) => Number.parseInt(digits, 16));
  const runs = [data].flat();
  return Uint8Array.from(
    runs.flatMap(({ blocks, fill }) => Array.from({ length: blocks * EXAMPLE_BLOCK_BYTES }, () => fill)),
  );
}

describe('the command table', () => {
  it('has a byte-exact example of every command, and of no other', () => {
    expect(SCSI_EXAMPLES.map(({ command }) => command)).toEqual(COMMANDS.map(({ name }) => name));
  });

  it.each(SCSI_EXAMPLES)('$command does what its example says', (example) => {
    const { cdb, out, gives, leaves = {}, after = [] } = example;
    expect(findCommand(bytesOf(cdb))?.name).toBe(example.command);
    for (const [before, list] of after) expect(rig.run(before, { out: bytesOf(list) }).status).toBe(0);
    const [dataOut, dataIn] = [bytesOf(out), bytesOf(gives)];
    const data = out === undefined ? { in: dataIn.length } : { out: dataOut };
    const answer = rig.run(cdb, data);
    expect(answer).toMatchObject({ response: 0, status: 0, sense: '', residual: 0 });
    expect(Buffer.from(answer.data).toString('hex')).toBe(Buffer.from(dataIn).toString('hex'));
    for (const [address, fill] of Object.entries(leaves)) {
      const at = Number(address) * EXAMPLE_BLOCK_BYTES;
      expect(rig.disk.bytes.subarray(at, at + EXAMPLE_BLOCK_BYTES), `block ${address}`).toEqual(
        new Uint8Array(EXAMPLE_BLOCK_BYTES).fill(fill),
      );
    }
  });
});

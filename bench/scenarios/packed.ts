/**
 * Packed rings beside split ones, both in the same round: what the layout itself is worth. Only Ringhost: SPDK's target
 * offers packed rings on request, qemu-storage-daemon never does.
 */
import type { Load } from '../client.ts';
import type { Endpoint } from '../targets/target.ts';
import { type ComparedRow, comparison } from './comparison.ts';
import type { Scenario } from './scenario.ts';

function row(endpoint: Endpoint, what: ComparedRow, isDetail: boolean): Scenario {
  const change: Partial<Load> = { isPacked: true };
  return comparison({ group: 'Packed rings (compared with split ones)', endpoint, what, change, isDetail });
}

const KIB = 1024;
const RAM: Endpoint = { protocol: 'blk', disk: 'ram' };

export const PACKED_SCENARIOS: readonly Scenario[] = [
  ...[1, 32, 128].map((depth) => row(RAM, { format: 'indirect', depth, blockBytes: 4 * KIB }, depth !== 128)),
  row(RAM, { format: 'direct', depth: 128, blockBytes: 4 * KIB }, true),
  row(RAM, { format: 'indirect', depth: 128, blockBytes: 512 }, true),
  row({ protocol: 'blk', disk: 'null' }, { format: 'indirect', depth: 128, blockBytes: 4 * KIB }, true),
  row({ protocol: 'scsi', disk: 'ram' }, { format: 'indirect', depth: 128, blockBytes: 4 * KIB }, true),
];

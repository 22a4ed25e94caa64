/** What it costs to note requests in flight where a killed daemon's successor finds them, on rings of both layouts. */
import type { Endpoint } from '../targets/target.ts';
import { comparison } from './comparison.ts';
import type { Scenario } from './scenario.ts';

const GROUP = 'Requests in flight noted (compared with not)';
const NULL: Endpoint = { protocol: 'blk', disk: 'null' };
const RAM: Endpoint = { protocol: 'blk', disk: 'ram' };

function row(endpoint: Endpoint, isPacked: boolean, format: 'direct' | 'indirect', depth: number): Scenario {
  const what = { format, depth, blockBytes: 4096, isPacked, isTracked: false };
  const prefix = isPacked ? 'packed, ' : 'split, ';
  return comparison({ group: GROUP, endpoint, what, change: { isTracked: true }, isDetail: true, prefix });
}

export const TRACKING_SCENARIOS: readonly Scenario[] = [false, true].flatMap((isPacked) => [
  row(NULL, isPacked, 'indirect', 128),
  row(NULL, isPacked, 'direct', 128),
  row(RAM, isPacked, 'indirect', 128),
  row(RAM, isPacked, 'indirect', 1),
]);

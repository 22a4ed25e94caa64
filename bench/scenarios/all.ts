/** All kinds of scenarios, in the order of the report. */
import { FILE_SCENARIOS } from './file.ts';
import { FOOTPRINT_SCENARIOS } from './footprint.ts';
import { IDLE_SCENARIOS } from './idle.ts';
import { LOAD_SCENARIOS } from './load.ts';
import { PACKED_SCENARIOS } from './packed.ts';
import { RBD_SCENARIOS } from './rbd.ts';
import type { Scenario } from './scenario.ts';

export const SCENARIOS: readonly Scenario[] = [
  ...LOAD_SCENARIOS,
  ...FILE_SCENARIOS,
  ...RBD_SCENARIOS,
  ...FOOTPRINT_SCENARIOS,
  ...IDLE_SCENARIOS,
  ...PACKED_SCENARIOS,
];

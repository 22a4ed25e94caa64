/** All kinds of scenarios, in the order of the report. */
import { LOAD_SCENARIOS } from './load.ts';
import type { Scenario } from './scenario.ts';

export const SCENARIOS: readonly Scenario[] = [...LOAD_SCENARIOS];

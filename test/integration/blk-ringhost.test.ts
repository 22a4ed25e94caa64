/** Every conformance case against Ringhost's own daemon, without exception. */
import { describeBlkCases } from './blk-cases.ts';
import { RinghostDaemon } from './fixtures/targets.ts';

describeBlkCases('split', () => RinghostDaemon.start());
describeBlkCases('packed', () => RinghostDaemon.start());

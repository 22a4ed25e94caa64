/** A C loop on the file itself, with a bare io_uring: no rings between, no client, and no fio. Measured on request. */
import { closeSync, constants, openSync, statSync } from 'node:fs';
import { checkErrno } from '../../src/base/errors.ts';
import { pinToCore } from '../../src/sys/thread.ts';
import { benchNative, LearnWay } from '../native.ts';
import { ringless, type TargetKind } from './target.ts';

export const BARE_URINGS: readonly TargetKind[] = (['poll', 'wait', 'event', 'offer'] as const).map((way) => ({
  name: `C io_uring by ${way}`,
  role: 'limit',
  isExtra: true,
  unavailable: () => null,
  serves: ({ protocol, disk }) => protocol === 'blk' && disk === 'file',
  async start({ client, target, file }) {
    return ringless(
      this.name,
      `a C loop on the same file, which learns of completions by ${way}`,
      async (load, effort) => {
        const { blockBytes, depth, queues, writePercent } = load;
        const fd = openSync(file, constants.O_RDWR | constants.O_DIRECT);
        pinToCore(target);
        try {
          const blocks = Math.floor(statSync(file).size / blockBytes);
          const shape = [blocks, blockBytes, depth * queues, writePercent === 100 ? 1 : 0] as const;
          const iops = benchNative.fileRate(fd, ...shape, LearnWay[way], effort.durationMs * 1e6);
          return { iops: checkErrno(iops, 'cannot read or write the file') };
        } finally {
          pinToCore(client);
          closeSync(fd);
        }
      },
    );
  },
}));

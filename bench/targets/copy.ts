/**
 * The copy alone: blocks of the same size between a disk of the same size and as many buffers, on the targets' core,
 * with no ring, no other process and no client. What no target that moves data can pass.
 */
import { pinToCore } from '../../src/sys/thread.ts';
import { benchNative, quickestWay } from '../native.ts';
import { DISK_BYTES, ringless, type TargetKind } from './target.ts';

export const COPY: TargetKind = {
  name: 'copy alone',
  role: 'limit',
  unavailable: () => null,
  serves: ({ protocol, disk }) => protocol === 'blk' && disk === 'ram',
  async start({ client, target }) {
    pinToCore(target);
    const way = quickestWay(DISK_BYTES);
    pinToCore(client);
    const description = 'random blocks copied between a disk in memory and buffers; no rings, no client';
    return ringless(this.name, description, async (load, { durationMs }) => {
      const { blockBytes, depth, queues, writePercent, pattern } = load;
      pinToCore(target);
      const isSequential = pattern === 'sequential' ? 1 : 0;
      const shape = [DISK_BYTES, blockBytes, depth * queues, writePercent, isSequential] as const;
      const iops = benchNative.copyRate(...shape, way, durationMs * 1e6);
      pinToCore(client);
      return { iops };
    });
  },
};

/**
 * The copy alone: blocks of the same size between a disk of the same size and as many buffers, on the targets' core,
 * with no ring, no other process and no client. What no target that moves data can pass.
 */
import { pinToCore } from '../../src/sys/thread.ts';
import { benchNative, CopyWay } from '../native.ts';
import { DISK_BYTES, type TargetKind } from './target.ts';

export const COPY: TargetKind = {
  name: 'copy alone',
  role: 'limit',
  unavailable: () => null,
  serves: ({ protocol, disk }) => protocol === 'blk' && disk === 'ram',
  async start({ client, target }) {
    return {
      name: this.name,
      description: 'random blocks copied between a disk in memory and buffers; no rings, no client',
      startMs: Number.NaN,
      pid: process.pid,
      path: () => '',
      resume() {},
      suspend() {},
      async stop() {},
      async measureAlone({ blockBytes, depth, queues, writePercent, pattern }, { durationMs }) {
        pinToCore(target);
        const isSequential = pattern === 'sequential' ? 1 : 0;
        const shape = [DISK_BYTES, blockBytes, depth * queues, writePercent, isSequential] as const;
        const iops = benchNative.copyRate(...shape, CopyWay.best, durationMs * 1e6);
        pinToCore(client);
        return { iops };
      },
    };
  },
};

/** The RPC methods of delay disks. */
import type { Handlers } from '../../../rpc/methods.ts';
import type { BdevRegistry } from '../../registry.ts';
import { bdevOf } from '../../stacked.ts';
import { DelayBdev } from './delay.ts';
import { Latency } from './latency.ts';

type DelayHandlers = Pick<Handlers, 'bdev_delay_create' | 'bdev_delay_delete' | 'bdev_delay_update_latency'>;

const LATENCY_BY_NAME = {
  avg_read: Latency.averageRead,
  p99_read: Latency.p99Read,
  avg_write: Latency.averageWrite,
  p99_write: Latency.p99Write,
} as const;

export function delayRpc(registry: BdevRegistry): DelayHandlers {
  return {
    bdev_delay_create({ name, base_bdev_name: baseName, uuid, ...params }) {
      const base = registry.get(baseName);
      const { avg_read_latency, p99_read_latency, avg_write_latency, p99_write_latency } = params;
      const latenciesUs = [avg_read_latency, p99_read_latency, avg_write_latency, p99_write_latency];
      registry.create(name, uuid, () => new DelayBdev({ name, base, uuid, latenciesUs }), { bases: [base] });
      return name;
    },

    async bdev_delay_delete({ name }) {
      const entry = registry.get(name);
      bdevOf(entry, DelayBdev, 'a delay disk');
      await registry.delete(entry);
      return true;
    },

    bdev_delay_update_latency({ delay_bdev_name: name, latency_type: type, latency_us: us }) {
      bdevOf(registry.get(name), DelayBdev, 'a delay disk').setLatency(LATENCY_BY_NAME[type], us);
      return true;
    },
  };
}

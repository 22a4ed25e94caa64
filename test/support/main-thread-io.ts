/** What disks that do I/O by themselves need of a daemon, in this thread: a reactor with their channels, and jobs. */
import { type Logger, SILENT } from '../../src/base/log.ts';
import { Jobs } from '../../src/bdev/jobs.ts';
import type { MirrorServices } from '../../src/bdev/modules/raid/mirror.ts';
import type { BdevRegistry } from '../../src/bdev/registry.ts';
import { REACTOR_COUNTERS, Reactor } from '../../src/reactor/reactor.ts';
import { ReactorBlocks } from '../../src/vhost/block-service.ts';
import { createVringService } from '../../src/vhost/vring-service.ts';

export class MainThreadIo implements MirrorServices {
  readonly registry: BdevRegistry;
  readonly blocks: ReactorBlocks;
  readonly jobs = new Jobs();
  readonly options = { mibPerSec: 0 };
  /** When a test says so. */
  readonly sweepMs = 2 ** 31 - 1;
  readonly log: Logger;
  readonly #reactor = new Reactor('interrupt', new Float64Array(REACTOR_COUNTERS));

  constructor(registry: BdevRegistry, log: Logger = SILENT) {
    this.registry = registry;
    this.log = log;
    const service = createVringService(this.#reactor, 0, SILENT, {
      onTold: (id, what) =>
        registry
          .list()
          .find((entry) => entry.id === id)
          ?.bdev.hear?.(what),
    });
    this.blocks = new ReactorBlocks({
      call: async (name, payload) => await (service[name] as (payload: unknown) => unknown)(payload),
    });
  }

  /** Every bdev is gone. */
  close(): void {
    this.#reactor.close();
  }
}

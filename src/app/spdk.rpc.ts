/** The RPC methods that SPDK's clients call, and that have little behind them here. */
import { TargetError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { Lvols } from '../bdev/modules/lvol/lvols.ts';
import type { BdevEntry, BdevRegistry } from '../bdev/registry.ts';
import type { spdkMethods } from '../rpc/methods/spdk.ts';
import type { Handlers, Result } from '../rpc/methods.ts';
import type { VhostRegistry } from '../vhost/registry.ts';
import { ScsiController } from '../vhost/scsi-controller.ts';
import { BLK_TRANSPORT } from '../vhost/vhost.rpc.ts';

type SpdkHandlers = Pick<Handlers, keyof typeof spdkMethods>;
type Notification = Result<'notify_get_notifications'>[number];

interface SpdkParts {
  readonly bdevs: BdevRegistry;
  readonly vhost: VhostRegistry;
  readonly lvols: Lvols;
  readonly log: Logger;
}

const SCHEDULER = 'static';
const NOTIFICATIONS_MAX = 1024;

export function spdkRpc({ bdevs, vhost, lvols, log }: SpdkParts): SpdkHandlers {
  const notifications = new Notifications(bdevs);
  const setting: Handlers['bdev_set_options'] = (_, { calledAs }) => {
    log.info(`RPC ${calledAs} has no effect here`);
    return true;
  };
  const checkTransport = (name: string): void => {
    if (name.toLowerCase() === BLK_TRANSPORT) return;
    throw new TargetError('ENODEV', `there is no transport "${name}": the only one is ${BLK_TRANSPORT}`);
  };
  return {
    bdev_set_options: setting,
    bdev_nvme_set_options: setting,
    bdev_nvme_set_hotplug: setting,
    bdev_iscsi_set_options: setting,
    iobuf_set_options: setting,
    sock_impl_set_options: setting,
    sock_set_default_impl: setting,
    accel_set_options: setting,

    async bdev_examine({ name }) {
      await examine(lvols, bdevs.get(name));
      return true;
    },
    bdev_wait_for_examine: () => true,

    notify_get_types: () => ['bdev_register', 'bdev_unregister'],
    notify_get_notifications: ({ id, max }) => notifications.from(id, max),

    scsi_get_devices() {
      const controllers = vhost.list().filter((controller) => controller instanceof ScsiController);
      const targets = controllers.flatMap((one) => [...new Set(one.luns().map(({ target }) => target))]);
      return targets.map((target, id) => ({ id, device_name: `Target ${target}` }));
    },

    virtio_blk_get_transports({ name }) {
      if (name !== undefined) checkTransport(name);
      return [{ name: BLK_TRANSPORT }];
    },
    virtio_blk_create_transport({ name }) {
      checkTransport(name);
      return true;
    },

    framework_get_scheduler: () => ({ scheduler_name: SCHEDULER, scheduler_period: 0 }),
    framework_set_scheduler({ name }) {
      if (name === SCHEDULER) return true;
      const advice = 'vhost_controller_set_placement moves queues';
      throw new TargetError('EINVAL', `there is no scheduler "${name}": the only one is ${SCHEDULER}; ${advice}`);
    },
  };
}

/** A bdev that is in use, or has no store, stays as it is. */
async function examine(lvols: Lvols, base: BdevEntry): Promise<void> {
  if (base.holder !== null) return;
  try {
    await lvols.loadStore(base);
  } catch (error) {
    if (!(error instanceof TargetError && error.code === 'ENOENT')) throw error;
  }
}

/** The newest events, numbered from 0 on. */
class Notifications {
  readonly #kept: Notification[] = [];
  #next = 0;

  constructor(bdevs: BdevRegistry) {
    bdevs.on('created', ({ name }) => this.#add('bdev_register', name));
    bdevs.on('deleted', ({ name }) => this.#add('bdev_unregister', name));
  }

  from(id: number, max = NOTIFICATIONS_MAX): Notification[] {
    return this.#kept.filter((one) => one.id >= id).slice(0, max);
  }

  #add(type: Notification['type'], ctx: string): void {
    this.#kept.push({ type, ctx, id: this.#next++ });
    if (this.#kept.length > NOTIFICATIONS_MAX) this.#kept.shift();
  }
}

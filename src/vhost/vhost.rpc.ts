/** The RPC methods of vhost controllers. Field names of the wire are mapped here and nowhere else. */
import { formatCpumask } from '../base/cpuset.ts';
import { TargetError } from '../base/errors.ts';
import type { Handlers, Result } from '../rpc/methods.ts';
import type { BlkController } from './blk-controller.ts';
import type { VhostRegistry } from './registry.ts';

const BLK_TRANSPORT = 'vhost_user_blk';
/** SPDK's default of a setting that has no effect while `delay_base_us` is 0. */
const IOPS_THRESHOLD = 60_000;

type VhostHandlers = Pick<
  Handlers,
  'vhost_create_blk_controller' | 'vhost_delete_controller' | 'vhost_get_controllers'
>;

export function vhostRpc(registry: VhostRegistry): VhostHandlers {
  return {
    vhost_create_blk_controller(params) {
      if (params.transport.toLowerCase() !== BLK_TRANSPORT) {
        throw new TargetError('EINVAL', `transport "${params.transport}" is not known: leave it out`);
      }
      if (params.packed_ring || params.packed_ring_recovery) {
        throw new TargetError('ENOTSUP', 'packed virtqueues are not supported yet: leave packed_ring out');
      }
      registry.createBlk({
        name: params.ctrlr,
        bdevName: params.dev_name,
        cpumask: params.cpumask,
        isReadonly: params.readonly,
        serial: params.serial,
      });
      return true;
    },

    async vhost_delete_controller({ ctrlr, force }) {
      await registry.delete(ctrlr, force);
      return true;
    },

    vhost_get_controllers({ name }) {
      const controllers = name === undefined ? registry.list() : [registry.get(name)];
      return controllers.map(describe);
    },
  };
}

function describe(controller: BlkController): Result<'vhost_get_controllers'>[number] {
  const { session } = controller;
  const running = session?.session.runningVrings.length ?? 0;
  return {
    ctrlr: controller.name,
    cpumask: formatCpumask(controller.cores),
    delay_base_us: 0,
    iops_threshold: IOPS_THRESHOLD,
    socket: controller.socketPath,
    sessions:
      session === null
        ? []
        : [
            {
              vid: session.id,
              id: session.id,
              name: `${controller.name}s${session.id}`,
              started: running > 0,
              max_queues: running,
              inflight_task_cnt: 0,
            },
          ],
    backend_specific: {
      block: {
        readonly: controller.isReadonly,
        bdev: controller.isBdevRemoved ? null : controller.bdev.name,
        transport: BLK_TRANSPORT,
      },
    },
  };
}

/** The calls that would create the controllers again, for `framework_get_config`. */
export function vhostConfig(registry: VhostRegistry): { method: string; params: Record<string, unknown> }[] {
  return registry.list().map((controller) => ({
    method: 'vhost_create_blk_controller',
    params: {
      ctrlr: controller.name,
      dev_name: controller.bdev.name,
      cpumask: formatCpumask(controller.cores),
      readonly: controller.isReadonly,
      ...(controller.configuredSerial === undefined ? {} : { serial: controller.configuredSerial }),
    },
  }));
}

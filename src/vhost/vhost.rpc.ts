/** The RPC methods of vhost controllers. Field names of the wire are mapped here and nowhere else. */
import { formatCpumask } from '../base/cpuset.ts';
import { TargetError } from '../base/errors.ts';
import type { BdevRegistry } from '../bdev/registry.ts';
import type { Handlers, Result } from '../rpc/methods.ts';
import type { BlkController } from './blk-controller.ts';
import type { AnyController, VhostRegistry } from './registry.ts';
import type { ScsiController } from './scsi-controller.ts';

const BLK_TRANSPORT = 'vhost_user_blk';
/** SPDK's default of a setting that has no effect while `delay_base_us` is 0. */
const IOPS_THRESHOLD = 60_000;

type VhostHandlers = Pick<
  Handlers,
  | 'vhost_create_blk_controller'
  | 'vhost_create_scsi_controller'
  | 'vhost_start_scsi_controller'
  | 'vhost_scsi_controller_add_target'
  | 'vhost_scsi_controller_remove_target'
  | 'vhost_delete_controller'
  | 'vhost_get_controllers'
>;

interface ConfigCall {
  readonly method: string;
  readonly params: Record<string, unknown>;
}

export function vhostRpc(registry: VhostRegistry, bdevs: BdevRegistry): VhostHandlers {
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

    async vhost_create_scsi_controller({ ctrlr, cpumask, delay }) {
      await registry.createScsi({ name: ctrlr, cpumask, isDelayed: delay });
      return true;
    },

    vhost_start_scsi_controller({ ctrlr }) {
      registry.getScsi(ctrlr).listen();
      return true;
    },

    async vhost_scsi_controller_add_target(params) {
      const { scsi_target_num: target, lun, vendor, model, serial, readonly, removable } = params;
      const controller = registry.getScsi(params.ctrlr);
      const bdev = bdevs.get(params.bdev_name);
      return await controller.addTarget({
        ...{ target, lun, bdev, vendor, model, serial },
        isReadonly: readonly,
        isRemovable: removable,
      });
    },

    async vhost_scsi_controller_remove_target({ ctrlr, scsi_target_num: target, lun }) {
      await registry.getScsi(ctrlr).removeTarget(target, lun);
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

function describe(controller: AnyController): Result<'vhost_get_controllers'>[number] {
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
    backend_specific: controller.kind === 'blk' ? describeBlk(controller) : describeScsi(controller),
  };
}

function describeBlk(controller: BlkController) {
  const bdev = controller.isBdevRemoved ? null : controller.bdev.name;
  return { block: { readonly: controller.isReadonly, bdev, transport: BLK_TRANSPORT } };
}

function describeScsi(controller: ScsiController) {
  const byTarget = Map.groupBy(controller.luns(), (lun) => lun.target);
  const scsi = [...byTarget].map(([target, luns]) => ({
    scsi_dev_num: target,
    id: target,
    target_name: `Target ${target}`,
    luns: luns.map(({ lun, bdev }) => ({ id: lun, bdev_name: bdev.name })),
  }));
  return { scsi };
}

/** The calls that would create the controllers of a kind again, for `framework_get_config`. */
export function vhostConfig(registry: VhostRegistry, kind: AnyController['kind']): ConfigCall[] {
  return registry.list().flatMap((controller) => {
    if (controller.kind !== kind) return [];
    return controller.kind === 'blk' ? [blkConfig(controller)] : scsiConfig(controller);
  });
}

function blkConfig(controller: BlkController): ConfigCall {
  return {
    method: 'vhost_create_blk_controller',
    params: {
      ctrlr: controller.name,
      dev_name: controller.bdev.name,
      cpumask: formatCpumask(controller.cores),
      readonly: controller.isReadonly,
      ...(controller.configuredSerial === undefined ? {} : { serial: controller.configuredSerial }),
    },
  };
}

/** Targets come before the socket, so that a guest that reconnects finds all of them. */
function scsiConfig(controller: ScsiController): ConfigCall[] {
  const ctrlr = controller.name;
  const create = { ctrlr, cpumask: formatCpumask(controller.cores), delay: true };
  const targets = controller.luns().map(({ target, lun, bdev, config }) => ({
    method: 'vhost_scsi_controller_add_target',
    params: {
      ctrlr,
      scsi_target_num: target,
      bdev_name: bdev.name,
      ...(lun === 0 ? {} : { lun }),
      ...(config.vendor === undefined ? {} : { vendor: config.vendor }),
      ...(config.model === undefined ? {} : { model: config.model }),
      ...(config.serial === undefined ? {} : { serial: config.serial }),
      ...(config.isReadonly ? { readonly: true } : {}),
      ...(config.isRemovable ? { removable: true } : {}),
    },
  }));
  return [
    { method: 'vhost_create_scsi_controller', params: create },
    ...targets,
    ...(controller.isListening ? [{ method: 'vhost_start_scsi_controller', params: { ctrlr } }] : []),
  ];
}

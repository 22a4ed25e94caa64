/** The RPC methods of vhost controllers. Field names of the wire are mapped here and nowhere else. */
import { formatCpumask } from '../base/cpuset.ts';
import { TargetError } from '../base/errors.ts';
import type { IoType } from '../bdev/bdev-io.ts';
import { WEIGHT_DEFAULT } from '../bdev/fair-shares.ts';
import { describeLatencies } from '../bdev/latency.rpc.ts';
import type { BdevRegistry } from '../bdev/registry.ts';
import type { ReactorMode } from '../reactor/reactor.ts';
import type { Handlers, Result } from '../rpc/methods.ts';
import type { BlkController } from './blk-controller.ts';
import { DEFAULT_COALESCING } from './call-coalescing.ts';
import type { DeviceSession } from './controller.ts';
import { countersOf, latenciesOf, QUEUE_COUNTERS, QueueCounter } from './queue-counters.ts';
import { type AnyController, BLK_PLACEMENT, type VhostRegistry } from './registry.ts';
import type { ScsiController } from './scsi-controller.ts';

/** The only one of blk controllers. */
export const BLK_TRANSPORT = 'vhost_user_blk';

type QueueMethod =
  | 'vhost_controller_set_coalescing'
  | 'vhost_controller_set_mode'
  | 'vhost_controller_set_placement'
  | 'vhost_controller_set_qos_weight';

type VhostHandlers = Pick<
  Handlers,
  | 'vhost_create_blk_controller'
  | 'vhost_create_scsi_controller'
  | 'vhost_start_scsi_controller'
  | 'vhost_scsi_controller_add_target'
  | 'vhost_scsi_controller_remove_target'
  | 'vhost_delete_controller'
  | QueueMethod
  | 'vhost_get_controllers'
  | 'vhost_get_latency'
>;

/** Cores and mode of a controller, where they are its own. */
type PlacingParams = { readonly cpumask?: string; readonly mode?: ReactorMode };

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
      registry.createBlk({
        name: params.ctrlr,
        bdevName: params.dev_name,
        cpumask: params.cpumask,
        mode: params.mode,
        placement: params.queue_placement,
        isReadonly: params.readonly,
        serial: params.serial,
      });
      return true;
    },

    async vhost_create_scsi_controller({ ctrlr, cpumask, delay, mode, queue_placement: placement }) {
      await registry.createScsi({ name: ctrlr, cpumask, isDelayed: delay, mode, placement });
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

    ...queueRpc(registry),

    vhost_get_controllers({ name }) {
      const controllers = name === undefined ? registry.list() : [registry.get(name)];
      return controllers.map(describe);
    },

    vhost_get_latency({ ctrlr }) {
      const controllers = ctrlr === undefined ? registry.list() : [registry.get(ctrlr)];
      return { controllers: controllers.map((one) => ({ ctrlr: one.name, queues: latenciesByQueue(one) })) };
    },
  };
}

/** How the queues of a controller run. */
function queueRpc(registry: VhostRegistry): Pick<VhostHandlers, QueueMethod> {
  return {
    async vhost_controller_set_coalescing({ ctrlr, delay_base_us: delayBaseUs, iops_threshold: iopsThreshold }) {
      await registry.get(ctrlr).tune({ coalescing: { delayBaseUs, iopsThreshold } });
      return true;
    },

    async vhost_controller_set_mode({ ctrlr, mode }) {
      await registry.get(ctrlr).tune({ mode });
      return true;
    },

    async vhost_controller_set_qos_weight({ ctrlr, weight }) {
      await registry.get(ctrlr).tune({ weight });
      return true;
    },

    async vhost_controller_set_placement({ ctrlr, queue_placement: placement, cpumask }) {
      await registry.setPlacement(ctrlr, { placement, cpumask });
      return true;
    },
  };
}

function describe(controller: AnyController): Result<'vhost_get_controllers'>[number] {
  const { session, settings, places } = controller;
  const queues = session === null ? [] : describeQueues(controller, session);
  return {
    ctrlr: controller.name,
    cpumask: formatCpumask(controller.cores),
    delay_base_us: settings.coalescing.delayBaseUs,
    iops_threshold: settings.coalescing.iopsThreshold,
    mode: settings.mode,
    queue_placement: places.policy,
    qos_weight: settings.weight,
    socket: controller.socketPath,
    sessions:
      session === null
        ? []
        : [
            {
              vid: session.id,
              id: session.id,
              name: `${controller.name}s${session.id}`,
              started: queues.length > 0,
              max_queues: queues.length,
              inflight_task_cnt: queues.reduce((sum, queue) => sum + queue.in_flight, 0),
              queues,
            },
          ],
    backend_specific: controller.kind === 'blk' ? describeBlk(controller) : describeScsi(controller),
  };
}

function describeQueues({ places }: AnyController, session: DeviceSession) {
  return places.running().map(([index, { core }]) => {
    const block = session.counters.get(index);
    const cells = block === undefined ? new Float64Array(QUEUE_COUNTERS) : countersOf(block);
    const cell = (counter: number): number => cells[counter] as number;
    const requests = cell(QueueCounter.requests);
    const inFlight = cell(QueueCounter.inFlight);
    const calls = cell(QueueCounter.calls);
    return {
      index,
      lcore: core,
      requests,
      in_flight: inFlight,
      kicks: cell(QueueCounter.kicks),
      calls,
      calls_saved: Math.max(0, requests - inFlight - calls),
      faults: cell(QueueCounter.faults),
    };
  });
}

function latenciesByQueue({ places, session }: AnyController) {
  return places.running().map(([index]) => {
    const block = session?.counters.get(index);
    if (block === undefined) return { index, latencies: [] };
    const counted = latenciesOf(block);
    const read = (type: IoType) => ({ sumNs: counted.sumNs(type), buckets: counted.buckets(type) });
    return { index, latencies: describeLatencies(read) };
  });
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

/**
 * The calls that would create the controllers of a kind again. `includesBereft`: those too whose bdev was deleted under
 * them, as they were.
 */
export function vhostConfig(
  registry: VhostRegistry,
  kind: AnyController['kind'],
  includesBereft: boolean,
): ConfigCall[] {
  return registry.list().flatMap((controller) => {
    if (controller.kind !== kind) return [];
    if (controller.kind === 'blk' && controller.isBdevRemoved && !includesBereft) return [];
    const { mode } = controller.settings;
    const placing = {
      // All cores of the daemon is what one has without a mask, whatever cores the next daemon has.
      ...(controller.cores.length === registry.coreCount ? {} : { cpumask: formatCpumask(controller.cores) }),
      ...(mode === registry.mode ? {} : { mode }),
    };
    return controller.kind === 'blk' ? blkConfig(controller, placing) : scsiConfig(controller, placing);
  });
}

function blkConfig(controller: BlkController, placing: PlacingParams): ConfigCall[] {
  const create = {
    ctrlr: controller.name,
    dev_name: controller.bdev.name,
    readonly: controller.isReadonly,
    ...(controller.configuredSerial === undefined ? {} : { serial: controller.configuredSerial }),
    ...placing,
    ...(controller.places.policy === BLK_PLACEMENT ? {} : { queue_placement: controller.places.policy }),
  };
  return [
    { method: 'vhost_create_blk_controller', params: create },
    ...coalescingConfig(controller),
    ...weightConfig(controller),
  ];
}

function coalescingConfig({ name, settings }: AnyController): ConfigCall[] {
  const { delayBaseUs, iopsThreshold } = settings.coalescing;
  if (delayBaseUs === DEFAULT_COALESCING.delayBaseUs && iopsThreshold === DEFAULT_COALESCING.iopsThreshold) return [];
  const params = { ctrlr: name, delay_base_us: delayBaseUs, iops_threshold: iopsThreshold };
  return [{ method: 'vhost_controller_set_coalescing', params }];
}

function weightConfig({ name, settings: { weight } }: AnyController): ConfigCall[] {
  if (weight === WEIGHT_DEFAULT) return [];
  return [{ method: 'vhost_controller_set_qos_weight', params: { ctrlr: name, weight } }];
}

/** Targets come before the socket, so that a guest that reconnects finds all of them. */
function scsiConfig(controller: ScsiController, placing: PlacingParams): ConfigCall[] {
  const ctrlr = controller.name;
  const create = { ctrlr, delay: true, ...placing };
  const luns = controller.luns().filter(({ bdev }) => !bdev.isRemoving);
  const targets = luns.map(({ target, lun, bdev, config }) => ({
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
    ...coalescingConfig(controller),
    ...weightConfig(controller),
    ...targets,
    ...(controller.isListening ? [{ method: 'vhost_start_scsi_controller', params: { ctrlr } }] : []),
  ];
}

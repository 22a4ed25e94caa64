/** The RPC methods of NVMe controllers, whatever their transport. */
import { TargetError } from '../../../base/errors.ts';
import { readHealth } from '../../../nvme/admin.ts';
import type { TransportId } from '../../../nvme/controller.ts';
import type { Handlers, Result } from '../../../rpc/methods.ts';
import type { AttachedController, NvmeControllers } from './controllers.ts';
import type { Discoveries } from './discovery.ts';
import type { NvmeTransport } from './transport.rpc.ts';

type NvmeHandlers = Pick<
  Handlers,
  | 'bdev_nvme_attach_controller'
  | 'bdev_nvme_detach_controller'
  | 'bdev_nvme_get_controllers'
  | 'bdev_nvme_get_controller_health_info'
  | 'bdev_nvme_reset_controller'
>;

const KELVIN = 273;

export function nvmeRpc(
  controllers: NvmeControllers,
  transports: readonly NvmeTransport[],
  discoveries: Discoveries | null,
): NvmeHandlers {
  const transportOf = (trtype: string): NvmeTransport => {
    const found = transports.find((transport) => transport.trtype.toLowerCase() === trtype.toLowerCase());
    if (found !== undefined) return found;
    const known = transports.map((transport) => transport.trtype).join(', ') || 'none';
    throw new TargetError('EINVAL', `trtype "${trtype}" is not known here. Known: ${known}`);
  };
  return {
    async bdev_nvme_attach_controller(params) {
      const transport = transportOf(params.trtype);
      const id = transport.transportId(params);
      const config = { method: 'bdev_nvme_attach_controller', params: { ...params, ...plain(id) } };
      const { addPath } = transport;
      const known = controllers.find(params.name);
      if (known !== undefined && addPath !== undefined && params.multipath !== 'disable') {
        return await controllers.addPath(known, id, config, () => addPath(known.controller, id));
      }
      return await controllers.attach(params.name, id, config, (events) => transport.connect(id, params, events));
    },

    async bdev_nvme_detach_controller({ name, traddr, trsvcid }) {
      const attached = controllers.get(name);
      const { controller } = attached;
      if (traddr !== undefined && (controller.pathIds?.length ?? 1) > 1) {
        const isTaken = (id: TransportId) => id.traddr === traddr && (trsvcid === undefined || id.trsvcid === trsvcid);
        discoveries?.refuse(attached, isTaken);
        await controllers.removePath(attached, traddr, trsvcid);
      } else {
        discoveries?.refuse(attached, () => true);
        await controllers.detach(attached);
      }
      return true;
    },

    bdev_nvme_get_controllers({ name }) {
      return (name === undefined ? controllers.list() : [controllers.get(name)]).map(describe);
    },

    async bdev_nvme_get_controller_health_info({ name }) {
      return await healthInfo(controllers.get(name));
    },

    async bdev_nvme_reset_controller({ name }) {
      await controllers.get(name).controller.reset();
      return true;
    },
  };
}

/** Without what is not there. */
function plain(id: TransportId): Record<string, string> {
  return Object.fromEntries(Object.entries(id).filter(([, value]) => value !== undefined));
}

function describe({ name, controller }: AttachedController): Result<'bdev_nvme_get_controllers'>[number] {
  const { state, identity, transportId, pathIds = [transportId] } = controller;
  const [trid = transportId, ...alternates] = pathIds.map((id) => ({ ...id }));
  return {
    name,
    ctrlrs: [
      {
        ...{ state, cntlid: identity.controllerId, trid: { ...trid } },
        ...(alternates.length > 0 ? { alternate_trids: alternates } : {}),
      },
    ],
  };
}

async function healthInfo({ controller }: AttachedController): Promise<Result<'bdev_nvme_get_controller_health_info'>> {
  const { identity, transportId } = controller;
  const health = await readHealth(controller.admin);
  return {
    model_number: identity.modelNumber,
    serial_number: identity.serialNumber,
    firmware_revision: identity.firmwareRevision,
    traddr: transportId.traddr,
    critical_warning: health.criticalWarning,
    temperature_celsius: health.temperatureKelvin - KELVIN,
    available_spare_percentage: health.availableSparePercent,
    available_spare_threshold_percentage: health.spareThresholdPercent,
    percentage_used: health.percentageUsed,
    data_units_read: Number(health.dataUnitsRead),
    data_units_written: Number(health.dataUnitsWritten),
    host_read_commands: Number(health.hostReads),
    host_write_commands: Number(health.hostWrites),
    controller_busy_time: Number(health.busyMinutes),
    power_cycles: Number(health.powerCycles),
    power_on_hours: Number(health.powerOnHours),
    unsafe_shutdowns: Number(health.unsafeShutdowns),
    media_errors: Number(health.mediaErrors),
    num_err_log_entries: Number(health.errorLogEntries),
    warning_temperature_time_minutes: health.warningTemperatureMinutes,
    critical_composite_temperature_time_minutes: health.criticalTemperatureMinutes,
  };
}

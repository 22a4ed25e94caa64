/** What the calls of a configuration are about: what each makes, what it stands on, and what takes it away again. */
import { TargetError } from '../base/errors.ts';
import { WEIGHT_DEFAULT } from '../bdev/fair-shares.ts';
import { findMethod } from '../rpc/lookup.ts';
import { checkParams } from '../rpc/params.ts';
import type { ConfigCall } from './config-file.ts';

/** A call by the method's own name, with every parameter that has a default. */
export interface FullCall {
  readonly method: string;
  readonly params: Record<string, unknown>;
}

/** Parameters that name a bdev, or several. */
const BDEV_PARAMS = ['bdev_name', 'dev_name', 'base_bdev_name', 'base_bdev', 'base_name', 'base_bdevs'];
/** What a controller's notifications are without a call that says otherwise. */
const DEFAULT_COALESCING_PARAMS = { delay_base_us: 0, iops_threshold: 60_000 };

export const isController = ({ method }: ConfigCall): boolean => /^vhost_create_\w+_controller$/.test(method);

/** A call that only sets something of what another one makes: it can be made again with other values. */
export const isSetting = ({ method }: ConfigCall): boolean => /^(?:bdev|bdev_raid|vhost_controller)_set_/.test(method);

/** Equal for calls that make the same thing, whatever else they say of it. */
export function identityOf(call: ConfigCall): string {
  const { method, params = {} } = call;
  const is = (...names: readonly string[]): string => JSON.stringify(names.map((name) => params[name] ?? null));
  if (isController(call)) return controllerIdentity(params['ctrlr']);
  if (method === 'vhost_scsi_controller_add_target') {
    return `lun ${is('ctrlr', 'scsi_target_num')} ${String(params['lun'] ?? 0)}`;
  }
  if (method.startsWith('vhost_')) return `${method} ${is('ctrlr')}`;
  // A controller that has several paths is attached by several calls.
  if (method === 'bdev_nvme_attach_controller') return `nvme ${is('name', 'traddr', 'trsvcid')}`;
  if (method === 'accel_crypto_key_create') return `key ${is('name')}`;
  if (method === 'bdev_nvme_start_discovery') return `discovery ${is('name')}`;
  if (method === 'bdev_rbd_register_cluster') return `cluster ${is('name')}`;
  if (method === 'bdev_split_create' || method === 'bdev_gpt_create') return `parts ${is('base_bdev')}`;
  if (method === 'bdev_raid_set_options') return 'raid options';
  if (method === 'bdev_lvol_load_lvstore') return `lvol store ${is('bdev_name')}`;
  if (method === 'bdev_set_qos_limit') return `limits ${is('name')}`;
  if (method === 'bdev_error_create') return `bdev ${JSON.stringify([`EE_${String(params['base_name'])}`])}`;
  return `bdev ${is('name')}`;
}

export function controllerIdentity(name: unknown): string {
  return `controller ${JSON.stringify(name)}`;
}

/** For people: the name of what a call is about. */
export function nameOf({ method, params = {} }: ConfigCall): string {
  const { ctrlr, name, base_bdev: base, base_name: errorBase, scsi_target_num: target } = params;
  if (method === 'bdev_raid_set_options') return 'RAID';
  if (method === 'vhost_scsi_controller_add_target') return `${String(ctrlr)} target ${String(target)}`;
  if (method === 'bdev_lvol_load_lvstore') return `lvol store on ${String(params['bdev_name'])}`;
  return String(ctrlr ?? name ?? base ?? errorBase ?? '');
}

/**
 * As the daemon would understand the call, but nothing is made.
 *
 * @throws TargetError `EINVAL` when there is no such method, or its parameters are wrong
 */
export function fullCall({ method, params = {} }: ConfigCall): FullCall {
  const found = findMethod(method);
  if (found === undefined)
    throw new TargetError('EINVAL', `there is no method ${method}: ringhost rpc --help lists those there are`);
  const { spec, alias } = found;
  const current = alias?.toParams?.(params) ?? params;
  const checked = checkParams(spec, spec.normalize?.(current) ?? current);
  if (checked.ok) return { method: found.name, params: checked.params };
  const { message, data } = checked.error;
  throw new TargetError('EINVAL', `${method}: ${data?.detail ?? message}`);
}

/** Whether a call needs what another one makes. */
export function standsOn({ method, params = {} }: ConfigCall, other: ConfigCall): boolean {
  const { method: otherMethod, params: otherParams = {} } = other;
  if (isController(other)) {
    return (
      method.startsWith('vhost_') && !method.startsWith('vhost_create_') && params['ctrlr'] === otherParams['ctrlr']
    );
  }
  if (otherMethod === 'accel_crypto_key_create') return params['key_name'] === otherParams['name'];
  if (otherMethod === 'bdev_rbd_register_cluster') return params['cluster_name'] === otherParams['name'];
  if (!otherMethod.startsWith('bdev_') || isSetting(other)) return false;
  const names = BDEV_PARAMS.flatMap((param) => params[param] ?? []);
  if (method === 'bdev_set_qos_limit') names.push(params['name'] ?? '');
  return names.some((name) => makesBdev(other, String(name)));
}

function makesBdev({ method, params = {} }: ConfigCall, bdev: string): boolean {
  const isNumbered = (base: unknown, mark: string): boolean => {
    const start = `${String(base)}${mark}`;
    return bdev.startsWith(start) && /^(?:\d+n)?\d+$/.test(bdev.slice(start.length));
  };
  if (method === 'bdev_error_create') return bdev === `EE_${String(params['base_name'])}`;
  // Only the store itself says which volumes are on it: they are called by UUID, or by an alias with a slash.
  if (method === 'bdev_lvol_load_lvstore') return /^[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}$|\//i.test(bdev);
  if (method === 'bdev_split_create' || method === 'bdev_gpt_create') return isNumbered(params['base_bdev'], 'p');
  if (method === 'bdev_nvme_attach_controller') return isNumbered(params['name'], 'n');
  if (method === 'bdev_nvme_start_discovery') return isNumbered(params['name'], '');
  return bdev === params['name'] || (method === 'bdev_virtio_attach_controller' && isNumbered(params['name'], 't'));
}

/** The call that takes away what a call makes; null: it goes with what it stands on. */
export function removalOf(call: ConfigCall): FullCall | null {
  const { method, params = {} } = call;
  const { ctrlr, name } = params;
  switch (method) {
    case 'vhost_scsi_controller_add_target': {
      const { scsi_target_num, lun = 0 } = params;
      return { method: 'vhost_scsi_controller_remove_target', params: { ctrlr, scsi_target_num, lun } };
    }
    case 'vhost_start_scsi_controller':
      return null;
    case 'vhost_controller_set_coalescing':
      return { method, params: { ctrlr, ...DEFAULT_COALESCING_PARAMS } };
    case 'vhost_controller_set_qos_weight':
      return { method, params: { ctrlr, weight: WEIGHT_DEFAULT } };
    case 'bdev_set_qos_limit': {
      const limits = Object.keys(params).filter((key) => key.endsWith('_per_sec'));
      return { method, params: { name, ...Object.fromEntries(limits.map((limit) => [limit, 0])) } };
    }
    case 'bdev_raid_set_options':
      return { method, params: { process_max_bandwidth_mb_sec: 0 } };
    case 'bdev_error_create':
      return { method: 'bdev_error_delete', params: { name: `EE_${String(params['base_name'])}` } };
    case 'bdev_split_create':
    case 'bdev_gpt_create':
      return { method: method.replace('create', 'delete'), params: { base_bdev: params['base_bdev'] } };
    case 'bdev_nvme_attach_controller':
    case 'bdev_virtio_attach_controller':
      return { method: method.replace('attach', 'detach'), params: { name } };
    case 'bdev_lvol_load_lvstore':
      return { method: 'bdev_lvol_unload_lvstore', params: { bdev_name: params['bdev_name'] } };
    case 'accel_crypto_key_create':
      return { method: 'accel_crypto_key_destroy', params: { key_name: name } };
    case 'bdev_nvme_start_discovery':
      return { method: 'bdev_nvme_stop_discovery', params: { name } };
    case 'bdev_rbd_register_cluster':
      return { method: 'bdev_rbd_unregister_cluster', params: { name } };
    default:
      if (isController(call)) return { method: 'vhost_delete_controller', params: { ctrlr } };
      return { method: ownDelete(method) ?? 'delete_bdev', params: { name } };
  }
}

/** Of the module that made it; undefined: it has none. */
function ownDelete(method: string): string | undefined {
  return findMethod(method.replace(/_create$/, '_delete'))?.name;
}

/** A RAM disk whose content goes when it is taken away, and does not come back. */
export function isVolatile({ method, params = {} }: ConfigCall): boolean {
  return (method === 'bdev_malloc_create' && params['shm_name'] === undefined) || method === 'bdev_powercut_create';
}

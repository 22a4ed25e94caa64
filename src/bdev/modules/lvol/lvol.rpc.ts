/** The RPC methods of logical volumes. */
import { TargetError } from '../../../base/errors.ts';
import type { Handlers, Result } from '../../../rpc/methods.ts';
import type { Job } from '../../jobs.ts';
import type { BdevRegistry } from '../../registry.ts';
import type { Lvols, VolumeRef } from './lvols.ts';
import type { LvolStore } from './store.ts';

type LvolHandlers = Pick<Handlers, Extract<keyof Handlers, `bdev_lvol_${string}`>>;
type StoreHandlers = Pick<LvolHandlers, Extract<keyof LvolHandlers, `${string}_lvstore${string}`>>;

interface StoreName {
  readonly uuid?: string | undefined;
  readonly lvs_name?: string | undefined;
}

export function lvolRpc(lvols: Lvols, registry: BdevRegistry): LvolHandlers {
  return { ...storeRpc(lvols, registry), ...volumeRpc(lvols) };
}

function oneStore(lvols: Lvols, wanted: StoreName): LvolStore {
  if ((wanted.uuid === undefined) === (wanted.lvs_name === undefined)) {
    throw new TargetError('EINVAL', 'name the lvol store either by uuid or by lvs_name');
  }
  return lvols.store(wanted);
}

function someStores(lvols: Lvols, wanted: StoreName): readonly LvolStore[] {
  const isAll = wanted.uuid === undefined && wanted.lvs_name === undefined;
  return isAll ? lvols.stores : [oneStore(lvols, wanted)];
}

function storeRpc(lvols: Lvols, registry: BdevRegistry): StoreHandlers {
  return {
    async bdev_lvol_create_lvstore({ bdev_name: base, lvs_name: name, cluster_sz: clusterBytes }) {
      return (await lvols.createStore(registry.get(base), name, clusterBytes)).uuid;
    },

    async bdev_lvol_load_lvstore({ bdev_name: base }) {
      return (await lvols.loadStore(registry.get(base))).uuid;
    },

    async bdev_lvol_unload_lvstore({ bdev_name: base }) {
      const entry = registry.get(base);
      const store = lvols.stores.find((candidate) => candidate.base === entry);
      if (store === undefined) throw new TargetError('ENODEV', `there is no lvol store loaded from bdev "${base}"`);
      await lvols.unloadStore(store);
      return true;
    },

    async bdev_lvol_delete_lvstore(params) {
      await lvols.deleteStore(oneStore(lvols, params));
      return true;
    },

    async bdev_lvol_rename_lvstore({ old_name: name, new_name: newName }) {
      await lvols.renameStore(lvols.store({ lvs_name: name }), newName);
      return true;
    },

    bdev_lvol_get_lvstores: (params) => someStores(lvols, params).map(describeStore),

    async bdev_lvol_check_lvstore(params) {
      const store = oneStore(lvols, params);
      const faults = await store.check();
      return { name: store.name, is_consistent: faults.length === 0, faults };
    },
  };
}

function volumeRpc(lvols: Lvols): Omit<LvolHandlers, keyof StoreHandlers> {
  return {
    bdev_lvol_create: ({ lvol_name: name, size_in_mib: sizeMib, thin_provision: isThin, uuid, lvs_name: lvsName }) =>
      lvols.create(oneStore(lvols, { uuid, lvs_name: lvsName }), name, sizeMib, isThin),

    bdev_lvol_snapshot: ({ lvol_name: volume, snapshot_name: name }) => lvols.snapshot(lvols.find(volume), name),

    bdev_lvol_clone: ({ snapshot_name: snapshot, clone_name: name }) => lvols.clone(lvols.find(snapshot), name),

    async bdev_lvol_rename({ old_name: volume, new_name: name }) {
      await lvols.rename(lvols.find(volume), name);
      return true;
    },

    async bdev_lvol_resize({ name, size_in_mib: sizeMib }) {
      await lvols.resize(lvols.find(name), sizeMib);
      return true;
    },

    async bdev_lvol_set_read_only({ name }) {
      await lvols.setReadonly(lvols.find(name));
      return true;
    },

    async bdev_lvol_delete({ name }) {
      await lvols.delete(lvols.find(name));
      return true;
    },

    async bdev_lvol_inflate({ name }) {
      await ended(lvols.inflate(lvols.find(name), true));
      return true;
    },

    async bdev_lvol_decouple_parent({ name }) {
      await ended(lvols.inflate(lvols.find(name), false));
      return true;
    },

    bdev_lvol_get_lvols({ lvs_uuid: uuid, lvs_name: lvsName }) {
      return someStores(lvols, { uuid, lvs_name: lvsName }).flatMap((store) =>
        store.volumes.list().map((volume) => describeVolume({ store, volume })),
      );
    },
  };
}

async function ended(job: Job): Promise<void> {
  await job.ended;
  if (job.state === 'cancelled') throw new TargetError('ECANCELED', `job ${job.id} was cancelled: the rest is left`);
  if (job.state === 'failed') throw new TargetError('EIO', job.error ?? 'it failed');
}

function describeStore(store: LvolStore): Result<'bdev_lvol_get_lvstores'>[number] {
  const { clusterBytes, clusterCount } = store.geometry;
  return {
    uuid: store.uuid,
    name: store.name,
    base_bdev: store.base.name,
    total_data_clusters: clusterCount,
    free_clusters: store.memory.available,
    block_size: store.base.bdev.blockSizeBytes,
    cluster_size: clusterBytes,
  };
}

function describeVolume({ store, volume }: VolumeRef): Result<'bdev_lvol_get_lvols'>[number] {
  return {
    alias: `${store.name}/${volume.name}`,
    uuid: volume.uuid,
    name: volume.name,
    is_thin_provisioned: volume.isThin,
    is_snapshot: volume.isSnapshot,
    is_clone: volume.parent !== 0,
    is_esnap_clone: false,
    is_degraded: false,
    lvs: { name: store.name, uuid: store.uuid },
  };
}

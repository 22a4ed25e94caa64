/** The methods of logical volumes: thin disks, snapshots and clones in a store on a bdev. */
import { z } from 'zod';
import { type CliFlag, type CliPositional, defineMethod, uint32, uint53, uuid } from '../define.ts';
import { bdevName, byName, ENODEV, namedCli } from './bdev.ts';

const DEFAULT_CLUSTER_BYTES = 1_048_576;
const CLEAR_METHODS = ['none', 'unmap', 'write_zeroes'] as const;
const VOLUME_CLEAR_METHODS = ['default', ...CLEAR_METHODS] as const;

const EIO = { code: 'EIO', when: 'the disk under the store fails' } as const;
const NO_STORE = { code: 'ENODEV', when: 'there is no such store' } as const;
const NO_VOLUME = { code: 'ENODEV', when: 'there is no such volume' } as const;
const NAME_TAKEN = { code: 'EEXIST', when: 'the name is taken' } as const;
const BUSY = { code: 'EBUSY', when: 'it is being filled, inflated or deleted' } as const;
const READONLY = { code: 'EINVAL', when: 'the volume is read-only' } as const;
const NO_ROOM = { code: 'ENOSPC', when: 'there are too few clusters' } as const;

const volumeName = (what: string) => bdevName.describe(`${what}, by UUID or alias (\`STORE/NAME\`).`);
const oneStore = {
  uuid: uuid.optional().describe('The store by its UUID. Give this or `lvs_name`.'),
  lvs_name: bdevName.optional().describe('The store by its name.'),
};
const storeFlags: readonly CliFlag[] = [
  { names: ['-u', '--uuid'], dest: 'uuid', kind: 'string', help: 'UUID of the store' },
  { names: ['-l', '--lvs-name'], dest: 'lvs_name', kind: 'string', help: 'name of the store' },
];
const text = (name: string, help: string): CliPositional => ({ name, kind: 'string', help });
const baseCli = (help: string) => ({ positionals: [text('bdev_name', help)], print: 'json' as const });
const onBase = (what: string) => z.strictObject({ bdev_name: bdevName.describe(what) });

const STORE = 'b8ab9c20-1c4b-4f0c-8a1e-0f31d2f6a001';
const VOLUME = '1b38702c-7f0c-411e-a962-92c6a5a8a602';
const SNAPSHOT = 'cc8d7fdf-7865-4d1f-9fc6-35da8e368670';

const storeInfo = z.strictObject({
  uuid: z.string(),
  name: z.string(),
  base_bdev: z.string(),
  total_data_clusters: z.int(),
  free_clusters: z.int().describe('Those that are about to be free count too.'),
  block_size: z.int(),
  cluster_size: z.int().describe('Bytes.'),
});

const volumeInfo = z.strictObject({
  alias: z.string(),
  uuid: z.string().describe('The name of its bdev.'),
  name: z.string(),
  is_thin_provisioned: z.boolean(),
  is_snapshot: z.boolean(),
  is_clone: z.boolean().describe('It has a parent: a clone, or a volume of which there is a snapshot.'),
  is_esnap_clone: z.boolean().describe('Always false.'),
  is_degraded: z.boolean().describe('Always false.'),
  lvs: z.strictObject({ name: z.string(), uuid: z.string() }),
});

const storeMethods = {
  bdev_lvol_create_lvstore: defineMethod({
    summary: 'Make a store of logical volumes on a disk',
    details:
      'The disk is claimed, and what is on it is lost; one that has a store already is left as it is. The format is ' +
      "Ringhost's own (docs/lvol-format.md): stores of SPDK are not read. Clusters are 1 MiB by default, not 4: the " +
      'first write to a cluster of a clone copies it.',
    params: z.strictObject({
      bdev_name: bdevName.describe('Disk.'),
      lvs_name: bdevName.describe('Name of the store.'),
      cluster_sz: uint32
        .default(DEFAULT_CLUSTER_BYTES)
        .describe('Bytes of a cluster, a power of two from 16384 to 2^30: what volumes are given at a time.'),
      clear_method: z.enum(CLEAR_METHODS).optional().describe('No effect: a cluster is zeroed before a volume has it.'),
      num_md_pages_per_cluster_ratio: uint32.optional().describe('No effect: there is room for all metadata.'),
      md_page_size: uint32.optional().describe('No effect.'),
    }),
    ignored: ['clear_method', 'num_md_pages_per_cluster_ratio', 'md_page_size'],
    result: z.string().describe('UUID of the store.'),
    errors: [
      ENODEV,
      EIO,
      { code: 'EPERM', when: 'the disk is claimed, or a controller serves it' },
      { code: 'EEXIST', when: 'the disk has a store, or the name is taken' },
      { code: 'EINVAL', when: 'the cluster size cannot be used' },
      { code: 'ENOSPC', when: 'the disk is too small' },
    ],
    cli: {
      positionals: [text('bdev_name', 'disk'), text('lvs_name', 'name of the store')],
      flags: [
        { names: ['-c', '--cluster-sz'], dest: 'cluster_sz', kind: 'int', help: 'bytes of a cluster' },
        {
          ...{ names: ['--clear-method'], dest: 'clear_method', kind: 'string', help: 'ignored' },
          choices: CLEAR_METHODS,
        },
        {
          ...{ names: ['-m', '--md-pages-per-cluster-ratio'], dest: 'num_md_pages_per_cluster_ratio', kind: 'int' },
          help: 'ignored',
        },
        { names: ['-s', '--md-page-size'], dest: 'md_page_size', kind: 'int', help: 'ignored' },
      ],
      print: 'json',
    },
    example: { params: { bdev_name: 'Nvme0n1', lvs_name: 'lvs0' }, result: STORE },
  }),

  bdev_lvol_load_lvstore: defineMethod({
    summary: 'Make bdevs of the volumes of the store on a disk',
    details:
      'An addition of Ringhost: SPDK looks at every disk by itself. Nothing is looked at here unless it is asked ' +
      'for, because a guest may have written it. `save_config` has this call for every store that is loaded.',
    params: onBase('Disk with the store.'),
    result: z.string().describe('UUID of the store.'),
    errors: [
      ENODEV,
      EIO,
      { code: 'EPERM', when: 'the disk is claimed, or a controller serves it' },
      { code: 'ENOENT', when: 'there is no store on the disk' },
      { code: 'EINVAL', when: 'the store cannot be used: what is wrong is said' },
      { code: 'EEXIST', when: 'it is loaded already, or another one has its name' },
    ],
    cli: baseCli('disk with the store'),
    example: { params: { bdev_name: 'Nvme0n1' }, result: STORE },
  }),

  bdev_lvol_unload_lvstore: defineMethod({
    summary: 'Take away the bdevs of a store',
    details: 'What is on the disk stays: `bdev_lvol_load_lvstore` brings them back. An addition of Ringhost.',
    params: onBase('Disk with the store.'),
    result: z.boolean(),
    errors: [ENODEV, BUSY],
    cli: baseCli('disk with the store'),
    example: { params: { bdev_name: 'Nvme0n1' }, result: true },
  }),

  bdev_lvol_delete_lvstore: defineMethod({
    summary: 'Delete a store and all its volumes',
    params: z.strictObject(oneStore),
    result: z.boolean(),
    errors: [NO_STORE, BUSY, EIO],
    cli: { flags: storeFlags, print: 'nothing' },
    example: { params: { lvs_name: 'lvs0' }, result: true },
  }),

  bdev_lvol_rename_lvstore: defineMethod({
    summary: 'Rename a store',
    params: z.strictObject({
      old_name: bdevName.describe('Its name so far.'),
      new_name: bdevName.describe('At most 63 bytes, without slashes.'),
    }),
    result: z.boolean(),
    errors: [NO_STORE, NAME_TAKEN, EIO],
    cli: { positionals: [text('old_name', 'its name so far'), text('new_name', 'new name')], print: 'nothing' },
    example: { params: { old_name: 'lvs0', new_name: 'vms' }, result: true },
  }),

  bdev_lvol_get_lvstores: defineMethod({
    summary: 'List stores of logical volumes',
    params: z.strictObject(oneStore),
    result: z.array(storeInfo),
    errors: [NO_STORE],
    cli: { flags: storeFlags, print: 'json' },
    example: {
      params: {},
      result: [
        {
          ...{ uuid: STORE, name: 'lvs0', base_bdev: 'Nvme0n1', total_data_clusters: 1022, free_clusters: 1000 },
          ...{ block_size: 512, cluster_size: 1_048_576 },
        },
      ],
    },
  }),

  bdev_lvol_check_lvstore: defineMethod({
    summary: 'Check that a store is consistent',
    details:
      'Reads everything that the disk has of it again, and compares it with what the daemon knows. Every cluster is ' +
      'of one volume or free, and every volume has what its parents have. Volumes are served meanwhile. Loading a ' +
      'store checks it too. An addition of Ringhost.',
    params: z.strictObject(oneStore),
    result: z.strictObject({ name: z.string(), is_consistent: z.boolean(), faults: z.array(z.string()) }),
    errors: [NO_STORE, EIO],
    cli: { flags: storeFlags, print: 'json' },
    example: { params: { lvs_name: 'lvs0' }, result: { name: 'lvs0', is_consistent: true, faults: [] } },
  }),
};

const volumeMethods = {
  bdev_lvol_create: defineMethod({
    summary: 'Create a logical volume',
    details: 'Its bdev has its UUID as name, and `STORE/NAME` as alias. It reads as zeroes.',
    params: z.strictObject({
      lvol_name: bdevName.describe('At most 63 bytes, without slashes.'),
      size_in_mib: uint53.min(1).describe('MiB, rounded up to whole clusters.'),
      thin_provision: z
        .boolean()
        .default(false)
        .describe('Clusters are given to it when they are written. Otherwise it has all of them from the start.'),
      ...oneStore,
      clear_method: z.enum(VOLUME_CLEAR_METHODS).optional().describe('No effect: clusters are always zeroed.'),
    }),
    ignored: ['clear_method'],
    result: z.string().describe('UUID of the volume.'),
    errors: [NO_STORE, NAME_TAKEN, NO_ROOM, EIO],
    waits: ({ thin_provision: isThin }) => isThin !== true,
    cli: {
      positionals: [text('lvol_name', 'name'), { name: 'size_in_mib', kind: 'int', help: 'MiB' }],
      flags: [
        ...storeFlags,
        { names: ['-t', '--thin-provision'], dest: 'thin_provision', kind: 'switch', help: 'clusters when written' },
        {
          ...{ names: ['-c', '--clear-method'], dest: 'clear_method', kind: 'string', help: 'ignored' },
          choices: VOLUME_CLEAR_METHODS,
        },
      ],
      print: 'json',
    },
    example: {
      params: { lvol_name: 'vm0', size_in_mib: 10_240, thin_provision: true, lvs_name: 'lvs0' },
      result: VOLUME,
    },
  }),

  bdev_lvol_snapshot: defineMethod({
    summary: 'Keep what a volume has now as a snapshot',
    details:
      'At one moment: what was done by then is in it, and nothing later. Guests go on; what they ask for waits until ' +
      'what is under way has ended. The volume is thin from then on.',
    params: z.strictObject({
      lvol_name: volumeName('Volume'),
      snapshot_name: bdevName.describe('Name of the snapshot.'),
    }),
    result: z.string().describe('UUID of the snapshot.'),
    errors: [NO_VOLUME, NAME_TAKEN, BUSY, READONLY, EIO],
    cli: {
      positionals: [text('lvol_name', 'volume'), text('snapshot_name', 'name of the snapshot')],
      print: 'json',
    },
    example: { params: { lvol_name: 'lvs0/vm0', snapshot_name: 'vm0-monday' }, result: SNAPSHOT },
  }),

  bdev_lvol_clone: defineMethod({
    summary: 'Create a volume that begins as a snapshot is',
    details: 'Both share their clusters until the clone writes to them.',
    params: z.strictObject({
      snapshot_name: volumeName('Snapshot, or a volume that is read-only'),
      clone_name: bdevName.describe('Name of the clone.'),
    }),
    result: z.string().describe('UUID of the clone.'),
    errors: [NO_VOLUME, NAME_TAKEN, BUSY, { code: 'EINVAL', when: 'the volume can be written' }, EIO],
    cli: { positionals: [text('snapshot_name', 'snapshot'), text('clone_name', 'name of the clone')], print: 'json' },
    example: { params: { snapshot_name: 'lvs0/vm0-monday', clone_name: 'vm1' }, result: VOLUME },
  }),

  bdev_lvol_rename: defineMethod({
    summary: 'Rename a volume',
    details: 'Its alias changes; its bdev keeps its name, the UUID.',
    params: z.strictObject({
      old_name: volumeName('Volume'),
      new_name: bdevName.describe('New name, without that of the store.'),
    }),
    result: z.boolean(),
    errors: [NO_VOLUME, NAME_TAKEN, EIO],
    cli: { positionals: [text('old_name', 'volume'), text('new_name', 'new name')], print: 'nothing' },
    example: { params: { old_name: 'lvs0/vm0', new_name: 'web0' }, result: true },
  }),

  bdev_lvol_resize: defineMethod({
    summary: 'Change the size of a volume',
    params: z.strictObject({
      name: volumeName('Volume'),
      size_in_mib: uint53.min(1).describe('MiB, rounded up to whole clusters.'),
    }),
    result: z.boolean(),
    errors: [NO_VOLUME, { code: 'EBUSY', when: 'it would shrink while it is in use, or is busy' }, NO_ROOM, READONLY],
    cli: {
      positionals: [text('name', 'volume'), { name: 'size_in_mib', kind: 'int', help: 'MiB' }],
      print: 'nothing',
    },
    example: { params: { name: 'lvs0/vm0', size_in_mib: 20_480 }, result: true },
  }),

  bdev_lvol_set_read_only: defineMethod({
    summary: 'Make a volume read-only, for ever',
    details: 'Writes fail from then on. It can be cloned.',
    params: z.strictObject({ name: volumeName('Volume') }),
    result: z.boolean(),
    errors: [NO_VOLUME, BUSY, EIO],
    cli: namedCli('volume'),
    example: { params: { name: 'lvs0/vm0' }, result: true },
  }),

  bdev_lvol_delete: defineMethod({
    summary: 'Delete a volume or a snapshot',
    details: 'What its only clone still has of a snapshot goes to that one.',
    params: byName('Volume or snapshot, by UUID or alias.'),
    result: z.boolean(),
    errors: [NO_VOLUME, { code: 'EBUSY', when: 'it has several clones, or is busy' }, EIO],
    cli: namedCli('volume'),
    example: { params: { name: 'lvs0/vm0-monday' }, result: true },
  }),

  bdev_lvol_inflate: defineMethod({
    summary: 'Give a volume all its clusters',
    details:
      'What it shares with its parent is copied, and the rest zeroed; then it has no parent. A job (docs/jobs.md).',
    params: byName('Volume, by UUID or alias.'),
    result: z.boolean(),
    errors: [NO_VOLUME, BUSY, READONLY, NO_ROOM, { code: 'ECANCELED', when: 'the job was cancelled' }, EIO],
    waits: () => true,
    cli: namedCli('volume'),
    example: { params: { name: 'lvs0/vm1' }, result: true },
  }),

  bdev_lvol_decouple_parent: defineMethod({
    summary: 'Make a volume independent of its parent',
    details:
      'What its parent wrote is copied; what that one has of its own parent stays shared with that. A job ' +
      '(docs/jobs.md).',
    params: byName('Volume, by UUID or alias.'),
    result: z.boolean(),
    errors: [
      NO_VOLUME,
      BUSY,
      { code: 'EINVAL', when: 'it has no parent, or is read-only' },
      NO_ROOM,
      { code: 'ECANCELED', when: 'the job was cancelled' },
      EIO,
    ],
    waits: () => true,
    cli: namedCli('volume'),
    example: { params: { name: 'lvs0/vm1' }, result: true },
  }),

  bdev_lvol_get_lvols: defineMethod({
    summary: 'List logical volumes and snapshots',
    params: z.strictObject({
      lvs_uuid: uuid.optional().describe('Only of the store with this UUID.'),
      lvs_name: bdevName.optional().describe('Only of the store with this name.'),
    }),
    result: z.array(volumeInfo),
    errors: [NO_STORE],
    cli: {
      flags: [
        { names: ['-u', '--lvs-uuid'], dest: 'lvs_uuid', kind: 'string', help: 'only of the store with this UUID' },
        { names: ['-l', '--lvs-name'], dest: 'lvs_name', kind: 'string', help: 'only of the store with this name' },
      ],
      print: 'json',
    },
    example: {
      params: { lvs_name: 'lvs0' },
      result: [
        {
          ...{ alias: 'lvs0/vm0', uuid: VOLUME, name: 'vm0', is_thin_provisioned: true, is_snapshot: false },
          ...{ is_clone: false, is_esnap_clone: false, is_degraded: false, lvs: { name: 'lvs0', uuid: STORE } },
        },
      ],
    },
  }),
};

export const lvolMethods = { ...storeMethods, ...volumeMethods };

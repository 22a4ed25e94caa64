/** The methods of Ceph RBD disks. */
import { z } from 'zod';
import { type CliFlag, type CliSpec, defineMethod, uint53, uuid } from '../define.ts';
import { BLOCK_SIZES, bdevName, byName, EEXIST, ENODEV, namedCli } from './bdev.ts';

const text = z.string().min(1).max(255);
const settings = z.record(z.string().min(1).max(255), z.string().max(4095));

const clusterInfo = z.object({
  cluster_name: z.string(),
  user_id: z.string().optional(),
  config_param: z.record(z.string(), z.string()).optional().describe('Without the key.'),
  config_file: z.string().optional(),
  key_file: z.string().optional(),
  core_mask: z.string().optional(),
  fsid: z.string().describe('Id of the cluster. An addition of Ringhost, as what follows.'),
  address: z.string().describe('Of this client, as locks and blocklists show it.'),
  bdevs: z.int().describe('Disks over it.'),
});

const connectErrors = [
  { code: 'ENOSYS', when: 'librbd1 or librados2 is not installed; the error names the packages' },
  { code: 'ENOENT', when: 'no monitor or no key is known' },
  { code: 'EACCES', when: 'the monitors refuse the user or its key' },
  { code: 'ETIMEDOUT', when: 'no monitor answers in `client_mount_timeout` seconds (30 by default)' },
  { code: 'EINVAL', when: 'Ceph has no such option, or does not take its value' },
] as const;

const createPositionals: CliSpec['positionals'] = [
  { name: 'pool_name', kind: 'string', help: 'name of the pool' },
  { name: 'rbd_name', kind: 'string', help: 'name of the image' },
  { name: 'block_size', kind: 'int', help: 'bytes a block: 512, 1024, 2048 or 4096' },
];
const nameFlag: CliFlag = { names: ['-b', '--name'], dest: 'name', kind: 'string', help: 'name of the bdev' };
const userFlag: CliFlag = { names: ['--user'], dest: 'user_id', kind: 'string', help: 'user of Ceph, without client.' };

export const rbdMethods = {
  bdev_rbd_register_cluster: defineMethod({
    summary: 'Connect to a Ceph cluster, for any number of disks',
    params: z.strictObject({
      name: text.describe('Name for the cluster here.'),
      user_id: text.optional().describe('User of Ceph, without `client.`. Default: `admin`.'),
      config_param: settings.optional().describe('Options of Ceph (`mon_host`, `key`, …), over those of the file.'),
      config_file: z.string().min(1).max(4095).optional().describe('Default: where Ceph looks, /etc/ceph/ceph.conf.'),
      key_file: z
        .string()
        .min(1)
        .max(4095)
        .optional()
        .describe('Keyring with the user’s key. Default: where Ceph looks.'),
      core_mask: text.optional().describe('Cores for the threads of librbd, as for `-m`. Default: any.'),
    }),
    result: z.string().describe('Name of the cluster.'),
    errors: [{ code: 'EEXIST', when: 'a cluster is registered under this name' }, ...connectErrors],
    cli: {
      positionals: [{ name: 'name', kind: 'string', help: 'name for the cluster' }],
      flags: [
        userFlag,
        { names: ['--config-param'], dest: 'config_param', kind: 'pairs', help: 'an option of Ceph; may be repeated' },
        { names: ['--config-file'], dest: 'config_file', kind: 'string', help: 'path of a ceph.conf' },
        { names: ['--key-file'], dest: 'key_file', kind: 'string', help: 'path of a keyring' },
        { names: ['--core-mask'], dest: 'core_mask', kind: 'string', help: 'cores for the threads of librbd' },
      ],
      print: 'text',
    },
    example: { params: { name: 'ceph', user_id: 'vms' }, result: 'ceph' },
  }),

  bdev_rbd_unregister_cluster: defineMethod({
    summary: 'Disconnect from a Ceph cluster',
    params: z.strictObject({ name: text.describe('Name it was registered under.') }),
    result: z.boolean(),
    errors: [
      { code: 'ENOENT', when: 'no cluster is registered under this name' },
      { code: 'EBUSY', when: 'there are disks over it' },
    ],
    cli: namedCli('registered cluster'),
    example: { params: { name: 'ceph' }, result: true },
  }),

  bdev_rbd_get_clusters_info: defineMethod({
    summary: 'List registered Ceph clusters',
    params: z.strictObject({ name: text.optional().describe('Only this one, not in a list. Default: all.') }),
    result: z.union([clusterInfo, z.array(clusterInfo)]),
    errors: [{ code: 'ENOENT', when: 'no cluster is registered under this name' }],
    cli: {
      flags: [{ names: ['-b', '--name'], dest: 'name', kind: 'string', help: 'only this cluster' }],
      print: 'json',
    },
    example: {
      params: {},
      result: [
        {
          cluster_name: 'ceph',
          user_id: 'vms',
          fsid: '22b65149-b5e8-4d1e-a2e5-b35ba0f0e11f',
          address: '10.0.0.5:0/2726781513',
          bdevs: 3,
        },
      ],
    },
  }),

  bdev_rbd_create: defineMethod({
    summary: 'Create a disk over an image of Ceph',
    details: 'See docs/rbd.md for what is stable when, for locks, and for what happens when parts of the cluster fail.',
    params: z.strictObject({
      name: bdevName.optional().describe('Name. Default: `Ceph0`, `Ceph1`, … in the order of creation.'),
      user_id: text.optional().describe('User of Ceph, without `client.`. Default: `admin`.'),
      pool_name: text.describe('Pool of the image.'),
      rbd_name: text.describe('Image.'),
      block_size: z.literal(BLOCK_SIZES).describe('Bytes a block.'),
      config: settings.optional().describe('Options of Ceph (`mon_host`, `key`, …), over those of the file.'),
      cluster_name: text
        .optional()
        .describe('A registered cluster. Default: a connection for this disk, made of `user_id` and `config`.'),
      uuid: uuid.optional().describe('Default: made of cluster, pool and image, so that it is the same next time.'),
      read_only: z.boolean().default(false).describe('Open for reading only. Default: false.'),
      lock: z
        .enum(['share', 'hold', 'break'])
        .default('share')
        .describe(
          'The exclusive lock: taken with the first write and given up to who asks, taken now and kept, or the same ' +
            'from whoever has it, who is shut out. Default: `share`. An addition of Ringhost.',
        ),
    }),
    result: z.string().describe('Name of the new bdev.'),
    errors: [
      EEXIST,
      { code: 'EBUSY', when: 'with `lock` `hold`, another client that may live has the lock' },
      ...connectErrors.filter(({ code }) => code !== 'ENOENT'),
      { code: 'ENOENT', when: 'there is no such pool, image or registered cluster, or no monitor or key is known' },
      { code: 'EPERM', when: 'the user may not use the pool' },
    ],
    aliases: [{ name: 'construct_rbd_bdev' }],
    cli: {
      positionals: createPositionals,
      flags: [
        nameFlag,
        userFlag,
        { names: ['--config'], dest: 'config', kind: 'pairs', help: 'an option of Ceph; may be repeated' },
        { names: ['-c', '--cluster-name'], dest: 'cluster_name', kind: 'string', help: 'a registered cluster' },
        { names: ['-u', '--uuid'], dest: 'uuid', kind: 'string', help: 'UUID of the bdev' },
        { names: ['-r', '--readonly'], dest: 'read_only', kind: 'switch', help: 'open for reading only' },
        {
          names: ['--lock'],
          dest: 'lock',
          kind: 'string',
          choices: ['share', 'hold', 'break'],
          help: 'what to do about the exclusive lock',
        },
      ],
      print: 'text',
    },
    example: {
      params: { name: 'Ceph0', pool_name: 'vms', rbd_name: 'web1', block_size: 512, cluster_name: 'ceph' },
      result: 'Ceph0',
    },
  }),

  bdev_rbd_delete: defineMethod({
    summary: 'Delete a disk that bdev_rbd_create made',
    details: 'The image stays. Controllers that use the disk lose it first: their guests see I/O errors, not a hang.',
    params: byName('Disk to delete.'),
    result: z.boolean(),
    errors: [
      ENODEV,
      { code: 'EINVAL', when: 'the bdev is of another kind' },
      { code: 'ETIMEDOUT', when: 'requests in flight did not end in 10 s; the bdev goes as soon as they are over' },
    ],
    aliases: [{ name: 'delete_rbd_bdev' }],
    cli: namedCli('disk to delete'),
    example: { params: { name: 'Ceph0' }, result: true },
  }),

  bdev_rbd_resize: defineMethod({
    summary: 'Change the size of an image of Ceph',
    details: 'As `rbd resize`, which does as well: a running guest sees the new size at once in both cases.',
    params: z.strictObject({
      name: bdevName.describe('Disk over the image.'),
      new_size: uint53.min(1).describe('New size in MiB.'),
    }),
    result: z.boolean(),
    errors: [
      ENODEV,
      { code: 'EINVAL', when: 'the bdev is of another kind' },
      { code: 'EBUSY', when: 'the new size is smaller and a controller uses the bdev' },
    ],
    cli: {
      positionals: [
        { name: 'name', kind: 'string', help: 'disk over the image' },
        { name: 'new_size', kind: 'int', help: 'new size in MiB' },
      ],
      print: 'text',
    },
    example: { params: { name: 'Ceph0', new_size: 20480 }, result: true },
  }),
};

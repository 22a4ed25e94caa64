/** The methods of disks over NBD exports. SPDK has none: its nbd_* methods are the other direction. */
import { z } from 'zod';
import { defineMethod, uuid } from '../define.ts';
import { BLOCK_SIZES, bdevName, byName, EEXIST, ENODEV, namedCli } from './bdev.ts';

const seconds = z.int().min(0).max(86_400);
const file = z.string().min(1).max(4095);

export const nbdMethods = {
  bdev_nbd_create: defineMethod({
    summary: 'Create a disk over an NBD export',
    details: 'An addition of Ringhost. See docs/nbd.md for what happens while the server is away.',
    params: z.strictObject({
      name: bdevName.describe('Name.'),
      uri: z
        .string()
        .min(1)
        .max(8191)
        .describe(
          '`nbd://HOST:PORT/EXPORT` or `nbd+unix:///EXPORT?socket=PATH`; `nbds` and `nbds+unix` with TLS. A host is ' +
            'looked up once.',
        ),
      block_size: z
        .literal([0, ...BLOCK_SIZES])
        .optional()
        .describe('Bytes a block. Default: 0, 512 or what the server wants at least.'),
      uuid: uuid.optional().describe('Default: made of `uri`, so that it is the same next time.'),
      readonly: z.boolean().optional().describe('Never write. Default: as the export is.'),
      io_timeout_sec: seconds
        .optional()
        .describe('Give up a connection with requests on which nothing comes for so long. Default: 0, never.'),
      reconnect_timeout_sec: seconds
        .optional()
        .describe('Fail requests that waited so long for a connection. Default: 0, they wait as long as it takes.'),
      tls_hostname: z.string().optional().describe("Name in the server's certificate. Default: the host of `uri`."),
      tls_ca: file.optional().describe('File with the authorities that are trusted. Default: those of Node.js.'),
      tls_cert: file.optional().describe('File with our certificate.'),
      tls_key: file.optional().describe('File with its key.'),
    }),
    result: z.string().describe('Name of the new bdev.'),
    errors: [
      EEXIST,
      { code: 'ECONNREFUSED', when: 'there is no such server, or it ends the connection' },
      { code: 'EINVAL', when: 'the URI is none, or the server refuses the export' },
    ],
    cli: {
      positionals: [
        { name: 'name', kind: 'string', help: 'name of the bdev' },
        { name: 'uri', kind: 'string', help: 'nbd://HOST:PORT/EXPORT or nbd+unix:///EXPORT?socket=PATH' },
        { name: 'block_size', kind: 'int', help: 'bytes a block: 512, 1024, 2048 or 4096', isOptional: true },
      ],
      flags: [
        { names: ['-u', '--uuid'], dest: 'uuid', kind: 'string', help: 'UUID of the bdev' },
        { names: ['-r', '--readonly'], dest: 'readonly', kind: 'switch', help: 'never write', isAddition: true },
        { names: ['--io-timeout-sec'], dest: 'io_timeout_sec', kind: 'int', help: 'longest silence of the server' },
        { names: ['--reconnect-timeout-sec'], dest: 'reconnect_timeout_sec', kind: 'int', help: 'longest wait' },
        { names: ['--tls-hostname'], dest: 'tls_hostname', kind: 'string', help: "name in the server's certificate" },
        { names: ['--tls-ca'], dest: 'tls_ca', kind: 'string', help: 'file with trusted authorities' },
        { names: ['--tls-cert'], dest: 'tls_cert', kind: 'string', help: 'file with our certificate' },
        { names: ['--tls-key'], dest: 'tls_key', kind: 'string', help: 'file with its key' },
      ],
      print: 'text',
    },
    example: { params: { name: 'Nbd0', uri: 'nbd://127.0.0.1:10809/vm0' }, result: 'Nbd0' },
  }),

  bdev_nbd_delete: defineMethod({
    summary: 'Delete a disk that bdev_nbd_create made',
    details: 'The export stays. Controllers that use the disk lose it first: their guests see I/O errors, not a hang.',
    params: byName('Disk to delete.'),
    result: z.boolean(),
    errors: [ENODEV, { code: 'EINVAL', when: 'the bdev is of another kind' }],
    cli: namedCli('disk to delete'),
    example: { params: { name: 'Nbd0' }, result: true },
  }),

  bdev_nbd_resize: defineMethod({
    summary: 'Look at the size of an NBD export again',
    details: 'After the export grew. A running guest sees the new size at once.',
    params: byName('Disk whose export has a new size.'),
    result: z.boolean(),
    errors: [
      ENODEV,
      { code: 'ECONNREFUSED', when: 'the server is away' },
      { code: 'EINVAL', when: 'the bdev is of another kind' },
      { code: 'EBUSY', when: 'the export is smaller and a controller uses the bdev' },
    ],
    cli: { ...namedCli('disk whose export has a new size'), print: 'json' },
    example: { params: { name: 'Nbd0' }, result: true },
  }),
};

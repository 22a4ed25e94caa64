/** The methods of disks that users wrote in TypeScript: an addition of Ringhost. */
import { resolve } from 'node:path';
import { z } from 'zod';
import { defineMethod, uint53, uuid } from '../define.ts';
import { bdevName, byName, EEXIST, ENODEV, namedCli } from './bdev.ts';

const WRONG_KIND = { code: 'EINVAL', when: 'the bdev is of another kind' } as const;

export const moduleMethods = {
  bdev_module_create: defineMethod({
    summary: 'Create a disk that is written in TypeScript',
    details:
      'An addition of Ringhost: docs/write-a-bdev.md. The file is loaded into a thread of its own, in the daemon and ' +
      "with the daemon's rights. A disk that throws at its start is tried again for ten seconds.",
    params: z.strictObject({
      name: bdevName.optional().describe('Name. Default: that of the file, without its end.'),
      path: z.string().min(1).max(4095).describe('File with the disk: `.ts`, `.mts`, `.js` or `.mjs`.'),
      options: z.record(z.string(), z.string()).default({}).describe('What the disk is made with.'),
      timeout_sec: z
        .int()
        .min(0)
        .max(86_400)
        .default(20)
        .describe('A thread that holds a request for so long is ended, and started again. 0: never.'),
      uuid: uuid.optional().describe('Default: made of name and path, so that it is the same next time.'),
    }),
    result: z.string().describe('Name of the new bdev.'),
    errors: [
      EEXIST,
      { code: 'ENOENT', when: 'there is no such file' },
      { code: 'EIO', when: 'the file cannot be loaded, or the disk throws at its start: the log has the stack' },
    ],
    cli: {
      positionals: [
        { name: 'path', kind: 'string', help: 'file with the disk' },
        { name: 'options', kind: 'pairs', help: 'what it is made with', isOptional: true },
      ],
      flags: [
        { names: ['-b', '--name'], dest: 'name', kind: 'string', help: 'name of the bdev' },
        { names: ['-u', '--uuid'], dest: 'uuid', kind: 'string', help: 'UUID of the bdev' },
        { names: ['--timeout-sec'], dest: 'timeout_sec', kind: 'int', help: 'longest request; 0 for no limit' },
      ],
      // The daemon has another working directory.
      toParams: ({ path, ...rest }) => ({ path: resolve(String(path)), ...rest }),
      print: 'text',
    },
    example: {
      params: { path: '/srv/disks/my-disk.ts', options: { size: '64M' } },
      result: 'my-disk',
    },
  }),

  bdev_module_delete: defineMethod({
    summary: 'Delete a disk that bdev_module_create made',
    details: 'The disk closes when nothing is in flight, then its thread ends.',
    params: byName('Disk to delete.'),
    result: z.boolean(),
    errors: [ENODEV, WRONG_KIND],
    cli: namedCli('disk to delete'),
    example: { params: { name: 'my-disk' }, result: true },
  }),

  bdev_module_resize: defineMethod({
    summary: 'Change the size of a disk that is written in TypeScript',
    params: z.strictObject({
      name: bdevName.describe('Bdev to resize.'),
      new_size: uint53
        .min(1)
        .max(2 ** 32)
        .describe('New size in MiB.'),
    }),
    result: z.boolean(),
    errors: [
      ENODEV,
      WRONG_KIND,
      { code: 'EBUSY', when: 'it would shrink while it is in use' },
      { code: 'ENOTSUP', when: 'the disk has no function for it' },
      { code: 'EIO', when: 'that function throws' },
    ],
    cli: {
      positionals: [
        { name: 'name', kind: 'string', help: 'bdev to resize' },
        { name: 'new_size', kind: 'int', help: 'new size in MiB' },
      ],
      print: 'text',
    },
    example: { params: { name: 'my-disk', new_size: 128 }, result: true },
  }),
};

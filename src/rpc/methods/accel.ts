/** The methods of keys for crypto disks. SPDK has them in its acceleration framework, and so they have that name. */
import { z } from 'zod';
import { defineMethod } from '../define.ts';

const keyName = z.string().min(1).max(255);
const NO_KEY = { code: 'ENOENT', when: 'there is no such key' } as const;
const TWEAK_MODES = ['SIMPLE_LBA', 'JOIN_NEG_LBA_WITH_LBA', 'INCR_512_FULL_LBA', 'INCR_512_UPPER_LBA'] as const;
const CIPHERS = ['AES_XTS'] as const;

export const accelMethods = {
  accel_crypto_key_create: defineMethod({
    summary: 'Make a key known, for crypto disks',
    errorStyle: 'invalid_params',
    details:
      'A key that comes in the call is in the daemon’s memory alone: no answer, no log, no `save_config` and no ' +
      '`--state-dir` has it, so it must be given again to a daemon that starts again (SPDK saves it, and shows it in ' +
      '`accel_crypto_keys_get`). Of a `key_file` the path is saved. Not served: AES_CBC, which is not safe for disks.',
    params: z.strictObject({
      name: keyName.describe('Name of the key.'),
      cipher: z.enum(CIPHERS).describe('Cipher: AES with 128 or 256 bits, by the length of the key.'),
      key: z.string().optional().describe('First half of the key in hex, 32 or 64 digits.'),
      key2: z.string().optional().describe('Second half in hex, as long as the first, and not the same.'),
      key_file: z
        .string()
        .min(1)
        .max(4095)
        .optional()
        .describe(
          'Instead of both: a file with their 32 or 64 bytes, as `cryptsetup --key-file` has it. An addition of ' +
            'Ringhost.',
        ),
      tweak_mode: z
        .enum(TWEAK_MODES)
        .default('SIMPLE_LBA')
        .describe('How the number of a block goes into its encryption, docs/stacked-bdevs.md.'),
    }),
    secrets: ['key', 'key2'],
    result: z.boolean(),
    errors: [
      { code: 'EEXIST', when: 'a key has this name' },
      { code: 'EINVAL', when: 'it is not a key, or both halves are the same' },
      { code: 'ENOENT', when: 'there is no such `key_file`' },
      { code: 'EACCES', when: 'the daemon may not read it' },
    ],
    cli: {
      flags: [
        { names: ['-c', '--cipher'], dest: 'cipher', kind: 'string', choices: CIPHERS, help: 'cipher' },
        { names: ['-k', '--key'], dest: 'key', kind: 'string', help: 'first half in hex; others see it in the list' },
        { names: ['-e', '--key2'], dest: 'key2', kind: 'string', help: 'second half in hex' },
        { names: ['--key-file'], dest: 'key_file', kind: 'string', help: 'file with both, as bytes' },
        { names: ['-t', '--tweak-mode'], dest: 'tweak_mode', kind: 'string', choices: TWEAK_MODES, help: 'tweak' },
        { names: ['-n', '--name'], dest: 'name', kind: 'string', help: 'name of the key' },
      ],
      print: 'json',
    },
    example: { params: { name: 'key0', cipher: 'AES_XTS', key_file: '/etc/ringhost/key0' }, result: true },
  }),

  accel_crypto_keys_get: defineMethod({
    summary: 'List the keys for crypto disks, without what is secret',
    errorStyle: 'invalid_params',
    params: z.strictObject({ key_name: keyName.optional().describe('Only this one.') }),
    result: z.array(
      z.object({
        name: z.string(),
        cipher: z.enum(CIPHERS),
        tweak_mode: z.enum(TWEAK_MODES),
        key_file: z.string().optional(),
        users: z.int().describe('Disks that it encrypts.'),
      }),
    ),
    errors: [NO_KEY],
    cli: {
      flags: [{ names: ['-k', '--key-name'], dest: 'key_name', kind: 'string', help: 'only this one' }],
      print: 'json',
    },
    example: {
      params: {},
      result: [{ name: 'key0', cipher: 'AES_XTS', tweak_mode: 'SIMPLE_LBA', key_file: '/etc/ringhost/key0', users: 1 }],
    },
  }),

  accel_crypto_key_destroy: defineMethod({
    summary: 'Forget a key',
    errorStyle: 'invalid_params',
    details: 'Its memory is overwritten. Without it nobody reads the disks again: keep it elsewhere.',
    params: z.strictObject({ key_name: keyName.describe('Key to forget.') }),
    result: z.boolean(),
    errors: [NO_KEY, { code: 'EBUSY', when: 'a disk uses it' }],
    cli: {
      flags: [{ names: ['-n', '--name'], dest: 'key_name', kind: 'string', help: 'key to forget' }],
      print: 'json',
    },
    example: { params: { key_name: 'key0' }, result: true },
  }),
};

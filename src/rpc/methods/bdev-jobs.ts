/** The methods of jobs: long work on bdevs, and how far it is. Additions of Ringhost. */
import { z } from 'zod';
import { type CliFlag, defineMethod, uint32, uint53 } from '../define.ts';
import { bdevName, ENODEV } from './bdev.ts';

const METHODS = ['write_zeroes', 'unmap'] as const;
const jobId = uint53.min(1);
const NO_JOB = { code: 'ENOENT', when: 'there is no such job' } as const;
const IN_USE = { code: 'EPERM', when: 'a bdev is claimed by another one, or a controller serves it' } as const;

const limit = uint32.default(0).describe('MiB a second at most. 0, the default: no limit.');
const limitFlag: CliFlag = {
  names: ['-l', '--max-bandwidth-mb-sec'],
  dest: 'max_bandwidth_mb_sec',
  kind: 'int',
  help: 'MiB a second at most',
};
const methodFlag: CliFlag = {
  names: ['-m', '--method'],
  dest: 'method',
  kind: 'string',
  choices: METHODS,
  help: 'how',
};

const jobInfo = z.object({
  id: z.int(),
  type: z.string().describe('`erase`, `copy`, `rebuild`, …'),
  bdev: z.string().describe('The bdev that it changes.'),
  source: z.string().optional().describe('The bdev that it reads.'),
  state: z.enum(['running', 'done', 'failed', 'cancelled']),
  error: z.string().optional().describe('Why it failed.'),
  total_bytes: z.int(),
  done_bytes: z.int(),
  percent: z.int().describe('Rounded down.'),
  elapsed_ms: z.int().describe('Since it began; of one that has ended, until then.'),
  max_bandwidth_mb_sec: z.int(),
});

export const jobMethods = {
  bdev_get_jobs: defineMethod({
    summary: 'List jobs: long work that goes on by itself',
    details: 'Those that run and the last ones that ended, in the order in which they began.',
    params: z.strictObject({ id: jobId.optional().describe('Only this one.') }),
    result: z.array(jobInfo),
    errors: [NO_JOB],
    cli: { flags: [{ names: ['-i', '--id'], dest: 'id', kind: 'int', help: 'only this one' }], print: 'json' },
    example: {
      params: {},
      result: [
        {
          ...{ id: 1, type: 'copy', bdev: 'Nvme0n1', source: 'Aio0', state: 'running', total_bytes: 68_719_476_736 },
          ...{ done_bytes: 17_179_869_184, percent: 25, elapsed_ms: 8_412, max_bandwidth_mb_sec: 0 },
        },
      ],
    },
  }),

  bdev_job_cancel: defineMethod({
    summary: 'End a job before it is done',
    details: 'Answered when it has ended. What it has done so far stays. One that has ended already stays as it is.',
    params: z.strictObject({ id: jobId.describe('Job to end.') }),
    result: z.boolean(),
    errors: [NO_JOB],
    waits: () => true,
    cli: { positionals: [{ name: 'id', kind: 'int', help: 'job to end' }], print: 'nothing' },
    example: { params: { id: 1 }, result: true },
  }),

  bdev_job_set_options: defineMethod({
    summary: 'Limit the bandwidth of a job that runs',
    params: z.strictObject({ id: jobId.describe('Job.'), max_bandwidth_mb_sec: limit }),
    result: z.boolean(),
    errors: [NO_JOB],
    cli: { positionals: [{ name: 'id', kind: 'int', help: 'job' }], flags: [limitFlag], print: 'nothing' },
    example: { params: { id: 1, max_bandwidth_mb_sec: 200 }, result: true },
  }),

  bdev_erase: defineMethod({
    summary: 'Make all blocks of a disk zeroes',
    details:
      'A job: the answer is its number. Nobody may use the disk. `unmap` discards the blocks, and then what they ' +
      'read as is what the disk makes of that; it is fast, and no promise that nothing of the old content is left.',
    params: z.strictObject({
      name: bdevName.describe('Disk to erase.'),
      method: z.enum(METHODS).default('write_zeroes').describe('How.'),
      max_bandwidth_mb_sec: limit,
    }),
    result: z.int().describe('The job.'),
    errors: [ENODEV, IN_USE, { code: 'ENOTSUP', when: 'the disk cannot do it' }],
    cli: {
      positionals: [{ name: 'name', kind: 'string', help: 'disk to erase' }],
      flags: [methodFlag, limitFlag],
      print: 'json',
    },
    example: { params: { name: 'Nvme0n1' }, result: 1 },
  }),

  bdev_copy: defineMethod({
    summary: 'Copy all blocks of a disk to another one',
    details:
      'A job: the answer is its number. Nobody may use the destination, nor the source unless it cannot be written. ' +
      'What a larger destination has behind the end of the source stays as it is.',
    params: z.strictObject({
      source: bdevName.describe('Disk to read.'),
      destination: bdevName.describe('Disk to overwrite.'),
      max_bandwidth_mb_sec: limit,
    }),
    result: z.int().describe('The job.'),
    errors: [
      ENODEV,
      IN_USE,
      { code: 'EINVAL', when: 'both are the same, their block sizes differ, or the destination is smaller' },
      { code: 'ENOTSUP', when: 'the destination cannot be written' },
    ],
    cli: {
      positionals: [
        { name: 'source', kind: 'string', help: 'disk to read' },
        { name: 'destination', kind: 'string', help: 'disk to overwrite' },
      ],
      flags: [limitFlag],
      print: 'json',
    },
    example: { params: { source: 'Aio0', destination: 'Nvme0n1' }, result: 1 },
  }),
};

/** The methods of the RPC table about how long requests take, and where on the disk they go. */
import { z } from 'zod';
import { type CliSpec, type CliValues, defineMethod, uint53 } from '../define.ts';
import { bdevName, ENODEV, IO_TYPE_NAMES } from './bdev.ts';

/** The I/O types whose latencies are kept. */
export const TIMED_TYPES = ['read', 'write', 'flush', 'unmap', 'write_zeroes'] as const;

const namesParams = z.strictObject({
  names: z.array(bdevName).max(256).optional().describe('Only these bdevs. Default: all.'),
});
const namesCli: CliSpec = {
  flags: [{ names: ['--names'], dest: 'names', kind: 'list', help: 'only these bdevs, separated by commas' }],
  print: 'json',
};

const EXAMPLE_LATENCY = {
  type: 'read' as const,
  count: 100,
  sum_ns: 145_920,
  p50_ns: 1279,
  p99_ns: 2047,
  p999_ns: 4095,
  buckets: [
    [1279, 80],
    [2047, 19],
    [4095, 1],
  ] as [number, number][],
};

const latency = z.object({
  type: z.enum(TIMED_TYPES),
  count: z.int().describe('Requests that the buckets stand for.'),
  sum_ns: z.int().describe('Of their latencies.'),
  p50_ns: z.int().describe('Half of the requests took no longer; at most 3 % too high, as the others.'),
  p99_ns: z.int(),
  p999_ns: z.int().describe('99.9 %.'),
  buckets: z
    .array(z.tuple([z.int(), z.int()]))
    .describe('Ascending: the longest latency of the bucket in nanoseconds, and how many requests. None is empty.'),
});

const places = z
  .array(z.tuple([z.int(), z.int()]))
  .describe('Region, counted from 0 at the begin of the disk, and requests that began in it. None is empty.');

/** rpc.py turns -d into false, and everything else into true. */
function enableParams(values: CliValues): Readonly<Record<string, unknown>> {
  return { ...values, enable: values.disable !== true && values.histogram !== false };
}

export const latencyMethods = {
  bdev_get_latency: defineMethod({
    summary: 'Show how long requests of bdevs took',
    details:
      'From when the bdev was given a request until it ended, since the bdev was created. Counted are requests that ' +
      'succeeded. All are timed while fewer than about 100 000 a second of a type come to a reactor, one in 32 ' +
      'beyond, and then each stands for those before it. An addition of Ringhost.',
    params: namesParams,
    result: z.object({
      bdevs: z.array(z.object({ name: z.string(), latencies: z.array(latency).describe('Of types that there were.') })),
    }),
    errors: [ENODEV],
    cli: namesCli,
    example: {
      params: { names: ['Malloc0'] },
      result: { bdevs: [{ name: 'Malloc0', latencies: [EXAMPLE_LATENCY] }] },
    },
  }),

  vhost_get_latency: defineMethod({
    summary: 'Show how long requests of queues took',
    details:
      'What the requests of each running queue took in the disk, since its front-end connected. They are timed as ' +
      'those of bdevs are (`bdev_get_latency`). An addition of Ringhost.',
    params: z.strictObject({
      ctrlr: z.string().min(1).optional().describe('Only this controller. Default: all.'),
    }),
    result: z.object({
      controllers: z.array(
        z.object({
          ctrlr: z.string(),
          queues: z.array(
            z.object({ index: z.int(), latencies: z.array(latency).describe('Of types that there were.') }),
          ),
        }),
      ),
    }),
    errors: [{ code: 'ENODEV', when: 'there is no such controller' }],
    cli: {
      flags: [{ names: ['-n', '--ctrlr'], dest: 'ctrlr', kind: 'string', help: 'only this controller' }],
      print: 'json',
    },
    example: {
      params: { ctrlr: 'vhost.0' },
      result: { controllers: [{ ctrlr: 'vhost.0', queues: [{ index: 0, latencies: [EXAMPLE_LATENCY] }] }] },
    },
  }),

  bdev_get_regions: defineMethod({
    summary: 'Show where on bdevs requests go',
    details:
      'A disk is cut into regions of the same size. Counted since the bdev was created, estimated from the requests ' +
      'that were timed (`bdev_get_latency`). An addition of Ringhost.',
    params: namesParams,
    result: z.object({
      bdevs: z.array(
        z.object({
          name: z.string(),
          regions: z.int().describe('How many there are.'),
          reads: places,
          writes: places,
        }),
      ),
    }),
    errors: [ENODEV],
    cli: namesCli,
    example: {
      params: { names: ['Malloc0'] },
      result: { bdevs: [{ name: 'Malloc0', regions: 256, reads: [[0, 80]], writes: [[255, 12]] }] },
    },
  }),

  bdev_enable_histogram: defineMethod({
    summary: "Begin or end a histogram of a bdev's latencies",
    details:
      'Beginning one that there is already begins it anew. What it shows is what `bdev_get_latency` knows, in SPDK’s ' +
      'form: latencies are known to 3 %, and most requests of a fast disk stand for others.',
    params: z.strictObject({
      name: bdevName.describe('Bdev.'),
      enable: z.boolean().describe('Begin (true) or end.'),
      opc: z.enum(IO_TYPE_NAMES).optional().describe('Only requests of this type. Default: all.'),
      granularity: z.int().min(1).max(9).default(7).describe('Buckets to each power of two: 2 to this. Default: 7.'),
      min_nsec: uint53.default(0).describe('Shorter latencies fall into the first bucket. Default: 0.'),
      max_nsec: uint53.optional().describe('Latencies from here on fall into the last bucket. Default: no limit.'),
    }),
    result: z.boolean(),
    errors: [ENODEV, { code: 'EINVAL', when: '`min_nsec` is not below `max_nsec`' }],
    aliases: [{ name: 'enable_bdev_histogram' }],
    cli: {
      positionals: [{ name: 'name', kind: 'string', help: 'bdev' }],
      flags: [
        { names: ['-e', '--enable'], dest: 'enable', kind: 'switch', help: 'begin a histogram' },
        { names: ['-d', '--disable'], dest: 'disable', kind: 'switch', help: 'end it', isLocal: true },
        {
          names: ['--histogram'],
          dest: 'histogram',
          kind: 'yesno',
          fallback: true,
          help: 'begin or end it',
          isLocal: true,
        },
        { names: ['-o', '--opc'], dest: 'opc', kind: 'string', help: 'only requests of this I/O type' },
        {
          names: ['--granularity'],
          dest: 'granularity',
          kind: 'int',
          help: 'buckets to each power of two, as a power',
        },
        { names: ['--min-nsec'], dest: 'min_nsec', kind: 'int', help: 'where the first bucket begins' },
        { names: ['--max-nsec'], dest: 'max_nsec', kind: 'int', help: 'where the last one ends' },
      ],
      toParams: enableParams,
      print: 'nothing',
    },
    example: { params: { name: 'Malloc0', enable: true }, result: true },
  }),

  bdev_get_histogram: defineMethod({
    summary: "Show a histogram of a bdev's latencies, as SPDK encodes it",
    details:
      'Of the requests since `bdev_enable_histogram`. `histogram` holds 64-bit counts, least byte first: for each ' +
      'range from `min_range` to `max_range`, 2^`granularity` buckets. With g for the granularity, range 0 has a ' +
      'bucket for each latency below 2^g ticks, range r > 0 cuts 2^(g+r-1) to 2^(g+r) ticks into equal ones.',
    params: z.strictObject({ name: bdevName.describe('Bdev.') }),
    result: z.object({
      histogram: z.string().describe('Base64.'),
      bucket_shift: z.int().describe('The older name of `granularity`.'),
      granularity: z.int(),
      min_range: z.int(),
      max_range: z.int(),
      tsc_rate: z.int().describe('Ticks a second.'),
    }),
    errors: [ENODEV, { code: 'EFAULT', when: 'the bdev has no histogram: begin one with `bdev_enable_histogram`' }],
    aliases: [{ name: 'get_bdev_histogram' }],
    cli: { positionals: [{ name: 'name', kind: 'string', help: 'bdev' }], print: 'json' },
    example: {
      params: { name: 'Malloc0' },
      result: {
        histogram: 'AAAAAAAAAAA=',
        bucket_shift: 7,
        granularity: 7,
        min_range: 0,
        max_range: 57,
        tsc_rate: 62_500_000,
      },
    },
  }),
};

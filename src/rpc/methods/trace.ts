/** The methods of the RPC table that trace requests, one by one. All are additions of Ringhost. */
import { z } from 'zod';
import { defineMethod, noParams, uint32, uint53 } from '../define.ts';

/** What a request of a blk or scsi controller is. */
export const REQUEST_TYPES = ['read', 'write', 'flush', 'unmap', 'write_zeroes', 'other'] as const;

const ENTRIES_MAX = 1 << 22;
const READ_MAX = 16_384;

const request = z
  .array(z.number())
  .length(8)
  .describe(
    'Number of its queue in `queues`, of its type in `types`, when it was taken from the ring (nanoseconds of ' +
      'CLOCK_MONOTONIC), how long it took until it was given back, its first byte, how many, 0 when it succeeded, ' +
      'and the CRC-32 of what a read brought (-1: it was not asked for).',
  );

export const traceMethods = {
  trace_start_requests: defineMethod({
    summary: 'Begin to trace requests',
    details:
      'Those that pass every filter are kept, by each reactor apart, until `trace_read_requests` takes them; when ' +
      'there is no room left they are dropped and counted. A trace that is not read for 30 s ends by itself. There ' +
      'is one at a time. An addition of Ringhost.',
    params: z.strictObject({
      controllers: z.array(z.string().min(1)).min(1).max(256).optional().describe('Only of these. Default: all.'),
      queue: z.int().min(0).max(255).optional().describe('Only of queues with this number. Default: all.'),
      types: z.array(z.enum(REQUEST_TYPES)).min(1).optional().describe('Only of these types. Default: all.'),
      from_bytes: uint53.default(0).describe('Only what touches the disk from this byte on. Default: 0.'),
      to_bytes: uint53.optional().describe('Only what touches the disk below this byte. Default: no limit.'),
      slower_than_us: uint32.default(0).describe('Only what took at least so many microseconds. Default: 0.'),
      hash_reads: z.boolean().default(false).describe('Add up (CRC-32) what reads bring. Default: false.'),
      entries: z
        .int()
        .min(1)
        .max(ENTRIES_MAX)
        .default(65_536)
        .describe('Requests that each reactor has room for, rounded up to a power of two; 64 bytes each.'),
    }),
    result: z.boolean(),
    errors: [
      { code: 'EBUSY', when: 'a trace runs already' },
      { code: 'ENODEV', when: 'no controller has one of the names' },
      { code: 'EINVAL', when: '`from_bytes` is not below `to_bytes`' },
    ],
    cli: {
      flags: [
        { names: ['--controllers'], dest: 'controllers', kind: 'list', help: 'only of these, separated by commas' },
        { names: ['--queue'], dest: 'queue', kind: 'int', help: 'only of queues with this number' },
        { names: ['--types'], dest: 'types', kind: 'list', help: 'only of these types, separated by commas' },
        { names: ['--from-bytes'], dest: 'from_bytes', kind: 'int', help: 'only what touches the disk from here on' },
        { names: ['--to-bytes'], dest: 'to_bytes', kind: 'int', help: 'only what touches the disk below this' },
        { names: ['--slower-than-us'], dest: 'slower_than_us', kind: 'int', help: 'only what took so long' },
        { names: ['--hash-reads'], dest: 'hash_reads', kind: 'switch', help: 'add up what reads bring' },
        { names: ['--entries'], dest: 'entries', kind: 'int', help: 'room of each reactor' },
      ],
      print: 'nothing',
    },
    example: { params: { controllers: ['vhost.0'], slower_than_us: 500 }, result: true },
  }),

  trace_read_requests: defineMethod({
    summary: 'Take the requests that were traced',
    details: 'In the order in which each reactor ended them. An addition of Ringhost.',
    params: z.strictObject({
      max: z.int().min(1).max(READ_MAX).default(READ_MAX).describe('At most so many of each reactor. Default: 16384.'),
    }),
    result: z.object({
      types: z.array(z.string()),
      queues: z.array(z.tuple([z.string(), z.int()])).describe('Controller, and number of the queue.'),
      requests: z.array(request),
      dropped: z.int().describe('For which there was no room, since the trace began.'),
    }),
    errors: [{ code: 'ENOENT', when: 'nothing was traced, or nobody read for 30 s' }],
    cli: { flags: [{ names: ['--max'], dest: 'max', kind: 'int', help: 'of each reactor' }], print: 'json' },
    example: {
      params: {},
      result: {
        types: [...REQUEST_TYPES],
        queues: [['vhost.0', 0]],
        requests: [[0, 0, 81_204_961_204, 12_480, 4096, 4096, 0, -1]],
        dropped: 0,
      },
    },
  }),

  trace_stop_requests: defineMethod({
    summary: 'End the trace of requests',
    details: 'What was traced can still be taken. An addition of Ringhost.',
    params: noParams,
    result: z.boolean(),
    cli: { print: 'nothing' },
    example: { params: {}, result: true },
  }),
};

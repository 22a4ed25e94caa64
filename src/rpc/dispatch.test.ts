import * as fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import { fakeDaemon } from '../../test/integration/fixtures/rpc-fake-daemon.ts';
import { TargetError } from '../base/errors.ts';
import { SILENT } from '../base/log.ts';
import type { RpcState } from './define.ts';
import { type AnswerValue, type Caller, Dispatcher } from './dispatch.ts';
import { RpcError } from './errors.ts';
import { methodNames } from './lookup.ts';
import type { DaemonHandlers } from './methods.ts';

interface Setup {
  readonly handlers?: Partial<DaemonHandlers>;
  readonly state?: () => RpcState;
}

function setUp({ handlers = {}, state = () => 'runtime' }: Setup = {}) {
  const daemon = fakeDaemon();
  const error = vi.fn<(message: string, fields?: object) => void>();
  const warn = vi.fn<(message: string) => void>();
  const dispatcher = new Dispatcher({
    handlers: { ...daemon.handlers, ...handlers },
    log: { ...SILENT, error, warn },
    version: '0.1.0',
    state,
  });
  const caller: Caller = { connection: 1, signal: new AbortController().signal, beginWait: () => () => undefined };
  const ask = async (value: unknown): Promise<AnswerValue> => await dispatcher.start(value, caller).answer;
  const call = async (method: string, params?: unknown): Promise<unknown> => {
    const answer = await ask({ jsonrpc: '2.0', id: 1, method, params });
    if (answer === null || Array.isArray(answer)) return answer;
    return 'result' in answer ? answer.result : (answer as { readonly error: unknown }).error;
  };
  return { daemon, dispatcher, caller, ask, call, error, warn };
}

describe('a request', () => {
  test('is answered with its id, whatever kind of id', async () => {
    const { ask } = setUp();
    for (const id of [7, 'seven', 2n ** 64n, 0, '', 1.5]) {
      expect(await ask({ jsonrpc: '2.0', id, method: 'log_get_level' })).toEqual({
        jsonrpc: '2.0',
        id,
        result: 'NOTICE',
      });
    }
  });

  test('is told of parameters that change nothing, if it asks for something by them', async () => {
    const { call, warn } = setUp();
    const params = { name: 'A', num_blocks: 8, block_size: 512 };
    const asksNothing = { numa_id: -1, optimal_io_boundary: 0, md_interleave: false, md_size: 0 };
    expect(await call('bdev_malloc_create', { ...params, ...asksNothing })).toBe('A');
    expect(warn).not.toHaveBeenCalled();
    expect(await call('construct_malloc_bdev', { ...params, name: 'B', numa_id: 0, optimal_io_boundary: 8 })).toBe('B');
    expect(warn.mock.calls).toEqual([['RPC bdev_malloc_create: optimal_io_boundary has no effect here']]);
  });

  test('may leave out jsonrpc and give null for params', async () => {
    const { ask } = setUp();
    expect(await ask({ id: 1, method: 'log_get_level', params: null })).toMatchObject({ result: 'NOTICE' });
  });

  test('without id, or with id null, is carried out and not answered', async () => {
    const { ask, daemon } = setUp();
    const params = { name: 'A', num_blocks: 8, block_size: 512 };
    expect(await ask({ jsonrpc: '2.0', method: 'bdev_null_create', params })).toBeNull();
    expect(await ask({ jsonrpc: '2.0', id: null, method: 'bdev_null_create', params })).toBeNull();
    expect([...daemon.bdevs.keys()]).toEqual(['A']);
  });

  test.each([
    ['a number', 5, 'a request is a JSON object'],
    ['null', null, 'a request is a JSON object'],
    ['no method', { id: 1 }, 'method must be a string'],
    ['another version', { jsonrpc: '1.0', id: 1, method: 'x' }, 'jsonrpc must be "2.0"'],
    ['an object for an id', { id: {}, method: 'x' }, 'id must be a number or a string'],
    ['text for params', { id: 1, method: 'x', params: 'y' }, 'params must be an object'],
    ['an unknown member', { id: 1, method: 'x', extra: 1 }, 'unknown member "extra" of the request'],
  ])('that is %s is invalid', async (_what, request, detail) => {
    const { ask } = setUp();
    expect(await ask(request)).toMatchObject({
      error: { code: -32600, message: 'Invalid request', data: { detail } },
    });
  });

  test('for an unknown method gets a suggestion', async () => {
    const { call } = setUp();
    expect(await call('bdev_get_bdev')).toEqual({
      code: -32601,
      message: 'Method not found',
      data: { detail: 'did you mean bdev_get_bdevs?' },
    });
    expect(await call('constructor')).toMatchObject({ code: -32601 });
  });

  test('with parameters by position is refused', async () => {
    const { call } = setUp();
    expect(await call('bdev_get_bdevs', ['Malloc0'])).toMatchObject({ code: -32602, message: 'Invalid parameters' });
  });

  test('in the wrong state is refused with -1', async () => {
    let state: RpcState = 'startup';
    const { call } = setUp({ state: () => state });
    expect(await call('bdev_get_bdevs')).toMatchObject({ code: -1 });
    expect(await call('rpc_get_methods', { current: true })).toContain('framework_start_init');
    expect(await call('framework_start_init')).toBe(true);
    state = 'runtime';
    expect(await call('framework_start_init')).toMatchObject({ code: -1 });
    expect(await call('rpc_get_methods', { current: true })).not.toContain('framework_start_init');
    expect(await call('rpc_get_methods', { current: true })).toContain('bdev_get_bdevs');
  });
});

const request = (id: number | undefined, method = 'log_get_level') => ({ jsonrpc: '2.0', id, method });

test('whatever JSON comes, there is an answer or none, and never an exception', async () => {
  const { ask, error } = setUp();
  const name = fc.oneof(fc.constantFrom(...methodNames(true)), fc.string());
  const params = fc.oneof(fc.jsonValue(), fc.dictionary(fc.string(), fc.jsonValue()));
  // A deadline of its own would be kept for milliseconds without end: what waits is left out.
  const call = fc
    .record({ jsonrpc: fc.constantFrom('2.0', 2), id: fc.jsonValue(), method: name, params }, { requiredKeys: [] })
    .filter((value) => !String(value.method).endsWith('get_bdevs'));
  await fc.assert(
    fc.asyncProperty(fc.oneof(call, fc.array(call, { maxLength: 4 }), fc.jsonValue()), async (value) => {
      const answer = await ask(value);
      expect(answer === null || Array.isArray(answer) || 'id' in answer).toBe(true);
    }),
    { numRuns: 500 },
  );
  expect(error).not.toHaveBeenCalled();
});

describe('a batch', () => {
  test('is answered in the order of its requests, without its notifications', async () => {
    const { ask } = setUp();
    const answer = await ask([request(1), request(undefined), 5, request(2, 'nothing')]);
    expect(answer).toMatchObject([{ id: 1, result: 'NOTICE' }, { error: { code: -32600 } }, { id: 2 }]);
  });

  test('of notifications alone is not answered', async () => {
    const { ask } = setUp();
    expect(await ask([request(undefined), request(undefined)])).toBeNull();
  });

  test('that is empty or too long is invalid', async () => {
    const { ask } = setUp();
    expect(await ask([])).toMatchObject({ id: null, error: { code: -32600 } });
    expect(await ask(Array.from({ length: 4097 }, () => request(1)))).toMatchObject({ error: { code: -32600 } });
  });

  test('carries out its requests one after another, although they are slow', async () => {
    const order: string[] = [];
    const slow = async ({ name }: { readonly name: string }): Promise<boolean> => {
      order.push(`start ${name}`);
      await new Promise((resolve) => setImmediate(resolve));
      order.push(`end ${name}`);
      return true;
    };
    const { ask } = setUp({ handlers: { delete_bdev: slow } });
    await ask(['a', 'b'].map((name, id) => ({ id, method: 'delete_bdev', params: { name } })));
    expect(order).toEqual(['start a', 'end a', 'start b', 'end b']);
  });

  test('may wait for what a later request of it brings about', async () => {
    const { ask } = setUp();
    const answer = await ask([
      { id: 1, method: 'bdev_get_bdevs', params: { name: 'A', timeout: 30_000 } },
      { id: 2, method: 'bdev_null_create', params: { name: 'A', num_blocks: 8, block_size: 512 } },
    ]);
    expect(answer).toMatchObject([
      { id: 1, result: [{ name: 'A' }] },
      { id: 2, result: 'A' },
    ]);
  });
});

/** Handlers that fail, at once or later. */
function failing(reason: unknown): Partial<DaemonHandlers> {
  const later = async (): Promise<never> => {
    throw reason;
  };
  return {
    bdev_malloc_delete: () => {
      throw reason;
    },
    vhost_delete_controller: later,
    vhost_get_controllers: later,
  };
}

describe('an error of a handler', () => {
  test('gets the code that SPDK gives it in that method', async () => {
    const { call } = setUp({ handlers: failing(new TargetError('EBUSY', 'stop its user first')) });
    const rest = { message: 'Device or resource busy', data: { errno: 'EBUSY', detail: 'stop its user first' } };
    expect(await call('bdev_malloc_delete', { name: 'x' })).toEqual({ code: -16, ...rest });
    expect(await call('vhost_delete_controller', { ctrlr: 'x' })).toEqual({ code: -32602, ...rest });
    expect(await call('vhost_get_controllers')).toEqual({ code: -32603, ...rest });
  });

  test('with a code of its own room is an invalid argument', async () => {
    const { call } = setUp({ handlers: failing(new TargetError('CPUSET_SYNTAX', 'no such core')) });
    expect(await call('bdev_malloc_delete', { name: 'x' })).toMatchObject({ code: -22, message: 'Invalid argument' });
  });

  test('may say code and text itself', async () => {
    const { call } = setUp({ handlers: failing(new RpcError(-32602, 'Subsystem x not found')) });
    expect(await call('bdev_malloc_delete', { name: 'x' })).toEqual({ code: -32602, message: 'Subsystem x not found' });
  });

  test.each(['bdev_malloc_delete', 'vhost_delete_controller'])(
    'that nobody foresaw is an internal error of %s and goes to the log with its stack',
    async (method) => {
      const { call, error } = setUp({ handlers: failing(new TypeError('boom')) });
      const params = method.startsWith('bdev') ? { name: 'x' } : { ctrlr: 'x' };
      expect(await call(method, params)).toMatchObject({ code: -32603, message: 'Internal error' });
      expect(error).toHaveBeenCalledOnce();
      expect(error.mock.calls[0]?.[1]).toMatchObject({ stack: expect.stringContaining('TypeError: boom') });
      expect(await call('log_get_level')).toBe('NOTICE');
    },
  );
});

describe('an older name', () => {
  test('is listed only when it is asked for, or by the older method', async () => {
    const { call } = setUp();
    expect(await call('rpc_get_methods')).toEqual(methodNames(false));
    expect(await call('rpc_get_methods', { include_aliases: true })).toEqual(methodNames(true));
    expect(await call('get_rpc_methods')).toEqual(methodNames(true));
  });

  test('does what the newer one does', async () => {
    const { call, daemon } = setUp();
    expect(await call('construct_malloc_bdev', { num_blocks: 8, block_size: 512 })).toBe('Malloc0');
    expect(await call('construct_vhost_blk_controller', { ctrlr: 'vhost.0', dev_name: 'Malloc0' })).toBe(true);
    expect(await call('get_vhost_controllers')).toEqual([...daemon.controllers.values()]);
    expect(await call('remove_vhost_controller', { ctrlr: 'vhost.0' })).toBe(true);
    expect(await call('get_bdevs', { name: 'Malloc0' })).toMatchObject([{ name: 'Malloc0' }]);
    expect(await call('delete_bdev', { name: 'Malloc0' })).toBe(true);
    expect(daemon.bdevs.size).toBe(0);
  });

  test('answers in its old shape: get_bdevs_iostat', async () => {
    const { call } = setUp();
    await call('construct_null_bdev', { name: 'N', num_blocks: 8, block_size: 512 });
    expect(await call('get_bdevs_iostat')).toMatchObject([{ tick_rate: 1_000_000_000 }, { name: 'N' }]);
  });

  test('takes the values of its time: level names in any case, signals by number', async () => {
    const { call, daemon } = setUp();
    expect(await call('set_log_level', { level: 'debug' })).toBe(true);
    expect(await call('get_log_level')).toBe('DEBUG');
    for (const signal of ['SIGTERM', '15', '2']) expect(await call('kill_instance', { sig_name: signal })).toBe(true);
    expect(daemon.signals).toEqual(['SIGTERM', 'SIGTERM', 'SIGINT']);
    expect(await call('kill_instance', { sig_name: 'SIGSEGV' })).toMatchObject({ code: -32602 });
  });
});

test('a handler learns by which name it was called', async () => {
  const seen: string[] = [];
  const { call } = setUp({
    handlers: {
      bdev_get_bdevs: (_params, { calledAs }) => {
        seen.push(calledAs);
        return [];
      },
    },
  });
  await call('get_bdevs');
  await call('bdev_get_bdevs');
  expect(seen).toEqual(['get_bdevs', 'bdev_get_bdevs']);
});

test('rpc.discover is answered by the server itself', async () => {
  const { call } = setUp();
  expect(await call('rpc.discover')).toMatchObject({ openrpc: '1.3.2', info: { version: '0.1.0' } });
});

test('a connection that waits for too much already is told so', async () => {
  const { dispatcher, caller } = setUp();
  const full: Caller = { ...caller, beginWait: () => null };
  expect(await dispatcher.start({ id: 1, method: 'framework_wait_init' }, full).answer).toMatchObject({
    error: { code: -32000 },
  });
});

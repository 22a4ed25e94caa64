import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parseArguments } from './arguments.ts';
import { anyParams, type CliSpec, type MethodSpec } from './define.ts';
import { cliOf, findMethod, methodNames, nearest } from './lookup.ts';
import { METHODS } from './methods.ts';
import { openRpcDocument } from './openrpc.ts';
import { checkParams } from './params.ts';

const TABLE: readonly (readonly [string, MethodSpec])[] = Object.entries(METHODS);

describe('the method table', () => {
  test('names every method and every alias once', () => {
    const names = TABLE.flatMap(([name, spec]) => [name, ...spec.aliases.map((alias) => alias.name)]);
    expect(new Set(names).size).toBe(names.length);
    expect(methodNames(true)).toEqual(names.toSorted());
  });

  test.each(TABLE)('%s has an example that its own schemas take', (_name, spec) => {
    expect(spec.params.safeParse(spec.example.params).error).toBeUndefined();
    const result = spec.result.safeParse(spec.example.result);
    expect(result.error).toBeUndefined();
    expect(result.data).toEqual(spec.example.result);
  });

  test.each(TABLE.filter(([, { params }]) => params !== anyParams))(
    '%s refuses an unknown parameter and names it',
    (_name, spec) => {
      const checked = checkParams(spec, { ...spec.example.params, colour: 'red' });
      expect(checked).toMatchObject({ ok: false, error: { code: -32602 } });
      expect(checked.ok || checked.error.data?.detail).toContain('unknown parameter "colour"');
    },
  );

  test.each(TABLE)('%s describes each parameter, and its default where it has one', (_name, spec) => {
    for (const [name, schema] of Object.entries(spec.params.shape)) {
      expect(`${name}: ${schema.description}`).toMatch(/: .*\.$/);
    }
  });

  test.each(methodNames(true))('the flags of %s are distinct, and each stands for a parameter', (name) => {
    const found = findMethod(name);
    const cli: CliSpec = found === undefined ? { print: 'nothing' } : cliOf(found);
    const spellings = ['-h', '--help', ...(cli.flags ?? []).flatMap((flag) => flag.names)];
    expect(new Set(spellings).size).toBe(spellings.length);
    const dests = (cli.flags ?? []).filter(({ isLocal }) => isLocal !== true).map((flag) => flag.dest);
    expect(Object.keys(found?.spec.params.shape ?? {})).toEqual(expect.arrayContaining(dests));
  });
});

test.each(TABLE.filter(([, { ignored }]) => ignored.length > 0))(
  '%s says what has no effect',
  (_name, { params, ignored }) => {
    const shape = params.shape as Readonly<Record<string, { readonly description?: string }>>;
    const texts = ignored.map((name) => shape[name]?.description ?? name);
    expect(texts.filter((text) => !text.startsWith('No effect'))).toEqual([]);
  },
);

describe('the OpenRPC document', () => {
  const document = openRpcDocument('1.2.3') as {
    readonly openrpc: string;
    readonly info: { readonly version: string };
    readonly methods: readonly {
      readonly name: string;
      readonly params: readonly { readonly name: string; readonly required: boolean; readonly schema: object }[];
      readonly result: { readonly schema: object };
    }[];
  };

  test('has every method with its parameters', () => {
    expect(document.openrpc).toMatch(/^1\.3\./);
    expect(document.info.version).toBe('1.2.3');
    expect(document.methods.map((method) => method.name)).toEqual(methodNames(false));
    for (const method of document.methods) {
      const spec = findMethod(method.name)?.spec;
      expect(method.params.map((param) => param.name)).toEqual(Object.keys(spec?.params.shape ?? {}));
    }
  });

  test('says which parameters must be there', () => {
    const create = document.methods.find((method) => method.name === 'bdev_malloc_create');
    const required = create?.params.filter((param) => param.required).map((param) => param.name);
    expect(required).toEqual(['num_blocks', 'block_size']);
  });

  test('is plain JSON', () => {
    expect(JSON.parse(JSON.stringify(document))).toEqual(document);
  });
});

/** The error as one line. */
function detailOf(spec: MethodSpec, params: Readonly<Record<string, unknown>>): string {
  const checked = checkParams(spec, params);
  return checked.ok ? 'ok' : `${checked.error.code} ${checked.error.message}: ${checked.error.data?.detail}`;
}

describe('parameter checks', () => {
  test.each([
    [{}, '-32602 Invalid parameters: num_blocks is missing; block_size is missing'],
    [
      { num_blocks: 1, block_size: 513 },
      '-22 Invalid argument: block_size must be 512, 1024, 2048 or 4096, but it is 513',
    ],
    [{ num_blocks: 0, block_size: 512 }, '-22 Invalid argument: num_blocks: too small: expected'],
    [{ num_blocks: 1.5, block_size: 512 }, '-32602 Invalid parameters: num_blocks: expected int, but it is 1.5'],
    [
      { num_blocks: 2n ** 64n, block_size: 512 },
      '-32602 Invalid parameters: num_blocks must be at most 9007199254740991, but it is 18446744073709551616',
    ],
    [{ num_blocks: '1', block_size: 512 }, '-32602 Invalid parameters: num_blocks: expected number, but it is "1"'],
    [{ num_blocks: 1, block_size: 512, md_size: 8 }, '-22 Invalid argument: md_size must be 0, but it is 8'],
    [{ num_blocks: 1, block_size: 512, uuid: 'x' }, '-32602 Invalid parameters: uuid: invalid GUID, but it is "x"'],
    [
      { num_blocks: 1, block_size: 512, nam: 'x' },
      '-32602 Invalid parameters: unknown parameter "nam": did you mean name?',
    ],
    [
      { num_blocks: 1, block_size: 512, physical_block_size: 700 },
      '-22 Invalid argument: physical_block_size must be a power of two',
    ],
    [JSON.parse('{"num_blocks":1,"block_size":512,"__proto__":{}}'), 'unknown parameter "__proto__"'],
  ])('of bdev_malloc_create %o say: %s', (params, expected) => {
    expect(detailOf(METHODS.bdev_malloc_create, params)).toContain(expected);
  });

  test('of vhost methods say EINVAL for everything, as SPDK does', () => {
    const { vhost_create_blk_controller: create, vhost_get_controllers: list } = METHODS;
    expect(detailOf(create, {})).toBe('-32602 Invalid argument: ctrlr is missing; dev_name is missing');
    expect(detailOf(create, { ctrlr: 'a', dev_name: 'b', serial: 'x'.repeat(21) })).toContain('serial: too big');
    expect(detailOf(list, { name: 1 })).toBe('-32602 Invalid parameters: name: expected string, but it is 1');
  });

  test('of a method without parameters say so', () => {
    expect(detailOf(METHODS.spdk_get_version, { a: 1 })).toContain('unknown parameter "a": this method takes none');
  });

  test('take anything without throwing', () => {
    const anything = fc.dictionary(fc.string(), fc.anything());
    fc.assert(
      fc.property(fc.constantFrom(...TABLE), anything, ([, spec], params) => {
        expect(() => checkParams(spec, params)).not.toThrow();
      }),
    );
  });
});

describe('a name that is not quite right', () => {
  test.each([
    ['bdev_get_bdev', 'bdev_get_bdevs'],
    ['construct_maloc_bdev', 'construct_malloc_bdev'],
    ['vhost_create_controller_blk', 'vhost_create_blk_controller'],
    ['BDEV_GET_BDEVS', 'bdev_get_bdevs'],
    ['get_reactors_framework', 'framework_get_reactors'],
  ])('%s is taken for %s', (typed, meant) => {
    expect(nearest(typed, methodNames(true))).toBe(meant);
  });

  test('is not guessed at when nothing is like it', () => {
    expect(nearest('nvmf_create_subsystem', methodNames(true))).toBeNull();
    expect(nearest('x'.repeat(10_000), methodNames(true))).toBeNull();
  });
});

test('what the command line of a method leaves out is left to the defaults of the table', () => {
  const silent: CliSpec = { flags: METHODS.bdev_get_iostat.cli.flags ?? [], print: 'json' };
  expect(parseArguments(silent, []).values).toEqual({ per_channel: false });
});

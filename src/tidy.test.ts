/**
 * The rules that keep the source as it is meant to be: who may import whom (docs/architecture.md), sizes, names. A rule
 * is not loosened for one file; a file that breaks one on purpose stands in a list here, with its reason.
 */
import { describe, expect, it } from 'vitest';
import { findCycles, type Import, listFiles, parseSource, readText, type Source } from '../test/tidy/sources.ts';

const LINES_MAX = 600;
const COLUMNS_MAX = 120;
/** 503 of them are for librbd: its calls, its callbacks on threads that are not ours, locks, and what may block. */
const NATIVE_LINES_MAX = 2401;

/** Rooms of src/, and the rooms each may import besides itself. */
const ARROWS: Readonly<Record<string, readonly string[]>> = {
  base: [],
  sys: ['base'],
  memory: ['base', 'sys'],
  virtio: ['base', 'memory', 'sys'],
  'vhost-user': ['base', 'memory', 'sys', 'virtio'],
  reactor: ['base', 'sys'],
  nvme: ['base', 'sys'],
  bdev: ['base', 'sys', 'nvme', 'virtio', 'vhost-user', 'initiator'],
  scsi: ['base', 'sys', 'bdev'],
  vhost: ['base', 'sys', 'memory', 'virtio', 'vhost-user', 'reactor', 'bdev', 'scsi'],
  rpc: ['base'],
  initiator: ['base', 'sys', 'virtio', 'vhost-user'],
  observe: ['base', 'rpc'],
  dashboard: ['base', 'observe'],
  app: [
    ...['base', 'sys', 'memory', 'virtio', 'vhost-user', 'reactor', 'bdev', 'vhost', 'rpc', 'initiator'],
    ...['observe', 'dashboard'],
  ],
  cli: ['app', 'rpc', 'base', 'observe'],
  'index.ts': ['base', 'bdev', 'app'],
  'client.ts': ['base', 'rpc'],
};

/** Arrows that are narrower than a room: all that may be imported along them. */
const NARROW_ARROWS: readonly { from: string; to: string; files: readonly string[] }[] = [
  // A session knows that rings exist and how large they are, not how they work.
  { from: 'vhost-user', to: 'virtio', files: ['src/virtio/features.ts', 'src/virtio/ring-shape.ts'] },
  // A disk over another target is a driver of virtio-blk or virtio-scsi, and a front-end.
  { from: 'bdev', to: 'virtio', files: ['src/virtio/blk.ts', 'src/virtio/scsi.ts', 'src/virtio/features.ts'] },
  { from: 'bdev', to: 'vhost-user', files: ['src/vhost-user/messages.ts'] },
  {
    from: 'bdev',
    to: 'initiator',
    files: ['owned-memory', 'vhost-user-frontend', 'driver-queue', 'request-buffers', 'scsi-request'].map(
      (name) => `src/initiator/${name}.ts`,
    ),
  },
  // The other side shares the layout of messages with the back-end, and none of its code.
  { from: 'initiator', to: 'vhost-user', files: ['src/vhost-user/messages.ts'] },
];

/** Files that no other file imports, because something else starts them. */
const ENTRY_POINTS: Readonly<Record<string, string>> = {
  'src/cli/main.ts': 'bin/ringhost runs it',
  'src/dashboard/page/main.ts': 'the page loads it',
  'src/index.ts': 'what other programs import',
  'src/client.ts': 'what they import to call a daemon',
  'src/bdev/modules/module/module-thread.ts': 'the entry of the threads of disks in TypeScript, see module-host.ts',
  'src/app/reactor-main.ts': 'the entry of reactor threads, named by a URL in src/app/daemon.ts',
};

/** Cycles of files on purpose: type imports only, which are gone when the program runs. */
const TYPE_CYCLES: Readonly<Record<string, string>> = {
  'src/bdev/bdev-io.ts src/bdev/bdev.ts': 'a channel is given descriptions of bdevs, a bdev names types of I/O',
  'src/app/daemon.ts src/app/framework.rpc.ts': 'the daemon makes the handlers of the calls about itself',
};

/** The one place where a type must be forgotten: structs of any fields in one table. */
const ANY_ALLOWED = new Set(['src/base/struct.ts']);

const CODE_FOLDERS = ['src', 'test', 'bench', 'scripts'] as const;
const isTest = (path: string): boolean => path.endsWith('.test.ts');
const isTypeScript = (path: string): boolean => path.endsWith('.ts');
const roomOf = (path: string): string => path.split('/')[1] ?? '';

const codeFiles = listFiles(...CODE_FOLDERS).filter((path) => /\.(ts|mjs)$/.test(path));
const sources = new Map(codeFiles.filter(isTypeScript).map((path) => [path, parseSource(path)]));
const all = [...sources.values()];
/** What is shipped. */
const product = all.filter(({ path }) => path.startsWith('src/') && !isTest(path));
const nativeFiles = listFiles('native');

function ownImports(source: Source): readonly Import[] {
  return source.imports.filter(({ isOwn }) => isOwn);
}

function isArrowAllowed(source: Source, { target }: Import): boolean {
  const [from, to] = [roomOf(source.path), roomOf(target)];
  if (from === to) return true;
  if (to === 'rpc' && source.path.endsWith('.rpc.ts')) return true;
  if (!ARROWS[from]?.includes(to)) return false;
  const narrow = NARROW_ARROWS.filter((arrow) => arrow.from === from && arrow.to === to);
  if (narrow.length === 0) return true;
  return narrow.some(({ files }) => files.includes(target));
}

function edgesOf(list: readonly Source[], isCounted: (one: Import) => boolean): Map<string, string[]> {
  return new Map(
    list.map((one) => [
      one.path,
      ownImports(one)
        .filter(isCounted)
        .map(({ target }) => target),
    ]),
  );
}

describe('these rules', () => {
  const wrongArrows = (path: string, text: string): string[] => {
    const source = parseSource(path, text);
    return ownImports(source)
      .filter((one) => !isArrowAllowed(source, one))
      .map(({ target }) => target);
  };

  it('see imports of every form', () => {
    const text = `
      import { a } from '../rpc/a.ts';
      import type { b } from '../rpc/b.ts';
      import { type c1, type c2 } from '../rpc/c.ts';
      import * as d from '../rpc/d.ts';
      import '../rpc/e.ts';
      export { f } from '../rpc/f.ts';
      const g = await import('../rpc/g.ts');
      type H = import('../rpc/h.ts').H;
      import fs from 'node:fs';`;
    const { imports } = parseSource('src/bdev/x.ts', text);
    expect(wrongArrows('src/bdev/x.ts', text).join()).toBe('abcdefgh'.replace(/./g, 'src/rpc/$&.ts,').slice(0, -1));
    expect(imports.filter(({ isTypeOnly }) => isTypeOnly).map(({ target }) => target.at(-4))).toEqual(['b', 'c', 'h']);
    expect(imports.at(-1)).toMatchObject({ target: 'node:fs', isOwn: false });
    expect(wrongArrows('src/bdev/x.rpc.ts', text)).toEqual([]);
  });

  it('know arrows that are narrower than a room', () => {
    const from = (room: string, what: string, file: string) =>
      wrongArrows(`src/${room}/x.ts`, `import { ${what} } from '../${file}';`);
    expect(from('vhost-user', 'ringBytes', 'virtio/ring-shape.ts')).toEqual([]);
    expect(from('vhost-user', 'SplitRing', 'virtio/split-ring.ts')).toHaveLength(1);
    expect(from('vhost-user', 'Chain', 'virtio/chain.ts')).toHaveLength(1);
    expect(from('initiator', 'Header', 'vhost-user/messages.ts')).toEqual([]);
    expect(from('initiator', 'Session', 'vhost-user/session.ts')).toHaveLength(1);
    expect(from('virtio', 'native', 'vhost/registry.ts')).toHaveLength(1);
  });

  it('find cycles, default exports, barrels and forgotten types', () => {
    const edges = new Map([
      ['a', ['b']],
      ['b', ['c', 'd']],
      ['c', []],
      ['d', ['a']],
      ['e', ['e']],
    ]);
    expect(findCycles(edges)).toEqual([['a', 'b', 'd'], ['e']]);
    const parse = (text: string) => parseSource('src/base/x.ts', text);
    expect(
      ['export default 1;', 'export default function f() {}', 'export const a = 1;'].map(
        (text) => parse(text).hasDefaultExport,
      ),
    ).toEqual([true, true, false]);
    expect(
      [`export * from './a.ts';`, `export { a } from './a.ts';\nexport const b = 1;`].map(
        (text) => parse(text).isBarrel,
      ),
    ).toEqual([true, false]);
    expect(parse('const a = 1;\nlet b: any;\n// any\nconst c = "any" as Foo<any>;').anyLines).toEqual([2, 4]);
  });
});

describe('imports', () => {
  it('follow the arrows between rooms', () => {
    const wrong = product.flatMap((source) =>
      ownImports(source)
        .filter((one) => !isArrowAllowed(source, one))
        .map((one) => `${source.path} imports ${one.names.join(', ') || 'all'} of ${one.target}`),
    );
    expect(wrong).toEqual([]);
  });

  it('name rooms that are known here', () => {
    const rooms = new Set(product.map(({ path }) => roomOf(path)));
    expect([...rooms].filter((room) => !(room in ARROWS))).toEqual([]);
  });

  it('make no cycle of rooms', () => {
    expect(findCycles(new Map(Object.entries(ARROWS)))).toEqual([]);
  });

  it('make no cycle of files', () => {
    expect(findCycles(edgesOf(product, ({ isTypeOnly }) => !isTypeOnly))).toEqual([]);
    const cycles = findCycles(edgesOf(product, () => true)).map((cycle) => cycle.toSorted().join(' '));
    expect(cycles.filter((cycle) => !(cycle in TYPE_CYCLES))).toEqual([]);
    // Nothing stands in the list that is not there any more.
    expect(Object.keys(TYPE_CYCLES).filter((cycle) => !cycles.includes(cycle))).toEqual([]);
  });

  it('stay inside the product: nothing shipped needs a test, a bench or a script', () => {
    const wrong = product.flatMap(({ path, imports }) =>
      imports
        .filter(({ target, isOwn }) => isOwn && (!target.startsWith('src/') || isTest(target)))
        .map(({ target }) => `${path} imports ${target}`),
    );
    expect(wrong).toEqual([]);
  });

  it('name files that exist, with their extension', () => {
    const missing = all.flatMap((source) =>
      ownImports(source)
        .filter(({ target }) => !codeFiles.includes(target))
        .map(({ target }) => `${source.path} imports ${target}`),
    );
    // What a build makes is not here before it was made.
    expect(missing.filter((line) => !/\.(mjs|json)$/.test(line))).toEqual([]);
  });

  it('of the addon are for the room that keeps its addresses', () => {
    const users = all.filter((source) => ownImports(source).some(({ target }) => target === 'src/sys/native.ts'));
    expect(users.map(({ path }) => path).filter((path) => !path.startsWith('src/sys/'))).toEqual([]);
  });
});

describe('a file of src/', () => {
  it('is imported by another than its own test', () => {
    const imported = new Set(
      all
        .filter(({ path }) => !(path.startsWith('src/') && isTest(path)))
        .flatMap((source) => ownImports(source).map(({ target }) => target)),
    );
    const orphans = product.map(({ path }) => path).filter((path) => !imported.has(path) && !(path in ENTRY_POINTS));
    expect(orphans).toEqual([]);
    for (const entry of Object.keys(ENTRY_POINTS)) expect(sources.has(entry)).toBe(true);
  });

  it('starts with a comment that says what it is', () => {
    expect(product.filter(({ text }) => !text.startsWith('/**')).map(({ path }) => path)).toEqual([]);
  });

  it('says the type of everything', () => {
    const wrong = all.filter(
      ({ path, anyLines }) => path.startsWith('src/') && anyLines.length > 0 && !ANY_ALLOWED.has(path),
    );
    expect(wrong.map(({ path, anyLines }) => `${path}:${anyLines.join()}`)).toEqual([]);
  });
});

describe('a file of code', () => {
  it(`has at most ${LINES_MAX} lines`, () => {
    const long = [...codeFiles, ...nativeFiles].map((path) => ({ path, lines: readText(path).split('\n').length - 1 }));
    expect(long.filter(({ lines }) => lines > LINES_MAX)).toEqual([]);
  });

  it(`has lines of at most ${COLUMNS_MAX} columns`, () => {
    const wide = [...codeFiles, ...nativeFiles].flatMap((path) =>
      readText(path)
        .split('\n')
        .flatMap((line, i) => ([...line].length > COLUMNS_MAX ? [`${path}:${i + 1}`] : [])),
    );
    expect(wide).toEqual([]);
  });

  it('has no default export', () => {
    const isDisk = (path: string): boolean => /^test\/integration\/fixtures\/[^/]+-disk\.ts$/.test(path);
    const found = all.filter(({ path, hasDefaultExport }) => hasDefaultExport && !isDisk(path));
    expect(found.map(({ path }) => path)).toEqual([]);
  });

  it('does not only pass on what others export', () => {
    const barrels = all.filter(({ path, isBarrel }) => isBarrel && path !== 'src/index.ts').map(({ path }) => path);
    expect(barrels).toEqual([]);
    expect(all.map(({ path }) => path).filter((path) => path.endsWith('/index.ts') && path !== 'src/index.ts')).toEqual(
      [],
    );
  });
});

describe('the addon', () => {
  it(`is at most ${NATIVE_LINES_MAX} lines of C`, () => {
    const own = nativeFiles.filter((path) => !path.startsWith('native/bench/'));
    const lines = own.reduce((sum, path) => sum + readText(path).split('\n').length - 1, 0);
    expect(lines).toBeLessThanOrEqual(NATIVE_LINES_MAX);
  });
});

describe('texts', () => {
  const texts = listFiles('.').filter((path) => /\.(ts|mjs|js|c|h|md|json|sh|yml|yaml)$|^bin\/|^\.ci\//.test(path));
  const linesWith = (pattern: RegExp, isChecked: (path: string) => boolean): string[] =>
    texts.filter(isChecked).flatMap((path) =>
      readText(path)
        .split('\n')
        .flatMap((line, i) => (pattern.test(line) ? [`${path}:${i + 1}: ${line.trim()}`] : [])),
    );
  /** Put together from parts, so that these lines do not find themselves. */
  const pattern = (...words: readonly string[]): RegExp =>
    new RegExp(words.map((word) => word.replaceAll('|', '')).join('|'), 'i');

  it('have no marks of work that was left for later', () => {
    const marks = new RegExp(
      ['TO|DO', 'FIX|ME', 'XX|X', 'HA|CK'].map((word) => `\\b${word.replace('|', '')}\\b`).join('|'),
    );
    expect(linesWith(marks, (path) => path !== 'package-lock.json')).toEqual([]);
  });

  it('do not tell where and with what they were written', () => {
    const banned = pattern('/wo|rk/', 'helper ag|ent', 'AI as|sistant', 'cl|aude', 'anthr|opic', 'chat|gpt');
    expect(linesWith(banned, (path) => path !== 'package-lock.json')).toEqual([]);
  });

  it('name no package registry: installing goes where the user’s npm is set to go', () => {
    const hosts = pattern(
      'registry\\.np|mjs',
      'npm|mirror',
      'artif|actory',
      'verd|accio',
      'pypi\\.o|rg',
      'proxy\\.go|lang',
    );
    expect(linesWith(hosts, () => true)).toEqual([]);
  });
});

/**
 * The text of docs/conformance.md: what every kind of disk does, which kinds are tested for it, and by which test.
 * Cases and kinds are read from the source of the suite and of the tests that run it.
 */
import { basename, dirname, join } from 'node:path';
import ts from 'typescript';
import { listFiles, readText } from '../test/tidy/sources.ts';

const SUITE = 'test/support/bdev-conformance.ts';
const RUNNER = 'describeConformance';
/** Names of cases that not every kind can show. */
const WAKES = /^wakes/;
const COMPARES = /^(reads what was|touches|takes the longest|serves|zeroes|keeps apart|goes on)/;

/** One disk that goes through the suite. */
interface Kind {
  readonly title: string;
  readonly path: string;
  /** Of src/bdev/modules, by what its test imports. */
  readonly modules: readonly string[];
  readonly keepsData: boolean;
  /** `depends`: on how the disk is made. */
  readonly canWake: 'yes' | 'no' | 'depends';
}

/** What of a request is copied by this host, and where that is told. */
const COPIES: readonly (readonly [module: string, copies: string, page: string])[] = [
  ['malloc', 'once, between the guest’s memory and the disk: that is the disk', 'performance.md'],
  ['null', 'nothing is moved', 'performance.md'],
  [
    'aio, uring',
    'nothing with O_DIRECT and aligned buffers; others through a buffer; the page cache copies',
    'file-disks.md',
  ],
  ['nvme (PCIe)', 'nothing where the drive can address the guest’s pages; otherwise through a buffer', 'nvme.md'],
  ['nvme (TCP)', 'by the kernel’s sockets, and once more with data digests', 'nvme.md'],
  ['nbd', 'by the kernel’s sockets; what arrives in the first 64 KiB of a read once more', 'nbd.md'],
  ['rbd', 'nothing before librbd, which copies writes', 'rbd.md'],
  ['virtio', 'once each way, through memory that the target shares', 'virtio-bdev.md'],
  ['module', 'nothing: TypeScript sees the guest’s own memory', 'write-a-bdev.md'],
  ['crypto', 'once, by the cipher', 'stacked-bdevs.md'],
  ['passthru, split, gpt, raid, delay, error', 'nothing: requests go on as they are', 'stacked-bdevs.md'],
  ['mirror (raid1)', 'nothing: all legs write from the guest’s memory', 'raid.md'],
  ['powercut', 'once, and once more into its cache', 'durability.md'],
];

/** Folders of src/bdev/modules. */
const MODULES = [
  ...new Set(listFiles('src/bdev/modules').flatMap((path) => /modules\/([^/]+)\//.exec(path)?.[1] ?? [])),
];

/** Names of the cases, in their order. */
function readCases(): string[] {
  const names: string[] = [];
  visit(parse(SUITE), (node) => {
    const isCases = ts.isVariableDeclaration(node) && node.name.getText() === 'CASES';
    if (!isCases || node.initializer === undefined || !ts.isArrayLiteralExpression(node.initializer)) return;
    for (const element of node.initializer.elements) {
      const [name] = ts.isArrayLiteralExpression(element) ? element.elements : [];
      if (name !== undefined && ts.isStringLiteral(name)) names.push(name.text);
    }
  });
  return names;
}

function readKinds(): Kind[] {
  return listFiles('src', 'test')
    .filter((path) => path.endsWith('.test.ts') && readText(path).includes(`${RUNNER}(`))
    .flatMap((path) => kindsOf(path));
}

function kindsOf(path: string): Kind[] {
  const source = parse(path);
  const kinds: Kind[] = [];
  visit(source, (node) => {
    if (!ts.isCallExpression(node) || node.expression.getText() !== RUNNER) return;
    const [title, kind] = node.arguments;
    if (title === undefined || kind === undefined || !ts.isStringLiteral(title)) return;
    const text = reachedBy(kind, source);
    const canWake = /canWake: true/.test(text) ? 'yes' : /canWake/.test(text) ? 'depends' : 'no';
    const keepsData = !/keepsData: false/.test(text);
    kinds.push({ title: title.text, path, modules: modulesIn(text, source), keepsData, canWake });
  });
  return kinds;
}

/** The text of an expression, and of what it names in its file. */
function reachedBy(expression: ts.Node, source: ts.SourceFile): string {
  const functions = new Map<string, ts.Node>();
  visit(source, (node) => {
    const isFunction = ts.isFunctionDeclaration(node) || ts.isVariableDeclaration(node);
    if (isFunction && node.name !== undefined && ts.isIdentifier(node.name)) functions.set(node.name.text, node);
  });
  const texts: string[] = [];
  const follow = (node: ts.Node): void => {
    texts.push(node.getText());
    visit(node, (inner) => {
      const named = ts.isCallExpression(inner) ? inner.expression : inner;
      const name = (inner === expression || named !== inner) && ts.isIdentifier(named) ? named.text : '';
      const called = functions.get(name);
      if (called === undefined) return;
      functions.delete(name);
      follow(called);
    });
  };
  follow(expression);
  return texts.join('\n');
}

function modulesIn(text: string, source: ts.SourceFile): string[] {
  const found = new Set<string>();
  for (const statement of source.statements) {
    if (!ts.isImportDeclaration(statement) || !ts.isStringLiteral(statement.moduleSpecifier)) continue;
    const target = join(dirname(source.fileName), statement.moduleSpecifier.text);
    const [, module] = /src\/bdev\/modules\/([^/]+)\//.exec(target) ?? [];
    const bindings = statement.importClause?.namedBindings;
    if (module === undefined || bindings === undefined || !ts.isNamedImports(bindings)) continue;
    const isUsed = bindings.elements.some(({ name }) => new RegExp(`\\b${name.text}\\b`).test(text));
    if (isUsed) found.add(module);
  }
  // Made by a rig: the path names the module.
  const named = MODULES.find((module) => new RegExp(`/${module}[-./]`).test(source.fileName));
  if (found.size === 0 && named !== undefined) found.add(named);
  return [...found].toSorted();
}

function cell(kind: Kind, name: string): string {
  if (WAKES.test(name)) return { yes: '✓', no: 'polled', depends: 'with interrupts' }[kind.canWake];
  return !kind.keepsData && COMPARES.test(name) ? 'answers' : '✓';
}

export function conformanceReference(): string {
  const cases = readCases();
  const kinds = readKinds();
  const rows = kinds.map((kind) => {
    const { title, path, modules } = kind;
    const cells = cases.map((name) => cell(kind, name));
    return `| ${modules.join(', ')} | ${title} | ${cells.join(' | ')} | [${basename(path)}](../${path}) |`;
  });
  return `# What every disk does

<!-- Made by scripts/generate-docs.ts from ${SUITE} and the tests that run it. Do not edit. -->

Every kind of disk passes the same suite, \`${SUITE}\`. Its cases, each tried with a disk of its own:

${cases.map((name, i) => `${i + 1}. ${name}`).join('\n')}

| modules | disk | ${cases.map((_, i) => i + 1).join(' | ')} | test |
|---|---|${cases.map(() => '---|').join('')}---|
${rows.join('\n')}

- **✓** the case passes, or CI fails.
- **polled** completions need polling: nobody sleeps while requests are in flight, so nobody is woken. The case checks
  that the disk says so. For disks in memory that is no loss: their requests are over within the round.
- **with interrupts** ✓ where the drive has interrupts, and otherwise polled.
- **answers** every request ends as it should; there is nothing to compare, as a null disk keeps no data.

${missing(kinds)}Discards and zeroes (7) are tried where the disk offers them. Others refuse them.

What breaks under a disk (servers and targets that die, drives that vanish, clusters that lose members, replies that
lie) is tested for each kind by itself: see the pages below, and [what survives what](durability.md).

## What is copied

| module | data of a request is copied | more |
|---|---|---|
${COPIES.map(([module, copies, page]) => `| ${module} | ${copies} | [${page}](${page}) |`).join('\n')}
`;
}

/** Modules that no kind is of. */
function missing(kinds: readonly Kind[]): string {
  const known = new Set(kinds.flatMap(({ modules }) => modules));
  const others = MODULES.filter((module) => !known.has(module));
  if (others.length === 0) return '';
  return `Not in the table, and tested by themselves: ${others.map((module) => `\`${module}\``).join(', ')}.\n\n`;
}

function parse(path: string): ts.SourceFile {
  return ts.createSourceFile(path, readText(path), ts.ScriptTarget.Latest, true);
}

function visit(node: ts.Node, see: (node: ts.Node) => void): void {
  see(node);
  node.forEachChild((child) => visit(child, see));
}

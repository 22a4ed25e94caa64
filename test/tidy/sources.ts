/** The project's own files, and what the compiler's parser says of each: for the rules of src/tidy.test.ts. */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import ts from 'typescript';

const ROOT = join(import.meta.dirname, '..', '..');
const NOT_OURS = new Set(['node_modules', '.git', '.ringhost', 'build', 'dist', 'coverage', 'prebuilds']);

/** Paths from the root of the checkout, with slashes, sorted. */
export function listFiles(...folders: readonly string[]): string[] {
  const found: string[] = [];
  const walk = (path: string): void => {
    if (!statSync(path).isDirectory()) found.push(relative(ROOT, path));
    else for (const name of readdirSync(path)) if (!NOT_OURS.has(name)) walk(join(path, name));
  };
  for (const folder of folders) walk(join(ROOT, folder));
  return found.toSorted();
}

export function readText(path: string): string {
  return readFileSync(join(ROOT, path), 'utf8');
}

/** One `import`, `export … from`, `import()` or worker entry of a file. */
export interface Import {
  /** Path from the root for our own files, the name as written for packages. */
  readonly target: string;
  readonly isOwn: boolean;
  readonly isTypeOnly: boolean;
  /** Names that are imported; empty for a whole module. */
  readonly names: readonly string[];
}

export interface Source {
  readonly path: string;
  readonly text: string;
  readonly lines: readonly string[];
  readonly imports: readonly Import[];
  readonly hasDefaultExport: boolean;
  /** Lines (1-based) with the type `any`. */
  readonly anyLines: readonly number[];
  /** True when the file only passes on what other files export. */
  readonly isBarrel: boolean;
}

/** `text` stands in for the file's own, for tests of the rules themselves. */
export function parseSource(path: string, text = readText(path)): Source {
  const tree = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true);
  const imports: Import[] = [];
  const anyLines: number[] = [];
  const add = (specifier: string, isTypeOnly: boolean, names: readonly string[]): void => {
    const isOwn = specifier.startsWith('.');
    imports.push({ target: isOwn ? normalize(join(dirname(path), specifier)) : specifier, isOwn, isTypeOnly, names });
  };
  const visit = (node: ts.Node): void => {
    if (node.kind === ts.SyntaxKind.AnyKeyword) anyLines.push(tree.getLineAndCharacterOfPosition(node.pos).line + 1);
    const specifier = specifierOf(node);
    if (specifier !== undefined) add(specifier, bringsOnlyTypes(node), namesOf(node));
    node.forEachChild(visit);
  };
  visit(tree);
  const statements = tree.statements.filter((statement) => !ts.isImportDeclaration(statement));
  return {
    path,
    text,
    lines: text.replace(/\n$/, '').split('\n'),
    imports,
    hasDefaultExport: tree.statements.some(isDefaultExport),
    anyLines,
    isBarrel: statements.length > 0 && statements.every(isPassedOn),
  };
}

function specifierOf(node: ts.Node): string | undefined {
  if (ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) {
    return node.moduleSpecifier !== undefined && ts.isStringLiteral(node.moduleSpecifier)
      ? node.moduleSpecifier.text
      : undefined;
  }
  if (ts.isImportTypeNode(node)) {
    return ts.isLiteralTypeNode(node.argument) && ts.isStringLiteral(node.argument.literal)
      ? node.argument.literal.text
      : undefined;
  }
  if (!ts.isCallExpression(node) || node.expression.kind !== ts.SyntaxKind.ImportKeyword) return undefined;
  const [argument] = node.arguments;
  return argument !== undefined && ts.isStringLiteral(argument) ? argument.text : undefined;
}

function bringsOnlyTypes(node: ts.Node): boolean {
  if (ts.isImportTypeNode(node)) return true;
  if (ts.isExportDeclaration(node)) return node.isTypeOnly;
  if (!ts.isImportDeclaration(node)) return false;
  const clause = node.importClause;
  if (clause === undefined) return false;
  if (clause.phaseModifier === ts.SyntaxKind.TypeKeyword) return true;
  const named = clause.namedBindings;
  return (
    clause.name === undefined &&
    named !== undefined &&
    ts.isNamedImports(named) &&
    named.elements.length > 0 &&
    named.elements.every((element) => element.isTypeOnly)
  );
}

function namesOf(node: ts.Node): string[] {
  if (!ts.isImportDeclaration(node)) return [];
  const named = node.importClause?.namedBindings;
  if (named === undefined || !ts.isNamedImports(named)) return [];
  return named.elements.map((element) => (element.propertyName ?? element.name).text);
}

function isDefaultExport(statement: ts.Statement): boolean {
  if (ts.isExportAssignment(statement)) return true;
  if (!ts.canHaveModifiers(statement)) return false;
  return ts.getModifiers(statement)?.some(({ kind }) => kind === ts.SyntaxKind.DefaultKeyword) ?? false;
}

function isPassedOn(statement: ts.Statement): boolean {
  return ts.isExportDeclaration(statement) && statement.moduleSpecifier !== undefined;
}

/** Cycles among `edges`, each as the list of its members in order. Every strongly connected part gives one. */
export function findCycles(edges: ReadonlyMap<string, readonly string[]>): string[][] {
  const cycles: string[][] = [];
  const done = new Set<string>();
  const walk = (node: string, trail: readonly string[]): void => {
    const at = trail.indexOf(node);
    if (at >= 0) {
      cycles.push(trail.slice(at));
      return;
    }
    if (done.has(node)) return;
    for (const next of edges.get(node) ?? []) walk(next, [...trail, node]);
    done.add(node);
  };
  for (const node of edges.keys()) walk(node, []);
  return cycles;
}

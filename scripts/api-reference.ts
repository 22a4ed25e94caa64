/** docs/api.md: what programs import, from the types and their comments, by TypeDoc. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { Application, LogLevel } from 'typedoc';
import type { PluginOptions } from 'typedoc-plugin-markdown';

const ROOT = dirname(import.meta.dirname);
/** Entry points, and what they are imported as. */
const MODULES = [
  ['index', 'ringhost'],
  ['client', 'ringhost/client'],
] as const;

const HEAD = `# TypeScript API

<!-- Made by scripts/generate-docs.ts from src/index.ts and src/client.ts. Do not edit. -->

What programs import from Ringhost: \`ringhost\` to write disks and to serve them, \`ringhost/client\` to call a running
daemon. [Write a disk](write-a-bdev.md) has both in use; the methods that \`call\` takes are in the
[RPC reference](rpc.md).
`;

const LAYOUT: Partial<PluginOptions> = {
  outputFileStrategy: 'modules',
  hidePageHeader: true,
  hideBreadcrumbs: true,
  hideGroupHeadings: true,
  useCodeBlocks: true,
  expandParameters: true,
  interfacePropertiesFormat: 'table',
  classPropertiesFormat: 'table',
  parametersFormat: 'table',
  tableColumnSettings: {
    leftAlignHeaders: true,
    hideSources: true,
    hideInherited: true,
    hideOverrides: true,
    hideDefaults: true,
  },
};

/** The text of the page. @throws Error when TypeDoc cannot read the sources */
export async function apiReference(): Promise<string> {
  const out = mkdtempSync(join(tmpdir(), 'ringhost-api-'));
  try {
    const app = await Application.bootstrapWithPlugins({
      ...LAYOUT,
      plugin: ['typedoc-plugin-markdown'],
      entryPoints: MODULES.map(([file]) => join(ROOT, `src/${file}.ts`)),
      tsconfig: join(ROOT, 'tsconfig.json'),
      out,
      readme: 'none',
      logLevel: LogLevel.Error,
      // `npm run types` has checked them.
      skipErrorChecking: true,
      excludeExternals: true,
      excludeInternal: true,
      excludePrivate: true,
      disableSources: true,
      disableGit: true,
    });
    const project = await app.convert();
    if (project === undefined) throw new Error('TypeDoc could not read src/index.ts and src/client.ts');
    await app.generateOutputs(project);
    const pages = MODULES.map(([file, name]) => pageOf(readFileSync(join(out, `${file}.md`), 'utf8'), name));
    return [HEAD, ...pages].join('\n');
  } finally {
    rmSync(out, { recursive: true, force: true });
  }
}

/** A module's page as a chapter: headings one level lower, under what it is imported as. */
function pageOf(text: string, name: string): string {
  const [, ...rest] = text.trimEnd().split('\n');
  const body = rest.map((line) => (/^#{1,5} /.test(line) ? `#${line}` : line.trimEnd())).join('\n');
  // A union of all names of methods is what the compiler makes of their own type: in code, and in tables.
  const named = body
    .replaceAll(/\s*\|?\s*"\w+"(?:\s*\|\s*"[\w.]+"){20,}\s*/g, ' MethodName')
    .replaceAll(/ \\\| `"\w+"`(?: \\\| `"[\w.]+"`){20,}/g, ' [`MethodName`](#methodname)');
  return `## \`${name}\`\n${named.replaceAll(/\n\*\*\*\n/g, '').replaceAll(/ ?<a id="[^"]*"><\/a>/g, '')}\n`;
}

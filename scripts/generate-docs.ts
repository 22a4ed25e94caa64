/**
 * Writes the reference pages that are derived from tables in the source. With `--check` it writes nothing and fails
 * when a page is not what the table says.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Errno } from '../src/base/errors.ts';
import { usageLine } from '../src/rpc/arguments.ts';
import type { MethodAlias, MethodSpec } from '../src/rpc/define.ts';
import { errnoError } from '../src/rpc/errors.ts';
import {
  BATCH_MAX,
  CONNECTIONS_MAX,
  NESTING_MAX,
  OUTPUT_MAX_BYTES,
  OUTPUT_STALL_MS,
  REQUEST_MAX_BYTES,
} from '../src/rpc/limits.ts';
import { METHODS } from '../src/rpc/methods.ts';
import { describeParams, type JsonSchema, jsonSchema } from '../src/rpc/openrpc.ts';
import { cliReference } from './cli-reference.ts';
import { conformanceReference } from './conformance-docs.ts';
import { scsiReference } from './scsi-docs.ts';

const MIB = 1024 * 1024;

const SECTIONS: readonly (readonly [title: string, isMember: (name: string) => boolean])[] = [
  ['Block devices', (name) => name.includes('bdev')],
  ['Vhost controllers', (name) => name.startsWith('vhost_')],
  ['Daemon', () => true],
];

const INTRODUCTION = `# RPC reference

<!-- Made by scripts/generate-docs.ts from the method table in src/rpc/. Do not edit. -->

A running daemon is controlled by JSON-RPC 2.0 over a Unix socket, \`/var/tmp/ringhost.sock\` unless \`-r PATH\` says
otherwise. Only its owner may open it (mode 0600). \`ringhost rpc METHOD ARGUMENTS\` calls a method and prints the
result; SPDK's \`rpc.py -s /var/tmp/ringhost.sock\` and other SPDK clients work as they are. \`rpc.discover\` returns
this page as an OpenRPC document.

## Framing

Requests and answers are JSON values that follow one another on the connection, with or without white space between
them. There is no length and no separator. Answers are ASCII, one a line.

- The requests of a connection are carried out one after another in the order in which they were sent, except that
  requests that wait for an event (\`bdev_get_bdevs\` with \`timeout\`, \`framework_wait_init\`) do not hold up those
  behind them.
- A batch (an array of requests) gets one array of answers, in the order of the requests.
- A request without \`id\`, or with \`id\` null, is a notification: it is carried out and not answered.
- \`params\` is an object. An unknown parameter is an error.
- Whole numbers are exact up to 9007199254740991 (2^53 − 1). Larger ones are refused, never rounded.
- What is not JSON is answered with a parse error, and the connection is closed.

| Limit | |
|---|---|
| Length of a request | ${REQUEST_MAX_BYTES / MIB} MiB |
| Nesting of arrays and objects | ${NESTING_MAX} |
| Requests in a batch | ${BATCH_MAX} |
| Connections | ${CONNECTIONS_MAX} |
| Answers that a client has not read | ${OUTPUT_MAX_BYTES / MIB} MiB |
| Time in which a client reads none of them | ${OUTPUT_STALL_MS / 1000} s |

## Errors

\`\`\`json
{
  "code": -19,
  "message": "No such device",
  "data": {
    "errno": "ENODEV",
    "detail": "no bdev is named Malloc9: bdev_get_bdevs lists them"
  }
}
\`\`\`

\`code\` and \`message\` are what SPDK answers; \`data\` is an addition: \`detail\` says what is wrong and what to do,
\`errno\` names the error where there is one.

| Code | Message | When |
|---|---|---|
| −32700 | Parse error | The input is not JSON, or too long, or too deeply nested. |
| −32600 | Invalid request | The JSON is not a request. |
| −32601 | Method not found | There is no such method. |
| −32602 | Invalid parameters | A parameter is missing, unknown or of the wrong type. |
| −32603 | Internal error | A fault of the daemon; its log has the details. |
| −32000 | Server busy | A limit on connections or waiting requests is reached. |
| −1 | Method may not be called in the current state | Before or after initialisation, when it is not for then. |
| others | the text of strerror(3) | As listed at each method. |
`;

/** A type as people write it: `string`, `integer ≥ 1`, `"a" \| "b"`. */
function typeText(schema: JsonSchema): string {
  const values = (schema.enum ?? (schema.const === undefined ? undefined : [schema.const])) as unknown[] | undefined;
  if (values !== undefined) return values.map((value) => `\`${JSON.stringify(value)}\``).join(' \\| ');
  const options = (schema.anyOf ?? schema.oneOf) as readonly JsonSchema[] | undefined;
  if (options !== undefined) return [...new Set(options.map(typeText))].join(' or ');
  if (schema.type === 'array') return `array of ${typeText((schema.items ?? {}) as JsonSchema)}`;
  if (schema.type === 'integer') return integerText(schema);
  if (schema.format === 'guid' || schema.format === 'uuid') return 'UUID';
  return typeof schema.type === 'string' ? schema.type : 'any';
}

function integerText({ minimum, maximum }: JsonSchema): string {
  const low = typeof minimum === 'number' && minimum > Number.MIN_SAFE_INTEGER ? minimum : null;
  const high = typeof maximum === 'number' && maximum < Number.MAX_SAFE_INTEGER ? maximum : null;
  if (low !== null && high !== null) return `integer ${low} … ${high}`;
  if (low !== null) return `integer ≥ ${low}`;
  return high === null ? 'integer' : `integer ≤ ${high}`;
}

function paramTable(spec: MethodSpec): string {
  const params = describeParams(spec);
  if (params.length === 0) return 'No parameters.\n';
  const rows = params.map(
    ({ name, required, schema, description }) =>
      `| \`${name}\` | ${typeText(schema)} | ${required ? 'yes' : 'no'} | ${description} |`,
  );
  return ['| Parameter | Type | Required | |', '|---|---|---|---|', ...rows, ''].join('\n');
}

/** Fields of a result that have something to say, with their path. */
function fieldNotes(schema: JsonSchema, path: string): readonly string[] {
  const own = typeof schema.description === 'string' && path !== '' ? [`- \`${path}\`: ${schema.description}`] : [];
  const below: string[] = [];
  const properties = (schema.properties ?? {}) as Readonly<Record<string, JsonSchema>>;
  for (const [name, property] of Object.entries(properties)) {
    below.push(...fieldNotes(property, path === '' ? name : `${path}.${name}`));
  }
  if (schema.items !== undefined) below.push(...fieldNotes(schema.items as JsonSchema, path));
  for (const option of (schema.anyOf ?? []) as readonly JsonSchema[]) below.push(...fieldNotes(option, path));
  return [...own, ...below];
}

function resultText(spec: MethodSpec): string {
  const schema = jsonSchema(spec.result, 'output');
  const about = typeof schema.description === 'string' ? `: ${schema.description}` : '.';
  const notes = [...new Set(fieldNotes(schema, ''))];
  const list = notes.length === 0 ? '' : `\n\n${notes.join('\n')}`;
  return `Result: ${typeText(schema)}${about}${list}\n`;
}

function errorTable(spec: MethodSpec): string {
  if (spec.errors.length === 0) return '';
  const rows = spec.errors.map(({ code, when }) => {
    const { code: number, message } = errnoError(Errno[code], spec.errorStyle, when);
    return `| ${String(number).replace('-', '−')} | ${message} | ${when} |`;
  });
  return ['| Code | Message | When |', '|---|---|---|', ...rows, ''].join('\n');
}

function json(value: unknown): string {
  return `\`\`\`json\n${JSON.stringify(value, null, 2)}\n\`\`\`\n`;
}

function aliasText(aliases: readonly MethodAlias[]): string {
  if (aliases.length === 0) return '';
  return `${aliases
    .map((alias) => `Older name: \`${alias.name}\`${alias.note === undefined ? '.' : `. ${alias.note}`}`)
    .join('\n')}\n`;
}

function methodText(name: string, spec: MethodSpec): string {
  const { params, result } = spec.example;
  const request = { jsonrpc: '2.0', id: 1, method: name, ...(Object.keys(params).length > 0 ? { params } : {}) };
  const parts = [
    `### ${name}\n`,
    `${spec.summary}.\n`,
    spec.details === undefined ? '' : `${spec.details}\n`,
    spec.states.includes('runtime') ? '' : 'Only before initialisation.\n',
    aliasText(spec.aliases),
    paramTable(spec),
    resultText(spec),
    errorTable(spec),
    `\`\`\`sh\nringhost rpc ${usageLine(name, spec.cli)}\n\`\`\`\n`,
    json(request),
    json({ jsonrpc: '2.0', id: 1, result }),
  ];
  return parts.filter((part) => part !== '').join('\n');
}

/** The text of docs/rpc.md. */
function rpcReference(): string {
  const rest = new Map<string, MethodSpec>(
    Object.entries(METHODS).toSorted(([left], [right]) => (left < right ? -1 : 1)),
  );
  const sections = SECTIONS.map(([title, isMember]) => {
    const members = [...rest].filter(([name]) => isMember(name));
    for (const [name] of members) rest.delete(name);
    const contents = members.map(([name, spec]) => `- [\`${name}\`](#${name.replace('.', '')}): ${spec.summary}`);
    return [`## ${title}\n`, `${contents.join('\n')}\n`, ...members.map(([name, spec]) => methodText(name, spec))].join(
      '\n',
    );
  });
  return [INTRODUCTION, ...sections].join('\n');
}

const PAGES: Readonly<Record<string, () => string>> = {
  'docs/cli.md': cliReference,
  'docs/conformance.md': conformanceReference,
  'docs/rpc.md': rpcReference,
  'docs/scsi.md': scsiReference,
};

const API_PAGE = 'docs/api.md';

const pathOf = (page: string): string => fileURLToPath(new URL(`../${page}`, import.meta.url));

/** Pages that are not what the tables say. */
export function stalePages(): string[] {
  return Object.entries(PAGES)
    .filter(([page, text]) => !existsSync(pathOf(page)) || readFileSync(pathOf(page), 'utf8') !== text())
    .map(([page]) => page);
}

async function main(argv: readonly string[]): Promise<number> {
  // It takes seconds: the compiler reads all sources for it.
  const { apiReference } = await import('./api-reference.ts');
  const api = await apiReference();
  if (!argv.includes('--check')) {
    for (const [page, text] of Object.entries(PAGES)) writeFileSync(pathOf(page), text());
    writeFileSync(pathOf(API_PAGE), api);
    return 0;
  }
  const isApiStale = !existsSync(pathOf(API_PAGE)) || readFileSync(pathOf(API_PAGE), 'utf8') !== api;
  const stale = [...stalePages(), ...(isApiStale ? [API_PAGE] : [])];
  if (stale.length === 0) return 0;
  process.stderr.write(`${stale.join(', ')}: not current. Run scripts/generate-docs.ts and commit the result\n`);
  return 1;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exitCode = await main(process.argv.slice(2));

/**
 * The files of the page. In a checkout its scripts are TypeScript, whose types are taken away as they are served; in
 * an installed package they are JavaScript. Nothing comes from elsewhere: the page works without the internet.
 */
import { readFile } from 'node:fs/promises';
import { createRequire, stripTypeScriptTypes } from 'node:module';
import { dirname, join } from 'node:path';

export interface Asset {
  readonly type: string;
  readonly text: string;
}

const SOURCES = new URL('../', import.meta.url);
const PAGE = 'dashboard/page/';
const IS_CHECKOUT = import.meta.url.endsWith('.ts');
const UPLOT = dirname(createRequire(import.meta.url).resolve('uplot'));

const SCRIPT = 'text/javascript; charset=utf-8';
const STYLE = 'text/css; charset=utf-8';
/** What is served, and no other file: by the path of its URL, without the extension, where it is. */
const SCRIPTS: ReadonlyMap<string, string> = new Map([
  ...['main', 'charts', 'colors', 'heat-maps', 'house', 'requests', 'sorted-table', 'subject'].map(
    (name): [string, string] => [`/page/${name}`, `${PAGE}${name}`],
  ),
  ...['observe/format', 'observe/heat', 'observe/latency', 'observe/tables', 'base/percentile'].map(
    (name): [string, string] => [`/${name}`, name],
  ),
]);
const STILL_FILES: Readonly<Record<string, string>> = { 'style.css': STYLE, 'icon.svg': 'image/svg+xml' };
const VENDOR: Readonly<Record<string, { readonly file: string; readonly type: string }>> = {
  'uplot.js': { file: 'uPlot.iife.min.js', type: SCRIPT },
  'uplot.css': { file: 'uPlot.min.css', type: STYLE },
};

/** A file of the page by the path of its URL, or null. */
export async function findAsset(path: string): Promise<Asset | null> {
  if (path === '/') {
    const html = await read(`${PAGE}index.html`);
    return { type: 'text/html; charset=utf-8', text: IS_CHECKOUT ? html : html.replace('main.ts', 'main.js') };
  }
  const extension = IS_CHECKOUT ? '.ts' : '.js';
  const script = path.endsWith(extension) ? SCRIPTS.get(path.slice(0, -extension.length)) : undefined;
  if (script !== undefined) {
    const text = await read(script + extension);
    return { type: SCRIPT, text: IS_CHECKOUT ? stripTypeScriptTypes(text) : text };
  }
  const [, folder, name = ''] = path.split('/');
  const vendor = folder === 'vendor' ? VENDOR[name] : undefined;
  if (vendor !== undefined) return { type: vendor.type, text: await readFile(join(UPLOT, vendor.file), 'utf8') };
  const type = folder === 'page' ? STILL_FILES[name] : undefined;
  return type === undefined ? null : { type, text: await read(PAGE + name) };
}

function read(path: string): Promise<string> {
  return readFile(new URL(path, SOURCES), 'utf8');
}

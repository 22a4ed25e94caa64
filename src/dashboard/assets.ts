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

const PAGE = new URL('./page/', import.meta.url);
const IS_CHECKOUT = import.meta.url.endsWith('.ts');
const UPLOT = dirname(createRequire(import.meta.url).resolve('uplot'));

const SCRIPT = 'text/javascript; charset=utf-8';
const STYLE = 'text/css; charset=utf-8';
/** What is served, and no other file. */
const SCRIPTS: readonly string[] = ['main', 'charts', 'format', 'house', 'tables'];
const STILL_FILES: Readonly<Record<string, string>> = { 'style.css': STYLE, 'icon.svg': 'image/svg+xml' };
const VENDOR: Readonly<Record<string, { readonly file: string; readonly type: string }>> = {
  'uplot.js': { file: 'uPlot.iife.min.js', type: SCRIPT },
  'uplot.css': { file: 'uPlot.min.css', type: STYLE },
};

/** A file of the page by the path of its URL, or null. */
export async function findAsset(path: string): Promise<Asset | null> {
  if (path === '/') {
    const html = await readFile(new URL('index.html', PAGE), 'utf8');
    return { type: 'text/html; charset=utf-8', text: IS_CHECKOUT ? html : html.replace('main.ts', 'main.js') };
  }
  const [, folder, name = ''] = path.split('/');
  const vendor = folder === 'vendor' ? VENDOR[name] : undefined;
  if (vendor !== undefined) return { type: vendor.type, text: await readFile(join(UPLOT, vendor.file), 'utf8') };
  if (folder !== 'page') return null;
  const still = STILL_FILES[name];
  if (still !== undefined) return { type: still, text: await readFile(new URL(name, PAGE), 'utf8') };
  const [stem = '', extension] = name.split('.');
  if (!SCRIPTS.includes(stem) || extension !== (IS_CHECKOUT ? 'ts' : 'js')) return null;
  const text = await readFile(new URL(name, PAGE), 'utf8');
  return { type: SCRIPT, text: IS_CHECKOUT ? stripTypeScriptTypes(text) : text };
}

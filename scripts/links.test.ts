/** Every link of the documents leads to a file that is there, and to a heading that it has. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, it } from 'vitest';

const ROOT = dirname(import.meta.dirname);
const LINK = /\]\(([^)\s]+)\)/g;
const FENCED = /^```[\s\S]*?^```$/gm;

const documents = [
  ...readdirSync(ROOT),
  ...readdirSync(join(ROOT, 'docs'), { recursive: true, encoding: 'utf8' }).map((path) => join('docs', path)),
].filter((path) => path.endsWith('.md'));

/** As GitHub makes it of a heading. */
function anchorOf(heading: string): string {
  const text = heading.replaceAll(/`|\[([^\]]*)\]\([^)]*\)/g, '$1').toLowerCase();
  return text.replaceAll(/[^\p{L}\p{N}_ -]/gu, '').replaceAll(' ', '-');
}

function anchorsOf(text: string): Set<string> {
  const headings = [...text.replaceAll(FENCED, '').matchAll(/^#+ (.*)$/gm)];
  return new Set(headings.map(([, heading = '']) => anchorOf(heading.trim())));
}

/** What a link of a document leads to that is not there; null when all is well. */
function problemOf(document: string, link: string): string | null {
  if (/^[a-z]+:/.test(link)) return null; // elsewhere
  const [path = '', anchor] = link.split('#');
  const target = path === '' ? document : join(dirname(document), path);
  if (!existsSync(join(ROOT, target))) return `${document}: no ${target}`;
  if (anchor === undefined || !target.endsWith('.md')) return null;
  return anchorsOf(readFileSync(join(ROOT, target), 'utf8')).has(anchor)
    ? null
    : `${document}: no #${anchor} in ${target}`;
}

function problemsOf(document: string): string[] {
  const text = readFileSync(join(ROOT, document), 'utf8').replaceAll(FENCED, '');
  return [...text.matchAll(LINK)]
    .map(([, link = '']) => problemOf(document, link))
    .filter((problem) => problem !== null);
}

it('leads somewhere', () => {
  expect(documents.length).toBeGreaterThan(20);
  expect(documents.flatMap(problemsOf)).toEqual([]);
});

it('is refused when it leads nowhere', () => {
  expect(problemOf('README.md', 'docs/nowhere.md')).toBe('README.md: no docs/nowhere.md');
  expect(problemOf('docs/guide.md', 'rpc.md#nowhere')).toBe('docs/guide.md: no #nowhere in docs/rpc.md');
  expect(problemOf('docs/guide.md', '#in-the-guest')).toBeNull();
});

it('is in the README for every page', () => {
  const readme = readFileSync(join(ROOT, 'README.md'), 'utf8');
  const pages = documents.filter((path) => /^docs\/[^/]+\.md$/.test(path));
  expect(pages.filter((path) => !readme.includes(`](${path}`))).toEqual([]);
});

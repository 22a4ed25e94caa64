/** The first metric of every row as bars, one picture a run: plain SVG, no library. */
import { type Outcome, valuesOf } from './report.ts';
import type { Scenario } from './scenarios/scenario.ts';
import { summarize } from './statistics.ts';

const WIDTH = 960;
const NAME_WIDTH = 250;
const VALUE_WIDTH = 110;
const BAR = 13;
const GAP = 8;
const HEAD = 34;
const TOP = 44;
/** Distinct also for those who do not tell red from green. */
const COLOURS = ['#0072b2', '#d55e00', '#e69f00', '#009e73', '#56b4e9', '#cc79a7', '#999999', '#000000'];

interface Bar {
  readonly target: string;
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

const escapeXml = (content: string): string => content.replaceAll('&', '&amp;').replaceAll('<', '&lt;');

function barsOf({ scenario, samples }: Outcome): Bar[] {
  const key = scenario.metrics[0]?.key ?? '';
  return [...samples]
    .filter(([, list]) => list.length > 0)
    .map(([target, list]) => ({ target, ...summarize(valuesOf(list, key)) }));
}

function text(x: number, y: number, content: string, attributes = ''): string {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" ${attributes}>${escapeXml(content)}</text>`;
}

function box(x: number, y: number, width: number, height: number, colour = '#000'): string {
  return `<rect x="${x}" y="${y}" width="${width.toFixed(1)}" height="${height}" fill="${colour}"/>`;
}

/** Bars of one scenario from `y` on; whiskers reach from the lowest to the highest round. */
function drawScenario(scenario: Scenario, bars: readonly Bar[], scale: number, y: number, colours: Colours): string {
  const format = scenario.metrics[0]?.format ?? String;
  const lines = bars.map(({ target, median, min, max }, i) => {
    const top = y + i * BAR;
    const middle = top + BAR / 2;
    const [from, to] = [NAME_WIDTH + min * scale, NAME_WIDTH + max * scale];
    return [
      box(NAME_WIDTH, top + 1, median * scale, BAR - 2, colours.get(target)),
      `<path d="M${from.toFixed(1)} ${middle}H${to.toFixed(1)}" stroke="#222"/>`,
      text(Math.max(NAME_WIDTH + median * scale, to) + 5, middle + 4, format(median), 'class="value"'),
    ].join('');
  });
  return text(NAME_WIDTH - 8, y + (bars.length * BAR) / 2 + 4, scenario.name, 'text-anchor="end"') + lines.join('\n');
}

type Colours = ReadonlyMap<string, string>;

export function plot(outcomes: readonly Outcome[], title: string): string {
  const names = [...new Set(outcomes.flatMap(({ samples }) => [...samples.keys()]))];
  const colours: Colours = new Map(names.map((name, i) => [name, COLOURS[i % COLOURS.length] ?? '#000']));
  const parts: string[] = [text(10, 18, title, 'class="head"')];
  names.forEach((name, i) => {
    parts.push(box(10 + i * 170, 27, 10, 10, colours.get(name)));
    parts.push(text(25 + i * 170, 36, name));
  });
  let y = TOP;
  for (const [group, members] of Map.groupBy(outcomes, ({ scenario }) => scenario.group)) {
    const rows = members.map((outcome) => ({ scenario: outcome.scenario, bars: barsOf(outcome) }));
    const most = Math.max(...rows.flatMap(({ bars }) => bars.map(({ max }) => max)));
    parts.push(text(10, y + 22, `${group}: ${members[0]?.scenario.metrics[0]?.title ?? ''}`, 'class="head"'));
    y += HEAD;
    for (const { scenario, bars } of rows) {
      parts.push(drawScenario(scenario, bars, (WIDTH - NAME_WIDTH - VALUE_WIDTH) / most, y, colours));
      y += bars.length * BAR + GAP;
    }
  }
  const style = 'text{font:11px sans-serif;fill:#222}.head{font-weight:bold;font-size:13px}.value{fill:#555}';
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${y + GAP}" width="${WIDTH}" height="${y + GAP}">` +
    `<style>${style}</style><rect width="100%" height="100%" fill="#fff"/>\n${parts.join('\n')}\n</svg>\n`
  );
}

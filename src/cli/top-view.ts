/**
 * What `ringhost top` shows: totals, reactors, and one of three tables, as a function of the newest rates and of what
 * the user chose. `press` is what keys do to the choice.
 */
import { Box, type Key, Text } from 'ink';
import { createElement as h, type ReactNode } from 'react';
import { formatBytes, formatCount, formatSeconds, formatShare } from '../observe/format.ts';
import { heatRowSeconds } from '../observe/heat.ts';
import type { Rates } from '../observe/rates.ts';
import {
  BDEVS,
  type Bdev,
  CONTROLLERS,
  type Order,
  orderBy,
  QUEUES,
  type Queue,
  sorted,
  type Table,
} from '../observe/tables.ts';

/** What the user chose. */
export interface Choice {
  readonly table: TableName;
  readonly order: Order;
  /** Shown are rows that contain it. */
  readonly filter: string;
  /** Keys go to the filter. */
  readonly isTyping: boolean;
  /** Number of the row, as shown. */
  readonly selected: number;
  /** Of the queues only those of this controller; null: all. */
  readonly controller: string | null;
  /** First cell of the row that is shown by itself; null: the table is shown. */
  readonly opened: string | null;
  readonly isPaused: boolean;
}

type TableName = 'controllers' | 'queues' | 'bdevs';
/** Rows of every table, which only its own functions look into. */
type Row = unknown;

const TABLES: Readonly<Record<TableName, Table<Row>>> = { controllers: CONTROLLERS, queues: QUEUES, bdevs: BDEVS };
const NAMES: readonly TableName[] = ['controllers', 'queues', 'bdevs'];
const FIRST: Order = { column: 0, isAscending: true };
const BAR_COLUMNS = 20;
/** Lines around the table: totals, two of headings, help, and empty ones. */
const FRAME_LINES = 6;
const GAP = 2;
/** Of the figures of a row that is shown by itself: their names, and all of it. */
const LABEL_COLUMNS = 16;
const FIGURES_COLUMNS = 36;
const HELP =
  'q quit  enter open  esc back  ↑↓ select  ←→ sort by  r reverse  / filter  p pause  1 controllers  2 queues  3 bdevs';

export const NOTHING_CHOSEN: Choice = {
  table: 'bdevs',
  order: FIRST,
  filter: '',
  isTyping: false,
  selected: 0,
  controller: null,
  opened: null,
  isPaused: false,
};

/** The choice after a key. */
export function press(choice: Choice, input: string, key: Partial<Key>, rates: Rates): Choice {
  if (choice.isTyping) return type(choice, input, key);
  const table = NAMES[Number(input) - 1];
  if (table !== undefined) {
    return { ...choice, table, order: FIRST, selected: 0, controller: null, opened: null };
  }
  if (input === 'p') return { ...choice, isPaused: !choice.isPaused };
  if (key.escape === true) return back(choice);
  if (choice.opened !== null) return choice;
  const rows = shownRows(choice, rates);
  const last = Math.max(0, rows.length - 1);
  if (key.upArrow === true) return { ...choice, selected: Math.max(0, Math.min(choice.selected, last) - 1) };
  if (key.downArrow === true) return { ...choice, selected: Math.min(last, choice.selected + 1) };
  if (key.leftArrow === true || key.rightArrow === true)
    return sortBeside(choice, key.leftArrow === true ? -1 : 1, rows);
  if (key.return === true) return open(choice, rows);
  if (input === 'r') return { ...choice, order: { ...choice.order, isAscending: !choice.order.isAscending } };
  return input === '/' ? { ...choice, isTyping: true, filter: '' } : choice;
}

function type(choice: Choice, input: string, key: Partial<Key>): Choice {
  if (key.return === true) return { ...choice, isTyping: false };
  if (key.escape === true) return { ...choice, isTyping: false, filter: '' };
  const isErasing = key.backspace === true || key.delete === true;
  const filter = isErasing ? choice.filter.slice(0, -1) : choice.filter + input;
  return { ...choice, filter, selected: 0 };
}

function sortBeside(choice: Choice, step: 1 | -1, rows: readonly Row[]): Choice {
  const table = TABLES[choice.table];
  const count = table.columns.length;
  return { ...choice, order: orderBy(table, (choice.order.column + step + count) % count, choice.order, rows) };
}

/** From a controller to its queues, from a queue or a bdev to all that is known of it. */
function open(choice: Choice, rows: readonly Row[]): Choice {
  const row = rows[Math.min(choice.selected, rows.length - 1)];
  const name = row === undefined ? undefined : TABLES[choice.table].columns[0]?.text(row);
  if (name === undefined) return choice;
  if (choice.table !== 'controllers') return { ...choice, opened: name };
  return { ...choice, table: 'queues', order: FIRST, filter: '', selected: 0, controller: name };
}

/** The way `open` came. */
function back(choice: Choice): Choice {
  if (choice.opened !== null) return { ...choice, opened: null };
  if (choice.filter !== '') return { ...choice, filter: '', selected: 0 };
  if (choice.controller === null) return choice;
  return { ...choice, table: 'controllers', order: FIRST, selected: 0, controller: null };
}

/** Those that there are to see, without the filter. */
function allRows({ table, controller }: Choice, rates: Rates): readonly Row[] {
  const rows = TABLES[table].rows(rates);
  if (table !== 'queues' || controller === null) return rows;
  return rows.filter((row) => (row as Queue).controller === controller);
}

/** Filtered and in order. */
function shownRows(choice: Choice, rates: Rates): readonly Row[] {
  const table = TABLES[choice.table];
  const wanted = choice.filter.toLowerCase();
  const isWanted = (row: Row): boolean => table.columns.some(({ text }) => text(row).toLowerCase().includes(wanted));
  return sorted(table, allRows(choice, rates).filter(isWanted), choice.order);
}

export interface TopViewProps {
  readonly rates: Rates;
  readonly choice: Choice;
  /** Of the terminal. */
  readonly lines: number;
  readonly columns: number;
}

export function TopView({ rates, choice, lines, columns }: TopViewProps): ReactNode {
  // A machine with many cores leaves half of a small terminal to the table.
  const reactors = rates.reactors.slice(0, Math.max(1, Math.floor((lines - FRAME_LINES) / 2)));
  const tableLines = Math.max(1, lines - FRAME_LINES - reactors.length);
  return h(
    Box,
    { flexDirection: 'column' },
    ...summaryView(rates, reactors, choice.isPaused),
    h(Text, null, ' '),
    ...(choice.opened === null
      ? tableView(choice, rates, { lines: tableLines, columns })
      : detailView(choice.opened, choice, rates, tableLines + 1)),
    h(Text, null, ' '),
    h(Text, { dimColor: true, wrap: 'truncate' }, choice.isTyping ? `filter: ${choice.filter}▏` : footer(choice)),
  );
}

/** All there is, for a look that is printed. */
export function PrintedView({ rates, columns }: Pick<TopViewProps, 'rates' | 'columns'>): ReactNode {
  return h(
    Box,
    { flexDirection: 'column' },
    ...summaryView(rates, rates.reactors, false),
    ...NAMES.map((table) => {
      const rows = tableView({ ...NOTHING_CHOSEN, table }, rates, { lines: Number.MAX_SAFE_INTEGER, columns });
      return h(Box, { key: table, flexDirection: 'column' }, h(Text, null, ' '), ...rows);
    }),
  );
}

function summaryView(rates: Rates, reactors: Rates['reactors'], isPaused: boolean): readonly ReactNode[] {
  return [
    h(Text, { key: 'totals', bold: true, wrap: 'truncate' }, totals(rates, isPaused)),
    ...reactors.map((reactor) => h(Text, { key: reactor.core, wrap: 'truncate' }, reactorLine(reactor))),
  ];
}

function footer({ filter, controller, opened }: Choice): string {
  const only = controller === null ? '' : `queues of ${controller}   `;
  return opened === null && filter !== '' ? `${only}filter: ${filter} (esc ends it)   ${HELP}` : `${only}${HELP}`;
}

function totals({ version, controllers, served }: Rates, isPaused: boolean): string {
  const iops = controllers.reduce((sum, controller) => sum + controller.iops, 0);
  const inFlight = controllers.reduce((sum, controller) => sum + controller.inFlight, 0);
  const [read, write] = [served.read, served.write].map(({ bytesPerSecond }) => formatBytes(bytesPerSecond));
  const bytes = `read ${read}/s   write ${write}/s`;
  return `${version}   ${formatCount(iops)} IOPS   ${bytes}   ${inFlight} in flight${isPaused ? '   paused' : ''}`;
}

function reactorLine({ core, busy, isSleeping, iops }: Rates['reactors'][number]): string {
  const state = (isSleeping ? 'asleep' : 'awake').padEnd(7);
  const share = formatShare(busy).padStart(6);
  return `core ${String(core).padEnd(4)}${bar(busy)} ${share}  ${state}${formatCount(iops)} IOPS`;
}

function bar(share: number): string {
  const filled = Math.round(share * BAR_COLUMNS);
  return '█'.repeat(filled) + '░'.repeat(BAR_COLUMNS - filled);
}

interface Size {
  readonly lines: number;
  readonly columns: number;
}

function tableView(choice: Choice, rates: Rates, size: Size): ReactNode[] {
  const { columns, empty, name } = TABLES[choice.table];
  const rows = shownRows(choice, rates);
  const selected = Math.min(choice.selected, rows.length - 1);
  const first = Math.max(0, Math.min(selected - size.lines + 1, rows.length - size.lines));
  const texts = rows.map((row) => columns.map(({ text }) => text(row)));
  const titles = columns.map(({ title }, index) => {
    return index === choice.order.column ? `${title}${choice.order.isAscending ? '▴' : '▾'}` : title;
  });
  const widths = titles.map((title, index) => Math.max(title.length, ...texts.map((row) => row[index]?.length ?? 0)));
  const shown = columnsThatFit(widths, choice.order.column, size.columns);
  const line = (cells: readonly string[]): string => {
    return shown
      .map((at) => (at === 0 ? cells[at]?.padEnd(widths[at] ?? 0) : cells[at]?.padStart(widths[at] ?? 0)) ?? '')
      .join(' '.repeat(GAP));
  };
  const none = allRows(choice, rates).length === 0 ? empty : `none of the ${name} contains "${choice.filter}"`;
  const groups = columns.map(({ group }) => group ?? '');
  return [
    h(Text, { key: 'groups', dimColor: true, wrap: 'truncate' }, groupLine(groups, widths, shown)),
    h(Text, { key: 'titles', bold: true, wrap: 'truncate' }, line(titles)),
    ...(rows.length === 0 ? [h(Text, { key: 'none', dimColor: true }, none)] : []),
    ...texts.slice(first, first + size.lines).map((cells, index) => {
      return h(Text, { key: `row ${index}`, inverse: first + index === selected, wrap: 'truncate' }, line(cells));
    }),
  ];
}

/** The first, and of the others as many as fit, so that what is sorted by is among them. */
function columnsThatFit(widths: readonly number[], sortedBy: number, room: number): number[] {
  for (let from = 1; from < widths.length; from++) {
    let left = room - (widths[0] ?? 0);
    let to = from;
    while (to < widths.length && left >= GAP + (widths[to] ?? 0)) left -= GAP + (widths[to++] ?? 0);
    if (sortedBy < to || from >= sortedBy) return [0, ...Array.from({ length: to - from }, (_, index) => from + index)];
  }
  return [0];
}

/** `── read ──` over the columns of a group. */
function groupLine(groups: readonly string[], widths: readonly number[], shown: readonly number[]): string {
  // What stands beside each other under one heading; a column without a group is alone.
  const runs: { group: string; width: number }[] = [];
  for (const at of shown) {
    const [group, width] = [groups[at] ?? '', widths[at] ?? 0];
    const last = runs.at(-1);
    if (last !== undefined && group !== '' && last.group === group) last.width += GAP + width;
    else runs.push({ group, width });
  }
  const cells = runs.map(({ group, width }) => {
    const text = group === '' ? '' : ` ${group} `;
    const dashes = group === '' ? 0 : Math.max(0, width - text.length);
    return `${'─'.repeat(Math.floor(dashes / 2))}${text}${'─'.repeat(Math.ceil(dashes / 2))}`.padStart(width);
  });
  return cells.join(' '.repeat(GAP)).trimEnd();
}

/** All that is known of one queue or bdev, and how long its requests of the last interval took. */
function detailView(name: string, choice: Choice, rates: Rates, linesMax: number): ReactNode[] {
  const { columns } = TABLES[choice.table];
  const row = allRows(choice, rates).find((one) => columns[0]?.text(one) === name);
  if (row === undefined) return [h(Text, { key: 'gone', dimColor: true }, `${name} is not there any more`)];
  const figures = columns.slice(1).map(({ group, title, text }) => {
    return `${(group === undefined ? title : `${group} ${title}`).padEnd(LABEL_COLUMNS)}${text(row)}`;
  });
  const { heat } = choice.table === 'bdevs' ? (row as Bdev) : (row as Queue).queue;
  const bars = histogram(heat, Math.max(1, linesMax - 1));
  const count = Math.min(linesMax - 1, Math.max(figures.length, bars.length));
  return [
    h(Text, { key: 'name', bold: true, wrap: 'truncate' }, `${name.padEnd(FIGURES_COLUMNS)}requests by latency`),
    ...Array.from({ length: count }, (_, index) => {
      const text = `${(figures[index] ?? '').padEnd(FIGURES_COLUMNS)}${bars[index] ?? ''}`;
      return h(Text, { key: `line ${index}`, wrap: 'truncate' }, text);
    }),
  ];
}

/** A bar for each row of the heat map from the first to the last that has requests; several rows to one if need be. */
function histogram(heat: readonly (readonly [row: number, count: number])[], linesMax: number): string[] {
  if (heat.length === 0) return ['none in this interval'];
  const rows = heat.map(([row]) => row);
  const first = Math.min(...rows);
  const rowsPerLine = Math.ceil((Math.max(...rows) - first + 1) / linesMax);
  const counts = new Map<number, number>();
  for (const [row, count] of heat) {
    const line = Math.floor((row - first) / rowsPerLine);
    counts.set(line, (counts.get(line) ?? 0) + count);
  }
  const most = Math.max(...counts.values());
  return Array.from({ length: Math.max(...counts.keys()) + 1 }, (_, line) => {
    const count = counts.get(line) ?? 0;
    const from = formatSeconds(heatRowSeconds(first + line * rowsPerLine));
    return `${from.padStart(8)} ${bar(count / most)} ${formatCount(count)}`;
  });
}

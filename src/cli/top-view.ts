/**
 * What `ringhost top` shows: totals, reactors, and one of three tables, as a function of the newest rates and of what
 * the user chose. `press` is what keys do to the choice.
 */
import { Box, type Key, Text } from 'ink';
import { createElement as h, type ReactNode } from 'react';
import { formatBytes, formatCount, formatShare } from '../observe/format.ts';
import type { Rates } from '../observe/rates.ts';
import { BDEVS, CONTROLLERS, type Order, orderBy, QUEUES, sorted, type Table } from '../observe/tables.ts';

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
  readonly isPaused: boolean;
}

type TableName = 'controllers' | 'queues' | 'bdevs';
/** Rows of every table, which only its own functions look into. */
type Row = unknown;

const TABLES: Readonly<Record<TableName, Table<Row>>> = { controllers: CONTROLLERS, queues: QUEUES, bdevs: BDEVS };
const NAMES: readonly TableName[] = ['controllers', 'queues', 'bdevs'];
const FIRST: Order = { column: 0, isAscending: true };
const BAR_COLUMNS = 20;
/** Lines around the table: totals, headings, help, and empty ones. */
const FRAME_LINES = 7;
const HELP =
  '1 controllers  2 queues  3 bdevs  ←→ sort by  r reverse  ↑↓ select  enter open  / filter  p pause  q quit';

export const NOTHING_CHOSEN: Choice = {
  table: 'bdevs',
  order: FIRST,
  filter: '',
  isTyping: false,
  selected: 0,
  isPaused: false,
};

/** The choice after a key. */
export function press(choice: Choice, input: string, key: Partial<Key>, rates: Rates): Choice {
  if (choice.isTyping) return type(choice, input, key);
  const table = NAMES[Number(input) - 1];
  if (table !== undefined) return { ...choice, table, order: FIRST, selected: 0 };
  const rows = shownRows(choice, rates);
  const last = Math.max(0, rows.length - 1);
  if (key.upArrow === true) return { ...choice, selected: Math.max(0, Math.min(choice.selected, last) - 1) };
  if (key.downArrow === true) return { ...choice, selected: Math.min(last, choice.selected + 1) };
  if (key.leftArrow === true || key.rightArrow === true)
    return sortBeside(choice, key.leftArrow === true ? -1 : 1, rows);
  if (key.return === true) return open(choice, rows);
  if (key.escape === true) return { ...choice, filter: '', selected: 0 };
  if (input === 'r') return { ...choice, order: { ...choice.order, isAscending: !choice.order.isAscending } };
  if (input === 'p') return { ...choice, isPaused: !choice.isPaused };
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

/** From a controller to its queues. */
function open(choice: Choice, rows: readonly Row[]): Choice {
  const row = rows[choice.selected];
  const name = row === undefined ? undefined : TABLES.controllers.columns[0]?.text(row);
  if (choice.table !== 'controllers' || name === undefined) return choice;
  return { ...choice, table: 'queues', order: FIRST, filter: name, selected: 0 };
}

/** Filtered and in order. */
function shownRows({ table, order, filter }: Choice, rates: Rates): readonly Row[] {
  const { columns } = TABLES[table];
  const wanted = filter.toLowerCase();
  const isWanted = (row: Row): boolean => columns.some(({ text }) => text(row).toLowerCase().includes(wanted));
  return sorted(TABLES[table], TABLES[table].rows(rates).filter(isWanted), order);
}

export function TopView({ rates, choice, lines }: { rates: Rates; choice: Choice; lines: number }): ReactNode {
  const tableLines = Math.max(3, lines - FRAME_LINES - rates.reactors.length);
  return h(
    Box,
    { flexDirection: 'column' },
    h(Text, { bold: true, wrap: 'truncate' }, totals(rates, choice.isPaused)),
    ...rates.reactors.map((reactor) => h(Text, { key: reactor.core, wrap: 'truncate' }, reactorLine(reactor))),
    h(Text, null, ' '),
    ...tableView(choice, rates, tableLines),
    h(Text, null, ' '),
    h(Text, { dimColor: true, wrap: 'truncate' }, choice.isTyping ? `filter: ${choice.filter}▏` : footer(choice)),
  );
}

function footer({ filter }: Choice): string {
  return filter === '' ? HELP : `filter: ${filter} (esc ends it)   ${HELP}`;
}

function totals({ version, controllers, bdevs }: Rates, isPaused: boolean): string {
  const iops = controllers.reduce((sum, controller) => sum + controller.iops, 0);
  const inFlight = controllers.reduce((sum, controller) => sum + controller.inFlight, 0);
  const rate = (kind: 'read' | 'write'): string => {
    return formatBytes(bdevs.reduce((sum, { io }) => sum + io[kind].bytesPerSecond, 0));
  };
  const bytes = `read ${rate('read')}/s   write ${rate('write')}/s`;
  return `${version}   ${formatCount(iops)} IOPS   ${bytes}   ${inFlight} in flight${isPaused ? '   paused' : ''}`;
}

function reactorLine({ core, busy, isSleeping, iops }: Rates['reactors'][number]): string {
  const filled = Math.round(busy * BAR_COLUMNS);
  const bar = '█'.repeat(filled) + '░'.repeat(BAR_COLUMNS - filled);
  const state = (isSleeping ? 'asleep' : 'awake').padEnd(7);
  return `core ${String(core).padEnd(4)}${bar} ${formatShare(busy).padStart(6)}  ${state}${formatCount(iops)} IOPS`;
}

function tableView(choice: Choice, rates: Rates, linesMax: number): ReactNode[] {
  const table = TABLES[choice.table];
  const { columns, empty, name } = table;
  const rows = shownRows(choice, rates);
  const selected = Math.min(choice.selected, rows.length - 1);
  const first = Math.max(0, Math.min(selected - linesMax + 1, rows.length - linesMax));
  const texts = rows.map((row) => columns.map(({ text }) => text(row)));
  const titles = columns.map(({ title }, index) => {
    return index === choice.order.column ? `${title}${choice.order.isAscending ? '▴' : '▾'}` : title;
  });
  const widths = titles.map((title, index) => Math.max(title.length, ...texts.map((row) => row[index]?.length ?? 0)));
  const line = (cells: readonly string[]): string => {
    return cells
      .map((cell, at) => (at === 0 ? cell.padEnd(widths[at] ?? 0) : cell.padStart(widths[at] ?? 0)))
      .join('  ');
  };
  const none = table.rows(rates).length === 0 ? empty : `none of the ${name} contains "${choice.filter}"`;
  return [
    h(Text, { key: 'titles', bold: true, wrap: 'truncate' }, line(titles)),
    ...(rows.length === 0 ? [h(Text, { key: 'none', dimColor: true }, none)] : []),
    ...texts.slice(first, first + linesMax).map((cells, index) => {
      return h(Text, { key: `row ${index}`, inverse: first + index === selected, wrap: 'truncate' }, line(cells));
    }),
  ];
}

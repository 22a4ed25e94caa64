/** The tables of what there is, as the dashboard and `ringhost top` show them. */
import { formatBytes, formatCount, formatSeconds } from './format.ts';
import type { LatencyRate } from './latency.ts';
import type { Rates } from './rates.ts';

interface Column<R> {
  readonly title: string;
  /** Columns beside each other that have one in common stand under its name. */
  readonly group?: string;
  /** What rows are sorted by. */
  key(row: R): string | number;
  text(row: R): string;
}

export interface Table<R> {
  readonly name: string;
  /** What a row is of, as one word for what it is, and names: `queue vhost.0 1`. */
  id(row: R): string;
  /** What is shown when there is none. */
  readonly empty: string;
  readonly columns: readonly Column<R>[];
  rows(rates: Rates): readonly R[];
}

export type Bdev = Rates['bdevs'][number];
type Controller = Rates['controllers'][number];
export interface Queue {
  readonly controller: string;
  readonly queue: Controller['queues'][number];
}
type Kind = 'read' | 'write';
const KINDS: readonly Kind[] = ['read', 'write'];

/** As people call it. */
export function titleOf({ name, alias }: Pick<Bdev, 'name' | 'alias'>): string {
  return alias ?? name;
}

function text<R>(title: string, key: (row: R) => string): Column<R> {
  return { title, key, text: key };
}

function count<R>(title: string, key: (row: R) => number): Column<R> {
  return { title, key, text: (row) => formatCount(key(row)) };
}

function bytes<R>(title: string, key: (row: R) => number): Column<R> {
  return { title, key, text: (row) => formatBytes(key(row)) };
}

function seconds<R>(title: string, key: (row: R) => number): Column<R> {
  return { title, key, text: (row) => formatSeconds(key(row)) };
}

function grouped<R>(group: string, ...columns: readonly Column<R>[]): Column<R>[] {
  return columns.map((column) => ({ ...column, group }));
}

function percentiles<R>(latency: (row: R) => LatencyRate): Column<R>[] {
  return [
    seconds('p50', (row) => latency(row).p50Seconds),
    seconds('p99', (row) => latency(row).p99Seconds),
    seconds('p99.9', (row) => latency(row).p999Seconds),
  ];
}

export const BDEVS: Table<Bdev> = {
  name: 'bdevs',
  empty: 'no bdevs: ringhost rpc bdev_malloc_create makes one',
  id: ({ name }) => `bdev ${name}`,
  rows: ({ bdevs }) => bdevs,
  columns: [
    text('bdev', titleOf),
    text('kind', ({ product, condition }) => (condition === undefined ? product : `${product}: ${condition}`)),
    bytes('size', ({ sizeBytes }) => sizeBytes),
    ...KINDS.flatMap((kind) =>
      grouped<Bdev>(
        kind,
        count('total', ({ io }) => io[kind].operations),
        count('IOPS', ({ io }) => io[kind].iops),
        bytes('B/s', ({ io }) => io[kind].bytesPerSecond),
        ...percentiles<Bdev>(({ io }) => io[kind].latency),
      ),
    ),
    count('errors/s', ({ errorsPerSecond }) => errorsPerSecond),
  ],
};

export const QUEUES: Table<Queue> = {
  name: 'queues',
  empty: 'no running queues: no guest is connected',
  id: ({ controller, queue }) => `queue ${controller} ${queue.index}`,
  rows: ({ controllers }) => {
    return controllers.flatMap(({ name, queues }) => queues.map((queue) => ({ controller: name, queue })));
  },
  columns: [
    {
      title: 'queue',
      key: ({ controller, queue }) => `${controller} ${String(queue.index).padStart(3, '0')}`,
      text: ({ controller, queue }) => `${controller} queue ${queue.index}`,
    },
    { title: 'core', key: ({ queue }) => queue.core, text: ({ queue }) => String(queue.core) },
    count('requests', ({ queue }) => queue.requests),
    count('IOPS', ({ queue }) => queue.iops),
    count('in flight', ({ queue }) => queue.inFlight),
    ...KINDS.flatMap((kind) => grouped(kind, ...percentiles<Queue>(({ queue }) => queue.latency[kind]))),
    count('kicks/s', ({ queue }) => queue.kicksPerSecond),
    ...grouped<Queue>(
      'calls/s',
      count('sent', ({ queue }) => queue.callsPerSecond),
      count('saved', ({ queue }) => queue.callsSavedPerSecond),
    ),
    count('faults', ({ queue }) => queue.faults),
  ],
};

export const CONTROLLERS: Table<Controller> = {
  name: 'controllers',
  empty: 'no controllers: ringhost rpc vhost_create_blk_controller makes one',
  id: ({ name }) => `controller ${name}`,
  rows: ({ controllers, bdevs }) => {
    const titles = new Map(bdevs.map((bdev) => [bdev.name, titleOf(bdev)]));
    return controllers.map((row) => ({ ...row, bdevs: row.bdevs.map((name) => titles.get(name) ?? name) }));
  },
  columns: [
    text('controller', ({ name }) => name),
    text('kind', ({ kind }) => kind),
    text('guest', ({ isConnected }) => (isConnected ? 'yes' : 'no')),
    count('queues', ({ queues }) => queues.length),
    count('IOPS', ({ iops }) => iops),
    count('in flight', ({ inFlight }) => inFlight),
    ...KINDS.flatMap((kind) => grouped(kind, ...percentiles<Controller>(({ latency }) => latency[kind]))),
    text('mode', ({ mode }) => mode),
    count('weight', ({ weight }) => weight),
    text('bdevs', ({ bdevs }) => bdevs.join(' ')),
  ],
};

type Columns<R> = Pick<Table<R>, 'columns'>;

export interface Order {
  /** Number of the column. */
  readonly column: number;
  readonly isAscending: boolean;
}

/** As a click on a heading wants it: figures largest first, names from a to z, at the second click the other way. */
export function orderBy<R>({ columns }: Columns<R>, column: number, before: Order, rows: readonly R[]): Order {
  if (before.column === column) return { column, isAscending: !before.isAscending };
  const sample = rows[0];
  return { column, isAscending: sample === undefined || typeof columns[column]?.key(sample) === 'string' };
}

export function sorted<R>({ columns }: Columns<R>, rows: readonly R[], { column, isAscending }: Order): R[] {
  const key = (row: R): string | number => columns[column]?.key(row) ?? 0;
  const sign = isAscending ? 1 : -1;
  return rows.toSorted((a, b) => {
    const [x, y] = [key(a), key(b)];
    return x < y ? -sign : x > y ? sign : 0;
  });
}

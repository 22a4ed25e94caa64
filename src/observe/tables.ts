/** The tables of what there is, as the dashboard and `ringhost top` show them. */
import { formatBytes, formatCount, formatSeconds } from './format.ts';
import type { Rates } from './rates.ts';

interface Column<R> {
  readonly title: string;
  /** What rows are sorted by. */
  key(row: R): string | number;
  text(row: R): string;
}

export interface Table<R> {
  readonly name: string;
  /** What is shown when there is none. */
  readonly empty: string;
  readonly columns: readonly Column<R>[];
  rows(rates: Rates): readonly R[];
}

type Bdev = Rates['bdevs'][number];
type Controller = Rates['controllers'][number];
interface Queue {
  readonly controller: string;
  readonly queue: Controller['queues'][number];
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

export const BDEVS: Table<Bdev> = {
  name: 'bdevs',
  empty: 'no bdevs: ringhost rpc bdev_malloc_create makes one',
  rows: ({ bdevs }) => bdevs,
  columns: [
    text('bdev', ({ name }) => name),
    text('kind', ({ product, condition }) => (condition === undefined ? product : `${product}: ${condition}`)),
    bytes('size', ({ sizeBytes }) => sizeBytes),
    ...(['read', 'write'] as const).flatMap((kind): Column<Bdev>[] => [
      count(`${kind}s`, ({ io }) => io[kind].operations),
      count(`${kind} IOPS`, ({ io }) => io[kind].iops),
      bytes(`${kind} B/s`, ({ io }) => io[kind].bytesPerSecond),
      seconds(`${kind} p50`, ({ io }) => io[kind].latency.p50Seconds),
      seconds(`${kind} p99`, ({ io }) => io[kind].latency.p99Seconds),
      seconds(`${kind} p99.9`, ({ io }) => io[kind].latency.p999Seconds),
    ]),
    count('errors/s', ({ errorsPerSecond }) => errorsPerSecond),
  ],
};

export const QUEUES: Table<Queue> = {
  name: 'queues',
  empty: 'no running queues: no guest is connected',
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
    count('kicks/s', ({ queue }) => queue.kicksPerSecond),
    count('calls/s', ({ queue }) => queue.callsPerSecond),
    count('calls saved/s', ({ queue }) => queue.callsSavedPerSecond),
    count('faults', ({ queue }) => queue.faults),
  ],
};

export const CONTROLLERS: Table<Controller> = {
  name: 'controllers',
  empty: 'no controllers: ringhost rpc vhost_create_blk_controller makes one',
  rows: ({ controllers }) => controllers,
  columns: [
    text('controller', ({ name }) => name),
    text('kind', ({ kind }) => kind),
    text('guest', ({ isConnected }) => (isConnected ? 'yes' : 'no')),
    count('queues', ({ queues }) => queues.length),
    count('IOPS', ({ iops }) => iops),
    count('in flight', ({ inFlight }) => inFlight),
    text('mode', ({ mode }) => mode),
    text('bdevs', ({ bdevs }) => bdevs.join(' ')),
  ],
};

export interface Order {
  /** Number of the column. */
  readonly column: number;
  readonly isAscending: boolean;
}

/** As a click on a heading wants it: figures largest first, names from a to z, at the second click the other way. */
export function orderBy<R>({ columns }: Table<R>, column: number, before: Order, rows: readonly R[]): Order {
  if (before.column === column) return { column, isAscending: !before.isAscending };
  const sample = rows[0];
  return { column, isAscending: sample === undefined || typeof columns[column]?.key(sample) === 'string' };
}

export function sorted<R>({ columns }: Table<R>, rows: readonly R[], { column, isAscending }: Order): R[] {
  const key = (row: R): string | number => columns[column]?.key(row) ?? 0;
  const sign = isAscending ? 1 : -1;
  return rows.toSorted((a, b) => {
    const [x, y] = [key(a), key(b)];
    return x < y ? -sign : x > y ? sign : 0;
  });
}

/** The tables. A click on a heading sorts by it, another turns the order round. */
import type { Rates } from '../../observe/rates.ts';
import { formatBytes, formatCount, formatSeconds } from './format.ts';

interface Column<R> {
  readonly title: string;
  readonly key: (row: R) => string | number;
  readonly text: (row: R) => string;
}

function count<R>(title: string, key: (row: R) => number): Column<R> {
  return { title, key, text: (row) => formatCount(key(row)) };
}

type BdevRow = Rates['bdevs'][number];
interface QueueRow {
  readonly controller: string;
  readonly queue: Rates['controllers'][number]['queues'][number];
}

const BDEV_COLUMNS: readonly Column<BdevRow>[] = [
  { title: 'bdev', key: ({ name }) => name, text: ({ name }) => name },
  { title: 'kind', key: ({ product }) => product, text: ({ product }) => product },
  { title: 'size', key: ({ sizeBytes }) => sizeBytes, text: ({ sizeBytes }) => formatBytes(sizeBytes) },
  ...(['read', 'write'] as const).flatMap((kind): Column<BdevRow>[] => [
    count(`${kind}s`, ({ io }) => io[kind].operations),
    count(`${kind} IOPS`, ({ io }) => io[kind].iops),
    {
      title: `${kind} B/s`,
      key: ({ io }) => io[kind].bytesPerSecond,
      text: ({ io }) => formatBytes(io[kind].bytesPerSecond),
    },
    {
      title: `${kind} latency`,
      key: ({ io }) => io[kind].latencyMeanSeconds,
      text: ({ io }) => formatSeconds(io[kind].latencyMeanSeconds),
    },
  ]),
  count('errors/s', ({ errorsPerSecond }) => errorsPerSecond),
];

const QUEUE_COLUMNS: readonly Column<QueueRow>[] = [
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
];

class SortedTable<R> {
  readonly #table: HTMLTableElement;
  readonly #columns: readonly Column<R>[];
  readonly #empty: string;
  #rows: readonly R[] = [];
  #sortBy = 0;
  #isAscending = true;

  constructor(id: string, columns: readonly Column<R>[], empty: string) {
    this.#table = document.getElementById(id) as HTMLTableElement;
    this.#columns = columns;
    this.#empty = empty;
    const head = this.#table.createTHead().insertRow();
    columns.forEach(({ title }, index) => {
      const button = document.createElement('button');
      button.type = 'button';
      button.textContent = title;
      button.addEventListener('click', () => this.#sort(index));
      const cell = document.createElement('th');
      cell.scope = 'col';
      cell.append(button);
      head.append(cell);
    });
    this.#table.createTBody();
  }

  show(rows: readonly R[]): void {
    this.#rows = rows;
    const column = this.#columns[this.#sortBy] as Column<R>;
    const sign = this.#isAscending ? 1 : -1;
    const sorted = rows.toSorted((a, b) => {
      const [x, y] = [column.key(a), column.key(b)];
      return x < y ? -sign : x > y ? sign : 0;
    });
    this.#table.tHead?.querySelectorAll('th').forEach((cell, index) => {
      if (index === this.#sortBy) cell.ariaSort = this.#isAscending ? 'ascending' : 'descending';
      else cell.removeAttribute('aria-sort');
    });
    const body = this.#table.tBodies[0] as HTMLTableSectionElement;
    body.replaceChildren(...(sorted.length === 0 ? [this.#emptyRow()] : sorted.map((row) => this.#row(row))));
  }

  #sort(index: number): void {
    // Figures are wanted largest first, names from a to z.
    const isSame = this.#sortBy === index;
    this.#isAscending = isSame ? !this.#isAscending : index === 0;
    this.#sortBy = index;
    this.show(this.#rows);
  }

  #row(row: R): HTMLTableRowElement {
    const made = document.createElement('tr');
    for (const { text } of this.#columns) made.insertCell().textContent = text(row);
    return made;
  }

  #emptyRow(): HTMLTableRowElement {
    const made = document.createElement('tr');
    const cell = made.insertCell();
    cell.colSpan = this.#columns.length;
    cell.className = 'empty';
    cell.textContent = this.#empty;
    return made;
  }
}

export class Tables {
  readonly #bdevs = new SortedTable('bdevs', BDEV_COLUMNS, 'no bdevs: ringhost rpc bdev_malloc_create makes one');
  readonly #queues = new SortedTable('queues', QUEUE_COLUMNS, 'no running queues: no guest is connected');

  show({ bdevs, controllers }: Rates): void {
    this.#bdevs.show(bdevs);
    this.#queues.show(controllers.flatMap(({ name, queues }) => queues.map((queue) => ({ controller: name, queue }))));
  }
}

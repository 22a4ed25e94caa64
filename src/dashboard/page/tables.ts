/** The tables. A click on a heading sorts by it, another turns the order round. */
import type { Rates } from '../../observe/rates.ts';
import { BDEVS, type Order, orderBy, QUEUES, sorted, type Table } from '../../observe/tables.ts';

class SortedTable<R> {
  readonly #element: HTMLTableElement;
  readonly #table: Table<R>;
  #rows: readonly R[] = [];
  #order: Order = { column: 0, isAscending: true };

  constructor(table: Table<R>) {
    this.#element = document.getElementById(table.name) as HTMLTableElement;
    this.#table = table;
    const head = this.#element.createTHead().insertRow();
    table.columns.forEach(({ title }, index) => {
      const button = document.createElement('button');
      button.type = 'button';
      button.textContent = title;
      button.addEventListener('click', () => {
        this.#order = orderBy(table, index, this.#order, this.#rows);
        this.#draw();
      });
      const cell = document.createElement('th');
      cell.scope = 'col';
      cell.append(button);
      head.append(cell);
    });
    this.#element.createTBody();
  }

  show(rates: Rates): void {
    this.#rows = this.#table.rows(rates);
    this.#draw();
  }

  #draw(): void {
    const { column, isAscending } = this.#order;
    this.#element.tHead?.querySelectorAll('th').forEach((cell, index) => {
      if (index === column) cell.ariaSort = isAscending ? 'ascending' : 'descending';
      else cell.removeAttribute('aria-sort');
    });
    const rows = sorted(this.#table, this.#rows, this.#order).map((row) => this.#row(row));
    this.#element.tBodies[0]?.replaceChildren(...(rows.length === 0 ? [this.#emptyRow()] : rows));
  }

  #row(row: R): HTMLTableRowElement {
    const made = document.createElement('tr');
    for (const { text } of this.#table.columns) made.insertCell().textContent = text(row);
    return made;
  }

  #emptyRow(): HTMLTableRowElement {
    const made = document.createElement('tr');
    const cell = made.insertCell();
    cell.colSpan = this.#table.columns.length;
    cell.className = 'empty';
    cell.textContent = this.#table.empty;
    return made;
  }
}

export class Tables {
  readonly #bdevs = new SortedTable(BDEVS);
  readonly #queues = new SortedTable(QUEUES);

  show(rates: Rates): void {
    this.#bdevs.show(rates);
    this.#queues.show(rates);
  }
}

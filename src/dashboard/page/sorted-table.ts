/** A table. A click on a heading sorts by it, another turns the order round; one on a row chooses what it is of. */
import { type Order, orderBy, sorted, type Table } from '../../observe/tables.ts';

export class SortedTable<R> {
  order: Order = { column: 0, isAscending: true };
  readonly #element: HTMLTableElement;
  readonly #table: Omit<Table<R>, 'rows'>;
  readonly #onChoice: ((id: string) => void) | undefined;
  readonly #headings: HTMLTableCellElement[] = [];
  #rows: readonly R[] = [];
  #chosen = '';

  constructor(table: Omit<Table<R>, 'rows'>, onChoice?: (id: string) => void) {
    this.#element = document.getElementById(table.name) as HTMLTableElement;
    this.#table = table;
    this.#onChoice = onChoice;
    const head = this.#element.createTHead();
    if (table.columns.some(({ group }) => group !== undefined)) this.#addGroups(head.insertRow());
    const row = head.insertRow();
    table.columns.forEach(({ title }, index) => {
      const button = document.createElement('button');
      button.type = 'button';
      button.textContent = title;
      button.addEventListener('click', () => {
        this.order = orderBy(table, index, this.order, this.#rows);
        this.#draw();
      });
      const cell = document.createElement('th');
      cell.scope = 'col';
      cell.append(button);
      row.append(cell);
      this.#headings.push(cell);
    });
    this.#element.createTBody();
  }

  show(rows: readonly R[], chosen = ''): void {
    this.#rows = rows;
    this.#chosen = chosen;
    this.#draw();
  }

  /** A heading over the columns that belong together. */
  #addGroups(row: HTMLTableRowElement): void {
    const { columns } = this.#table;
    for (let index = 0; index < columns.length; ) {
      const group = columns[index]?.group;
      const cell = document.createElement('th');
      cell.scope = 'colgroup';
      cell.textContent = group ?? '';
      const end = columns.findIndex((other, at) => at > index && (group === undefined || other.group !== group));
      cell.colSpan = (end < 0 ? columns.length : end) - index;
      index += cell.colSpan;
      row.append(cell);
    }
  }

  #draw(): void {
    const { column, isAscending } = this.order;
    this.#headings.forEach((cell, index) => {
      if (index === column) cell.ariaSort = isAscending ? 'ascending' : 'descending';
      else cell.removeAttribute('aria-sort');
    });
    const rows = sorted(this.#table, this.#rows, this.order).map((row) => this.#row(row));
    this.#element.tBodies[0]?.replaceChildren(...(rows.length === 0 ? [this.#emptyRow()] : rows));
  }

  #row(row: R): HTMLTableRowElement {
    const made = document.createElement('tr');
    for (const { text } of this.#table.columns) made.insertCell().textContent = text(row);
    const onChoice = this.#onChoice;
    if (onChoice === undefined) return made;
    const id = this.#table.id(row);
    made.ariaSelected = String(id === this.#chosen);
    made.addEventListener('click', () => onChoice(id));
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

/** Single requests, on demand: the slowest of a few seconds in a table, all of them as a file for Perfetto. */
import { formatBytes, formatSeconds } from '../../observe/format.ts';
import type { Rates } from '../../observe/rates.ts';
import { SortedTable } from './sorted-table.ts';
import { controllersOf, parseSubject } from './subject.ts';

const SECONDS = 5;
const SHOWN_MAX = 50;
const MICRO = 1e6;

interface TraceFile {
  readonly traceEvents: readonly TraceEvent[];
  readonly otherData: { readonly requests: number; readonly dropped: number; readonly isCut: number };
}

interface TraceEvent {
  readonly ph: 'M' | 'X';
  readonly name: string;
  readonly pid: number;
  readonly tid: number;
  readonly dur: number;
  readonly args: { readonly name: string; readonly offset: number; readonly bytes: number; readonly status: number };
}

interface Request {
  readonly controller: string;
  readonly queue: string;
  readonly type: string;
  readonly seconds: number;
  readonly offset: number;
  readonly bytes: number;
  readonly status: number;
}

export class SingleRequests {
  readonly #form = document.getElementById('trace') as HTMLFormElement;
  readonly #button = this.#form.querySelector('button') as HTMLButtonElement;
  readonly #slower = document.getElementById('trace-slower') as HTMLInputElement;
  readonly #state = document.getElementById('trace-state') as HTMLElement;
  readonly #file = document.getElementById('trace-file') as HTMLAnchorElement;
  readonly #table = new SortedTable<Request>({
    name: 'requests',
    empty: 'none was traced yet',
    id: () => '',
    columns: [
      { title: 'took', key: ({ seconds }) => seconds, text: ({ seconds }) => formatSeconds(seconds) },
      { title: 'type', key: ({ type }) => type, text: ({ type }) => type },
      { title: 'controller', key: ({ controller }) => controller, text: ({ controller }) => controller },
      { title: 'queue', key: ({ queue }) => queue, text: ({ queue }) => queue },
      { title: 'first byte', key: ({ offset }) => offset, text: ({ offset }) => String(offset) },
      { title: 'length', key: ({ bytes }) => bytes, text: ({ bytes }) => formatBytes(bytes) },
      { title: 'status', key: ({ status }) => status, text: ({ status }) => (status === 0 ? 'ok' : String(status)) },
    ],
  });
  #subject = '';
  #rates: Rates | null = null;

  constructor() {
    this.#table.order = { column: 0, isAscending: false };
    this.#table.show([]);
    this.#form.addEventListener('submit', (event) => {
      event.preventDefault();
      void this.#trace();
    });
  }

  /** Whose requests are traced. */
  choose(subject: string, rates: Rates): void {
    this.#subject = subject;
    this.#rates = rates;
    this.#button.textContent = `trace ${subject} for ${SECONDS} s`;
    this.#button.disabled = subject === '';
  }

  async #trace(): Promise<void> {
    this.#button.disabled = true;
    this.#file.hidden = true;
    this.#state.textContent = 'tracing';
    try {
      const answer = await fetch('/trace', { method: 'POST', body: JSON.stringify(this.#wanted()) });
      const text = await answer.text();
      if (answer.ok) this.#show(text);
      else this.#state.textContent = text;
    } catch {
      this.#state.textContent = 'the daemon does not answer';
    } finally {
      this.#button.disabled = false;
    }
  }

  #wanted(): object {
    const { kind, index } = parseSubject(this.#subject);
    const controllers = this.#rates === null ? [] : controllersOf(this.#subject, this.#rates);
    return {
      controllers: controllers.map(({ name }) => name),
      ...(kind === 'queue' ? { queue: index } : {}),
      slower_than_us: this.#slower.valueAsNumber || 0,
      seconds: SECONDS,
    };
  }

  #show(text: string): void {
    const { traceEvents, otherData } = JSON.parse(text) as TraceFile;
    const names = new Map<string, string>();
    for (const { ph, pid, tid, args } of traceEvents) if (ph === 'M') names.set(`${pid} ${tid}`, args.name);
    const requests = traceEvents.flatMap(({ ph, name, pid, tid, dur, args }): Request[] => {
      if (ph !== 'X') return [];
      const queue = (names.get(`${pid} ${tid}`) ?? '').split(' ')[1] ?? '';
      const { offset, bytes, status } = args;
      const controller = names.get(`${pid} 0`) ?? '';
      return [{ type: name, controller, queue, seconds: dur / MICRO, offset, bytes, status }];
    });
    requests.sort((a, b) => b.seconds - a.seconds);
    this.#table.show(requests.slice(0, SHOWN_MAX));
    const { requests: count, dropped, isCut } = otherData;
    const limit = isCut === 1 ? ', as many as a page takes' : '';
    const lost = dropped > 0 ? `, ${dropped} dropped for want of room` : '';
    const shown = count > SHOWN_MAX ? `; the slowest ${SHOWN_MAX}:` : '';
    this.#state.textContent = `${count} requests${limit}${lost}${shown}`;
    URL.revokeObjectURL(this.#file.href);
    this.#file.href = URL.createObjectURL(new Blob([text], { type: 'application/json' }));
    this.#file.hidden = false;
  }
}

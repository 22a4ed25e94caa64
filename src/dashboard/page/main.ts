/** The page: takes a frame a second, and shows it. */
import type { LogEvent } from '../../observe/event-log.ts';
import { formatBytes, formatCount } from '../../observe/format.ts';
import type { Frame } from '../../observe/frame.ts';
import type { Rates } from '../../observe/rates.ts';
import { BDEVS, CONTROLLERS, QUEUES } from '../../observe/tables.ts';
import { Charts } from './charts.ts';
import { HeatMaps } from './heat-maps.ts';
import { drawHouse } from './house.ts';
import { SingleRequests } from './requests.ts';
import { SortedTable } from './sorted-table.ts';
import { parseSubject, subjectsOf } from './subject.ts';

const FRAMES_MAX = 300;
const EVENTS_MAX = 200;

const byId = (id: string): HTMLElement => document.getElementById(id) as HTMLElement;
const charts = new Charts();
const heatMaps = new HeatMaps();
const singleRequests = new SingleRequests();
const controllers = new SortedTable(CONTROLLERS, choose);
const queues = new SortedTable(QUEUES, choose);
const bdevs = new SortedTable(BDEVS, choose);
const subject = byId('subject') as HTMLSelectElement;
const pause = byId('pause');
/** The last five minutes. */
let frames: Frame[] = [];
/** While the page stands still: what it shows. */
let paused: readonly Frame[] | null = null;
/** Until somebody chooses, the busiest bdev is the subject. */
let isChosen = false;
let isDrawing = false;

pause.addEventListener('click', () => {
  paused = paused === null ? frames : null;
  pause.ariaPressed = String(paused !== null);
  pause.textContent = paused === null ? 'pause' : 'go on';
  scheduleDraw();
});
subject.addEventListener('change', () => choose(subject.value));
addEventListener('resize', scheduleDraw);

const source = new EventSource('/frames');
source.addEventListener('message', ({ data }) => {
  const frame = JSON.parse(data) as Frame;
  frames = [...frames.slice(1 - FRAMES_MAX), frame];
  for (const event of frame.events) addEvent(event);
  setState('live', 'live');
  scheduleDraw();
});
// The browser connects again by itself.
source.addEventListener('error', () => setState('lost', 'the daemon does not answer'));
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', scheduleDraw);

function choose(id: string): void {
  isChosen = true;
  subject.value = id;
  scheduleDraw();
}

/** Once for the many frames that come first. */
function scheduleDraw(): void {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    draw(paused ?? frames);
  });
}

function draw(shown: readonly Frame[]): void {
  const newest = shown.at(-1);
  if (newest === undefined) return;
  const { rates } = newest;
  byId('version').textContent = rates.version;
  byId('total-iops').textContent = formatCount(rates.controllers.reduce((sum, { iops }) => sum + iops, 0));
  byId('total-read').textContent = `${formatBytes(rates.served.read.bytesPerSecond)}/s`;
  byId('total-write').textContent = `${formatBytes(rates.served.write.bytesPerSecond)}/s`;
  byId('total-in-flight').textContent = String(rates.controllers.reduce((sum, { inFlight }) => sum + inFlight, 0));
  offerSubjects(rates);
  drawHouse(byId('house') as unknown as SVGSVGElement, rates, { chosen: subject.value, onChoice: choose });
  charts.draw(shown);
  heatMaps.draw(subject.value, shown);
  singleRequests.choose(subject.value, rates);
  controllers.show(CONTROLLERS.rows(rates), subject.value);
  queues.show(QUEUES.rows(rates), subject.value);
  bdevs.show(rates.bdevs, subject.value);
}

function offerSubjects(rates: Rates): void {
  const ids = subjectsOf(rates);
  if ([...subject.options].map(({ value }) => value).join('\n') !== ids.join('\n')) {
    const before = subject.value;
    subject.replaceChildren(...ids.map((id) => new Option(id, id)));
    if (ids.includes(before)) subject.value = before;
    else isChosen = false;
  }
  if (isChosen) return;
  const load = (bdev: Rates['bdevs'][number]): number => bdev.heat.reduce((sum, [, count]) => sum + count, 0);
  const [busiest] = rates.bdevs.toSorted((a, b) => load(b) - load(a));
  const { kind, name } = parseSubject(subject.value);
  const isIdle = busiest === undefined || load(busiest) === 0;
  if (!isIdle || kind !== 'bdev' || name === '') subject.value = busiest === undefined ? '' : `bdev ${busiest.name}`;
}

function setState(className: string, text: string): void {
  const state = byId('state');
  state.className = className;
  state.textContent = text;
}

function addEvent({ timeMs, level, message, fields }: LogEvent): void {
  const item = document.createElement('li');
  item.className = level;
  const time = document.createElement('time');
  time.textContent = new Date(timeMs).toLocaleTimeString(undefined, { hour12: false });
  const details = Object.entries(fields).map(([name, value]) => ` ${name}=${String(value)}`);
  item.append(time, message, ...details);
  const list = byId('events');
  list.prepend(item);
  while (list.childElementCount > EVENTS_MAX) list.lastElementChild?.remove();
}

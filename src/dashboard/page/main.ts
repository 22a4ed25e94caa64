/** The page: takes a frame a second, and shows it. */
import type { LogEvent } from '../../observe/event-log.ts';
import { formatBytes, formatCount } from '../../observe/format.ts';
import type { Frame } from '../../observe/frame.ts';
import { Charts } from './charts.ts';
import { HeatMaps } from './heat-maps.ts';
import { drawHouse } from './house.ts';
import { Tables } from './tables.ts';

const EVENTS_MAX = 200;

const byId = (id: string): HTMLElement => document.getElementById(id) as HTMLElement;
const charts = new Charts();
const heatMaps = new HeatMaps();
const tables = new Tables();
const pause = byId('pause');
let isPaused = false;
let newest: Frame | null = null;
let isDrawing = false;

pause.addEventListener('click', () => {
  isPaused = !isPaused;
  pause.ariaPressed = String(isPaused);
  pause.textContent = isPaused ? 'go on' : 'pause';
  scheduleDraw();
});

const frames = new EventSource('/frames');
frames.addEventListener('message', ({ data }) => {
  const frame = JSON.parse(data) as Frame;
  charts.add(frame);
  heatMaps.add(frame);
  for (const event of frame.events) addEvent(event);
  newest = frame;
  setState('live', 'live');
  scheduleDraw();
});
// The browser connects again by itself.
frames.addEventListener('error', () => setState('lost', 'the daemon does not answer'));
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', scheduleDraw);

/** Once for the many frames that come first. */
function scheduleDraw(): void {
  if (isDrawing || isPaused) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    if (newest !== null) draw(newest);
  });
}

function draw({ rates }: Frame): void {
  const total = (pick: (bdev: (typeof rates.bdevs)[number]) => number): number => {
    return rates.bdevs.reduce((sum, bdev) => sum + pick(bdev), 0);
  };
  byId('version').textContent = rates.version;
  byId('total-iops').textContent = formatCount(rates.controllers.reduce((sum, { iops }) => sum + iops, 0));
  byId('total-read').textContent = `${formatBytes(total(({ io }) => io.read.bytesPerSecond))}/s`;
  byId('total-write').textContent = `${formatBytes(total(({ io }) => io.write.bytesPerSecond))}/s`;
  byId('total-in-flight').textContent = String(rates.controllers.reduce((sum, { inFlight }) => sum + inFlight, 0));
  drawHouse(byId('house') as unknown as SVGSVGElement, rates);
  charts.draw();
  heatMaps.draw();
  tables.show(rates);
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

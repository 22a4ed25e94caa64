/** The house as a picture: guests, their queues, the reactors these run on, and the bdevs behind them. */

import { formatBytes, formatCount, formatShare } from '../../observe/format.ts';
import type { Rates } from '../../observe/rates.ts';
import { titleOf } from '../../observe/tables.ts';

const NAMESPACE = 'http://www.w3.org/2000/svg';
const BOX = { width: 190, height: 44, gap: 12 } as const;
const COLUMN_STEP = 270;
const TOP = 28;
/** Wide letters included. */
const TITLE_MAX = 24;
const COLUMNS = ['guest and controller', 'queues', 'reactors', 'bdevs'] as const;

interface Box {
  readonly id: string;
  readonly title: string;
  readonly detail: string;
  readonly isActive: boolean;
}

interface Place {
  readonly x: number;
  readonly y: number;
}

interface Wire {
  readonly from: string;
  readonly to: string;
  readonly iops: number;
}

export interface HouseOptions {
  /** Id of the box that the page shows closely. */
  readonly chosen: string;
  readonly onChoice: (id: string) => void;
}

export function drawHouse(svg: SVGSVGElement, rates: Rates, options: HouseOptions): void {
  const columns = boxesOf(rates);
  const rows = Math.max(1, ...columns.map((column) => column.length));
  const height = TOP + rows * (BOX.height + BOX.gap);
  const width = COLUMN_STEP * (COLUMNS.length - 1) + BOX.width + 2;
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  svg.style.maxWidth = `${width}px`;
  const places = new Map<string, Place>();
  columns.forEach((column, index) => {
    const offset = ((rows - column.length) * (BOX.height + BOX.gap)) / 2;
    column.forEach(({ id }, row) => {
      places.set(id, { x: 1 + index * COLUMN_STEP, y: TOP + offset + row * (BOX.height + BOX.gap) });
    });
  });
  const wires = wiresOf(rates).flatMap((wire) => {
    const [from, to] = [places.get(wire.from), places.get(wire.to)];
    return from === undefined || to === undefined ? [] : [drawWire(from, to, wire)];
  });
  const boxes = columns.flat().map((box) => drawBox(box, places.get(box.id) as Place, options));
  svg.replaceChildren(
    ...COLUMNS.map((name, index) => label(name, 1 + index * COLUMN_STEP, 14, 'column')),
    ...wires,
    ...boxes,
  );
}

const queueId = (controller: string, index: number): string => `queue ${controller} ${index}`;

function boxesOf({ controllers, reactors, bdevs }: Rates): readonly (readonly Box[])[] {
  return [
    controllers.map(({ name, kind, isConnected, iops }) => ({
      id: `controller ${name}`,
      title: name,
      detail: isConnected ? `${kind}, ${formatCount(iops)} IOPS` : `${kind}, no guest`,
      isActive: iops > 0,
    })),
    controllers.flatMap(({ name, queues }) => {
      return queues.map(({ index, iops, inFlight }) => ({
        id: queueId(name, index),
        title: `${name} queue ${index}`,
        detail: `${formatCount(iops)} IOPS, ${inFlight} in flight`,
        isActive: iops > 0,
      }));
    }),
    reactors.map(({ core, busy, isSleeping, iops }) => ({
      id: `reactor ${core}`,
      title: `core ${core}`,
      detail: `${isSleeping ? 'asleep' : formatShare(busy)}, ${formatCount(iops)} IOPS`,
      isActive: iops > 0,
    })),
    bdevs.map((bdev) => {
      const { name, sizeBytes, io } = bdev;
      const iops = io.read.iops + io.write.iops + io.unmap.iops;
      const bytes = io.read.bytesPerSecond + io.write.bytesPerSecond;
      const detail = iops > 0 ? `${formatCount(iops)} IOPS, ${formatBytes(bytes)}/s` : formatBytes(sizeBytes);
      return { id: `bdev ${name}`, title: titleOf(bdev), detail, isActive: iops > 0 };
    }),
  ];
}

/** A reactor's own figures are in the picture. */
function isSubject(id: string): boolean {
  return !id.startsWith('reactor ');
}

function wiresOf({ controllers }: Rates): readonly Wire[] {
  const wires = new Map<string, Wire>();
  const add = (from: string, to: string, iops: number): void => {
    const key = `${from}\n${to}`;
    wires.set(key, { from, to, iops: iops + (wires.get(key)?.iops ?? 0) });
  };
  for (const { name, queues, bdevs } of controllers) {
    for (const { index, core, iops } of queues) {
      add(`controller ${name}`, queueId(name, index), iops);
      add(queueId(name, index), `reactor ${core}`, iops);
      for (const bdev of bdevs) add(`reactor ${core}`, `bdev ${bdev}`, iops);
    }
  }
  return [...wires.values()];
}

function element(name: string, attributes: Readonly<Record<string, string | number>>): SVGElement {
  const made = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  return made;
}

function label(text: string, x: number, y: number, className: string): SVGElement {
  const made = element('text', { x, y, class: className });
  made.textContent = text;
  return made;
}

function drawBox(
  { id, title, detail, isActive }: Box,
  { x, y }: Place,
  { chosen, onChoice }: HouseOptions,
): SVGElement {
  const classes = [isActive ? 'active' : '', id === chosen ? 'chosen' : '', isSubject(id) ? 'subject' : ''];
  const group = element('g', { class: classes.join(' '), transform: `translate(${x} ${y})` });
  if (isSubject(id)) group.addEventListener('click', () => onChoice(id));
  const tooltip = element('title', {});
  tooltip.textContent = `${title}: ${detail}`;
  group.append(
    tooltip,
    element('rect', { width: BOX.width, height: BOX.height, rx: 6 }),
    label(title.length > TITLE_MAX ? `${title.slice(0, TITLE_MAX - 1)}…` : title, 10, 18, 'title'),
    label(detail, 10, 35, 'detail'),
  );
  return group;
}

function drawWire(from: Place, to: Place, { iops }: Wire): SVGElement {
  const [x1, y1, x2, y2] = [from.x + BOX.width, from.y + BOX.height / 2, to.x, to.y + BOX.height / 2];
  const middle = (x1 + x2) / 2;
  const width = iops > 0 ? Math.min(8, 1 + Math.log10(1 + iops)) : 1;
  return element('path', {
    d: `M ${x1} ${y1} C ${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`,
    class: iops > 0 ? 'active' : '',
    'stroke-width': width,
  });
}

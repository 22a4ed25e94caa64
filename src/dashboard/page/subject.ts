/**
 * What the page shows closely: a controller, a queue or a bdev, by its id: `controller vhost.0`, `queue vhost.0 1`,
 * `bdev Malloc0`.
 */
import type { Rates } from '../../observe/rates.ts';

type Controller = Rates['controllers'][number];

export interface Subject {
  readonly kind: string;
  readonly name: string;
  /** Of a queue. */
  readonly index: number;
}

/** Names may have spaces. */
export function parseSubject(id: string): Subject {
  const [, kind = '', rest = ''] = /^(\w+) (.*)$/.exec(id) ?? [];
  if (kind !== 'queue') return { kind, name: rest, index: 0 };
  const at = rest.lastIndexOf(' ');
  return { kind, name: rest.slice(0, at), index: Number(rest.slice(at + 1)) };
}

/** All that there are to choose. */
export function subjectsOf({ controllers, bdevs }: Rates): readonly string[] {
  return [
    ...bdevs.map(({ name }) => `bdev ${name}`),
    ...controllers.map(({ name }) => `controller ${name}`),
    ...controllers.flatMap(({ name, queues }) => queues.map(({ index }) => `queue ${name} ${index}`)),
  ];
}

/** By which guests reach it. */
export function controllersOf(id: string, { controllers }: Rates): readonly Controller[] {
  const { kind, name } = parseSubject(id);
  return controllers.filter((one) => (kind === 'bdev' ? one.bdevs.includes(name) : one.name === name));
}

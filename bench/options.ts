/** What `npm run bench` is started with, checked. */
import { parseArgs } from 'node:util';
import type { Effort, Scenario } from './scenarios/scenario.ts';
import type { TargetKind } from './targets/target.ts';

export const HELP = `npm run bench -- [OPTIONS]

  --only PATTERN     scenarios whose "GROUP: NAME" matches this regular expression; brings in
                     disks that take a server (RBD image, NBD export, NVMe/TCP, vhost-user target)
  --targets PATTERN  targets whose name matches; brings in those that are not measured by default, too
  --rounds N         rounds, in which every scenario is measured once on every target (default 5; 2 with --quick)
  --seconds S        length of one measurement (default 0.5; 0.2 with --quick)
  --quick            fewer, shorter rounds of fewer scenarios: two minutes instead of ten
  --json FILE        every sample and what they were taken on
  --plot FILE        a picture, SVG
  --list             print the scenarios and the targets, and measure nothing

Ctrl-C ends it with the tables and files of what was measured until then; once more ends it at once.`;

export interface BenchOptions {
  readonly rounds: number;
  readonly effort: Effort;
  readonly json: string | undefined;
  readonly plot: string | undefined;
  readonly isList: boolean;
  readonly isHelp: boolean;
  wants(scenario: Scenario): boolean;
  wantsTarget(kind: TargetKind): boolean;
}

const WARM_UP_SHARE = 0.2;

/** Throws an error whose message says what to change. */
export function parseOptions(args: readonly string[]): BenchOptions {
  const { values } = parseArgs({
    args: [...args],
    options: {
      only: { type: 'string', default: '' },
      targets: { type: 'string' },
      rounds: { type: 'string' },
      seconds: { type: 'string' },
      quick: { type: 'boolean', default: false },
      json: { type: 'string' },
      plot: { type: 'string' },
      list: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  const { quick } = values;
  const rounds = Number(values.rounds ?? (quick ? 2 : 5));
  const seconds = Number(values.seconds ?? (quick ? 0.2 : 0.5));
  if (!Number.isInteger(rounds) || rounds < 1) throw new Error('--rounds: give a whole number from 1');
  if (!(seconds > 0 && seconds <= 600)) throw new Error('--seconds: give a number up to 600');
  const [only, targets] = [toPattern('--only', values.only), toPattern('--targets', values.targets ?? '')];
  return {
    rounds,
    effort: { durationMs: seconds * 1000, warmUpMs: seconds * 1000 * WARM_UP_SHARE },
    json: values.json,
    plot: values.plot,
    isList: values.list,
    isHelp: values.help,
    wants: ({ group, name, isDetail, needs = 'file' }) =>
      only.test(`${group}: ${name}`) && !(quick && isDetail === true) && !(needs !== 'file' && values.only === ''),
    wantsTarget: ({ name, isExtra }) => targets.test(name) && !(isExtra === true && values.targets === undefined),
  };
}

function toPattern(option: string, source: string): RegExp {
  try {
    return new RegExp(source, 'i');
  } catch (error) {
    throw new Error(`${option}: ${(error as Error).message}`, { cause: error });
  }
}

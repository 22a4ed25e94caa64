/** Completion as the shells themselves do it, with the names of a daemon that runs. */
import { execFileSync } from 'node:child_process';
import { delimiter, dirname, join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { whyNoTool } from '../e2e/requirements.ts';
import { RinghostDaemon } from './fixtures/targets.ts';

const ROOT = dirname(dirname(import.meta.dirname));
const SHELL_LIMIT_MS = 60_000;
const noShells = whyNoTool('shells');
/** A pseudo-terminal with a zsh in it: what is typed, then Tab, until a text is on the screen. */
const ZSH = `
  zmodload zsh/zpty
  zpty shell zsh -f -i
  zpty -w shell 'autoload -U compinit; compinit -D -u; source <(ringhost completion zsh); echo LEA""RNT'
  zpty -r shell out '*LEARNT*'
  zpty -w -n shell "$1"$'\\t'
  zpty -r shell out "*$2*"
  print -r -- "$out"
  zpty -d shell
`;

let daemon: RinghostDaemon;

beforeAll(async () => {
  daemon = await RinghostDaemon.start([]);
  await daemon.rpc.request('bdev_null_create', { name: 'Nothing', num_blocks: 8, block_size: 512 });
  await daemon.rpc.request('bdev_malloc_create', { name: 'Ram', num_blocks: 16_384, block_size: 512 });
  await daemon.rpc.request('bdev_lvol_create_lvstore', { bdev_name: 'Ram', lvs_name: 'lvs' });
  await daemon.rpc.request('bdev_lvol_create', { lvs_name: 'lvs', lvol_name: 'vm', size_in_mib: 1 });
});
afterAll(() => daemon.close());

function run(shell: string, ...args: readonly string[]): string {
  const env = {
    ...process.env,
    PATH: [join(ROOT, 'bin'), dirname(process.execPath), process.env['PATH'] ?? ''].join(delimiter),
    RINGHOST_RPC_SOCKET: join(daemon.directory, 'rpc.sock'),
    TERM: 'dumb',
  };
  return execFileSync(shell, args, { env, encoding: 'utf8', cwd: ROOT, timeout: SHELL_LIMIT_MS });
}

const words = (output: string): readonly string[] =>
  output.split('\n').flatMap((line) => (line === '' ? [] : [line.split('\t')[0] as string]));

it('in bash', () => {
  const at = (...typed: readonly string[]): readonly string[] => {
    const typing = `COMP_WORDS=(ringhost ${typed.join(' ')}); COMP_CWORD=${typed.length}; _ringhost`;
    const script = `source <(ringhost completion bash); ${typing}; printf '%s\\n' "\${COMPREPLY[@]}"`;
    return words(run('bash', '--norc', '-c', script));
  };
  expect(at('rpc', 'bdev_malloc_re')).toEqual(['bdev_malloc_resize']);
  expect(at('rpc', 'bdev_null_delete', 'N')).toEqual(['Nothing']);
  expect(at('erase', 'lvs')).toEqual(['lvs/vm']);
  expect(at('serve', '-c', 'packa')).toContain('package.json');
});

it.skipIf(noShells !== null)('in fish', () => {
  const at = (typed: string): readonly string[] =>
    words(run('fish', '--no-config', '-c', `ringhost completion fish | source; complete -C '${typed}'`));
  expect(at('ringhost rpc bdev_malloc_re')).toEqual(['bdev_malloc_resize']);
  expect(at('ringhost rpc bdev_null_delete N')).toEqual(['Nothing']);
  expect(at('ringhost serve -c package.js')).toEqual(['package.json']);
});

it.skipIf(noShells !== null)('in zsh', () => {
  // What it adds comes behind what was typed; a bell or a cursor movement may be in between.
  const adds = (typed: string, added: string): void => {
    expect(run('zsh', '-f', '-c', ZSH, 'zsh', typed, `${typed}*${added}`)).toContain(added);
  };
  adds('ringhost rpc bdev_malloc_re', 'size');
  adds('ringhost rpc bdev_null_delete N', 'othing');
  adds('ringhost serve -c package.js', 'on');
});

/** `ringhost config apply FILE`: what a configuration has otherwise than the daemon, a line each, and done. */
import { readConfigFile } from '../app/config-file.ts';
import type { Result } from '../rpc/methods.ts';
import { connectTo, type DaemonAccess } from './daemon-access.ts';
import { reporting } from './reporting.ts';

export interface ApplyFlags {
  readonly dryRun?: true;
  readonly prune?: true;
  readonly replace?: true;
  readonly json?: true;
}

type Applied = Result<'config_apply'>;
type Change = Applied['changes'][number];

const SIGNS: Readonly<Record<Change['action'], string>> = { add: '+', set: '~', replace: '!', remove: '-' };

/** Resolves with the exit code: 1 when it was not done. */
export function runApplyCommand(file: string, options: DaemonAccess & ApplyFlags): Promise<number> {
  const { dryRun = false, prune = false, replace = false, json = false } = options;
  return reporting('config apply', async () => {
    const { subsystems } = readConfigFile(file);
    using client = await connectTo(options);
    const applied = await client.call('config_apply', { subsystems, dry_run: dryRun, prune, replace });
    process.stdout.write(json ? `${JSON.stringify(applied, null, 2)}\n` : appliedText(applied, dryRun));
    return 0;
  });
}

/** A line for each change, and what was done. */
function appliedText({ changes, extra, passed_over: passedOver }: Applied, isDryRun: boolean): string {
  const lines = changes.map(changeText);
  const stays = extra.map(({ method, params = {} }) => `${method} ${String(params['ctrlr'] ?? params['name'] ?? '')}`);
  if (stays.length > 0) lines.push(`not in the file, and left alone (--prune takes it away): ${stays.join(', ')}`);
  if (passedOver.length > 0) lines.push(`passed over, for Ringhost has no such part: ${passedOver.join(', ')}`);
  const isReplacing = changes.some(({ action }) => action === 'replace');
  if (changes.length === 0) lines.push('everything is as the file says');
  else if (!isDryRun) lines.push(`done: ${changes.length} ${changes.length === 1 ? 'change' : 'changes'}`);
  else lines.push(`nothing was done (--dry-run)${isReplacing ? '; what has ! needs --replace' : ''}`);
  return `${lines.join('\n')}\n`;
}

function changeText({ action, method, name, params, was }: Change): string {
  const shown = Object.entries(params).filter(([key]) => action === 'add' || key in was);
  const values = shown.map(([key, value]) => {
    const now = JSON.stringify(value);
    return key in was ? `${key} ${JSON.stringify(was[key] ?? null)} → ${now}` : `${key} ${now}`;
  });
  return `${SIGNS[action]} ${method} ${name}${values.length === 0 ? '' : `: ${values.join(', ')}`}`;
}

/** `ringhost complete WORD...`, which the scripts for the shells call. */
import type { Command } from 'commander';
import { aliasOf } from '../observe/take-sample.ts';
import { clientSocketPath } from '../rpc/client.ts';
import { complete, type NameKind } from './completion.ts';
import { PATH_MARK } from './completion-scripts.ts';
import { connectTo } from './daemon-access.ts';

/** Somebody waits with a finger on the key. */
const ANSWER_LIMIT_MS = 1000;

/** Prints a candidate a line, with its explanation behind a tab. Never fails: there is nobody to tell. */
export async function runCompleteCommand(program: Command, words: readonly string[]): Promise<void> {
  const { candidates, takesPath } = await complete(program, words, findNames);
  const lines = candidates.map(({ word, help }) => `${word}\t${help}\n`);
  process.stdout.write(`${lines.join('')}${takesPath ? `${PATH_MARK}\t\n` : ''}`);
}

async function findNames(kind: NameKind, socket = clientSocketPath()): Promise<readonly string[]> {
  try {
    using client = await connectTo({ socket }, { timeoutMs: ANSWER_LIMIT_MS });
    if (kind === 'bdev') {
      const bdevs = await client.call('bdev_get_bdevs');
      return bdevs.map((bdev) => aliasOf(bdev) ?? bdev.name);
    }
    return (await client.call('vhost_get_controllers')).map(({ ctrlr }) => ctrlr);
  } catch {
    return [];
  }
}

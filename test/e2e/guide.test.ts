/**
 * Somebody reads docs/guide.md and types what it says, from its first command to its last: in a shell on the host, in a
 * second terminal, in the guest, in QEMU's monitor. QEMU gets more options behind those of the page: the kernel of the
 * guest image, and TCG, as in all tests; `$IMAGE` is an empty disk. Port 9009 is one that is free.
 */
import { execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { appendFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { ensureGuestImage } from '../../scripts/guest/image.ts';
import { freePort } from '../support/free-port.ts';
import { ownArchive } from './guest.ts';
import { GuestAgent } from './guest-agent.ts';
import { isPrinted, type Step, stepsOf } from './guide-page.ts';
import { QmpClient } from './qmp.ts';
import { whyNoGuests, whyNoTool } from './requirements.ts';
import { TestShell } from './shell.ts';
import { waitUntil } from './wait.ts';

const ROOT = dirname(dirname(import.meta.dirname));
const PAGE = join(ROOT, 'docs', 'guide.md');
const LOG_DIR = join(ROOT, 'build', 'e2e');
const CONSOLE = join(LOG_DIR, 'guide.console.log');
const BOOT_MAX_MS = 300_000;
const STEP_MAX_MS = 180_000;
const AGAIN_MS = 200;
const TAIL_CHARACTERS = 4000;

interface Outcome {
  readonly isOk: boolean;
  readonly output: string;
}

/** What the reader has before them. */
class Reader {
  readonly #directory: string;
  readonly #shell: TestShell;
  readonly #agent: GuestAgent;
  readonly #qmp: QmpClient;
  readonly #port: number;
  #hasLeft = false;
  #isGuestUp: Promise<void> = Promise.reject(new Error('the page has not started QEMU'));

  private constructor(directory: string, agent: GuestAgent, qmp: QmpClient, port: number) {
    this.#directory = directory;
    this.#agent = agent;
    this.#qmp = qmp;
    this.#port = port;
    this.#isGuestUp.catch(() => {});
    const path = [join(directory, 'bin'), dirname(process.execPath), process.env['PATH']].join(':');
    this.#shell = new TestShell(directory, ROOT, { PATH: path, TMPDIR: directory, IMAGE: join(directory, 'image') });
  }

  static async sitDown(): Promise<Reader> {
    const directory = mkdtempSync(join(tmpdir(), 'ringhost-guide-'));
    mkdirSync(LOG_DIR, { recursive: true });
    writeFileSync(CONSOLE, '');
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', join(directory, 'image'), '1M']);
    await installQemu(directory);
    const agent = await GuestAgent.listen(join(directory, 'agent'));
    const qmp = await QmpClient.listen(join(directory, 'qmp'));
    return new Reader(directory, agent, qmp, await freePort());
  }

  /** Types a block of the page, and again if it wants that. @throws Error when it fails, or prints something else */
  async type(step: Step): Promise<void> {
    const commands = step.commands.replaceAll(':9009', `:${this.#port}`);
    const isRight = ({ isOk, output }: Outcome): boolean =>
      isOk && (step.expected === null || isPrinted(output, step.expected));
    const deadlineMs = Date.now() + STEP_MAX_MS;
    let outcome = await this.#try(step, commands);
    while (step.isRepeated && !isRight(outcome) && Date.now() < deadlineMs) {
      await sleep(AGAIN_MS);
      outcome = await this.#try(step, commands);
    }
    if (isRight(outcome)) return;
    const what = outcome.isOk ? 'printed something else' : 'failed';
    const expected = step.expected === null ? '' : `--- the page says\n${step.expected}`;
    throw new Error(
      `docs/guide.md, line ${step.line}: ${what}\n${step.commands}--- it printed\n${outcome.output}${expected}
--- the end of the guest's console\n${readFileSync(CONSOLE, 'utf8').slice(-TAIL_CHARACTERS)}`,
    );
  }

  async #try({ place, isRepeated }: Step, commands: string): Promise<Outcome> {
    if (place === 'host') {
      return await (isRepeated ? this.#shell.tryRun(commands, STEP_MAX_MS) : this.#shell.run(commands, STEP_MAX_MS));
    }
    if (place === 'monitor') return await this.#monitor(commands);
    if (place === 'host terminal') {
      this.#isGuestUp = Promise.race([this.#agent.nextBoot(BOOT_MAX_MS), this.#qemuEnded()]);
      this.#isGuestUp.catch(() => {}); // reported by the first command in the guest
      await this.#shell.start(commands, CONSOLE, STEP_MAX_MS);
      return { isOk: true, output: '' };
    }
    await this.#isGuestUp;
    const { status, stdout, stderr } = await this.#agent.run(commands, STEP_MAX_MS);
    return { isOk: status === 0, output: `${stdout}${stderr}` };
  }

  async #qemuEnded(): Promise<never> {
    const hasEnded = (): boolean => /^it ended$/m.test(readFileSync(CONSOLE, 'utf8'));
    await waitUntil(() => this.#hasLeft || hasEnded(), BOOT_MAX_MS, 'end of QEMU');
    throw new Error(`QEMU ended:\n${readFileSync(CONSOLE, 'utf8')}`);
  }

  /** The monitor prints what went wrong, and nothing when all went well. */
  async #monitor(commands: string): Promise<Outcome> {
    let output = '';
    for (const line of commands.trim().split('\n')) {
      const answer = this.#qmp.execute('human-monitor-command', { 'command-line': line });
      // QEMU that ends may do so before it answers.
      output += String(line === 'quit' ? await answer.catch(() => '') : await answer);
    }
    return { isOk: output === '', output };
  }

  async leave(): Promise<void> {
    this.#hasLeft = true;
    await this.#shell.close();
    this.#agent.close();
    this.#qmp.close();
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

/** A `qemu-system-x86_64` that boots our guest, with all that it is told, and is watched by us. */
async function installQemu(directory: string): Promise<void> {
  const image = await ensureGuestImage((line) => console.log(`guest image: ${line}`));
  const initramfs = join(directory, 'initramfs');
  copyFileSync(image.initramfsPath, initramfs);
  await appendFile(initramfs, await ownArchive());
  const qemu = execFileSync('which', ['qemu-system-x86_64'], { encoding: 'utf8' }).trim();
  const more = [
    ...['-machine', 'accel=tcg', '-kernel', image.kernelPath, '-initrd', initramfs],
    ...['-append', "'console=ttyS0 loglevel=5 panic=-1 rdinit=/init.sh'"],
    ...['-chardev', `socket,id=qmp,path=${directory}/qmp`, '-mon', 'chardev=qmp,mode=control'],
    ...['-device', 'virtio-serial-pci', '-chardev', `socket,id=agent,path=${directory}/agent`],
    ...['-device', 'virtserialport,chardev=agent,name=agent'],
  ];
  const command = join(directory, 'bin', 'qemu-system-x86_64');
  mkdirSync(dirname(command));
  writeFileSync(
    command,
    `#!/bin/sh
case "$*" in *,help) exec ${qemu} "$@" ;; esac
exec setpriv --pdeathsig KILL ${qemu} "$@" ${more.join(' ')}
`,
  );
  chmodSync(command, 0o755);
}

const whyNot = whyNoGuests() ?? whyNoTool('nbd') ?? whyNoTool('curl');
/** The page has the machine of PCs. */
const isX86 = process.arch === 'x64';

describe('the commands of a page', () => {
  test('are all typed: a block of another kind is an error', () => {
    const page = '# Page\n```sh host\ntrue\n```\n```\n(picture)\n```\n```sh guest soon\nls\n```\n```text\na\n```\n';
    expect(stepsOf(page)).toMatchObject([
      { place: 'host', commands: 'true\n', isRepeated: false, expected: null, line: 2 },
      { place: 'guest', commands: 'ls\n', isRepeated: true, expected: 'a\n', line: 8 },
    ]);
    expect(() => stepsOf('```sh\ntrue\n```\n')).toThrow('line 1: nobody types');
    expect(() => stepsOf('```text\na\n```\n')).toThrow('line 1: nobody types');
  });

  test('print what the page shows, whatever stands for …', () => {
    expect(isPrinted('a   1\n\nb+ (2)\n', 'a 1\nb+ …\n')).toBe(true);
    expect(isPrinted('a\nx\ny\nb\n', 'a\n…\nb\n')).toBe(true);
    for (const wrong of ['', 'a\n', 'a\nb\nc\n', 'a\nbb\n']) expect(isPrinted(wrong, 'a\nb\n')).toBe(false);
  });
});

describe.skipIf(whyNot !== null || !isX86)('docs/guide.md', () => {
  test('every command works in its turn, and prints what the page shows', async () => {
    const reader = await Reader.sitDown();
    try {
      for (const step of stepsOf(readFileSync(PAGE, 'utf8'))) await reader.type(step);
    } finally {
      await reader.leave();
    }
  });
});

/**
 * Somebody who reads a document and types what it says, from its first command to its last: in a shell on the host, in
 * other terminals, in a guest, in QEMU's monitor. /var/tmp is a directory of its own meanwhile, and port 9009 one that
 * is free. QEMU gets more options behind those of the page: the kernel of the guest image, and TCG, as in all tests;
 * `$IMAGE` and YOUR-GUEST.qcow2 are an empty disk.
 */
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { appendFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ensureGuestImage } from '../../scripts/guest/image.ts';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { RpcClient } from '../../src/rpc/client.ts';
import { SECTOR_BYTES } from '../../src/virtio/blk.ts';
import { freePort } from '../support/free-port.ts';
import { isPrinted, type Step, stepsOf } from './document.ts';
import { ownArchive } from './guest.ts';
import { GuestAgent } from './guest-agent.ts';
import { QmpClient } from './qmp.ts';
import { TestShell } from './shell.ts';
import { waitUntil } from './wait.ts';

const ROOT = dirname(dirname(import.meta.dirname));
const LOG_DIR = join(ROOT, 'build', 'e2e');
const BOOT_MAX_MS = 300_000;
const STEP_MAX_MS = 180_000;
const AGAIN_MS = 200;
const TAIL_CHARACTERS = 4000;
const BLOCK_BYTES = 4096;
/** Of a disk that is kept busy. */
const BUSY_BLOCKS = 4096;

/** What pages suppose that do not start a daemon themselves. */
export const DOCUMENT_DAEMON = `
  ringhost serve -S "$TMPDIR" -r "$RINGHOST_RPC_SOCKET" > "$TMPDIR/ringhost.log" 2>&1 &
  until ringhost rpc framework_wait_init 2> /dev/null; do sleep 0.2; done
`;

interface Outcome {
  readonly isOk: boolean;
  readonly output: string;
}

export interface ReaderOptions {
  /** Where the reader begins. Default: an empty directory. */
  readonly cwd?: string;
  /** Before the other directories of commands. Default: that of the checkout. */
  readonly commands?: string;
  /** The page starts a guest. */
  readonly hasGuest?: boolean;
  /** What the page supposes: typed before its first command. */
  readonly before?: string;
  /** A blk controller that the page makes, on which it supposes a guest: something reads and writes there. */
  readonly busyController?: string;
}

/**
 * Types all of a page, and returns how many blocks that were. @throws Error when a command fails, or prints something
 * else than the page shows
 */
export async function readDocument(path: string, options: ReaderOptions = {}): Promise<number> {
  const reader = await DocumentReader.sitDown(path, options);
  try {
    const before = { place: 'host', file: null, isRepeated: false, expected: null, line: 0 } as const;
    if (options.before !== undefined) await reader.type({ ...before, commands: options.before });
    const steps = stepsOf(readFileSync(path, 'utf8'));
    for (const step of steps) await reader.type(step);
    return steps.length;
  } finally {
    await reader.leave();
  }
}

/** What the reader of a page with a guest has of it. */
interface Guest {
  readonly agent: GuestAgent;
  readonly qmp: QmpClient;
}

class DocumentReader {
  readonly #page: string;
  /** For what is ours, and in place of /var/tmp. */
  readonly #directory: string;
  readonly #cwd: string;
  readonly #shell: TestShell;
  readonly #guest: Guest | null;
  readonly #port: number;
  #terminals = 0;
  /** What was printed where QEMU runs. */
  #console = '';
  #hasLeft = false;
  readonly #load: Promise<void>;
  #isGuestUp: Promise<void> = Promise.reject(new Error('the page has not started QEMU'));

  private constructor(page: string, directory: string, options: ReaderOptions, guest: Guest | null, port: number) {
    this.#page = page;
    this.#directory = directory;
    this.#guest = guest;
    this.#port = port;
    this.#isGuestUp.catch(() => {});
    this.#cwd = options.cwd ?? join(directory, 'empty');
    const commands = options.commands ?? join(ROOT, 'bin');
    const path = [join(directory, 'bin'), commands, dirname(process.execPath), process.env['PATH']].join(':');
    const env = {
      ...{ PATH: path, TMPDIR: directory, IMAGE: join(directory, 'image') },
      RINGHOST_RPC_SOCKET: join(directory, 'ringhost.sock'),
    };
    this.#shell = new TestShell(directory, this.#cwd, env);
    this.#load = options.busyController === undefined ? Promise.resolve() : this.#keepBusy(options.busyController);
    this.#load.catch(() => {}); // reported in the end
  }

  static async sitDown(page: string, options: ReaderOptions): Promise<DocumentReader> {
    const directory = mkdtempSync(join(tmpdir(), 'ringhost-page-'));
    for (const name of ['empty', 'bin']) mkdirSync(join(directory, name));
    mkdirSync(LOG_DIR, { recursive: true });
    let guest: Guest | null = null;
    if (options.hasGuest === true) {
      execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', join(directory, 'image'), '1M']);
      await installQemu(directory);
      const agent = await GuestAgent.listen(join(directory, 'agent'));
      guest = { agent, qmp: await QmpClient.listen(join(directory, 'qmp')) };
    }
    return new DocumentReader(basename(page), directory, options, guest, await freePort());
  }

  /** Types a block of the page, and again if it wants that. @throws Error when it fails, or prints something else */
  async type(step: Step): Promise<void> {
    const commands = this.#here(step.commands)
      .replaceAll('YOUR-GUEST.qcow2', join(this.#directory, 'image'))
      .replaceAll(/^npm start$/gm, `npm start -- ${this.#places}`)
      .replaceAll(/^ringhost serve (?=--)/gm, `ringhost serve ${this.#places} `);
    const expected = step.expected === null ? null : this.#here(step.expected);
    const isRight = ({ isOk, output }: Outcome): boolean => isOk && (expected === null || isPrinted(output, expected));
    const deadlineMs = Date.now() + STEP_MAX_MS;
    let outcome = await this.#try(step, commands, expected);
    while (step.isRepeated && !isRight(outcome) && Date.now() < deadlineMs) {
      await sleep(AGAIN_MS);
      outcome = await this.#try(step, commands, expected);
    }
    if (isRight(outcome)) return;
    const what = outcome.isOk ? 'printed something else' : 'failed';
    const shown = expected === null ? '' : `--- the page says\n${expected}`;
    const console = existsSync(this.#console) ? readFileSync(this.#console, 'utf8').slice(-TAIL_CHARACTERS) : '';
    throw new Error(
      `${this.#page}, line ${step.line}: ${what}\n${commands}--- it printed\n${outcome.output}${shown}
--- the end of the guest's console\n${console}`,
    );
  }

  /** Where a daemon has its sockets, in place of /var/tmp. */
  get #places(): string {
    return `-S ${this.#directory} -r ${this.#directory}/ringhost.sock`;
  }

  #here(text: string): string {
    return text.replaceAll(':9009', `:${this.#port}`).replaceAll('/var/tmp/', `${this.#directory}/`);
  }

  async #try({ place, file, isRepeated }: Step, commands: string, expected: string | null): Promise<Outcome> {
    if (place === 'file') {
      writeFileSync(join(this.#cwd, file ?? ''), commands);
      return { isOk: true, output: '' };
    }
    if (place === 'host') {
      return await (isRepeated ? this.#shell.tryRun(commands, STEP_MAX_MS) : this.#shell.run(commands, STEP_MAX_MS));
    }
    if (place === 'host terminal') return await this.#useTerminal(commands, expected);
    if (this.#guest === null) throw new Error(`${this.#page} has a guest, and the test does not know of it`);
    if (place === 'monitor') return await this.#monitor(this.#guest.qmp, commands);
    await this.#isGuestUp;
    const { status, stdout, stderr } = await this.#guest.agent.run(commands, STEP_MAX_MS);
    return { isOk: status === 0, output: `${stdout}${stderr}` };
  }

  /** What is typed there goes on; what the page shows may come between other lines. */
  async #useTerminal(commands: string, expected: string | null): Promise<Outcome> {
    const log = join(LOG_DIR, `${basename(this.#page, '.md')}-${++this.#terminals}.console.log`);
    writeFileSync(log, '');
    const printed = (): string => readFileSync(log, 'utf8');
    if (commands.includes('qemu-system-') && this.#guest !== null) {
      this.#console = log;
      this.#isGuestUp = Promise.race([this.#guest.agent.nextBoot(BOOT_MAX_MS), this.#qemuEnded(printed)]);
      this.#isGuestUp.catch(() => {}); // reported by the first command in the guest
    }
    await this.#shell.start(commands, log, STEP_MAX_MS);
    if (expected === null) return { isOk: true, output: '' };
    const deadlineMs = Date.now() + STEP_MAX_MS;
    while (!isPrinted(printed(), `…\n${expected}…\n`) && !hasEnded(printed()) && Date.now() < deadlineMs) {
      await sleep(AGAIN_MS);
    }
    // The lines around are none of the page's.
    const isShown = isPrinted(printed(), `…\n${expected}…\n`);
    return isShown ? { isOk: true, output: expected } : { isOk: false, output: printed() };
  }

  async #qemuEnded(printed: () => string): Promise<never> {
    await waitUntil(() => this.#hasLeft || hasEnded(printed()), BOOT_MAX_MS, 'end of QEMU');
    throw new Error(`QEMU ended:\n${printed()}`);
  }

  /** The monitor prints what went wrong, and nothing when all went well. */
  async #monitor(qmp: QmpClient, commands: string): Promise<Outcome> {
    let output = '';
    for (const line of commands.trim().split('\n')) {
      const answer = qmp.execute('human-monitor-command', { 'command-line': line });
      // QEMU that ends may do so before it answers.
      output += String(line === 'quit' ? await answer.catch(() => '') : await answer);
    }
    return { isOk: output === '', output };
  }

  /** As soon as there is such a disk, until the reader leaves. */
  async #keepBusy(ctrlr: string): Promise<void> {
    const path = join(this.#directory, ctrlr);
    await waitUntil(() => this.#hasLeft || existsSync(path), STEP_MAX_MS, `controller ${ctrlr}`);
    if (this.#hasLeft) return;
    const disk = await BlkInitiator.connect(path);
    const data = Buffer.alloc(BLOCK_BYTES, 'ringhost');
    for (let i = 0; !this.#hasLeft; i++) {
      const sector = (i % BUSY_BLOCKS) * (BLOCK_BYTES / SECTOR_BYTES);
      await disk.write(sector, data);
      await disk.read(sector, BLOCK_BYTES);
      await sleep(1);
    }
    disk.close();
  }

  /** `npm start` gives it a process group of its own, which does not end with the shell's. */
  async #endDaemon(): Promise<void> {
    const socket = join(this.#directory, 'ringhost.sock');
    const client = await RpcClient.connect(socket).catch(() => null);
    if (client === null) return; // there is none, or it has ended
    // The connection may end before the answer arrives.
    await client.request('spdk_kill_instance', { sig_name: 'SIGTERM' }).catch(() => {});
    client.close();
    await waitUntil(() => !existsSync(socket), STEP_MAX_MS, 'end of the daemon');
  }

  async leave(): Promise<void> {
    this.#hasLeft = true;
    await this.#load.finally(async () => {
      await this.#endDaemon();
      await this.#shell.close();
    });
    this.#guest?.agent.close();
    this.#guest?.qmp.close();
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

function hasEnded(printed: string): boolean {
  return /^it ended$/m.test(printed);
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
  writeFileSync(
    command,
    `#!/bin/sh
case "$*" in *,help) exec ${qemu} "$@" ;; esac
exec setpriv --pdeathsig KILL ${qemu} "$@" ${more.join(' ')}
`,
  );
  chmodSync(command, 0o755);
}

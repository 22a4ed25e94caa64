/**
 * A systemd that is process 1 of namespaces of its own, on this machine's kernel and files, and starts units that a
 * test gives it. Nothing that it does lasts: writes go to memory, and it ends with the test.
 */
import { execFile, execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { TestChild } from '../e2e/child.ts';
import { waitUntil } from '../e2e/wait.ts';

const CHECKOUT = join(import.meta.dirname, '..', '..');
const SCRIPT = join(CHECKOUT, 'test/integration/fixtures/systemd-container.sh');
const START_MAX_MS = 60_000;

export class SystemdContainer {
  readonly #child: TestChild;
  readonly #directory: string;
  readonly #cgroup: string;
  #init = 0;

  private constructor(child: TestChild, directory: string, cgroup: string) {
    this.#child = child;
    this.#directory = directory;
    this.#cgroup = cgroup;
  }

  /**
   * `units`: texts of unit files by their paths beneath /etc/systemd/system; `unit` is started. `hasCheckout`: this
   * checkout is installed as Ringhost.
   */
  static async start(
    units: Readonly<Record<string, string>>,
    unit: string,
    { hasCheckout = true } = {},
  ): Promise<SystemdContainer> {
    const directory = mkdtempSync(join(tmpdir(), 'ringhost-systemd-'));
    for (const [name, text] of Object.entries(units)) {
      const path = join(directory, 'units', name);
      mkdirSync(join(path, '..'), { recursive: true });
      writeFileSync(path, text);
    }
    // A control group of its own, which its namespace then shows as the root of all.
    const cgroups = join(directory, 'cgroups');
    mkdirSync(cgroups);
    execFileSync('mount', ['-t', 'cgroup2', 'cgroup2', cgroups]);
    const cgroup = join(cgroups, `ringhost-test-${process.pid}`);
    mkdirSync(cgroup, { recursive: true });
    const join1 = 'echo $$ >"$1/cgroup.procs"; shift; exec unshare --pid --mount --cgroup --ipc --uts --fork "$@"';
    const options = ['--kill-child', '--propagation', 'private', 'sh', SCRIPT];
    const args = [directory, hasCheckout ? CHECKOUT : '', process.execPath, unit];
    const child = new TestChild('systemd', 'sh', ['-euc', join1, 'sh', cgroup, ...options, ...args]);
    const container = new SystemdContainer(child, directory, cgroup);
    try {
      await container.#started();
    } catch (error) {
      await container.close();
      throw new Error(`systemd printed:\n${child.tail()}`, { cause: error });
    }
    return container;
  }

  /** A path of the container as this process reaches it. */
  path(inside: string): string {
    return `/proc/${this.#init}/root${inside}`;
  }

  /** Runs a command in the container. @returns what it printed */
  async run(...command: readonly string[]): Promise<string> {
    const namespaces = [
      '--target',
      String(this.#init),
      '--pid',
      '--mount',
      '--cgroup',
      '--ipc',
      '--uts',
      '--root',
      '--wd',
    ];
    try {
      return (await promisify(execFile)('nsenter', [...namespaces, ...command])).stdout.trim();
    } catch (error) {
      if (error instanceof Error) error.message += `\n${this.#child.tail()}`;
      throw error;
    }
  }

  /** A property of a unit, as `systemctl show` has it. */
  async property(unit: string, name: string): Promise<string> {
    return await this.run('systemctl', 'show', '--value', '--property', name, unit);
  }

  /** `/proc/PID/status` of a unit's main process. */
  async statusOf(unit: string): Promise<string> {
    return readFileSync(this.path(`/proc/${await this.property(unit, 'MainPID')}/status`), 'utf8');
  }

  /** Ends everything in it, at once. */
  async close(): Promise<void> {
    await this.#child.stop('SIGKILL');
    await waitUntil(() => isGone(this.#cgroup), START_MAX_MS, 'end of the processes of the container');
    execFileSync('umount', [join(this.#cgroup, '..')]);
    rmSync(this.#directory, { recursive: true });
  }

  async #started(): Promise<void> {
    const isReady = async (): Promise<boolean> => {
      if (!this.#child.isRunning) throw new Error('systemd has ended');
      // Of the shell, which became `unshare`, the only child is process 1 of the namespace.
      const { pid } = this.#child;
      this.#init = Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8'));
      if (!(this.#init > 0)) return false;
      return await this.run('systemctl', 'is-system-running').then(
        () => true,
        (error: { stdout?: string }) => /starting|running|degraded/.test(error.stdout ?? ''),
      );
    };
    await waitUntil(isReady, START_MAX_MS, 'systemd that answers');
  }
}

/** Removes a control group and those beneath it; false while there are processes in them. */
function isGone(cgroup: string): boolean {
  try {
    for (const entry of readdirSync(cgroup, { withFileTypes: true })) {
      if (entry.isDirectory() && !isGone(join(cgroup, entry.name))) return false;
    }
    rmdirSync(cgroup);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOENT';
  }
}

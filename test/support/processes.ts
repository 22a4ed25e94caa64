/** Code that must run in a process or thread of its own, because it ends it or changes it for good. */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { until } from './waiting.ts';

const ROOT = new URL('../../', import.meta.url);
const LIMIT_MS = 30_000;

/** URL of a file of `src/`, for an `import` in the code below. */
export function sourceUrl(path: string): string {
  return new URL(`src/${path}`, ROOT).href;
}

/** A file of every thread of a process. Threads that end meanwhile are left out. */
function readTasks(pid: number, name: 'comm' | 'stat'): string[] {
  return readdirSync(`/proc/${pid}/task`).flatMap((task) => {
    try {
      return [readFileSync(`/proc/${pid}/task/${task}/${name}`, 'utf8').trim()];
    } catch (error) {
      if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return [];
      throw error;
    }
  });
}

/** Names of this process's threads, sorted. */
export function threadNames(): string[] {
  return readTasks(process.pid, 'comm').toSorted();
}

/** Stops a process (SIGSTOP), and returns when all its threads stand still: until then they go on working. */
export async function pause(pid: number): Promise<void> {
  process.kill(pid, 'SIGSTOP');
  await until(() => readTasks(pid, 'stat').every((line) => / T [^)]*$/.test(line)), `stop of process ${pid}`);
}

export interface Outcome {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs an ES module's text in a new process, which may have at most `openFilesMax` descriptors. */
export function runModule(code: string, openFilesMax?: number): Outcome {
  const node = [process.execPath, '--disable-warning=ExperimentalWarning', '--input-type=module', '--eval', code];
  const limit = openFilesMax === undefined ? '' : `ulimit -n ${openFilesMax}; `;
  const { status, signal, stdout, stderr } = spawnSync('sh', ['-c', `${limit}exec "$@"`, 'sh', ...node], {
    encoding: 'utf8',
    timeout: LIMIT_MS,
  });
  return { status, signal, stdout, stderr };
}

export interface Thread {
  readonly worker: Worker;
  /** The first message. */
  readonly message: Promise<unknown>;
  /** The code it ended with. */
  readonly exit: Promise<number>;
  /** Messages of errors that ended it. */
  readonly errors: readonly string[];
}

/**
 * Starts a thread that runs an ES module's text. `url('sys/events.ts')` in it is a file of `src/`, and `post(value)`
 * sends a message.
 */
export function startThread(code: string): Thread {
  const text = `
    import { parentPort } from 'node:worker_threads';
    const post = (value) => parentPort.postMessage(value);
    const url = (path) => ${JSON.stringify(new URL('src/', ROOT).href)} + path;
    ${code}`;
  const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(text)}`), {
    execArgv: ['--disable-warning=ExperimentalWarning'],
  });
  const errors: string[] = [];
  worker.on('error', (error: Error) => errors.push(error.message));
  const message = new Promise<unknown>((resolve) => worker.once('message', resolve));
  const exit = new Promise<number>((resolve) => worker.once('exit', resolve));
  return { worker, message, exit, errors };
}

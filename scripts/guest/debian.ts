/**
 * Fetches and unpacks Debian packages without installing anything: apt-get download and dpkg -x, as any user. Where the
 * machine has no package lists (or stale ones), private ones are fetched into the work directory.
 */
import { execFile } from 'node:child_process';
import { mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const COMMAND_MAX_MS = 10 * 60_000;
const OUTPUT_MAX_BYTES = 64 << 20;
const UNPACK_AT_ONCE = 2;
/** Of a package's dependencies we want shared libraries only: not Perl, Python or the system's set-up. */
const LIBRARY_PACKAGE = /^(lib|zlib1g)/;

export interface DebianOptions {
  /** Where packages, and private package lists if need be, are put. */
  readonly workDir: string;
  readonly say: (line: string) => void;
}

/** What `unpackPackages` fetches. */
export interface PackageSet {
  /** A meta package that depends on the current kernel, such as `linux-image-cloud-amd64`. */
  readonly kernelMetaPackage: string;
  /** Taken as they are, with every shared library they depend on. */
  readonly packages: readonly string[];
}

/**
 * Fetches the packages and unpacks them all into `rootDir`.
 * @throws Error that says which command failed, when Debian's packages cannot be reached
 */
export async function unpackPackages(set: PackageSet, rootDir: string, options: DebianOptions): Promise<void> {
  const debDir = join(options.workDir, 'debs');
  mkdirSync(debDir, { recursive: true });
  mkdirSync(rootDir, { recursive: true });
  try {
    await download(set, debDir, ['-o', 'APT::Sandbox::User=root']);
  } catch {
    options.say("the machine's package lists will not do: fetching private ones");
    await download(set, debDir, await preparePrivateLists(options.workDir));
  }
  const debs = readdirSync(debDir).filter((name) => name.endsWith('.deb'));
  options.say(`unpacking ${debs.length} packages`);
  const unpackNext = async (): Promise<void> => {
    for (let deb = debs.pop(); deb !== undefined; deb = debs.pop())
      await execute('dpkg', ['-x', join(debDir, deb), rootDir]);
  };
  await Promise.all(Array.from({ length: UNPACK_AT_ONCE }, unpackNext));
}

async function download(set: PackageSet, debDir: string, aptOptions: readonly string[]): Promise<void> {
  const kernel = await findKernelPackage(set.kernelMetaPackage, aptOptions);
  const libraries = await listLibraries(set.packages, aptOptions);
  await execute('apt-get', [...aptOptions, '-q', 'download', kernel, ...set.packages, ...libraries], debDir);
}

async function findKernelPackage(metaPackage: string, aptOptions: readonly string[]): Promise<string> {
  const depends = await execute('apt-cache', [...aptOptions, 'depends', metaPackage]);
  const kernel = /Depends: (linux-image-\S+)/.exec(depends)?.[1];
  if (kernel === undefined) throw new Error(`apt knows no kernel package behind ${metaPackage}`);
  return kernel;
}

async function listLibraries(packages: readonly string[], aptOptions: readonly string[]): Promise<string[]> {
  const ignored = ['recommends', 'suggests', 'conflicts', 'breaks', 'replaces', 'enhances'].map(
    (kind) => `--no-${kind}`,
  );
  const listing = await execute('apt-cache', [...aptOptions, 'depends', '--recurse', ...ignored, ...packages]);
  const names = listing.split('\n').filter((line) => LIBRARY_PACKAGE.test(line));
  return [...new Set(names)].filter((name) => !packages.includes(name));
}

async function preparePrivateLists(workDir: string): Promise<string[]> {
  const stateDir = join(workDir, 'apt', 'state');
  const cacheDir = join(workDir, 'apt', 'cache');
  mkdirSync(join(stateDir, 'lists', 'partial'), { recursive: true });
  mkdirSync(join(cacheDir, 'archives', 'partial'), { recursive: true });
  const settings = [
    'APT::Sandbox::User=root',
    `Dir::State=${stateDir}`,
    `Dir::State::lists=${join(stateDir, 'lists')}`,
    'Dir::State::status=/var/lib/dpkg/status',
    `Dir::Cache=${cacheDir}`,
    `Dir::Log=${cacheDir}`,
  ];
  const aptOptions = settings.flatMap((setting) => ['-o', setting]);
  await execute('apt-get', [...aptOptions, '-q', 'update']);
  return aptOptions;
}

/** Runs a command and returns what it printed. */
async function execute(command: string, args: readonly string[], cwd?: string): Promise<string> {
  const limits = { timeout: COMMAND_MAX_MS, maxBuffer: OUTPUT_MAX_BYTES };
  try {
    const env = { ...process.env, LC_ALL: 'C' };
    return (await run(command, args, { ...limits, env, ...(cwd === undefined ? {} : { cwd }) })).stdout;
  } catch (error) {
    const { stderr, message } = error as Error & { readonly stderr?: string };
    const reason = stderr?.trim() || message;
    throw new Error(`${command} ${args.slice(0, 8).join(' ')} … failed: ${reason}`, { cause: error });
  }
}

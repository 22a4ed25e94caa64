/**
 * The guest image of the end-to-end tests: a kernel for QEMU's -kernel and an initramfs with tools. It is made once
 * from Debian packages and kept outside the tree. What a test adds (its init, agent and scripts) comes as a second cpio
 * archive behind the first one, so that a changed test rebuilds nothing.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { basename, join } from 'node:path';
import { withFileLock } from '../setup/lock.mjs';
import { CpioArchive } from './cpio.ts';
import { unpackPackages } from './debian.ts';
import { readElfNeeds } from './elf.ts';
import { extractVmlinux } from './kernel.ts';
import { type Recipe, recipeFor } from './recipe.ts';

export interface GuestImage {
  /** For QEMU's -kernel. */
  readonly kernelPath: string;
  /** An uncompressed cpio archive: more may be appended to a copy of it. /etc/modules names what init has to load. */
  readonly initramfsPath: string;
  /** A small one, with busybox and drivers of disks only. */
  readonly bootInitramfsPath: string;
  /** The kernel as Debian has it: an EFI application. */
  readonly vmlinuzPath: string;
  /** UEFI firmware and its empty variables, where the recipe has it. */
  readonly uefiCodePath: string;
  readonly uefiVariablesPath: string;
  /** U-Boot, where the recipe has it. */
  readonly uBootPath: string;
}

const OUTPUT_MAX_BYTES = 512 << 20;
const BINARY_DIRS = ['bin', 'sbin', 'usr/bin', 'usr/sbin'];
const LIBRARY_SUFFIX = /\.so(\.|$)/;
/** Everything whose text decides what the image holds. */
const SOURCES = ['cpio.ts', 'debian.ts', 'elf.ts', 'image.ts', 'kernel.ts', 'recipe.ts'];

function cacheDir(): string {
  const base = process.env['RINGHOST_CACHE'] ?? process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache');
  return join(base, 'ringhost');
}

function hashOf(recipe: Recipe): string {
  const hash = createHash('sha256').update(JSON.stringify(recipe));
  for (const name of SOURCES) hash.update(readFileSync(join(import.meta.dirname, name)));
  return hash.digest('hex').slice(0, 16);
}

/**
 * Returns the image for this machine's architecture, and makes it first when there is none: half a minute, 80 MB
 * fetched. Callers in several processes at once wait for one of them.
 * @throws Error when Debian's packages cannot be reached or lack something
 */
export async function ensureGuestImage(say: (line: string) => void = () => {}): Promise<GuestImage> {
  const recipe = recipeFor(process.arch);
  const directory = join(cacheDir(), `guest-${hashOf(recipe)}`);
  const image: GuestImage = {
    kernelPath: join(directory, 'kernel'),
    initramfsPath: join(directory, 'initramfs.cpio'),
    bootInitramfsPath: join(directory, 'boot-initramfs.cpio'),
    vmlinuzPath: join(directory, 'vmlinuz'),
    uefiCodePath: join(directory, 'uefi-code.fd'),
    uefiVariablesPath: join(directory, 'uefi-variables.fd'),
    uBootPath: join(directory, 'u-boot.rom'),
  };
  if (existsSync(directory)) return image;
  const lockFile = join(cacheDir(), 'guest.lock');
  return await withFileLock(
    lockFile,
    () => say('waiting for another process that makes the guest image'),
    async () => {
      if (!existsSync(directory)) await publishImage(recipe, directory, say);
      return image;
    },
  );
}

/** Makes the image beside its place and renames it there: it is complete or absent. */
async function publishImage(recipe: Recipe, directory: string, say: (line: string) => void): Promise<void> {
  say(`making the guest image from Debian packages, once, in ${directory}`);
  mkdirSync(cacheDir(), { recursive: true });
  const workDir = mkdtempSync(`${directory}.tmp-`);
  try {
    const rootDir = join(workDir, 'root');
    await unpackPackages(recipe, rootDir, { workDir, say });
    const outputDir = join(workDir, 'image');
    mkdirSync(outputDir);
    const vmlinuz = readVmlinuz(rootDir);
    writeFileSync(join(outputDir, 'vmlinuz'), vmlinuz);
    writeFileSync(join(outputDir, 'kernel'), kernelForQemu(recipe, rootDir, vmlinuz));
    writeFileSync(join(outputDir, 'initramfs.cpio'), buildInitramfs(recipe, rootDir));
    const bare = { ...recipe, commands: [], libraries: [], modules: recipe.bootModules, modulesOnDemand: [] };
    writeFileSync(join(outputDir, 'boot-initramfs.cpio'), buildInitramfs(bare, rootDir));
    if (recipe.uefi !== undefined) {
      copyFileSync(join(rootDir, recipe.uefi.code), join(outputDir, 'uefi-code.fd'));
      copyFileSync(join(rootDir, recipe.uefi.variables), join(outputDir, 'uefi-variables.fd'));
    }
    if (recipe.uBoot !== undefined) copyFileSync(join(rootDir, recipe.uBoot.image), join(outputDir, 'u-boot.rom'));
    renameSync(outputDir, directory);
    say('the guest image is ready');
  } finally {
    rmSync(workDir, { recursive: true, force: true });
  }
}

function readVmlinuz(rootDir: string): Buffer {
  const name = readdirSync(join(rootDir, 'boot')).find((file) => file.startsWith('vmlinuz-'));
  if (name === undefined) throw new Error('the kernel package holds no boot/vmlinuz-*');
  return readFileSync(join(rootDir, 'boot', name));
}

function kernelForQemu(recipe: Recipe, rootDir: string, vmlinuz: Buffer): Buffer {
  return recipe.kernelFormat === 'as-is'
    ? vmlinuz
    : extractVmlinux(vmlinuz, (data) => busybox(rootDir, ['unxz', '-c'], data));
}

/** Runs an applet of the busybox that was just unpacked: it is static, and all that is sure to be at hand. */
function busybox(rootDir: string, args: readonly string[], input?: Buffer): Buffer {
  return execFileSync(findCommand(rootDir, 'busybox'), args, {
    maxBuffer: OUTPUT_MAX_BYTES,
    ...(input ? { input } : {}),
  });
}

function findCommand(rootDir: string, command: string): string {
  const path = BINARY_DIRS.map((directory) => join(rootDir, directory, command)).find((candidate) =>
    existsSync(candidate),
  );
  if (path === undefined) throw new Error(`no package of the guest image has the command ${command}`);
  return path;
}

function buildInitramfs(recipe: Recipe, rootDir: string): Buffer {
  const archive = new CpioArchive();
  for (const directory of ['dev', 'proc', 'sys', 'tmp', 'run', 'root', 'etc', 'mnt']) archive.addDirectory(directory);
  archive.addCharacterDevice('dev/console', 5, 1);
  archive.addFile('etc/mtab', '');
  addBusybox(archive, rootDir);
  addCommands(archive, recipe, rootDir);
  addModules(archive, recipe, rootDir);
  return archive.toBuffer();
}

function addBusybox(archive: CpioArchive, rootDir: string): void {
  archive.addFile('bin/busybox', readFileSync(findCommand(rootDir, 'busybox')), { isExecutable: true });
  for (const applet of busybox(rootDir, ['--list']).toString().trim().split('\n')) {
    if (applet !== 'busybox') archive.addSymlink(`bin/${applet}`, 'busybox');
  }
  archive.addSymlink('sbin/modprobe', '../bin/busybox'); // where the kernel looks for it
}

/** Commands go to /usr/bin, which comes before busybox's /bin in init's PATH; libraries keep their directories flat. */
function addCommands(archive: CpioArchive, recipe: Recipe, rootDir: string): void {
  const libraries = findLibraries(rootDir);
  const pending = recipe.commands.map((command) => findCommand(rootDir, command));
  for (const path of pending) archive.addFile(`usr/bin/${basename(path)}`, readFileSync(path), { isExecutable: true });
  const seen = new Set<string>();
  const addLibrary = (name: string, user: string): void => {
    if (seen.has(name)) return;
    seen.add(name);
    const library = libraries.get(name);
    if (library === undefined) throw new Error(`${user} needs ${name}, which no package of the guest image has`);
    archive.addFile(`lib/${name}`, readFileSync(library), { isExecutable: true });
    pending.push(library);
  };
  for (const name of recipe.libraries) addLibrary(name, 'the recipe');
  for (let path = pending.pop(); path !== undefined; path = pending.pop()) {
    const needs = readElfNeeds(readFileSync(path));
    if (needs === null) continue;
    const { interpreter } = needs;
    for (const name of needs.libraries) addLibrary(name, basename(path));
    if (interpreter === null) continue;
    addLibrary(basename(interpreter), basename(path));
    addInterpreter(archive, interpreter);
  }
}

/** The dynamic linker is found by its full path, /lib64/ld-linux-x86-64.so.2: point there. */
function addInterpreter(archive: CpioArchive, interpreter: string): void {
  const path = interpreter.slice(1);
  if (!archive.has(path)) archive.addSymlink(path, `/lib/${basename(interpreter)}`);
}

/** Every shared library under the unpacked packages, by file name. */
function findLibraries(rootDir: string): Map<string, string> {
  const libraries = new Map<string, string>();
  for (const entry of readdirSync(rootDir, { recursive: true, withFileTypes: true })) {
    if (!entry.isDirectory() && LIBRARY_SUFFIX.test(entry.name)) {
      libraries.set(entry.name, join(entry.parentPath, entry.name));
    }
  }
  return libraries;
}

/**
 * The wanted modules and what they depend on. The kernel package has no modules.dep: busybox's depmod makes one of all
 * modules, to find the dependencies, and one of the chosen ones, for modprobe in the guest.
 */
function addModules(archive: CpioArchive, recipe: Recipe, rootDir: string): void {
  const [version] = readdirSync(join(rootDir, 'lib', 'modules'));
  if (version === undefined) throw new Error('the kernel package holds no modules');
  const modulesDir = join(rootDir, 'lib', 'modules', version);
  busybox(rootDir, ['depmod', '-b', rootDir, version]);
  const dependencies = readModulesDep(join(modulesDir, 'modules.dep'));
  const builtin = new Set(readFileSync(join(modulesDir, 'modules.builtin'), 'utf8').split('\n').map(moduleName));
  const chosenRoot = mkdtempSync(join(rootDir, 'chosen-'));
  const chosenDir = join(chosenRoot, 'lib', 'modules', version);
  const target = `lib/modules/${version}`;
  const toLoad = recipe.modules.filter((module) => !builtin.has(module));
  archive.addFile('etc/modules', `${toLoad.join('\n')}\n`);
  for (const module of [...toLoad, ...recipe.modulesOnDemand]) {
    const path = [...dependencies.keys()].find((candidate) => moduleName(candidate) === module);
    if (path === undefined) {
      if (recipe.modulesOnDemand.includes(module)) continue; // built in, or of another architecture
      throw new Error(`the kernel has no module ${module}`);
    }
    for (const file of [path, ...(dependencies.get(path) ?? [])]) {
      const data = readFileSync(join(modulesDir, file));
      mkdirSync(join(chosenDir, file, '..'), { recursive: true });
      writeFileSync(join(chosenDir, file), data);
      archive.addFile(`${target}/${file}`, data);
    }
  }
  busybox(rootDir, ['depmod', '-b', chosenRoot, version]);
  for (const index of ['modules.dep', 'modules.alias', 'modules.symbols']) {
    archive.addFile(`${target}/${index}`, readFileSync(join(chosenDir, index)));
  }
}

/** `kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko …` as a map. */
function readModulesDep(path: string): Map<string, string[]> {
  const dependencies = new Map<string, string[]>();
  for (const line of readFileSync(path, 'utf8').split('\n')) {
    const [module, files] = line.split(':');
    if (module !== undefined && files !== undefined) dependencies.set(module, files.trim().split(' ').filter(Boolean));
  }
  return dependencies;
}

function moduleName(path: string): string {
  return basename(path)
    .replace(/\.ko(\.\w+)?$/, '')
    .replaceAll('-', '_');
}

/**
 * `ringhost doctor`: looks at the machine for what keeps disks from working, or from being fast, and says for each
 * finding what to do. A failure is what stops the daemon or a guest, a warning what somebody may not need.
 */
import { dirname } from 'node:path';

export interface Finding {
  readonly level: 'ok' | 'warn' | 'fail';
  readonly topic: string;
  /** What was seen. */
  readonly text: string;
  /** What to do about it; none when it is ok. */
  readonly remedy?: string;
}

/** The machine; a test gives another. */
export interface DoctorHost {
  /** Text of a file; null when there is none, or it may not be read. */
  read(path: string): string | null;
  /** Names in a directory; none when there is none. */
  list(path: string): readonly string[];
  /** Whether this user may read and write it; null when it does not exist. */
  canUse(path: string): boolean | null;
  /** Permission bits and owner; null when it does not exist. */
  stat(path: string): { readonly mode: number; readonly uid: number } | null;
  /** Output of a command; null when it is not installed, or failed. */
  run(command: string, args: readonly string[]): string | null;
  /** Why the native addon does not load; null when it does. */
  readonly addonProblem: string | null;
  /** Why no io_uring can be made; null when one can. */
  readonly ioUringProblem: string | null;
  readonly nodeVersion: string;
  readonly arch: string;
}

const FILES_WANTED = 4096;
const MEMLOCK_WANTED_BYTES = 2 ** 30;
const QEMU_WANTED = [4, 2] as const;

/** All checks, in the order in which things go wrong. `rpcSocket`: of the daemon to look at, when it runs. */
export function examine(host: DoctorHost, rpcSocket: string): readonly Finding[] {
  return [
    checkAddon(host),
    checkIoUring(host),
    checkOpenFiles(host),
    checkMemlock(host),
    checkHugepages(host),
    checkKvm(host),
    checkQemu(host),
    ...checkGuests(host),
    ...checkSocket(host, rpcSocket),
    checkIommu(host),
    checkIsolation(host),
    checkGovernor(host),
    checkLandlock(host),
  ];
}

const ok = (topic: string, text: string): Finding => ({ level: 'ok', topic, text });
const warn = (topic: string, text: string, remedy: string): Finding => ({ level: 'warn', topic, text, remedy });
const fail = (topic: string, text: string, remedy: string): Finding => ({ level: 'fail', topic, text, remedy });

function checkAddon({ addonProblem, nodeVersion }: DoctorHost): Finding {
  if (addonProblem === null) return ok('addon', `loads in Node.js ${nodeVersion}`);
  return fail('addon', addonProblem, 'in a checkout: npm start builds it; else install the package again');
}

function checkIoUring({ read, ioUringProblem }: DoctorHost): Finding {
  if (ioUringProblem === null) return ok('io_uring', 'can be used: disks over files and block devices');
  const isOff = Number(read('/proc/sys/kernel/io_uring_disabled') ?? 0) > 0;
  const remedy = isOff
    ? 'sysctl kernel.io_uring_disabled=0'
    : 'a kernel from 5.11 on; in a container: a seccomp profile that allows io_uring_setup';
  return warn('io_uring', `${ioUringProblem}: no disks over files and block devices`, remedy);
}

/** The soft limit in /proc/self/limits. */
function limitOf({ read }: DoctorHost, name: string): number {
  const line = (read('/proc/self/limits') ?? '').split('\n').find((one) => one.startsWith(name));
  const value = line?.slice(name.length).trim().split(/\s+/)[0];
  return value === undefined || value === 'unlimited' ? Number.POSITIVE_INFINITY : Number(value);
}

function checkOpenFiles(host: DoctorHost): Finding {
  const limit = limitOf(host, 'Max open files');
  if (limit >= FILES_WANTED) return ok('open files', `limit ${limit}`);
  return warn(
    'open files',
    `limit ${limit}: a guest takes about 10 with 4 queues, and one for each region of its memory`,
    'LimitNOFILE=65536 in the unit, or ulimit -n 65536',
  );
}

function checkMemlock(host: DoctorHost): Finding {
  const limit = limitOf(host, 'Max locked memory');
  if (limit >= MEMLOCK_WANTED_BYTES)
    return ok('locked memory', limit === Number.POSITIVE_INFINITY ? 'no limit' : `${limit} bytes`);
  return warn(
    'locked memory',
    `limit ${limit} bytes: NVMe drives in user space need as much as guests have memory`,
    'LimitMEMLOCK=infinity in the unit, or ulimit -l unlimited',
  );
}

function checkHugepages({ read }: DoctorHost): Finding {
  const directory = '/sys/kernel/mm/hugepages/hugepages-2048kB';
  const total = Number(read(`${directory}/nr_hugepages`) ?? 0);
  const free = Number(read(`${directory}/free_hugepages`) ?? 0);
  if (total > 0 && free === 0) {
    const text = `all ${total} of 2 MiB are taken: another guest that wants some does not start`;
    return warn(
      'huge pages',
      text,
      'ringhost setup --hugepages MIB, with the sum of all guests; the daemon needs none',
    );
  }
  return ok('huge pages', total === 0 ? 'none reserved, and none needed' : `${free} of ${total} of 2 MiB free`);
}

function checkKvm({ canUse }: DoctorHost): Finding {
  const answer = canUse('/dev/kvm');
  if (answer === true) return ok('kvm', '/dev/kvm can be used');
  if (answer === false) return warn('kvm', 'this user may not use /dev/kvm', 'usermod -aG kvm USER, and log in again');
  return warn('kvm', 'there is no /dev/kvm: guests are emulated, and slow', 'switch virtualization on in the firmware');
}

function checkQemu({ run, arch }: DoctorHost): Finding {
  const command = arch === 'arm64' ? 'qemu-system-aarch64' : 'qemu-system-x86_64';
  const version = /version (\d+)\.(\d+)[.\d]*/.exec(run(command, ['--version']) ?? '');
  if (version === null)
    return warn('qemu', `${command} is not installed`, 'apt-get install qemu-system-x86, or your own VMM');
  const [major, minor] = [Number(version[1]), Number(version[2])];
  const isRecent = major > QEMU_WANTED[0] || (major === QEMU_WANTED[0] && minor >= QEMU_WANTED[1]);
  if (isRecent) return ok('qemu', version[0]);
  return warn('qemu', `${version[0]} knows little of vhost-user-blk`, `QEMU ${QEMU_WANTED.join('.')} or later`);
}

/** Guests that run now, with a vhost-user disk: whether the daemon can see their memory. */
function checkGuests({ list, read }: DoctorHost): readonly Finding[] {
  return list('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid): Finding[] => {
      const words = (read(`/proc/${pid}/cmdline`) ?? '').split('\0').map(optionText);
      const isGuest = /qemu|kvm/.test(words[0] ?? '') && words.some((word) => /^vhost-user-(blk|scsi)/.test(word));
      if (!isGuest) return [];
      const backends = words.filter((word) => word.startsWith('memory-backend-'));
      const isShared = backends.some((word) => /(^|,)share=(on|true|yes)/.test(word));
      const isUsed = words.some((word) => /(^|,)(memory-backend|memdev)=/.test(word));
      if (isShared && isUsed) return [ok('guest', `process ${pid} shares its memory`)];
      const why = isShared ? 'has shared memory that it does not run on' : 'does not share its memory';
      return [
        fail(
          'guest',
          `process ${pid} has a vhost-user disk, and ${why}: the daemon cannot see its requests`,
          '-object memory-backend-memfd,id=mem,size=1G,share=on -machine q35,memory-backend=mem, with the size of -m',
        ),
      ];
    });
}

/** libvirt gives objects and devices as JSON; people do as `TYPE,key=value`. */
function optionText(word: string): string {
  if (!word.startsWith('{')) return word;
  try {
    const { driver, 'qom-type': type = driver, ...rest } = JSON.parse(word) as Record<string, unknown>;
    return [type, ...Object.entries(rest).map(([key, value]) => `${key}=${value}`)].join(',');
  } catch {
    return word; // nothing that says more
  }
}

function checkSocket({ stat, canUse }: DoctorHost, path: string): readonly Finding[] {
  if (path.startsWith('https:')) {
    return [warn('daemon', `${path} may be on another machine, and this one is examined`, 'run ringhost doctor there')];
  }
  const found = stat(path);
  if (found === null)
    return [warn('daemon', `no RPC socket ${path}`, 'ringhost serve starts it; -s PATH names another socket')];
  const findings: Finding[] = [];
  if (canUse(path) === false) {
    findings.push(
      fail('daemon', `this user may not use ${path}`, '--socket-group for the daemon, or the account that started it'),
    );
  } else findings.push(ok('daemon', `${path} can be used`));
  if ((found.mode & 0o006) !== 0) {
    findings.push(
      warn('daemon', `every user of this machine may use ${path}`, `--socket-mode 0600 or 0660, with --socket-group`),
    );
  }
  const directory = stat(dirname(path));
  if (directory !== null && (directory.mode & 0o1002) === 0o0002) {
    findings.push(
      fail(
        'daemon',
        `every user may replace sockets in ${dirname(path)}: it is writable for all, without the sticky bit`,
        `chmod o-w ${dirname(path)}, or another directory by -S and -r`,
      ),
    );
  }
  return findings;
}

function checkIommu({ list, canUse }: DoctorHost): Finding {
  const groups = list('/sys/kernel/iommu_groups').length;
  const needed = 'NVMe drives in user space need it';
  if (groups === 0) {
    return warn(
      'iommu',
      `off: ${needed}`,
      'switch it on in the firmware, and boot with intel_iommu=on on Intel machines',
    );
  }
  const canUseVfio = canUse('/dev/vfio/vfio');
  if (canUseVfio === null) return warn('iommu', `${groups} groups, and no /dev/vfio/vfio`, 'modprobe vfio-pci');
  if (!canUseVfio) {
    return warn('iommu', `this user may not use /dev/vfio/vfio: ${needed}`, 'run the daemon as root, or chgrp it');
  }
  return ok('iommu', `${groups} groups, and VFIO`);
}

function checkIsolation({ read }: DoctorHost): Finding {
  const isolated = (read('/sys/devices/system/cpu/isolated') ?? '').trim();
  if (isolated !== '') return ok('isolated cores', `${isolated}: give them to -m`);
  return ok('isolated cores', 'none: reactors share their cores, which costs latency at high load only');
}

function checkGovernor({ read }: DoctorHost): Finding {
  const governor = (read('/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor') ?? '').trim();
  if (governor === '' || governor === 'performance')
    return ok('cpu frequency', governor === '' ? 'not set by this kernel' : governor);
  return warn(
    'cpu frequency',
    `governor ${governor}: the first requests after a pause are slower`,
    'cpupower frequency-set -g performance',
  );
}

function checkLandlock({ read }: DoctorHost): Finding {
  const modules = read('/sys/kernel/security/lsm');
  if (modules === null) return ok('landlock', 'not known: securityfs is not mounted here');
  if (modules.split(',').some((name) => name.trim() === 'landlock')) return ok('landlock', 'on: --confine works');
  return warn(
    'landlock',
    'off: --confine does not work',
    'boot with lsm=landlock,… before what /sys/kernel/security/lsm names',
  );
}

/** One line a finding, and its remedy below. */
export function findingText({ level, topic, text, remedy }: Finding): string {
  const line = `${level.padEnd(5)} ${topic.padEnd(15)} ${text}`;
  return remedy === undefined ? line : `${line}\n${' '.repeat(22)}→ ${remedy}`;
}

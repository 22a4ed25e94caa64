/**
 * What a guest does with a disk, whoever serves it. Each case takes a booted guest and a disk in it, and fails with the
 * guest's console. What has to happen on the host meanwhile is passed as a function.
 */
import { expect } from 'vitest';
import type { Guest, VhostUserDisk } from './guest.ts';

export interface GuestDisk {
  /** In the guest, such as `/dev/vda`. */
  readonly path: string;
  readonly sizeBytes: number;
  /** Default 512. */
  readonly blockSizeBytes?: number;
  readonly isReadonly?: boolean;
  /** At most 20 characters. Not checked when absent. */
  readonly serial?: string;
}

const LONG_MS = 300_000;
/** From an error on the host to the end of the guest's program that met it. */
const ERROR_MAX_MS = 60_000;
const FIO_QUEUES = 4;
/** One block of hot-plugged memory on x86. */
const DIMM_MIB = 128;

/** lsblk, blockdev and sysfs show the disk as it was made. */
export async function showsDisk(guest: Guest, disk: GuestDisk): Promise<void> {
  const { path, sizeBytes, blockSizeBytes = 512, isReadonly = false, serial } = disk;
  const { stdout } = await guest.run(`
    lsblk --bytes --nodeps --noheadings --raw --output SIZE,LOG-SEC,RO,TYPE ${path}
    blockdev --getsize64 --getss --getro ${path} | tr '\\n' ' '
    echo
    cat /sys/block/${nameOf(path)}/serial || true`);
  const [lsblk, blockdev, guestSerial = ''] = stdout.split('\n');
  const readonlyFlag = isReadonly ? 1 : 0;
  expect(lsblk?.trim()).toBe(`${sizeBytes} ${blockSizeBytes} ${readonlyFlag} disk`);
  expect(blockdev?.trim()).toBe(`${sizeBytes} ${blockSizeBytes} ${readonlyFlag}`);
  if (serial !== undefined) expect(guestSerial.trim()).toBe(serial);
}

/**
 * Random data over the whole disk by O_DIRECT, in requests of many sizes, reads back the same in requests of others.
 * @returns the sha256 that the disk's content must have, in hex
 */
export async function keepsPattern(guest: Guest, disk: GuestDisk): Promise<string> {
  const { path, blockSizeBytes = 512 } = disk;
  const lastBlock = disk.sizeBytes / blockSizeBytes - 1;
  const { stdout } = await guest.run(
    `pattern=/tmp/pattern
    dd if=/dev/urandom of=$pattern bs=1M count=${disk.sizeBytes >> 20} 2>/dev/null
    # All of it, then single blocks at both ends and an odd number of blocks in between, with data of their own.
    dd if=$pattern of=${path} bs=1M oflag=direct 2>/dev/null
    head -c ${4 * blockSizeBytes} /dev/urandom >/tmp/blocks
    dd if=/tmp/blocks of=$pattern bs=${blockSizeBytes} count=2 conv=notrunc 2>/dev/null
    dd if=/tmp/blocks of=$pattern bs=${blockSizeBytes} skip=2 seek=${lastBlock - 1} conv=notrunc 2>/dev/null
    for block in 0 1 ${lastBlock - 1} ${lastBlock}; do
      dd if=$pattern of=${path} bs=${blockSizeBytes} skip=$block seek=$block count=1 \\
        oflag=direct conv=notrunc 2>/dev/null
    done
    dd if=$pattern of=${path} bs=${13 * blockSizeBytes} skip=7 seek=7 count=100 oflag=direct conv=notrunc 2>/dev/null
    # Sums: cmp is slow under TCG.
    sum=$(sha256sum <$pattern)
    [ "$(dd if=${path} bs=256k iflag=direct 2>/dev/null | sha256sum)" = "$sum" ]
    dd if=${path} bs=${blockSizeBytes} count=64 iflag=direct 2>/dev/null | cmp -n ${64 * blockSizeBytes} - $pattern
    dd if=${path} bs=${blockSizeBytes} skip=${lastBlock} iflag=direct of=/tmp/last 2>/dev/null
    tail -c ${blockSizeBytes} $pattern | cmp - /tmp/last
    echo "\${sum%% *}"
    rm -f $pattern /tmp/blocks /tmp/last`,
    { timeoutMs: LONG_MS },
  );
  return stdout.trim();
}

/** A partition table made in the guest, and a partition that is where the table says. */
export async function takesPartitions(guest: Guest, { path, blockSizeBytes = 512 }: GuestDisk): Promise<void> {
  await guest.run(
    `printf 'label: gpt\\nsize=8MiB, name=first\\nname=second\\n' | sfdisk --quiet --wipe always ${path}
    blockdev --rereadpt ${path}
    for try in $(seq 50); do [ -b ${path}2 ] && break; sleep 0.1; done
    [ "$(lsblk --noheadings --raw --output TYPE ${path} | grep -c part)" = 2 ]
    dd if=/dev/urandom of=/tmp/data bs=64k count=1 2>/dev/null
    dd if=/tmp/data of=${path}2 bs=64k oflag=direct 2>/dev/null
    start=$(cat /sys/block/${nameOf(path)}/${nameOf(path)}2/start) # in sectors of 512 bytes, whatever the disk's are
    dd if=${path} bs=${blockSizeBytes} skip=$((start * 512 / ${blockSizeBytes})) count=$((65536 / ${blockSizeBytes})) \\
      iflag=direct 2>/dev/null | cmp - /tmp/data
    wipefs --quiet --all ${path}1 ${path}2 ${path}
    blockdev --rereadpt ${path}
    rm /tmp/data`,
  );
}

/** An ext4 file system that survives unmounting, with a clean check. */
export async function carriesExt4(guest: Guest, { path }: GuestDisk): Promise<void> {
  await guest.run(
    `trap 'umount /mnt 2>/dev/null || true' EXIT
    mkfs.ext4 -q -F ${path}
    mount ${path} /mnt
    for size in 1 4095 4096 65537 3000000; do head -c $size /dev/urandom >/mnt/file-$size; done
    mkdir /mnt/many
    for number in $(seq 200); do echo "content of file $number" >/mnt/many/$number; done
    (cd /mnt && find . -type f | xargs sha256sum) >/tmp/sums
    umount /mnt
    echo 3 >/proc/sys/vm/drop_caches
    e2fsck -f -n ${path}
    mount ${path} /mnt
    (cd /mnt && sha256sum --check --status /tmp/sums)
    [ "$(wc -l </tmp/sums)" = 205 ]
    rm -r /mnt/many
    umount /mnt
    e2fsck -f -n ${path}`,
    { timeoutMs: LONG_MS },
  );
}

/** fio writes at random with checksums and reads them back, 32 requests deep on each of four queues. */
export async function verifiesUnderLoad(guest: Guest, { path, sizeBytes }: GuestDisk): Promise<void> {
  const bytesPerJob = Math.floor(sizeBytes / FIO_QUEUES / 65_536) * 65_536;
  const { stdout } = await guest.run(
    `[ "$(ls /sys/block/${nameOf(path)}/mq | wc -l)" = ${FIO_QUEUES} ]
    device=$(readlink -f /sys/block/${nameOf(path)}/device)
    fio --name=verify --filename=${path} --direct=1 --ioengine=libaio --iodepth=32 --numjobs=${FIO_QUEUES} \\
      --cpus_allowed=0-${FIO_QUEUES - 1} --cpus_allowed_policy=split \\
      --offset_increment=${bytesPerJob} --size=${Math.min(bytesPerJob, 8 << 20)} --rw=randwrite --bsrange=4k-64k \\
      --verify=crc32c --verify_fatal=1 --group_reporting --output=/tmp/fio.txt || { cat /tmp/fio.txt; exit 1; }
    grep "\${device##*/}-req" /proc/interrupts |
      awk '{ sum = 0; for (i = 2; i <= ${FIO_QUEUES + 1}; i++) sum += $i; print sum }'
    grep -E 'read:|write:|err=' /tmp/fio.txt >&2`,
    { timeoutMs: LONG_MS },
  );
  const interrupts = stdout.trim().split('\n').map(Number);
  expect(interrupts).toHaveLength(FIO_QUEUES);
  for (const count of interrupts) expect(count, `interrupts of each queue: ${interrupts}`).toBeGreaterThan(0);
}

/** Discarded and zeroed ranges read back as zeroes, and their neighbours are untouched. */
export async function zeroesRanges(guest: Guest, { path, blockSizeBytes = 512 }: GuestDisk): Promise<void> {
  const block = Math.max(blockSizeBytes, 4096);
  await guest.run(
    `head -c 4M /dev/urandom >/tmp/noise
    check() { # offset and length of the range that must be zero
      cp /tmp/noise /tmp/expected
      head -c $2 /dev/zero | dd of=/tmp/expected bs=${block} seek=$(($1 / ${block})) conv=notrunc 2>/dev/null
      dd if=${path} bs=1M count=4 iflag=direct 2>/dev/null | cmp - /tmp/expected
    }
    for how in '' -z; do
      dd if=/tmp/noise of=${path} bs=1M oflag=direct conv=notrunc 2>/dev/null
      blkdiscard -f $how --offset ${8 * block} --length ${16 * block} ${path}
      check ${8 * block} ${16 * block}
      blkdiscard -f $how --offset 0 --length 4M ${path}
      check 0 ${4 << 20}
    done
    # the whole disk, which takes more than one request or one of many segments
    dd if=/tmp/noise of=${path} bs=1M seek=3 oflag=direct conv=notrunc 2>/dev/null
    blkdiscard -f ${path}
    [ "$(dd if=${path} bs=1M iflag=direct 2>/dev/null | tr -d '\\0' | wc -c)" = 0 ]
    dd if=/tmp/noise of=${path} bs=1M seek=3 oflag=direct conv=notrunc 2>/dev/null
    fallocate --zero-range --keep-size --offset 0 --length $(blockdev --getsize64 ${path}) ${path}
    [ "$(dd if=${path} bs=1M iflag=direct 2>/dev/null | tr -d '\\0' | wc -c)" = 0 ]
    rm /tmp/noise /tmp/expected`,
    { timeoutMs: LONG_MS },
  );
}

/** A read-only disk can be read, and no way of writing gets through. */
export async function refusesWrites(guest: Guest, { path }: GuestDisk): Promise<void> {
  const { stdout } = await guest.run(
    `[ "$(blockdev --getro ${path})" = 1 ]
    before=$(dd if=${path} bs=1M iflag=direct 2>/dev/null | sha256sum)
    refused() { if "$@" >/dev/null 2>&1; then echo "not refused: $*"; fi; }
    refused dd if=/dev/urandom of=${path} bs=4k count=1 oflag=direct conv=notrunc
    # the flag is only advice to the kernel: without it the disk itself has to refuse
    blockdev --setrw ${path} || true
    refused dd if=/dev/urandom of=${path} bs=4k count=1 oflag=direct conv=notrunc
    refused blkdiscard -f --offset 0 --length 64k ${path}
    refused blkdiscard -f -z --offset 0 --length 64k ${path}
    echo 3 >/proc/sys/vm/drop_caches
    [ "$(dd if=${path} bs=1M iflag=direct 2>/dev/null | sha256sum)" = "$before" ]`,
  );
  expect(stdout).toBe('');
}

/** A resize on the host reaches the running guest, which can use the new space. */
export async function seesResize(
  guest: Guest,
  { path, blockSizeBytes = 512 }: GuestDisk,
  newSizeBytes: number,
  resizeOnHost: () => Promise<void>,
): Promise<void> {
  await resizeOnHost();
  await guest.run(`until [ "$(blockdev --getsize64 ${path})" = ${newSizeBytes} ]; do sleep 0.2; done`, {
    timeoutMs: ERROR_MAX_MS,
  });
  await guest.run(
    `head -c ${blockSizeBytes} /dev/urandom >/tmp/block
    last=$((${newSizeBytes} / ${blockSizeBytes} - 1))
    dd if=/tmp/block of=${path} bs=${blockSizeBytes} seek=$last oflag=direct conv=notrunc 2>/dev/null
    dd if=${path} bs=${blockSizeBytes} skip=$last iflag=direct 2>/dev/null | cmp - /tmp/block
    rm /tmp/block`,
  );
}

/** A disk that fails under I/O ends the guest's program with an error: it does not hang. */
export async function reportsErrors(
  guest: Guest,
  { path }: GuestDisk,
  breakOnHost: () => Promise<void>,
): Promise<void> {
  const reading = guest.tryRun(
    `while dd if=${path} of=/dev/null bs=64k iflag=direct 2>/tmp/dd.err; do touch /tmp/read-once; done
    cat /tmp/dd.err`,
    { timeoutMs: LONG_MS },
  );
  await guest.run('until [ -e /tmp/read-once ] || [ -s /tmp/dd.err ]; do sleep 0.1; done; rm -f /tmp/read-once');
  await breakOnHost();
  const { stdout } = await reading;
  expect(stdout).toMatch(/Input\/output error/);
  const { stdout: kernelLog } = await guest.run('dmesg');
  expect(kernelLog).toMatch(new RegExp(`I/O error, dev ${nameOf(path)}`));
}

/** What was written is there after a reboot of the guest, and the disk works on. */
export async function survivesReboot(guest: Guest, diskId: string): Promise<void> {
  const script = (path: string): string => `dd if=${path} bs=1M count=2 iflag=direct 2>/dev/null | sha256sum`;
  const before = await guest.devicePath(diskId);
  await guest.run(
    `head -c 2M /dev/urandom | dd of=${before} bs=64k iflag=fullblock oflag=direct conv=notrunc 2>/dev/null`,
  );
  const { stdout: written } = await guest.run(script(before));
  await guest.reboot();
  const after = await guest.devicePath(diskId);
  const { stdout: found } = await guest.run(script(after));
  expect(found).toBe(written);
  await guest.run(
    `head -c 1M /dev/urandom >/tmp/data
    dd if=/tmp/data of=${after} bs=64k oflag=direct conv=notrunc 2>/dev/null
    dd if=${after} bs=256k count=4 iflag=direct 2>/dev/null | cmp - /tmp/data`,
  );
}

/** A disk that is plugged into the running guest works, and leaves it without a trace. */
export async function comesAndGoes(guest: Guest, disk: VhostUserDisk, sizeBytes: number): Promise<void> {
  const { stdout: before } = await guest.run('ls /sys/block');
  await guest.addDisk(disk);
  const path = await guest.devicePath(disk.id);
  await showsDisk(guest, { path, sizeBytes });
  await keepsPattern(guest, { path, sizeBytes });
  await guest.removeDisk(disk.id);
  const { stdout: after } = await guest.run(`until ! [ -e ${path} ]; do sleep 0.1; done; ls /sys/block`);
  expect(after).toBe(before);
}

/** Memory is plugged in while the disk is busy: nothing is lost, and buffers in the new memory work. */
export async function worksWhileMemoryGrows(guest: Guest, { path }: GuestDisk): Promise<void> {
  await guest.run('echo online >/sys/devices/system/memory/auto_online_blocks');
  const busy = guest.run(
    `fio --name=busy --filename=${path} --direct=1 --ioengine=libaio --iodepth=16 \
      --rw=randwrite --bs=4k --size=8M --loops=20 \
      --verify=crc32c --verify_fatal=1 --time_based --runtime=5 --output=/tmp/fio.txt || { cat /tmp/fio.txt; exit 1; }`,
    { timeoutMs: LONG_MS },
  );
  await guest.run('until grep -q fio /proc/*/comm 2>/dev/null; do sleep 0.1; done');
  for (const dimm of ['dimm0', 'dimm1']) await guest.addMemory(dimm, DIMM_MIB);
  await busy;
  // The kernel takes the new memory first, being above 4 GiB: see that it does, and write from and read into it.
  await guest.run(
    `free_pages() { awk '/zone +Normal/ { found = 1 } found && /nr_free_pages/ { print $2; exit }' /proc/zoneinfo; }
    before=$(free_pages)
    dd if=/dev/urandom of=/tmp/data bs=16M count=2 iflag=fullblock 2>/dev/null
    [ $((before - $(free_pages))) -gt 7000 ]
    dd if=/tmp/data of=${path} bs=16M oflag=direct conv=notrunc 2>/dev/null
    dd if=${path} bs=16M count=2 iflag=direct 2>/dev/null | cmp - /tmp/data
    rm /tmp/data`,
    { timeoutMs: LONG_MS },
  );
}

function nameOf(path: string): string {
  return path.replace('/dev/', '');
}

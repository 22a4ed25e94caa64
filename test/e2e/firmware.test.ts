/**
 * Other, independent drivers: firmware boots from our disks, behind a scsi and behind a blk controller. SeaBIOS runs
 * a boot sector, which reads and writes by INT 13h; UEFI loads a kernel and its initramfs from a file system; U-Boot
 * reads and writes by its own commands. What they wrote is read through another controller.
 */
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CpioArchive } from '../../scripts/guest/cpio.ts';
import { ensureGuestImage } from '../../scripts/guest/image.ts';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { TestChild } from './child.ts';
import { Daemon } from './daemon.ts';
import { fat16Image } from './firmware/fat16.ts';
import { whyNoGuests } from './requirements.ts';
import { waitUntil } from './wait.ts';

const MIB = 1 << 20;
const SECTOR = 512;
const CHUNK_SECTORS = 128;
const BIOS_DISK_MIB = 1;
const BIOS_SECTORS_READ = 64;
const BIOS_SECTOR_WRITTEN = 100;
const UEFI_DISK_MIB = 64;
const U_BOOT_DISK_MIB = 1;
const U_BOOT_PROMPT = '\n=> ';
const BOOT_MAX_MS = 300_000;
const SOURCES = join(import.meta.dirname, 'firmware');
/** Other machines have other firmware. */
const isX86 = process.arch === 'x64';

const CONTROLLERS = ['scsi', 'blk'] as const;

describe.skipIf(whyNoGuests() !== null || !isX86)('firmware of x86 machines', () => {
  let daemon: Daemon;
  let directory: string;

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'ringhost-firmware-'));
    daemon = await Daemon.start();
    await daemon.rpc('vhost_create_scsi_controller', { ctrlr: 'scsi' });
  });

  afterAll(async () => {
    await daemon?.close();
    rmSync(directory, { recursive: true, force: true });
  });

  /** Makes a disk with this content, and shows it by each kind of controller; `check` is another way to it. */
  async function makeDisk(name: string, content: Uint8Array): Promise<void> {
    const num_blocks = content.length / SECTOR;
    await daemon.rpc('bdev_malloc_create', { name, num_blocks, block_size: SECTOR });
    await daemon.rpc('vhost_scsi_controller_add_target', { ctrlr: 'scsi', scsi_target_num: 0, bdev_name: name });
    for (const ctrlr of ['blk', 'check']) await daemon.rpc('vhost_create_blk_controller', { ctrlr, dev_name: name });
    await withDisk(async (disk) => {
      for (let sector = 0; sector < num_blocks; sector += CHUNK_SECTORS) {
        await disk.write(sector, content.subarray(sector * SECTOR, (sector + CHUNK_SECTORS) * SECTOR));
      }
    });
  }

  async function removeDisk(name: string): Promise<void> {
    for (const ctrlr of ['blk', 'check']) await daemon.rpc('vhost_delete_controller', { ctrlr, force: true });
    await daemon.rpc('delete_bdev', { name });
  }

  async function withDisk<T>(use: (disk: BlkInitiator) => Promise<T>): Promise<T> {
    const disk = await BlkInitiator.connect(daemon.socketPath('check'));
    try {
      return await use(disk);
    } finally {
      disk.close();
    }
  }

  const readSector = (sector: number): Promise<Uint8Array> => withDisk((disk) => disk.read(sector, SECTOR));

  /** Starts a machine with one disk. */
  function startMachine(
    kind: (typeof CONTROLLERS)[number],
    args: readonly string[],
    onOutput?: (text: string) => void,
  ): TestChild {
    const device = kind === 'scsi' ? 'vhost-user-scsi-pci' : 'vhost-user-blk-pci';
    return new TestChild(
      'QEMU',
      'qemu-system-x86_64',
      [
        ...['-nodefaults', '-no-user-config', '-display', 'none', '-accel', 'tcg,tb-size=32', '-m', '512M'],
        ...['-object', 'memory-backend-memfd,id=ram,size=512M,share=on', '-no-reboot'],
        ...['-chardev', `socket,id=disk,path=${daemon.socketPath(kind)}`],
        ...args,
        ...['-device', `${device},chardev=disk,bootindex=0${args.includes('-bios') ? '' : ',disable-legacy=on'}`],
      ],
      onOutput,
    );
  }

  /** Runs a machine with one disk until it has printed `end`. Returns what it printed. */
  async function bootFrom(kind: (typeof CONTROLLERS)[number], args: readonly string[], end: RegExp): Promise<string> {
    let output = '';
    const qemu = startMachine(kind, [...args, '-serial', 'stdio'], (text) => {
      output += text;
    });
    try {
      await waitUntil(() => end.test(output) || !qemu.isRunning, BOOT_MAX_MS, `${end} on the serial port`);
    } catch (error) {
      throw new Error(`${(error as Error).message}; it printed:\n${output}`, { cause: error });
    } finally {
      await qemu.stop('SIGKILL');
    }
    if (!end.test(output)) throw new Error(`QEMU ended, after it printed:\n${qemu.tail()}`);
    return output;
  }

  describe('SeaBIOS', () => {
    let content: Buffer;

    beforeAll(async () => {
      content = Buffer.from(Uint8Array.from({ length: BIOS_DISK_MIB * MIB }, (_, i) => (i * 7 + (i >> 9)) & 0xff));
      content.set(bootSector());
      await makeDisk('Bios', content);
    });
    afterAll(() => removeDisk('Bios'));

    test.each(CONTROLLERS)('boots from a disk behind a %s controller, reads it and writes it', async (kind) => {
      const area = content.subarray(SECTOR, SECTOR * (1 + BIOS_SECTORS_READ));
      const sum = (area.reduce((total, byte) => total + byte, 0) & 0xffff).toString(16).padStart(4, '0');
      const machine = ['-machine', 'pc,memory-backend=ram', '-bios', 'bios-256k.bin'];
      const output = await bootFrom(kind, machine, /boot sector: [^\n]*\n/);
      expect(output).toContain(`boot sector: sum ${sum}, written`);
      const inverted = content.subarray(SECTOR, 2 * SECTOR).map((byte) => ~byte);
      expect(Buffer.from(await readSector(BIOS_SECTOR_WRITTEN)).equals(inverted)).toBe(true);
      expect(Buffer.from(await readSector(BIOS_SECTOR_WRITTEN + 1))).toEqual(
        content.subarray((BIOS_SECTOR_WRITTEN + 1) * SECTOR, (BIOS_SECTOR_WRITTEN + 2) * SECTOR),
      );
      await withDisk((disk) => disk.write(BIOS_SECTOR_WRITTEN, new Uint8Array(SECTOR)));
    });

    /** Assembled by what built the addon. */
    function bootSector(): Buffer {
      mkdirSync(directory, { recursive: true });
      const object = join(directory, 'boot-sector.o');
      const binary = join(directory, 'boot-sector.bin');
      execFileSync('as', ['--32', '-o', object, join(SOURCES, 'boot-sector.S')]);
      execFileSync('ld', ['-m', 'elf_i386', '-Ttext=0x7c00', '--oformat=binary', '-o', binary, object]);
      return readFileSync(binary);
    }
  });

  describe('UEFI', () => {
    let firmware: string[];

    beforeAll(async () => {
      const image = await ensureGuestImage((line) => console.log(`guest image: ${line}`));
      const variables = join(directory, 'variables.fd');
      copyFileSync(image.uefiVariablesPath, variables);
      const flash = 'if=pflash,format=raw';
      firmware = [
        ...['-machine', 'q35,memory-backend=ram', '-drive', `${flash},readonly=on,file=${image.uefiCodePath}`],
        ...['-drive', `${flash},file=${variables}`],
      ];
      const own = new CpioArchive();
      own.addFile('init.sh', readFileSync(join(SOURCES, 'init.sh')), { isExecutable: true });
      const kernelArgs = 'initrd=\\INITRD.IMG console=ttyS0 loglevel=5 panic=-1 rdinit=/init.sh';
      const fileSystem = fat16Image((UEFI_DISK_MIB - 1) * MIB, {
        'STARTUP.NSH': Buffer.from(`FS0:\r\nKERNEL.EFI ${kernelArgs}\r\n`),
        'KERNEL.EFI': readFileSync(image.vmlinuzPath),
        'INITRD.IMG': Buffer.concat([readFileSync(image.bootInitramfsPath), own.toBuffer()]),
      });
      const content = Buffer.alloc(UEFI_DISK_MIB * MIB);
      content.set(fileSystem);
      await makeDisk('Uefi', content);
    });
    afterAll(() => removeDisk('Uefi'));

    test.each(CONTROLLERS)('boots a kernel from a disk behind a %s controller, and it writes', async (kind) => {
      const lastSector = (UEFI_DISK_MIB * MIB) / SECTOR - 1;
      const output = await bootFrom(kind, firmware, /init: came from [^\n]*\n/);
      expect(output).toContain(`init: came from /dev/${kind === 'scsi' ? 'sda' : 'vda'} of ${lastSector + 1} sectors`);
      const mark = Buffer.from(await readSector(lastSector)).toString('latin1');
      expect(mark).toMatch(/^written by the system that \/sys\/firmware\/efi started\n\0/);
      await withDisk((disk) => disk.write(lastSector, new Uint8Array(SECTOR)));
    });
  });

  describe('U-Boot', () => {
    let content: Buffer;

    beforeAll(async () => {
      content = Buffer.from(Uint8Array.from({ length: U_BOOT_DISK_MIB * MIB }, (_, i) => (i * 11 + (i >> 8)) & 0xff));
      await makeDisk('UBoot', content);
    });
    afterAll(() => removeDisk('UBoot'));

    test('reads and writes a disk behind a blk controller', async () => {
      const image = await ensureGuestImage((line) => console.log(`guest image: ${line}`));
      const serial = join(directory, 'serial');
      const qemu = startMachine('blk', [
        ...['-machine', 'pc,memory-backend=ram', '-bios', image.uBootPath],
        ...['-serial', `unix:${serial},server=on,wait=on`],
      ]);
      try {
        await waitUntil(() => existsSync(serial), BOOT_MAX_MS, 'the serial port of U-Boot');
        const type = await openPrompt(serial);
        for (const command of ['pci enum', 'virtio scan']) await type(command);
        expect(await type('virtio info')).toContain(`(${(U_BOOT_DISK_MIB * MIB) / SECTOR} x ${SECTOR})`);
        // Places and counts are hexadecimal: 64 sectors from the first on, and to the 256th.
        expect(await type('virtio read 2000000 1 40')).toContain('64 blocks read: OK');
        const read = content.subarray(SECTOR, 65 * SECTOR);
        expect(await type('crc32 2000000 8000')).toContain(crc32(read).toString(16).padStart(8, '0'));
        expect(await type('virtio write 2000000 100 40')).toContain('64 blocks written: OK');
        expect(await withDisk((disk) => disk.read(256, read.length))).toEqual(new Uint8Array(read));
        expect(await readSector(255)).toEqual(new Uint8Array(content.subarray(255 * SECTOR, 256 * SECTOR)));
      } finally {
        await qemu.stop('SIGKILL');
      }
    });

    /** Stops U-Boot before it boots by itself. Returns what types a command and answers with what it printed. */
    async function openPrompt(path: string): Promise<(command: string) => Promise<string>> {
      let output = '';
      // When QEMU is killed the connection may end in an error.
      const serial = connect(path).on('error', () => {});
      serial.setEncoding('latin1').on('data', (text: string) => {
        output += text.replaceAll('\r', '');
      });
      const type = async (text: string): Promise<string> => {
        output = '';
        serial.write(`${text}\n`);
        await waitUntil(() => output.includes(U_BOOT_PROMPT), BOOT_MAX_MS, `U-Boot's answer to "${text}"`);
        return output;
      };
      await waitUntil(() => output.includes('autoboot'), BOOT_MAX_MS, 'the start of U-Boot');
      await type('');
      return type;
    }
  });
});

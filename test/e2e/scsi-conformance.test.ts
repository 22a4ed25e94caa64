/**
 * Our SCSI disks under tools that others wrote: sg3-utils, and the suites of libiscsi's `iscsi-test-cu` against the
 * guest's /dev/sgN.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFailed, test } from 'vitest';
import { Daemon } from './daemon.ts';
import { Guest } from './guest.ts';
import { type ConformanceDisk, ISCSI_SUITES } from './iscsi-suites.ts';
import { whyNoGuests } from './requirements.ts';

const MIB = 1 << 20;
const SIZE_MIB = 64;
const BLOCK_BYTES = 512;
const SUITE_SECONDS_MAX = 60;
const SUITE_MS_MAX = 2 * SUITE_SECONDS_MAX * 1000;

/** By target number. */
const DISKS: readonly { readonly kind: ConformanceDisk; readonly physicalBlock: number; readonly options: object }[] = [
  { kind: 'plain', physicalBlock: 512, options: {} },
  { kind: 'advanced', physicalBlock: 4096, options: {} },
  { kind: 'readonly', physicalBlock: 512, options: { readonly: true } },
  { kind: 'removable', physicalBlock: 512, options: { removable: true } },
];

describe.skipIf(whyNoGuests() !== null)('SCSI tools in a guest', () => {
  let daemon: Daemon;
  let guest: Guest;
  /** By target number: `/dev/sdX` and `/dev/sgN`. */
  const block: string[] = [];
  const generic: string[] = [];

  beforeAll(async () => {
    daemon = await Daemon.start();
    await daemon.rpc('vhost_create_scsi_controller', { ctrlr: 'scsi' });
    for (const [target, { kind, physicalBlock, options }] of DISKS.entries()) {
      await daemon.rpc('bdev_malloc_create', {
        name: kind,
        num_blocks: (SIZE_MIB * MIB) / BLOCK_BYTES,
        block_size: BLOCK_BYTES,
        physical_block_size: physicalBlock,
      });
      await daemon.rpc('vhost_scsi_controller_add_target', {
        ...{ ctrlr: 'scsi', scsi_target_num: target, bdev_name: kind },
        ...options,
      });
    }
    const socket = `socket,id=scsi,path=${daemon.socketPath('scsi')}`;
    const device = 'vhost-user-scsi-pci,chardev=scsi,num_queues=2';
    guest = await Guest.start({ name: 'scsi-conformance', cpus: 2, qemuArgs: ['-chardev', socket, '-device', device] });
    for (const target of DISKS.keys()) {
      const { stdout } = await guest.run(
        `cd /sys/class/scsi_device
        until ls -d *:0:${target}:0/device/block/* *:0:${target}:0/device/scsi_generic/* 2>/dev/null >/tmp/names; do
          sleep 0.1
        done
        cat /tmp/names`,
      );
      const names = stdout.trim().split('\n');
      const deviceIn = (kind: string): string =>
        `/dev/${names
          .find((name) => name.includes(kind))
          ?.split('/')
          .at(-1)}`;
      block.push(deviceIn('/block/'));
      generic.push(deviceIn('/scsi_generic/'));
    }
  });

  afterAll(async () => {
    await guest?.close();
    await daemon?.close();
  });

  beforeEach(() => {
    onTestFailed(() => console.log(`--- the end of the daemon's log\n${daemon.log()}`));
  });

  const genericOf = (kind: ConformanceDisk): string => generic[DISKS.findIndex((disk) => disk.kind === kind)] as string;

  /** Runs one tool. `output` is what it must print; undefined: that it succeeds is all. */
  async function tool(command: string, output?: RegExp): Promise<void> {
    const { stdout } = await guest.run(command);
    if (output !== undefined) expect(stdout).toMatch(output);
  }

  describe('sg3-utils', () => {
    const plain = (): string => block[0] as string;
    const readsBack = (file: string, lba: number): string =>
      `dd if=${plain()} bs=512 skip=${lba} count=1 iflag=direct 2>/dev/null | cmp - ${file}`;

    test('sg_inq shows who the disk is', async () => {
      await tool(`sg_inq ${plain()}`, /Vendor identification: INTEL\s[\s\S]*Product identification: Malloc disk/);
      await tool(`sg_inq --vpd --page=0x83 ${plain()}`, /NAA/);
    });

    test.each([
      ['0', /Device identification/],
      ['sn', /Unit serial number: plain/],
      ['di', /designator type: NAA[\s\S]*designator type: T10 vendor identification/],
      ['ei', /ORDSUP=1.*SIMPSUP=1/],
      ['bl', /Maximum unmap block descriptor count: [1-9]/],
      ['bdc', /Non-rotating medium/],
      ['lbpv', /LBPU\): 1[\s\S]*LBPWS\): 1[\s\S]*LBPWS10\): 1[\s\S]*LBPRZ\): 1[\s\S]*thin/i],
    ])('sg_vpd reads page %s', async (page, output) => {
      await tool(`sg_vpd --page=${page} ${plain()}`, output);
    });

    test('sg_luns lists the LUNs and the well-known one', async () => {
      await tool(`sg_luns ${plain()}`, /Lun list length = 8/);
      await tool(`sg_luns --select=2 ${plain()}`, /c101/);
    });

    test('sg_opcodes lists commands and task management functions', async () => {
      const names = ['Inquiry', 'Unmap', 'Persistent reserve out', 'Compare and write', 'Write same\\(16\\)'];
      await tool(`sg_opcodes ${plain()}`, new RegExp(names.join('[\\s\\S]*'), 'i'));
      await tool(`sg_opcodes --opcode=0x93 ${plain()}`, /93/);
      await tool(`sg_opcodes --tmf ${plain()}`, /Logical unit reset/i);
    });

    test('sg_readcap shows sizes and provisioning', async () => {
      const last = (SIZE_MIB * MIB) / BLOCK_BYTES - 1;
      await tool(`sg_readcap ${plain()}`, new RegExp(`Last LBA=${last}`));
      await tool(`sg_readcap --16 ${plain()}`, /lbpme=1, lbprz=1[\s\S]*Logical block length=512/);
      await tool(`sg_readcap --16 ${block[1]}`, /physical block length=4096/);
    });

    test('sg_modes reads mode pages, and sg_wr_mode sets one', async () => {
      await tool(`sg_modes --all ${plain()}`, /Caching[\s\S]*Control/);
      await tool(`sg_modes --six --page=0x0a ${plain()}`, /Control/);
      // D_SENSE of the control page.
      await tool(`sg_wr_mode --page=0x0a --contents=0a,0a,04,10,00,00,00,00,ff,ff,00,00 ${plain()}`);
      await tool(`sg_modes --raw --page=0x0a ${plain()} | tail -c 10 | od -An -tx1 -N1`, /04/);
      await tool(`sg_wr_mode --page=0x0a --contents=0a,0a,00,10,00,00,00,00,ff,ff,00,00 ${plain()}`);
    });

    test('sg_unmap leaves zeroes, and sg_get_lba_status sees the blocks', async () => {
      await tool(`head -c 8192 /dev/urandom | dd of=${plain()} bs=8192 oflag=direct conv=notrunc 2>/dev/null`);
      await tool(`sg_unmap --lba=4 --num=8 --force ${plain()}`);
      const left = `dd if=${plain()} bs=512 skip=4 count=8 iflag=direct 2>/dev/null | tr -d '\\0' | wc -c`;
      await tool(left, /^0$/m);
      await tool(`sg_get_lba_status --lba=4 ${plain()}`, /LBA: 0x0*4\b/i);
    });

    test('sg_write_same repeats a block, and clears', async () => {
      await tool('head -c 512 /dev/urandom >/tmp/block');
      await tool(`sg_write_same --10 --in=/tmp/block --lba=8 --num=4 ${plain()}`);
      for (const lba of [8, 9, 10, 11]) await tool(readsBack('/tmp/block', lba));
      await tool(`sg_write_same --16 --in=/tmp/block --lba=20 --num=1 ${plain()} && ${readsBack('/tmp/block', 20)}`);
      await tool('head -c 512 /dev/zero >/tmp/zero');
      await tool(`sg_write_same --16 --unmap --lba=8 --num=2 ${plain()} && ${readsBack('/tmp/zero', 9)}`);
      await tool(`sg_write_same --16 --ndob --lba=10 --num=1 ${plain()} && ${readsBack('/tmp/zero', 10)}`);
      await tool(readsBack('/tmp/block', 11));
    });

    test('sg_compare_and_write writes only what compares', async () => {
      await tool(`dd if=${plain()} bs=512 skip=30 count=1 iflag=direct of=/tmp/old 2>/dev/null`);
      await tool('head -c 512 /dev/urandom >/tmp/new && cat /tmp/old /tmp/new >/tmp/both');
      await tool(`sg_compare_and_write --in=/tmp/both --lba=30 --num=1 ${plain()} && ${readsBack('/tmp/new', 30)}`);
      const again = await guest.tryRun(`sg_compare_and_write --in=/tmp/both --lba=30 --num=1 ${plain()}`);
      // MISCOMPARE.
      expect(again.status).toBe(14);
    });

    test('sg_persist registers, reserves, preempts, releases and clears', async () => {
      const out = (action: string): string => `sg_persist --no-inquiry --out ${action} ${plain()}`;
      const into = (action: string): string => `sg_persist --no-inquiry --in ${action} ${plain()}`;
      await tool(into('--report-capabilities'), /Compatible Reservation Handling\(CRH\): 1/i);
      await tool(`${out('--register --param-sark=abc')} && ${into('--read-keys')}`, /0xabc/);
      await tool(
        `${out('--reserve --param-rk=abc --prout-type=1')} && ${into('--read-reservation')}`,
        /Write Exclusive/,
      );
      await tool(into('--read-full-status'), /Key=0xabc[\s\S]*Reservation holder/);
      await tool(
        `${out('--preempt --param-rk=abc --param-sark=abc --prout-type=3')} && ${into('--read-reservation')}`,
        /Exclusive Access/,
      );
      await tool(out('--preempt-abort --param-rk=abc --param-sark=abc --prout-type=1'));
      await tool(
        `${out('--release --param-rk=abc --prout-type=1')} && ${into('--read-reservation')}`,
        /NO reservation/i,
      );
      await tool(`${out('--register-ignore --param-sark=def')} && ${into('--read-keys')}`, /0xdef/);
      await tool(
        `${out('--clear --param-rk=def')} && ${into('--read-keys')}`,
        /no registered|0 registered|no reservation keys/i,
      );
      // RESERVATION CONFLICT: not registered any more.
      expect((await guest.tryRun(out('--reserve --param-rk=def --prout-type=1'))).status).toBe(24);
    });

    test('sg_reset is told by a unit attention', async () => {
      await tool(`sg_turs ${plain()}; sg_reset --no-esc --device ${plain()}`);
      // REQUEST SENSE tells it once: 6/29/03.
      const senseOf = `sg_raw --request=18 ${generic[0]} 03 00 00 00 12 00 2>&1`;
      await tool(senseOf, /70 00 06 00 00 00 00 0a\s+00 00 00 00 29 03/);
      await tool(senseOf, /70 00 00 00 00 00 00 0a\s+00 00 00 00 00 00/);
      await tool(`sg_turs ${plain()}`);
    });

    test('sg_sync, sg_verify, sg_write_verify, sg_start, sg_prevent and sg_logs do', async () => {
      await tool(`sg_sync ${plain()} && sg_sync --16 --lba=8 --count=8 ${plain()}`);
      await tool(`sg_verify --lba=0 --count=64 ${plain()} && sg_verify --16 --lba=0 --count=64 ${plain()}`);
      await tool(`sg_verify --ndo=512 --in=/tmp/new --lba=30 --count=1 ${plain()}`);
      // MISCOMPARE.
      const other = `sg_verify --quiet --ndo=512 --in=/tmp/new --lba=31 --count=1 ${plain()}`;
      expect((await guest.tryRun(other)).status).toBe(14);
      await tool(`sg_write_verify --lba=40 --num=1 --in=/tmp/new ${plain()} && ${readsBack('/tmp/new', 40)}`);
      await tool(`sg_start --stop ${plain()} && sg_start --start ${plain()} && sg_turs ${plain()}`);
      await tool(`sg_prevent ${block[3]} && ! sg_start --eject ${block[3]} && sg_prevent --allow ${block[3]}`);
      await tool(`sg_start --eject ${generic[3]} && ! sg_turs ${generic[3]} && sg_start --load ${generic[3]}`);
      await tool(`sg_turs ${generic[3]} || sg_turs ${generic[3]}`);
      await tool(`sg_logs ${plain()}`, /Informational exceptions/i);
    });

    test('sg_dd reads and writes with READ and WRITE of every length', async () => {
      await tool('head -c 65536 /dev/urandom >/tmp/data');
      for (const length of [6, 10, 12, 16]) {
        await tool(
          `sg_dd if=/tmp/data of=${generic[0]} bs=512 bpt=16 cdbsz=${length} seek=64 2>/dev/null
          sg_dd if=${generic[0]} of=/tmp/read bs=512 bpt=16 cdbsz=${length} skip=64 count=128 2>/dev/null
          cmp /tmp/data /tmp/read`,
        );
      }
    });
  });

  describe('iscsi-test-cu', () => {
    test('has the suites that are listed', async () => {
      const { stdout } = await guest.run(`iscsi-test-cu -l ${genericOf('plain')}`);
      const names = [...stdout.matchAll(/^SCSI\.(\w+)$/gm)].map(([, name]) => name as string);
      expect(new Set(ISCSI_SUITES.map(({ name }) => name))).toEqual(new Set(names));
    });

    test.each(ISCSI_SUITES)('passes $name ($passed)', { timeout: SUITE_MS_MAX }, async (suite) => {
      const device = genericOf(suite.disk ?? 'advanced');
      const { status, stdout } = await guest.tryRun(
        `timeout ${SUITE_SECONDS_MAX} iscsi-test-cu -d -v -t SCSI.${suite.name} ${device} 2>&1`,
        { timeoutMs: SUITE_MS_MAX },
      );
      onTestFailed(() => console.log(stdout));
      const results = stdout.split(/^ {2}Test: /m).slice(1);
      const isSkipped = (result: string): boolean => result.includes('[SKIPPED]');
      const namesOf = (some: string[]): string[] => some.map((result) => /^\w+/.exec(result)?.[0] ?? result);
      const failed = namesOf(results.filter((result) => result.includes('FAILED')));
      const skipped = namesOf(results.filter(isSkipped));
      expect({ status, failed, skipped }).toEqual({ status: 0, failed: [], skipped: suite.skipped ?? [] });
      expect(results.length - skipped.length).toBeGreaterThanOrEqual(suite.passed);
    });
  });
});

/** A running daemon seen from outside: what `/metrics`, the page and `ringhost top` say is what an initiator did. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type Browser, chromium, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findOnPath } from '../../scripts/setup/child.mjs';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { whyNoTool } from '../e2e/requirements.ts';
import { until } from '../support/waiting.ts';
import { type BlkTarget, RinghostDaemon } from './fixtures/targets.ts';

const RINGHOST = join(import.meta.dirname, '../../bin/ringhost');
const READS = 300;
const WRITES = 150;
const BLOCK = 4096;
const LIMIT = { timeout: 60_000 };

let daemon: RinghostDaemon;
let target: BlkTarget;
let disk: BlkInitiator;
let url: string;

beforeAll(async () => {
  daemon = await RinghostDaemon.start(['--http', '127.0.0.1:0']);
  url = await dashboardOf(daemon);
  target = await daemon.create({ blockBytes: 4096, sizeBytes: 16 << 20 });
  disk = await BlkInitiator.connect(target.path, { queues: 2 });
  await doIo();
});

afterAll(async () => {
  disk.close();
  await target.close();
  await daemon.close();
});

/** Its URL, from the log: the port was the kernel's choice. */
async function dashboardOf(of: RinghostDaemon): Promise<string> {
  const find = (): string | undefined => /dashboard on (http:[^" ]+)/.exec(of.log)?.[1];
  await until(() => find() !== undefined, 'dashboard');
  return find() ?? '';
}

/** Reads on queue 0, writes on queue 1. */
async function doIo(): Promise<void> {
  for (let i = 0; i < READS; i++) await disk.read(i * 8, BLOCK, { queue: 0 });
  for (let i = 0; i < WRITES; i++) await disk.write(i * 8, new Uint8Array(BLOCK).fill(i), { queue: 1 });
}

async function scrape(): Promise<string[]> {
  const answer = await fetch(`${url}metrics`);
  expect(answer.headers.get('content-type')).toContain('text/plain; version=0.0.4');
  return (await answer.text()).split('\n');
}

describe('/metrics', () => {
  it('counts what the initiator did', async () => {
    const lines = await scrape();
    for (const line of [
      `ringhost_bdev_operations_total{bdev="Test1",type="read"} ${READS}`,
      `ringhost_bdev_operations_total{bdev="Test1",type="write"} ${WRITES}`,
      `ringhost_bdev_bytes_total{bdev="Test1",type="read"} ${READS * BLOCK}`,
      `ringhost_bdev_bytes_total{bdev="Test1",type="write"} ${WRITES * BLOCK}`,
      `ringhost_bdev_errors_total{bdev="Test1"} 0`,
      `ringhost_queue_requests_total{controller="disk.1",queue="0",core="0"} ${READS}`,
      `ringhost_queue_requests_total{controller="disk.1",queue="1",core="0"} ${WRITES}`,
      'ringhost_controller_connected{controller="disk.1",kind="blk"} 1',
    ]) {
      expect(lines).toContain(line);
    }
    // What is timed is timed in the bdev and in the queue that it came by: reads on the first, writes on the second.
    const timed = (name: string, labels: string): string | undefined =>
      lines.find((line) => line.startsWith(`ringhost_${name}_latency_seconds_count{${labels}}`))?.split(' ')[1];
    for (const [queue, type] of [
      [0, 'read'],
      [1, 'write'],
    ] as const) {
      const inQueue = timed('queue', `controller="disk.1",queue="${queue}",type="${type}"`);
      expect(Number(inQueue)).toBeGreaterThan(0);
      expect(inQueue).toBe(timed('bdev', `bdev="Test1",type="${type}"`));
    }
  });

  it('has each metric with its help and type, once', async () => {
    const types = (await scrape()).filter((line) => line.startsWith('# TYPE ')).map((line) => line.split(' ')[2]);
    expect(new Set(types).size).toBe(types.length);
    expect(types.filter((name) => name?.startsWith('ringhost_')).length).toBeGreaterThan(10);
  });
});

describe('ringhost top', () => {
  const run = promisify(execFile);
  const socket = (): string => join(daemon.directory, 'rpc.sock');

  it('prints what there is when it has no terminal', async () => {
    const { stdout } = await run(process.execPath, [RINGHOST, 'top', '-s', socket(), '-d', '0.1', '--once']);
    expect(stdout).toMatch(/^disk\.1 +blk +yes +2 /m);
    expect(stdout).toMatch(new RegExp(`^disk\\.1 queue 0 +0 +${READS} `, 'm'));
    expect(stdout).toMatch(new RegExp(`^Test1 +Malloc disk +16\\.0 MiB +${READS} `, 'm'));
  });

  it('calls volumes by the names that people gave them', async () => {
    await daemon.rpc.call('bdev_malloc_create', { name: 'Store', num_blocks: 32_768, block_size: 512 });
    await daemon.rpc.call('bdev_lvol_create_lvstore', { bdev_name: 'Store', lvs_name: 'lvs', cluster_sz: 65_536 });
    await daemon.rpc.call('bdev_lvol_create', { lvs_name: 'lvs', lvol_name: 'vm', size_in_mib: 1 });
    await daemon.rpc.call('vhost_create_blk_controller', { ctrlr: 'volume', dev_name: 'lvs/vm' });
    const { stdout } = await run(process.execPath, [RINGHOST, 'top', '-s', socket(), '-d', '0.1', '--once']);
    expect(stdout).toMatch(/^volume +blk +no .* lvs\/vm$/m);
    expect(stdout).toMatch(/^lvs\/vm +Logical Volume +1\.0 MiB /m);
    await daemon.rpc.call('vhost_delete_controller', { ctrlr: 'volume' });
    await daemon.rpc.call('bdev_lvol_delete_lvstore', { lvs_name: 'lvs' });
    await daemon.rpc.call('delete_bdev', { name: 'Store' });
  });

  it('prints JSON for programs', async () => {
    const { stdout } = await run(process.execPath, [RINGHOST, 'top', '-s', socket(), '-d', '0.1', '--json']);
    const { bdevs } = JSON.parse(stdout);
    expect(bdevs[0]).toMatchObject({ name: 'Test1', io: { write: { operations: WRITES, bytes: WRITES * BLOCK } } });
  });

  it('takes keys on a terminal, and leaves it as it was', async () => {
    const command = `${process.execPath} ${RINGHOST} top -s ${socket()} -d 0.2`;
    // In CI the library that draws would not.
    const { CI: _, ...env } = process.env;
    const terminal = spawn('script', ['-qfec', command, '/dev/null'], { env, stdio: ['pipe', 'pipe', 'inherit'] });
    let seen = '';
    terminal.stdout.on('data', (chunk: Buffer) => {
      seen += chunk.toString();
    });
    await until(() => seen.includes('Test1'), 'table of bdevs');
    terminal.stdin.write('1');
    await until(() => seen.includes('disk.1 '), 'table of controllers');
    terminal.stdin.write('\r');
    await until(() => seen.includes('disk.1 queue 1'), 'queues of the controller');
    terminal.stdin.write('\r');
    await until(() => seen.includes('requests by latency'), 'one queue');
    terminal.stdin.write('\u001b');
    const exit = once(terminal, 'exit');
    terminal.stdin.write('q');
    expect(await exit).toEqual([0, null]);
    // The other screen was entered, and left.
    expect(seen).toContain('\u001b[?1049h');
    expect(seen.lastIndexOf('\u001b[?1049l')).toBeGreaterThan(seen.lastIndexOf('\u001b[?1049h'));
  });

  it('says what is wrong when no daemon answers', async () => {
    const failure = await run(process.execPath, [RINGHOST, 'top', '-s', '/nowhere']).catch((error: Error) => error);
    expect(failure).toMatchObject({ code: 1, stderr: expect.stringContaining('Is ringhost running?') });
  });
});

describe('latencies', () => {
  const READS_AT_ONCE = 8;
  const DELAY_MS = 3;
  const RARE_MS = 60;
  const NS_PER_MS = 1e6;
  /** A bucket, and a step of the clock. */
  const wider = (ms: number): number => ms * (1 + 1 / 32) + 1e-3;
  /** What the initiator saw of each read. */
  const seenMs: number[] = [];
  let socket: string;

  // A disk whose latency is known: one read in a hundred takes 60 ms, the others 3.
  beforeAll(async () => {
    socket = join(daemon.directory, 'slow');
    await daemon.rpc.call('bdev_null_create', { name: 'Base', num_blocks: 2048, block_size: 512 });
    await daemon.rpc.call('bdev_delay_create', {
      ...{ base_bdev_name: 'Base', name: 'Slow', avg_write_latency: 0, p99_write_latency: 0 },
      ...{ avg_read_latency: DELAY_MS * 1000, p99_read_latency: RARE_MS * 1000 },
    });
    await daemon.rpc.call('vhost_create_blk_controller', { ctrlr: 'slow', dev_name: 'Slow' });
    await daemon.rpc.call('bdev_enable_histogram', { name: 'Slow', enable: true });
    const slow = await BlkInitiator.connect(socket, { queues: 1 });
    const reader = async (): Promise<void> => {
      for (let i = 0; i < READS / READS_AT_ONCE; i++) {
        const startMs = performance.now();
        await slow.read(i, 512);
        seenMs.push(performance.now() - startMs);
      }
    };
    await Promise.all(Array.from({ length: READS_AT_ONCE }, reader));
    slow.close();
    seenMs.sort((a, b) => a - b);
  });

  afterAll(async () => {
    await daemon.rpc.call('vhost_delete_controller', { ctrlr: 'slow', force: true });
    await daemon.rpc.call('delete_bdev', { name: 'Base' });
  });

  it('have percentiles between those of the disk and those that the initiator saw', async () => {
    const { bdevs } = await daemon.rpc.call('bdev_get_latency', { names: ['Slow'] });
    const [read] = bdevs[0]?.latencies ?? [];
    const count = seenMs.length;
    expect(read).toMatchObject({ type: 'read', count });
    const seen = (percent: number): number => seenMs[Math.ceil((count * percent) / 100) - 1] ?? 0;
    for (const [ns, percent, leastMs] of [
      [read?.p50_ns, 50, DELAY_MS],
      [read?.p99_ns, 99, DELAY_MS],
      [read?.p999_ns, 99.9, RARE_MS],
    ] as const) {
      expect((ns ?? 0) / NS_PER_MS).toBeGreaterThanOrEqual(leastMs);
      expect((ns ?? 0) / NS_PER_MS).toBeLessThanOrEqual(wider(seen(percent)));
    }
  });

  it('are in /metrics, in seconds', async () => {
    const lines = await scrape();
    const metric = 'ringhost_bdev_latency_seconds';
    const value = (name: string): number =>
      Number(
        lines
          .find((line) => line.startsWith(name))
          ?.split(' ')
          .at(-1),
      );
    const bucket = (le: string): number => value(`${metric}_bucket{bdev="Slow",type="read",le="${le}"}`);
    expect(bucket('0.0025')).toBe(0);
    expect(bucket('+Inf')).toBe(seenMs.length);
    expect(bucket('+Inf') - bucket('0.05')).toBeGreaterThan(0);
    expect(value(`${metric}_count{bdev="Slow",type="read"}`)).toBe(seenMs.length);
    const sum = value(`${metric}_sum{bdev="Slow",type="read"}`);
    expect(sum).toBeGreaterThan((seenMs.length * DELAY_MS) / 1000);
    expect(sum).toBeLessThan(seenMs.reduce((total, ms) => total + ms, 0) / 1000);
  });

  it("are in SPDK's form of a histogram", async () => {
    const { histogram } = await daemon.rpc.call('bdev_get_histogram', { name: 'Slow' });
    const bytes = Buffer.from(histogram, 'base64');
    let count = 0;
    for (let at = 0; at < bytes.length; at += 8) count += Number(bytes.readBigUInt64LE(at));
    expect(count).toBe(seenMs.length);
  });
});

describe('ringhost qemu', () => {
  const run = promisify(execFile);
  const socket = (): string => join(daemon.directory, 'rpc.sock');

  it('prints how to attach a controller of the running daemon', async () => {
    const { stdout } = await run(process.execPath, [RINGHOST, 'qemu', 'disk.1', '-s', socket()]);
    expect(stdout).toContain(`-chardev socket,id=ringhost0,path=${target.path},reconnect=1`);
  });

  it('names the controllers there are when it is another', async () => {
    const failure = await run(process.execPath, [RINGHOST, 'qemu', 'disk', '-s', socket()]).catch((error) => error);
    expect(failure).toMatchObject({ code: 1, stderr: expect.stringContaining('no controller disk: there are disk.1') });
  });
});

describe('the HTTP server', () => {
  it('gives files of the page and no others', async () => {
    const statusOf = async (path: string) => ({ path, status: (await fetch(`${url}${path}`)).status });
    for (const path of ['', 'page/style.css', 'page/main.ts', 'vendor/uplot.js']) {
      expect(await statusOf(path)).toEqual({ path, status: 200 });
    }
    for (const path of ['page/tsconfig.json', 'page/..%2fserver.ts', 'page/index.html', 'vendor/uplot.d.ts', 'x']) {
      expect(await statusOf(path)).toEqual({ path, status: 404 });
    }
  });

  it('traces for programs, and not for pages of other sites', async () => {
    const post = (body: object, headers: Readonly<Record<string, string>> = {}) =>
      fetch(`${url}trace`, { method: 'POST', body: JSON.stringify(body), headers });
    const good = await post({ controllers: ['disk.1'], seconds: 0.1 });
    expect(await good.json()).toMatchObject({ otherData: { dropped: 0 } });
    expect((await post({ seconds: 0.1 }, { origin: 'http://elsewhere.example' })).status).toBe(403);
    expect(await (await post({ controllers: ['none'], seconds: 0.1 })).text()).toContain('vhost_get_controllers lists');
    expect((await post({ seconds: 1e9 })).status).toBe(400);
  });

  it('asks for a token when it was given one', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'ringhost-token-'));
    const token = 'f00dfeedf00dfeedf00dfeed';
    const file = join(directory, 'token');
    writeFileSync(file, `${token}\n`, { mode: 0o600 });
    const other = await RinghostDaemon.start(['--http', '127.0.0.1:0', '--http-token-file', file]);
    const address = await dashboardOf(other);
    expect((await fetch(`${address}metrics`)).status).toBe(401);
    const authorization = `Bearer ${token}`;
    expect((await fetch(`${address}metrics`, { headers: { authorization } })).status).toBe(200);
    await other.close();
    rmSync(directory, { recursive: true });
  });
});

describe.skipIf(whyNoTool('chromium') !== null)('the page in a browser', () => {
  let browser: Browser;
  let page: Page;
  const complaints: string[] = [];

  beforeAll(async () => {
    const executablePath = findOnPath('chromium') ?? '';
    browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu'] });
    page = await browser.newPage({ viewport: { width: 1280, height: 1100 } });
    page.on('console', (message) => {
      if (message.type() === 'error' || message.type() === 'warning') complaints.push(message.text());
    });
    page.on('pageerror', (error) => complaints.push(error.message));
    // Whatever else it asks for would come from the internet.
    page.on('request', (request) => {
      if (!request.url().startsWith(url) && !request.url().startsWith('data:')) complaints.push(request.url());
    });
    await page.goto(url);
    await page.locator('#state.live').waitFor(LIMIT);
  });

  afterAll(() => browser.close());

  const cells = (table: string, row: string): Promise<string[]> =>
    page.locator(`#${table} tr`, { hasText: row }).locator('td').allTextContents();

  it('shows what the initiator did', async () => {
    const bdev = await cells('bdevs', 'Test1');
    expect(bdev.slice(0, 3)).toEqual(['Test1', 'Malloc disk', '16.0 MiB']);
    expect(bdev[3]).toBe(String(READS));
    expect(bdev[9]).toBe(String(WRITES));
    expect((await cells('queues', 'disk.1 queue 0')).slice(0, 3)).toEqual(['disk.1 queue 0', '0', String(READS)]);
    expect((await cells('queues', 'disk.1 queue 1')).slice(0, 3)).toEqual(['disk.1 queue 1', '0', String(WRITES)]);
  });

  it('draws the house: the guest, its queues, their reactor and the bdev', async () => {
    const titles = await page.locator('#house .title').allTextContents();
    expect(titles).toEqual(['disk.1', 'disk.1 queue 0', 'disk.1 queue 1', 'core 0', 'Test1']);
    // A wire from the controller to each queue, from each queue to the reactor, from the reactor to the bdev.
    expect(await page.locator('#house path').count()).toBe(5);
  });

  it('shows traffic while there is some, in the totals, the house and the plots', async () => {
    const ending = new AbortController();
    const traffic = (async () => {
      while (!ending.signal.aborted) await doIo();
    })();
    await page.locator('#house path.active').first().waitFor(LIMIT);
    await page.locator('#total-iops', { hasNotText: /^(0|–)$/ }).waitFor(LIMIT);
    ending.abort();
    await traffic;
    expect(await page.locator('.chart canvas').count()).toBe(4);
  });

  it('shows where on the disk the initiator writes, and how long that takes', async () => {
    const ending = new AbortController();
    // Three quarters of 16 MiB from the begin: the 193rd of 256 regions.
    const traffic = (async () => {
      while (!ending.signal.aborted) await disk.write(12 * 2048, new Uint8Array(BLOCK));
    })();
    await page.locator('#subject').selectOption('bdev Test1');
    await page.locator('#hottest', { hasText: 'hottest: 12.0 MiB to 12.1 MiB' }).waitFor(LIMIT);
    // The same on the canvas: in that column, and not in those beside it, something is drawn.
    const columns = () =>
      page.evaluate(`(() => {
        const canvas = document.getElementById('heat-places');
        const left = Number(canvas.dataset.left) * devicePixelRatio;
        const column = (canvas.width - left) / 256;
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        const isDrawn = (region) => {
          const x = Math.floor(left + (region + 0.5) * column);
          for (let y = 0; y < canvas.height; y++) if (data[(y * canvas.width + x) * 4 + 3] > 0) return true;
          return false;
        };
        return Array.from({ length: 256 }, (_, region) => region).filter(isDrawn);
      })()`);
    const drawn = (await columns()) as number[];
    expect(drawn).toContain(192);
    expect(drawn.filter((region) => region > 150 && region !== 192)).toEqual([]);
    const isHeatDrawn = `(() => {
      const canvas = document.getElementById('heat-latency');
      const left = Number(canvas.dataset.left) * devicePixelRatio;
      const { data } = canvas.getContext('2d').getImageData(left, 0, canvas.width - left, canvas.height);
      return data.some((value) => value > 0);
    })()`;
    expect(await page.evaluate(isHeatDrawn)).toBe(true);
    ending.abort();
    await traffic;
  });

  it('shows a queue closely when it is clicked, and traces its requests on demand', async () => {
    await page.locator('#house .subject', { hasText: 'disk.1 queue 1' }).click();
    await page.locator('#queues tr[aria-selected="true"]', { hasText: 'disk.1 queue 1' }).waitFor(LIMIT);
    const ending = new AbortController();
    const traffic = (async () => {
      while (!ending.signal.aborted) {
        await disk.write(8, new Uint8Array(BLOCK), { queue: 1 });
        await disk.read(0, BLOCK, { queue: 0 });
      }
    })();
    await page.getByRole('button', { name: 'trace queue disk.1 1' }).click();
    await page.locator('#trace-file:not([hidden])').waitFor(LIMIT);
    ending.abort();
    await traffic;
    const rows = await page.locator('#requests tbody tr').allTextContents();
    expect(rows.length).toBe(50);
    for (const row of rows) expect(row).toMatch(/^[\d.]+ [µm]?swritedisk\.1140964\.0 KiBok$/);
    // The file has them all, as Perfetto wants them.
    const [download] = await Promise.all([page.waitForEvent('download', LIMIT), page.locator('#trace-file').click()]);
    const file: { traceEvents: { ph: string; name: string }[]; otherData: { requests: number } } = JSON.parse(
      readFileSync((await download.path()) ?? '', 'utf8'),
    );
    const traced = file.traceEvents.filter(({ ph }) => ph === 'X');
    expect(traced.length).toBe(file.otherData.requests);
    expect(new Set(traced.map(({ name }) => name))).toEqual(new Set(['write']));
  });

  it('fits the width of a laptop and of a telephone', async () => {
    const tooWide = () =>
      page.evaluate(`[document.documentElement, ...document.querySelectorAll('section')]
        .filter((element) => element.scrollWidth > element.clientWidth + 1)
        .map((element) => element.textContent.trim().slice(0, 20))`);
    expect(await tooWide()).toEqual([]);
    await page.setViewportSize({ width: 390, height: 844 });
    expect(await page.evaluate('document.documentElement.scrollWidth')).toBe(390);
    await page.setViewportSize({ width: 1280, height: 1100 });
  });

  it('shows the log as events', async () => {
    const line = page.locator('#events li', { hasText: 'Controller disk.1: new controller added' });
    await line.waitFor(LIMIT);
    expect(await line.count()).toBe(1);
  });

  it('sorts a table by its headings', async () => {
    const queues = page.locator('#queues');
    await queues.getByRole('button', { name: 'requests' }).click();
    await queues.locator('th[aria-sort="descending"]', { hasText: 'requests' }).waitFor(LIMIT);
    expect((await queues.locator('tbody tr td:first-child').allTextContents())[0]).toBe('disk.1 queue 0');
  });

  it('is dark or light as the user wants', async () => {
    const background = () => page.evaluate('getComputedStyle(document.documentElement).backgroundColor');
    await page.emulateMedia({ colorScheme: 'dark' });
    expect(await background()).toBe('rgb(20, 23, 28)');
    await page.emulateMedia({ colorScheme: 'light' });
    expect(await background()).toBe('rgb(246, 247, 249)');
  });

  it('says that the daemon is gone when it is', async () => {
    const own = await RinghostDaemon.start(['--http', '127.0.0.1:0']);
    const lonely = await browser.newPage();
    await lonely.goto(await dashboardOf(own));
    await lonely.locator('#state.live').waitFor(LIMIT);
    await own.close();
    await lonely.locator('#state.lost').waitFor(LIMIT);
    expect(await lonely.locator('#state').textContent()).toBe('the daemon does not answer');
    await lonely.close();
  });

  it('asks for nothing from elsewhere, and has no errors', () => {
    expect(complaints).toEqual([]);
  });
});

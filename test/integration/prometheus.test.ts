/**
 * The dashboard for Grafana, as Grafana reads it, and each of its expressions asked of a Prometheus that scrapes a
 * daemon with a guest. Grafana itself is not in Debian.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { whyNoTool } from '../e2e/requirements.ts';
import { waitUntil } from '../e2e/wait.ts';
import { freePort } from '../support/free-port.ts';
import { type BlkTarget, RinghostDaemon } from './fixtures/targets.ts';

interface Panel {
  readonly id: number;
  readonly type: string;
  readonly title: string;
  readonly datasource: unknown;
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly targets: readonly { readonly refId: string; readonly expr: string; readonly legendFormat: string }[];
}
interface Variable {
  readonly name: string;
  readonly type: string;
  readonly query: string;
  readonly datasource?: unknown;
}
interface Dashboard {
  readonly uid: string;
  readonly title: string;
  readonly schemaVersion: number;
  readonly templating: { readonly list: readonly Variable[] };
  readonly panels: readonly Panel[];
}

const FILE = join(import.meta.dirname, '..', '..', 'packaging', 'grafana-dashboard.json');
const dashboard = JSON.parse(readFileSync(FILE, 'utf8')) as Dashboard;
const DATASOURCE = { type: 'prometheus', uid: `$${'{datasource}'}` };
const COLUMNS = 24;
/** Grafana's own, beside those of the dashboard. */
const OWN_VARIABLES = ['__rate_interval'];
const LIMIT_MS = 60_000;

describe('the dashboard for Grafana', () => {
  const { panels, templating } = dashboard;

  it('has panels that Grafana knows, each with an id of its own, a place of its own and the chosen data source', () => {
    expect(dashboard.schemaVersion).toBeGreaterThanOrEqual(36);
    expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length);
    for (const { type, title, datasource, gridPos, targets } of panels) {
      expect(['timeseries', 'heatmap']).toContain(type);
      expect(title).not.toBe('');
      expect(datasource).toEqual(DATASOURCE);
      expect(gridPos.x + gridPos.w).toBeLessThanOrEqual(COLUMNS);
      expect(new Set(targets.map(({ refId }) => refId)).size).toBe(targets.length);
      expect(targets.length).toBeGreaterThan(0);
    }
    const cells = panels.flatMap(({ gridPos: { x, y, w, h } }) => {
      return Array.from({ length: w * h }, (_, i) => `${x + (i % w)},${y + Math.floor(i / w)}`);
    });
    expect(new Set(cells).size).toBe(cells.length);
  });

  it('uses no variable that it does not have', () => {
    const known = [...templating.list.map(({ name }) => name), ...OWN_VARIABLES];
    const used = [...readFileSync(FILE, 'utf8').matchAll(/\$\{?(\w+)/g)].map(([, name]) => name);
    expect(new Set(used)).toEqual(new Set(known));
    for (const { type, datasource } of templating.list) if (type === 'query') expect(datasource).toEqual(DATASOURCE);
  });
});

describe.skipIf(whyNoTool('prometheus') !== null)('a Prometheus', () => {
  const directory = mkdtempSync(join(tmpdir(), 'ringhost-prometheus-'));
  let daemon: RinghostDaemon;
  let target: BlkTarget;
  let disk: BlkInitiator;
  let prometheus: ChildProcess;
  let url: string;
  let metricsUrl: string;

  beforeAll(async () => {
    daemon = await RinghostDaemon.start(['--http', '127.0.0.1:0']);
    target = await daemon.create();
    disk = await BlkInitiator.connect(target.path, { queues: 2 });
    const page = (): string | undefined => /dashboard on (http:\/\/[^/" ]+)/.exec(daemon.log)?.[1];
    await waitUntil(() => page() !== undefined, LIMIT_MS, 'dashboard');
    metricsUrl = `${page()}/metrics`;
    const port = await freePort();
    url = `http://127.0.0.1:${port}`;
    const config = join(directory, 'prometheus.yml');
    const host = new URL(metricsUrl).host;
    writeFileSync(
      config,
      `global: { scrape_interval: 200ms }
scrape_configs: [{ job_name: ringhost, static_configs: [{ targets: ['${host}'] }] }]
`,
    );
    prometheus = spawn(
      'prometheus',
      [
        `--config.file=${config}`,
        `--storage.tsdb.path=${join(directory, 'data')}`,
        `--web.listen-address=127.0.0.1:${port}`,
      ],
      { stdio: 'ignore' },
    );
  });

  afterAll(async () => {
    const exit = once(prometheus, 'exit');
    prometheus.kill();
    await exit;
    disk.close();
    await target.close();
    await daemon.close();
    rmSync(directory, { recursive: true });
  });

  async function ask(path: string, params: Readonly<Record<string, string>>): Promise<unknown> {
    const answer = await fetch(`${url}/api/v1/${path}?${new URLSearchParams(params)}`);
    const { status, error, data } = (await answer.json()) as { status: string; error?: string; data: unknown };
    expect([status, error]).toEqual(['success', undefined]);
    return data;
  }

  /** As Grafana would ask it. */
  const filledIn = (text: string): string => {
    return text.replaceAll('$__rate_interval', '1m').replaceAll(/\$(job|controller)\b/g, '.+');
  };

  async function rows(expr: string): Promise<readonly unknown[]> {
    return ((await ask('query', { query: filledIn(expr) })) as { result: unknown[] }).result;
  }

  it('finds nothing wrong with what /metrics says', async () => {
    const text = await (await fetch(metricsUrl)).text();
    const checking = promisify(execFile)('promtool', ['check', 'metrics']);
    checking.child.stdin?.end(text);
    const { stdout, stderr } = await checking;
    expect(`${stdout}${stderr}`).toBe('');
  });

  it('has an answer to every question of the dashboard', async () => {
    const isScraping = async (): Promise<boolean> => {
      await disk.write(0, new Uint8Array(4096), { queue: 0 });
      await disk.read(0, 4096, { queue: 1 });
      // Rates need two looks.
      const found = await rows('rate(ringhost_queue_requests_total[1m])').catch(() => []);
      return found.length === 2;
    };
    await waitUntil(isScraping, LIMIT_MS, 'scrape');
    for (const { title, targets } of dashboard.panels) {
      for (const { expr, legendFormat } of targets) {
        const found = (await rows(expr)) as { metric: Record<string, string> }[];
        expect([title, found.length > 0]).toEqual([title, true]);
        const labels = [...legendFormat.matchAll(/\{\{(\w+)\}\}/g)].map(([, label]) => label);
        expect(Object.keys(found[0]?.metric ?? {})).toEqual(expect.arrayContaining(labels));
      }
    }
    for (const { type, query } of dashboard.templating.list) {
      const [, series = '', label = ''] = /^label_values\((.*), (\w+)\)$/.exec(query) ?? [];
      if (type !== 'query') continue;
      expect(await ask(`label/${label}/values`, { 'match[]': filledIn(series) })).not.toEqual([]);
    }
  });
});

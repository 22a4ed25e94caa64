/** The RPC methods about configurations. */
import { TargetError } from '../base/errors.ts';
import type { Handlers } from '../rpc/methods.ts';
import { type CallConfig, type ConfigCall, type ConfigFile, SUBSYSTEMS } from './config-file.ts';
import { carryOut, planConfig } from './config-plan.ts';
import { type ConfigSources, currentConfig, subsystemConfig } from './current-config.ts';
import type { State } from './state.ts';

type ConfigMethod =
  | 'framework_get_subsystems'
  | 'framework_get_config'
  | 'save_config'
  | 'load_config'
  | 'config_apply'
  | 'save_subsystem_config'
  | 'load_subsystem_config'
  | 'state_get_missing'
  | 'state_retry_missing'
  | 'state_forget_missing';

export interface ConfigRpcOptions {
  readonly sources: ConfigSources;
  /** Null without `--state-dir`. */
  readonly state: State | null;
  /** Makes the calls of a configuration. */
  load(config: ConfigFile): Promise<void>;
  readonly call: CallConfig;
  /** Makes the calls for what is missing. */
  restore(): Promise<void>;
}

export function configRpc({ sources, state, load, call, restore }: ConfigRpcOptions): Pick<Handlers, ConfigMethod> {
  const configOf = (name: string): ConfigCall[] => {
    const config = subsystemConfig(sources, name, false);
    if (config !== undefined) return config;
    throw new TargetError('EINVAL', `there is no subsystem "${name}": framework_get_subsystems lists those there are`);
  };
  const kept = (): State => {
    if (state !== null) return state;
    throw new TargetError('ENOTSUP', 'nothing is kept: start the daemon with --state-dir');
  };
  const describe = () => ({
    directory: kept().directory.path,
    missing: kept().missing.map(({ id, subsystem, method, params = {}, reason }) => ({
      ...{ id, subsystem, method, params, reason },
    })),
  });
  return {
    framework_get_subsystems: () => SUBSYSTEMS.map((one) => ({ ...one, depends_on: [...one.depends_on] })),
    framework_get_config: ({ name }) => configOf(name),

    save_config({ subsystems: names }) {
      if (names === undefined) return currentConfig(sources, false);
      for (const name of names.split(',')) configOf(name);
      const wanted = new Set<string>(names.split(','));
      for (const { subsystem, depends_on: needs } of SUBSYSTEMS.toReversed()) {
        if (wanted.has(subsystem)) for (const need of needs) wanted.add(need);
      }
      const all = currentConfig(sources, false).subsystems;
      return { subsystems: all.filter(({ subsystem }) => wanted.has(subsystem)) };
    },

    save_subsystem_config: ({ name }) => ({ subsystem: name, config: configOf(name) }),

    async load_config({ subsystems }) {
      await load({ subsystems: subsystems.map(flat) });
      return true;
    },

    async config_apply({ subsystems, dry_run: isDryRun, prune, replace }) {
      const plan = planConfig(currentConfig(sources, true), { subsystems: subsystems.map(flat) }, { prune });
      const { changes, extra, passedOver } = plan;
      const replaced = changes.filter(({ action }) => action === 'replace').map(({ name }) => name);
      if (replaced.length > 0 && !replace && !isDryRun) {
        const what = [...new Set(replaced)].join(', ');
        throw new TargetError('EBUSY', `${what} would be taken away and made again: allow it with replace (--replace)`);
      }
      if (!isDryRun) await carryOut(plan.steps, call);
      return { changes: [...changes], extra: [...extra], passed_over: [...passedOver] };
    },

    async load_subsystem_config(subsystem) {
      await load({ subsystems: [flat(subsystem)] });
      return true;
    },

    state_get_missing: describe,

    async state_retry_missing() {
      await kept().beReady();
      await restore();
      return describe();
    },

    async state_forget_missing({ id }) {
      await kept().beReady();
      await kept().forget(id);
      return true;
    },
  };
}

type Subsystem = ConfigFile['subsystems'][number];

function flat({ subsystem, config }: { subsystem: string; config: (ConfigCall | ConfigCall[])[] | null }): Subsystem {
  return { subsystem, config: config?.flat() ?? null };
}

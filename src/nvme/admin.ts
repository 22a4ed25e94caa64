/**
 * What is asked of a controller on its admin queue, whatever carries it there: a transport gives `AdminPort`, this file
 * the questions. Main thread.
 */
import { type AdminCommand, getLogPage } from './command.ts';
import {
  type ControllerIdentity,
  type NamespaceIdentity,
  parseController,
  parseNamespace,
  parseNamespaceList,
} from './identify.ts';
import { HEALTH_BYTES, type HealthLog, parseHealth } from './log-pages.ts';
import { AdminOpcode, ALL_NAMESPACES, FeatureId, IDENTIFY_BYTES, IdentifyCns, LogPageId } from './spec.ts';
import { checkStatus, Status, statusCode } from './status.ts';

interface AdminResult {
  /** Without the phase bit. */
  readonly status: number;
  readonly dword0: number;
}

/** The admin queue of a controller. */
export interface AdminPort {
  /**
   * Carries out a command. What the controller answers, also with an error, is a result; rejects with a `TargetError`
   * when it does not answer or is gone. `readBytes` of data come with it in `data`; empty without.
   */
  execute(command: AdminCommand, readBytes?: number): Promise<AdminResult & { readonly data: Buffer }>;
}

async function identify(port: AdminPort, cns: number, nsid: number): Promise<Buffer | null> {
  const { status, data } = await port.execute({ opcode: AdminOpcode.identify, nsid, cdw10: cns }, IDENTIFY_BYTES);
  const isKnown = statusCode(status) !== Status.invalidField && statusCode(status) !== Status.invalidNamespace;
  if (isKnown) checkStatus(status, 'the controller does not identify itself or a namespace');
  return isKnown ? data : null;
}

export async function identifyController(port: AdminPort): Promise<ControllerIdentity> {
  const { status, data } = await port.execute(
    { opcode: AdminOpcode.identify, cdw10: IdentifyCns.controller },
    IDENTIFY_BYTES,
  );
  checkStatus(status, 'the controller does not identify itself');
  return parseController(data);
}

/** Every active namespace, ascending. */
export async function identifyNamespaces(
  port: AdminPort,
  controller: ControllerIdentity,
): Promise<readonly NamespaceIdentity[]> {
  const list = await identify(port, IdentifyCns.activeNamespaces, 0);
  // NVMe 1.0 has no list: every namespace up to the last one is tried.
  const nsids =
    list === null
      ? Array.from({ length: controller.namespacesMax }, (_, index) => index + 1)
      : parseNamespaceList(list);
  const found: NamespaceIdentity[] = [];
  for (const nsid of nsids) {
    const bytes = await identify(port, IdentifyCns.namespace, nsid);
    if (bytes === null) continue;
    const descriptors = (await identify(port, IdentifyCns.descriptors, nsid)) ?? undefined;
    const namespace = parseNamespace(nsid, bytes, descriptors);
    if (namespace.blockCount > 0) found.push(namespace);
  }
  return found;
}

export async function readHealth(port: AdminPort): Promise<HealthLog> {
  const { status, data } = await port.execute(getLogPage(LogPageId.health, HEALTH_BYTES, ALL_NAMESPACES), HEALTH_BYTES);
  checkStatus(status, 'the controller does not give its health log');
  return parseHealth(data);
}

/** Asks for I/O queues. Returns how many pairs there may be, at most as many as asked for. */
export async function requestQueues(port: AdminPort, count: number): Promise<number> {
  const wanted = count - 1;
  const { status, dword0 } = await port.execute({
    opcode: AdminOpcode.setFeatures,
    cdw10: FeatureId.numberOfQueues,
    cdw11: wanted | (wanted << 16),
  });
  checkStatus(status, 'the controller gives no I/O queues');
  return Math.min(count, (dword0 & 0xffff) + 1, (dword0 >>> 16) + 1);
}

/** What a transport gives of an NVMe controller, and what it is told: the same for all transports. Main thread. */
import type { AdminPort } from './admin.ts';
import type { ControllerIdentity, NamespaceIdentity } from './identify.ts';

export type TransportType = 'PCIe' | 'TCP';

/** Where a controller is, as `bdev_nvme_get_controllers` shows it. */
export interface TransportId {
  readonly trtype: TransportType;
  /** PCI address such as `0000:01:00.0`, or IP address. */
  readonly traddr: string;
  readonly adrfam?: 'IPv4' | 'IPv6' | undefined;
  readonly trsvcid?: string | undefined;
  readonly subnqn?: string | undefined;
}

/** `resetting`: requests are held, or failed after a set time, until it is enabled again. */
export type ControllerState = 'enabled' | 'resetting' | 'failed' | 'deleting';

/** What a controller tells whoever attached it. */
export interface ControllerEvents {
  /** Namespaces came, went or changed size; `namespaces` has them as they are now. */
  onNamespaces(): void;
  /** It is gone, and does not come back: a drive that was pulled out, a loss timeout. */
  onGone(reason: string): void;
}

/** A controller that was connected and has identified itself. */
export interface NvmeController {
  readonly transportId: TransportId;
  /** Every way to it, where there can be more than one. */
  readonly pathIds?: readonly TransportId[];
  readonly state: ControllerState;
  readonly identity: ControllerIdentity;
  readonly namespaces: readonly NamespaceIdentity[];
  readonly admin: AdminPort;
  /** Names the factory of its channels (src/bdev/modules/channels.ts). */
  readonly channelKind: string;
  /** What a reactor needs to open a channel to a namespace. */
  channelParams(nsid: number): Readonly<Record<string, string | number | boolean | SharedArrayBuffer>>;
  /** Takes one of several ways away. Throws `ENODEV` when there is no such way. */
  removePath?(address: string, port: number | undefined): Promise<void>;
  /** Resets it; requests in flight are driven again. */
  reset(): Promise<void>;
  /** No channel is open: gives everything back. */
  close(): Promise<void>;
}

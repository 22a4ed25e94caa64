/** What the controller needs of a PCI device: VFIO gives it, and what stands for a drive in a test. */
import type { DmaMapper } from '../../sys/dma.ts';
import type { MappingInfo } from '../../sys/mapping.ts';

/** Memory that the device reaches. */
export interface DmaMemory extends MappingInfo {
  readonly iova: number;
  close(): void;
}

export interface PcieDevice extends DmaMapper {
  readonly address: string;
  readonly registers: MappingInfo;
  readonly vectors: number;
  /** Zeroed, whole pages. */
  allocate(lengthBytes: number): DmaMemory;
  setInterrupts(eventFds: readonly number[]): void;
  setBusMaster(isOn: boolean): void;
  reset(): boolean;
  /** True once whoever it was taken from waits for it to be closed. */
  isWantedBack(): boolean;
  close(): void;
}

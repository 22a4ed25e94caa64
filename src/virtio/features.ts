/** Virtio feature bits from 24 up (virtio 1.3 §6) and limits every device shares. */
export const VirtioFeature = {
  NOTIFY_ON_EMPTY: 24,
  ANY_LAYOUT: 27,
  INDIRECT_DESC: 28,
  EVENT_IDX: 29,
  VERSION_1: 32,
  ACCESS_PLATFORM: 33,
  RING_PACKED: 34,
  IN_ORDER: 35,
  RING_RESET: 40,
} as const;

/** What our devices offer of them. */
export const FEATURES_OFFERED = [
  VirtioFeature.ANY_LAYOUT,
  VirtioFeature.INDIRECT_DESC,
  VirtioFeature.EVENT_IDX,
  VirtioFeature.VERSION_1,
  VirtioFeature.RING_PACKED,
  VirtioFeature.IN_ORDER,
  VirtioFeature.RING_RESET,
] as const;

/** Most entries of a virtqueue (virtio 1.3 §2.7, §2.8.10.1). */
export const QUEUE_SIZE_MAX = 32_768;
/** Most queues of one device: the ring index of SET_VRING_KICK has 8 bits. */
export const QUEUES_MAX = 256;

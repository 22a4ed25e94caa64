// Copies a batch of descriptor chains out of the guest, before JavaScript looks at them one by one.
//
// What a driver on another core has just written must come from that core's caches: the descriptors of a chain, its
// header, the place of its answer, each a miss that depends on the one before. Here the misses of a batch overlap.
// A chain of the usual shape - few buffers, each in one window of the memory - is copied into a record, where
// JavaScript finds it with the places of its buffers in this process; each field is read once. Any other chain is left
// to JavaScript, which alone says what is wrong with it. Nothing is decided here, nothing written but the records.
#include "addon.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define RINGS_MAX 16384
#define BATCH_MAX 64
// A virtqueue has at most so many entries (virtio 1.3 2.7).
#define RING_SIZE_MAX 32768
#define BUFFERS_MAX 4
// The longest buffer that JavaScript reads or writes itself.
#define SMALL_BYTES_MAX 256
#define LINE_BYTES 64
#define HEADER_BYTES 16

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4, DESC_AVAIL = 0x80, DESC_USED = 0x8000 };

struct descriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags, next; // of a packed ring: id, flags
};

struct window {
  uint64_t guest, length;
  const uint8_t *host;
};

// 32 words; sys/chain-gather.ts reads it.
struct record {
  uint32_t head;  // of a packed ring: the chain's id, and its places in the ring in the upper half
  uint32_t count; // of its buffers; 0: the chain has another shape
  uint32_t readable_count, readable_bytes, writable_bytes;
  uint32_t header[3]; // words 0, 2 and 3 of the readable part
  struct {
    uint32_t guest_low, guest_high, length, host_low, host_high, window;
  } buffers[BUFFERS_MAX];
};

struct ring {
  const struct descriptor *descriptors;
  const uint16_t *available; // its entries; NULL: the ring is packed
  struct record *records;    // of BATCH_MAX chains
  uint32_t size;
  uint32_t window_count;
  uint32_t last; // window of the last hit
  struct window windows[];
};

static struct ring *rings[RINGS_MAX];
static pthread_mutex_t rings_lock = PTHREAD_MUTEX_INITIALIZER;

// Index of the window that holds the whole buffer, or -1.
static inline int32_t window_of(struct ring *ring, uint64_t guest, uint64_t length) {
  for (uint32_t tried = 0, i = ring->last; tried < ring->window_count; tried++) {
    uint64_t offset = guest - ring->windows[i].guest;
    if (offset < ring->windows[i].length && length <= ring->windows[i].length - offset) {
      ring->last = i;
      return (int32_t)i;
    }
    i = i + 1 < ring->window_count ? i + 1 : 0;
  }
  return -1;
}

static inline const uint8_t *host_of(const struct ring *ring, int32_t window, uint64_t guest) {
  return ring->windows[window].host + (guest - ring->windows[window].guest);
}

// Every field once. As a split ring would have it: packed ones have no next, their tables end with the last entry.
static inline struct descriptor read_from(const struct ring *ring, const struct descriptor *table, uint32_t entries,
                                          uint32_t index) {
  const uint64_t *from = (const uint64_t *)&table[index];
  uint64_t halves[2] = {__atomic_load_n(from, __ATOMIC_RELAXED), __atomic_load_n(from + 1, __ATOMIC_RELAXED)};
  struct descriptor descriptor;
  memcpy(&descriptor, halves, sizeof descriptor);
  if (ring->available != NULL) return descriptor;
  bool is_ring = table == ring->descriptors, is_end = index + 1 == entries;
  descriptor.flags = is_ring ? descriptor.next : (descriptor.next & DESC_WRITE) | (is_end ? 0 : DESC_NEXT);
  descriptor.next = (uint16_t)(is_end ? 0 : index + 1);
  return descriptor;
}

// A line that will be written: the other core's copy of it goes now, not when the store waits for it. Compilers take
// the builtin for a hint to read unless they may use this instruction, which processors without it skip.
static inline void prefetch_to_write(const uint8_t *line) {
#if defined(__x86_64__)
  __asm__ volatile("prefetchw %0" : : "m"(*line));
#else
  __builtin_prefetch(line, 1, 3);
#endif
}

static inline void fetch_buffer(const uint8_t *host, const struct descriptor *descriptor) {
  if (descriptor->length > SMALL_BYTES_MAX) return;
  for (uint32_t i = 0; i < descriptor->length; i += LINE_BYTES) {
    if ((descriptor->flags & DESC_WRITE) != 0) {
      prefetch_to_write(host + i);
    } else {
      __builtin_prefetch(host + i, 0, 3);
    }
  }
}

// True when the chain that begins there has the usual shape; all of its record is filled then but the header.
static inline bool gather_buffers(struct ring *ring, const struct descriptor *table, uint32_t entries, uint32_t index,
                                  struct record *record) {
  uint64_t bytes[2] = {0, 0}; // readable, writable
  record->readable_count = 0;
  for (uint32_t i = 0; i < BUFFERS_MAX && index < entries; i++) {
    struct descriptor descriptor = read_from(ring, table, entries, index);
    bool is_writable = (descriptor.flags & DESC_WRITE) != 0;
    if ((descriptor.flags & DESC_INDIRECT) != 0 || descriptor.length == 0) return false;
    int32_t window = window_of(ring, descriptor.address, descriptor.length);
    if (window < 0 || (!is_writable && i != record->readable_count)) return false;
    const uint8_t *host = host_of(ring, window, descriptor.address);
    fetch_buffer(host, &descriptor);
    record->buffers[i].guest_low = (uint32_t)descriptor.address;
    record->buffers[i].guest_high = (uint32_t)(descriptor.address >> 32);
    record->buffers[i].length = descriptor.length;
    record->buffers[i].host_low = (uint32_t)(uintptr_t)host;
    record->buffers[i].host_high = (uint32_t)((uint64_t)(uintptr_t)host >> 32);
    record->buffers[i].window = (uint32_t)window;
    record->readable_count += is_writable ? 0 : 1;
    bytes[is_writable] += descriptor.length;
    if ((descriptor.flags & DESC_NEXT) == 0) {
      record->readable_bytes = (uint32_t)bytes[0];
      record->writable_bytes = (uint32_t)bytes[1];
      record->count = i + 1;
      return bytes[0] + bytes[1] <= INT32_MAX;
    }
    index = descriptor.next;
  }
  return false;
}

// The first words of the readable part. False when they are not in one piece, or in an odd place.
static inline bool gather_header(const struct ring *ring, struct record *record) {
  if (record->readable_count == 0) return true;
  uint64_t guest = (uint64_t)record->buffers[0].guest_high << 32 | record->buffers[0].guest_low;
  const uint32_t *words = (const uint32_t *)host_of(ring, (int32_t)record->buffers[0].window, guest);
  if (record->buffers[0].length < HEADER_BYTES || (uintptr_t)words % sizeof *words != 0) return false;
  record->header[0] = __atomic_load_n(&words[0], __ATOMIC_RELAXED);
  record->header[1] = __atomic_load_n(&words[2], __ATOMIC_RELAXED);
  record->header[2] = __atomic_load_n(&words[3], __ATOMIC_RELAXED);
  return true;
}

static void gather(struct ring *ring, const uint32_t *heads, uint32_t count) {
  const struct descriptor *tables[BATCH_MAX];
  uint32_t entries[BATCH_MAX], firsts[BATCH_MAX];
  for (uint32_t i = 0; i < count; i++) {
    tables[i] = ring->descriptors;
    entries[i] = ring->size;
    firsts[i] = heads[i];
    if (heads[i] >= ring->size) continue;
    struct descriptor head = read_from(ring, ring->descriptors, ring->size, heads[i]);
    if ((head.flags & DESC_INDIRECT) == 0) continue;
    int32_t window = window_of(ring, head.address, head.length);
    firsts[i] = 0;
    entries[i] = 0;
    if (window < 0 || head.length % sizeof head != 0 || (head.flags & DESC_NEXT) != 0) continue;
    tables[i] = (const struct descriptor *)host_of(ring, window, head.address);
    if ((uintptr_t)tables[i] % sizeof(uint64_t) != 0) continue;
    entries[i] = head.length / sizeof head;
    __builtin_prefetch(tables[i], 0, 3);
  }
  for (uint32_t i = 0; i < count; i++)
    if (!gather_buffers(ring, tables[i], entries[i], firsts[i], &ring->records[i])) ring->records[i].count = 0;
  for (uint32_t i = 0; i < count; i++)
    if (ring->records[i].count > 0 && !gather_header(ring, &ring->records[i])) ring->records[i].count = 0;
}

static void gather_split(struct ring *ring, uint32_t first, uint32_t count) {
  uint32_t heads[BATCH_MAX];
  for (uint32_t i = 0; i < count; i++) {
    heads[i] = __atomic_load_n(&ring->available[(first + i) & (ring->size - 1)], __ATOMIC_RELAXED);
    ring->records[i].head = heads[i];
    __builtin_prefetch(&ring->descriptors[heads[i] & (ring->size - 1)], 0, 3);
  }
  gather(ring, heads, count);
}

// How many chains are available from a place on.
static uint32_t look_packed(struct ring *ring, uint32_t place, bool wrap) {
  uint32_t heads[BATCH_MAX], count = 0;
  for (uint32_t walked = 0; count < BATCH_MAX && walked < ring->size; count++) {
    // Acquires the chain, and those before it where the driver showed them all by the flags of the first.
    uint16_t flags = __atomic_load_n(&ring->descriptors[place].next, __ATOMIC_ACQUIRE);
    if ((flags & (DESC_AVAIL | DESC_USED)) != (wrap ? DESC_AVAIL : DESC_USED)) break;
    heads[count] = place;
    uint32_t word = DESC_NEXT << 16;
    for (uint32_t slots = 1; (word >> 16 & DESC_NEXT) != 0 && walked < ring->size; walked++, slots++) {
      word = __atomic_load_n((const uint32_t *)&ring->descriptors[place].flags, __ATOMIC_RELAXED); // id and flags
      ring->records[count].head = (word & 0xffff) | slots << 16;
      if (++place < ring->size) continue;
      place = 0;
      wrap = !wrap;
    }
  }
  gather(ring, heads, count);
  return count;
}

// gatherCreate(descriptorsAddress, availableEntriesAddress, size, windows Float64Array, recordsAddress): id.
// A window is guest address, length and host address. No available entries: the ring is packed. There is room for 64
// records.
static napi_value gather_create(napi_env env, napi_callback_info info) {
  ADDON_ARGS(5);
  uint64_t descriptors, available, size, records;
  double *windows;
  size_t length;
  if (!addon_u53(env, argv[0], &descriptors) || !addon_u53(env, argv[1], &available) ||
      !addon_u53(env, argv[2], &size) || !addon_f64_array(env, argv[3], &windows, &length) ||
      !addon_u53(env, argv[4], &records) || descriptors == 0 || records == 0 || size == 0 || size > RING_SIZE_MAX ||
      (available != 0 && (size & (size - 1)) != 0) || length % 3 != 0)
    return addon_throw(env, "gatherCreate(descriptorsAddress, availableEntriesAddress, size, windows, recordsAddress)");
  struct ring *ring = calloc(1, sizeof *ring + length / 3 * sizeof(struct window));
  if (ring == NULL) return ADDON_RESULT(-ENOMEM);
  ring->descriptors = (const struct descriptor *)(uintptr_t)descriptors;
  ring->available = (const uint16_t *)(uintptr_t)available;
  ring->records = (struct record *)(uintptr_t)records;
  ring->size = (uint32_t)size;
  ring->window_count = (uint32_t)(length / 3);
  for (size_t i = 0; i < length / 3; i++)
    ring->windows[i] = (struct window){(uint64_t)windows[3 * i], (uint64_t)windows[3 * i + 1],
                                       (const uint8_t *)(uintptr_t)windows[3 * i + 2]};
  int id = -ENOSPC;
  pthread_mutex_lock(&rings_lock);
  for (int i = 0; i < RINGS_MAX && id < 0; i++)
    if (rings[i] == NULL) rings[id = i] = ring;
  pthread_mutex_unlock(&rings_lock);
  if (id < 0) free(ring);
  return ADDON_RESULT(id);
}

static struct ring *ring_of(napi_env env, napi_value value) {
  int32_t id;
  if (addon_i32(env, value, &id) && id >= 0 && id < RINGS_MAX && rings[id] != NULL) return rings[id];
  addon_throw(env, "no such ring");
  return NULL;
}

// gatherClose(id): 0
static napi_value gather_close(napi_env env, napi_callback_info info) {
  ADDON_ARGS(1);
  int32_t id;
  struct ring *ring = ring_of(env, argv[0]);
  if (ring == NULL || !addon_i32(env, argv[0], &id)) return NULL;
  pthread_mutex_lock(&rings_lock);
  rings[id] = NULL;
  pthread_mutex_unlock(&rings_lock);
  free(ring);
  return ADDON_RESULT(0);
}

// gatherRun(id, first, count): undefined. Split ring: of `count` available entries from `first` on, at most 64.
static napi_value gather_run(napi_env env, napi_callback_info info) {
  ADDON_ARGS(3);
  int32_t first, count;
  struct ring *ring = ring_of(env, argv[0]);
  if (ring == NULL) return NULL;
  if (!addon_i32(env, argv[1], &first) || !addon_i32(env, argv[2], &count) || count < 0 || ring->available == NULL)
    return addon_throw(env, "gatherRun(id, first, count)");
  gather_split(ring, (uint32_t)first, count < BATCH_MAX ? (uint32_t)count : BATCH_MAX);
  return NULL;
}

// gatherLook(id, first, wrap): count. Packed ring: the chains available from place `first` on, at most 64.
static napi_value gather_look(napi_env env, napi_callback_info info) {
  ADDON_ARGS(3);
  int32_t first, wrap;
  struct ring *ring = ring_of(env, argv[0]);
  if (ring == NULL) return NULL;
  if (!addon_i32(env, argv[1], &first) || !addon_i32(env, argv[2], &wrap) || ring->available != NULL || first < 0 ||
      (uint32_t)first >= ring->size)
    return addon_throw(env, "gatherLook(id, first, wrap)");
  return ADDON_RESULT((int32_t)look_packed(ring, (uint32_t)first, wrap != 0));
}

void gather_exports(napi_env env, napi_value exports) {
  addon_export(env, exports, "gatherCreate", gather_create);
  addon_export(env, exports, "gatherClose", gather_close);
  addon_export(env, exports, "gatherRun", gather_run);
  addon_export(env, exports, "gatherLook", gather_look);
}

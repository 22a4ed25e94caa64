// The limit: a vhost-user-blk back-end that does nothing but the ring and the copy, on one thread that polls. What any
// target could reach here, not one to put a guest on: it checks nothing that a well-behaved driver gets right.
//
// A round takes what one look at the available index shows, in passes, so that the cache misses of a pass overlap: find
// the chains, read the headers, copy, answer. Split rings, direct and indirect; IN and OUT.
#include "bench.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

enum { QUEUES_MAX = 64, REGIONS_MAX = 8, BATCH_MAX = 64, SEGMENTS_MAX = 1024, SECTOR_SHIFT = 9 };

struct region {
  uint64_t guest, bytes, host_minus_guest;
};

struct queue {
  const struct vring_desc *desc;
  struct vring_avail *avail;
  struct vring_used *used;
  uint32_t size;
  uint16_t next_avail;
  bool has_event_idx;
  bool is_running;
  int call_fd;
  uint8_t *disk; // NULL: a null disk
  enum copy_way way;
  uint32_t region_count;
  struct region regions[REGIONS_MAX];
};

// Written by the control thread while the service thread stands still.
static struct queue queues[QUEUES_MAX];
static uint32_t queue_end; // one past the last place that was ever taken
static bool is_wanted_still, is_still;
static pthread_t service_thread;
static bool has_thread;

static inline uint8_t *host_of(const struct queue *q, uint64_t guest) {
  for (uint32_t i = 0; i < q->region_count; i++)
    if (guest - q->regions[i].guest < q->regions[i].bytes) return (uint8_t *)(guest + q->regions[i].host_minus_guest);
  return NULL;
}

struct request {
  const struct vring_desc *table; // where the chain's links lead
  const struct vring_desc *first;
  const uint8_t *header;
  uint8_t *status;
  uint32_t written;
};

static inline uint32_t serve(struct queue *q) {
  static struct request requests[BATCH_MAX];
  static struct copy_op ops[SEGMENTS_MAX];
  uint32_t mask = q->size - 1, op_count = 0;
  uint16_t count = (uint16_t)(__atomic_load_n(&q->avail->idx, __ATOMIC_ACQUIRE) - q->next_avail);
  if (count == 0) return 0;
  if (count > BATCH_MAX) count = BATCH_MAX;
  for (uint16_t i = 0; i < count; i++) {
    struct request *r = &requests[i];
    const struct vring_desc *head = &q->desc[q->avail->ring[(uint16_t)(q->next_avail + i) & mask]];
    bool is_indirect = head->flags & DESC_INDIRECT;
    r->table = is_indirect ? (const struct vring_desc *)host_of(q, head->address) : q->desc;
    r->first = is_indirect ? r->table : head;
    r->header = host_of(q, r->first->address);
    __builtin_prefetch(r->header, 0, 3);
  }
  for (uint16_t i = 0; i < count; i++) {
    struct request *r = &requests[i];
    uint32_t type;
    uint64_t sector;
    memcpy(&type, r->header, 4);
    memcpy(&sector, r->header + 8, 8);
    uint8_t *disk = q->disk + (sector << SECTOR_SHIFT);
    const struct vring_desc *desc = &r->table[r->first->next];
    for (r->written = 1; desc->flags & DESC_NEXT; desc = &r->table[desc->next]) {
      if (type == 0) r->written += desc->length;
      if (q->disk == NULL) continue;
      uint8_t *data = host_of(q, desc->address);
      ops[op_count++] = (struct copy_op){type == 0 ? data : disk, type == 0 ? disk : data, desc->length, type != 0};
      disk += desc->length;
    }
    r->status = host_of(q, desc->address);
#if defined(__x86_64__)
    __asm__ volatile("prefetchw %0" : : "m"(*r->status)); // the builtin would only ask to read it
#else
    __builtin_prefetch(r->status, 1, 3);
#endif
    if (op_count > SEGMENTS_MAX - 128) count = i + 1;
  }
  copy_batch(ops, op_count, q->way);
  uint16_t old = q->next_avail;
  for (uint16_t i = 0; i < count; i++) {
    struct request *r = &requests[i];
    *r->status = 0;
    uint16_t at = (uint16_t)(old + i) & mask;
    q->used->ring[at] = (struct vring_used_element){q->avail->ring[at], r->written};
  }
  q->next_avail = (uint16_t)(old + count);
  __atomic_store_n(&q->used->idx, q->next_avail, __ATOMIC_RELEASE);
  __atomic_thread_fence(__ATOMIC_SEQ_CST); // the index must be seen before the driver's wish for calls is read
  bool wants_call;
  if (q->has_event_idx) wants_call = vring_needs_event(*vring_used_event(q->avail, q->size), q->next_avail, old);
  else wants_call = (q->avail->flags & 1) == 0;
  uint64_t one = 1;
  // A full counter is a call.
  if (wants_call && q->call_fd >= 0 && write(q->call_fd, &one, sizeof one) < 0) return count;
  return count;
}

// Kicks are not needed here. With EVENT_IDX one refusal holds for half a turn of the index.
static void refuse_kicks(struct queue *q) {
  if (q->has_event_idx) *vring_avail_event(q->used, q->size) = (uint16_t)(q->next_avail + 0x8000);
  else q->used->flags = 1;
}

static void *service(void *unused) {
  (void)unused;
  for (uint32_t round = 0;; round++) {
    if (__atomic_load_n(&is_wanted_still, __ATOMIC_ACQUIRE)) {
      __atomic_store_n(&is_still, true, __ATOMIC_RELEASE);
      while (__atomic_load_n(&is_wanted_still, __ATOMIC_ACQUIRE)) sched_yield();
      __atomic_store_n(&is_still, false, __ATOMIC_RELEASE);
    }
    for (uint32_t i = 0; i < queue_end; i++) {
      struct queue *q = &queues[i];
      if (!q->is_running) continue;
      uint16_t before = q->next_avail;
      if (serve(q) > 0 && (before ^ q->next_avail) & 0x4000) refuse_kicks(q);
    }
  }
  return NULL;
}

static void stand_still(void) {
  __atomic_store_n(&is_wanted_still, true, __ATOMIC_RELEASE);
  while (has_thread && !__atomic_load_n(&is_still, __ATOMIC_ACQUIRE)) usleep(50);
}

static void go_on(void) {
  __atomic_store_n(&is_wanted_still, false, __ATOMIC_RELEASE);
  while (has_thread && __atomic_load_n(&is_still, __ATOMIC_ACQUIRE)) usleep(50);
}

// limitStart(): 0. Starts the service thread, on the cores of the caller.
static napi_value limit_start(napi_env env, napi_callback_info info) {
  (void)info;
  if (has_thread) return bench_throw(env, "the limit's thread runs already");
  int failure = pthread_create(&service_thread, NULL, service, NULL);
  has_thread = failure == 0;
  return bench_number(env, -failure);
}

// limitDisk(bytes): the address of a new RAM disk, which is never freed, or a negative errno.
static napi_value limit_disk(napi_env env, napi_callback_info info) {
  BENCH_ARGS(1);
  double bytes = bench_f64(env, argv[0]);
  if (!(bytes > 0)) return bench_throw(env, "limitDisk(bytes)");
  uint8_t *disk = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (disk == MAP_FAILED) return bench_number(env, -errno);
  madvise(disk, (size_t)bytes, MADV_HUGEPAGE);
  memset(disk, 0, (size_t)bytes);
  return bench_number(env, (double)(uintptr_t)disk);
}

enum vring_field {
  VRING_DESC,
  VRING_AVAIL,
  VRING_USED,
  VRING_SIZE,
  VRING_NEXT_AVAIL,
  VRING_HAS_EVENT_IDX,
  VRING_CALL_FD,
  VRING_DISK,
  VRING_WAY,
  VRING_FIELDS,
};

static struct queue *queue_at(napi_env env, napi_value value) {
  double index = bench_f64(env, value);
  return index >= 0 && index < QUEUES_MAX ? &queues[(int)index] : NULL;
}

// limitAdd(place, vring, regions, regionCount): 0. A region is guest address, bytes, host address.
static napi_value limit_add(napi_env env, napi_callback_info info) {
  BENCH_ARGS(4);
  struct queue *q = queue_at(env, argv[0]);
  double region_count = bench_f64(env, argv[3]);
  const double *vring = bench_array(env, argv[1], VRING_FIELDS);
  const double *regions = bench_array(env, argv[2], 3 * (size_t)(region_count > 0 ? region_count : 0));
  if (q == NULL || vring == NULL || regions == NULL || !(region_count >= 1 && region_count <= REGIONS_MAX))
    return bench_throw(env, "limitAdd(place, vring, regions, regionCount)");
  stand_still();
  *q = (struct queue){
      .desc = (const struct vring_desc *)(uintptr_t)vring[VRING_DESC],
      .avail = (struct vring_avail *)(uintptr_t)vring[VRING_AVAIL],
      .used = (struct vring_used *)(uintptr_t)vring[VRING_USED],
      .size = (uint32_t)vring[VRING_SIZE],
      .next_avail = (uint16_t)vring[VRING_NEXT_AVAIL],
      .has_event_idx = vring[VRING_HAS_EVENT_IDX] != 0,
      .call_fd = (int)vring[VRING_CALL_FD],
      .disk = (uint8_t *)(uintptr_t)vring[VRING_DISK],
      .way = (enum copy_way)vring[VRING_WAY],
      .region_count = (uint32_t)region_count,
      .is_running = true,
  };
  for (uint32_t i = 0; i < q->region_count; i++) {
    uint64_t guest = (uint64_t)regions[3 * i];
    q->regions[i] = (struct region){guest, (uint64_t)regions[3 * i + 1], (uint64_t)regions[3 * i + 2] - guest};
  }
  refuse_kicks(q);
  if (queue_end < (uint32_t)(q - queues) + 1) queue_end = (uint32_t)(q - queues) + 1;
  go_on();
  return bench_number(env, 0);
}

// limitRemove(place): the next available entry to take.
static napi_value limit_remove(napi_env env, napi_callback_info info) {
  BENCH_ARGS(1);
  struct queue *q = queue_at(env, argv[0]);
  if (q == NULL || !q->is_running) return bench_throw(env, "limitRemove: no such queue");
  stand_still();
  q->is_running = false;
  go_on();
  return bench_number(env, q->next_avail);
}

// limitCall(place, fd): 0. Gives a running queue another call descriptor.
static napi_value limit_call(napi_env env, napi_callback_info info) {
  BENCH_ARGS(2);
  struct queue *q = queue_at(env, argv[0]);
  if (q == NULL) return bench_throw(env, "limitCall: no such queue");
  stand_still();
  q->call_fd = (int)bench_f64(env, argv[1]);
  go_on();
  return bench_number(env, 0);
}

void limit_exports(napi_env env, napi_value exports) {
  bench_export(env, exports, "limitStart", limit_start);
  bench_export(env, exports, "limitDisk", limit_disk);
  bench_export(env, exports, "limitAdd", limit_add);
  bench_export(env, exports, "limitRemove", limit_remove);
  bench_export(env, exports, "limitCall", limit_call);
}

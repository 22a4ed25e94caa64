// The load generator's loop: a driver that keeps `depth` requests in flight on each of its queues and polls for their
// completion in the calling thread. The session, the memory and the rings were set up by src/initiator; this only
// drives them, because JavaScript would be the limit of what it measures.
//
// Every slot owns a control block of 256 bytes (header at 0, indirect table at 64, answer at 128: lines that different
// sides write apart), a data buffer, and its descriptors, which change only when a read becomes a write.
//
// The clock is read twice a polling round: when completions were seen, and right before the requests that follow are
// published. A latency is the time between the two readings that a request lies between.
#include "bench.h"
#include "packed.h"

#include <stdlib.h>
#include <unistd.h>

enum {
  SLOT_BYTES = 256,
  TABLE_OFFSET = 64,
  ANSWER_OFFSET = 128,
  CHAIN_DESCRIPTORS = 3,
  QUEUES_MAX = 64,
  SPINS_PER_LOOK = 1024,
  LOOK_NS_MAX = 10000000,
  REFUSE_EVERY = 0x4000,
  STAMP_STEP = 0x9e3779b1,
  POISON = 0xdeadbeef,
};

// What a run is for. Must equal `Mode` of bench/native.ts, as the lists below equal CONFIG, QUEUE and RESULT there.
enum mode { MODE_MEASURE = 0, MODE_STAMP = 1, MODE_CHECK = 2 };
enum protocol { PROTOCOL_BLK = 0, PROTOCOL_SCSI = 1 };
enum format {
  FORMAT_SPLIT_DIRECT = 0,
  FORMAT_SPLIT_INDIRECT = 1,
  FORMAT_PACKED_DIRECT = 2,
  FORMAT_PACKED_INDIRECT = 3,
};

enum config {
  CONFIG_MODE,
  CONFIG_PROTOCOL,
  CONFIG_FORMAT,
  CONFIG_HAS_EVENT_IDX,
  CONFIG_GUEST_MINUS_HOST, // guest physical address of a byte of ours, less its address here
  CONFIG_DEPTH,
  CONFIG_BLOCK_BYTES,
  CONFIG_BLOCK_COUNT,
  CONFIG_UNITS_PER_BLOCK, // sectors (blk) or logical blocks (scsi)
  CONFIG_IS_SEQUENTIAL,
  CONFIG_WRITE_PERCENT,
  CONFIG_WARM_UP_NS,
  CONFIG_DURATION_NS,
  CONFIG_COUNT, // requests of MODE_STAMP and MODE_CHECK
  CONFIG_SEED,
  CONFIG_STALL_NS,
  CONFIG_NAP_NS, // a client that has nothing to do sleeps for so long; 0: it polls
  CONFIG_FIELDS,
};

enum queue_field {
  QUEUE_DESC,
  QUEUE_AVAIL,
  QUEUE_USED,
  QUEUE_SIZE,
  QUEUE_NEXT_AVAIL,
  QUEUE_NEXT_USED,
  QUEUE_KICK_FD,
  QUEUE_CONTROL,
  QUEUE_DATA,
  QUEUE_FIELDS,
};

enum result {
  RESULT_REQUESTS,
  RESULT_ELAPSED_NS,
  RESULT_WAITED_NS, // of the elapsed time: nothing to take, nothing to submit
  RESULT_KICKS,
  RESULT_ERRORS,
  RESULT_MISMATCHES,
  RESULT_SUM_NS,
  RESULT_MIN_NS,
  RESULT_MAX_NS,
  RESULT_FIELDS,
};

enum { STATUSES = 256, BUCKETS = 64 * 27, SUB_BITS = 6 };

struct queue {
  struct packed_ring packed;
  struct vring_desc *desc;
  struct vring_avail *avail;
  struct vring_used *used;
  uint8_t *control;
  uint8_t *data;
  uint64_t *submitted;
  uint64_t *block_of;
  uint16_t *round; // slots that were submitted since the last publish
  uint8_t *is_busy;
  uint8_t *is_write;
  uint32_t size;
  uint32_t in_round;
  uint32_t in_flight;
  uint16_t next_avail;
  uint16_t published;
  uint16_t next_used;
  uint16_t refused_at;
  int kick_fd;
};

struct client {
  struct queue queues[QUEUES_MAX];
  uint32_t queue_count;
  enum mode mode;
  enum protocol protocol;
  bool is_packed, is_indirect;
  bool has_event_idx;
  bool is_sequential;
  uint32_t depth;
  uint32_t write_percent;
  uint32_t block_bytes;
  uint64_t block_count;
  uint64_t units_per_block;
  uint64_t guest_minus_host;
  uint64_t ns_per_tick_32; // fixed point, 32 bits behind the point
  uint64_t random;
  uint64_t cursor;
  uint64_t stride;
  uint64_t seed;
  uint64_t remaining;
  uint64_t requests, kicks, errors, mismatches, sum_ns, min_ns, max_ns, waited_ticks;
  double *buckets;
  double *statuses;
};

static inline uint64_t to_ns(const struct client *c, uint64_t ticks) {
  return (uint64_t)(((unsigned __int128)ticks * c->ns_per_tick_32) >> 32);
}

// As src/initiator/latency-histogram.ts: 64 buckets to each power of two.
static inline uint32_t bucket_of(uint64_t ns) {
  if (ns < (1u << SUB_BITS)) return (uint32_t)ns;
  if (ns > UINT32_MAX) ns = UINT32_MAX;
  uint32_t exponent = 31 - (uint32_t)__builtin_clz((uint32_t)ns);
  return (1u << SUB_BITS) * (exponent - SUB_BITS) + (uint32_t)(ns >> (exponent - SUB_BITS));
}

static inline uint64_t next_random(struct client *c) {
  c->random ^= c->random << 13;
  c->random ^= c->random >> 7;
  c->random ^= c->random << 17;
  return c->random;
}

static inline uint64_t next_block(struct client *c) {
  if (c->mode != MODE_MEASURE) return (c->cursor++ * c->stride + c->seed) % c->block_count;
  if (!c->is_sequential) return (uint64_t)(((unsigned __int128)next_random(c) * c->block_count) >> 64);
  uint64_t block = c->cursor++;
  if (c->cursor >= c->block_count) c->cursor = 0;
  return block;
}

static inline uint32_t stamp_of(const struct client *c, uint64_t block) {
  uint32_t hash = (uint32_t)(block ^ c->seed) * 0x85ebca6bu;
  hash ^= hash >> 15;
  hash *= 0x2c1b3c6du;
  return hash ^ (hash >> 13);
}

static void fill_stamp(const struct client *c, uint8_t *data, uint64_t block) {
  uint32_t value = stamp_of(c, block);
  for (uint32_t i = 0; i < c->block_bytes; i += 4, value += STAMP_STEP) memcpy(data + i, &value, 4);
}

static void fill_poison(const struct client *c, uint8_t *data) {
  uint32_t value = POISON;
  for (uint32_t i = 0; i < c->block_bytes; i += 4) memcpy(data + i, &value, 4);
}

static bool has_stamp(const struct client *c, const uint8_t *data, uint64_t block) {
  uint32_t expected = stamp_of(c, block), value;
  for (uint32_t i = 0; i < c->block_bytes; i += 4, expected += STAMP_STEP) {
    memcpy(&value, data + i, 4);
    if (value != expected) return false;
  }
  return true;
}

// Bytes of the header and of the answer, by protocol (virtio 1.3 §5.2.6, §5.6.6.1).
static inline uint32_t header_bytes(enum protocol protocol) {
  return protocol == PROTOCOL_BLK ? 16 : 51;
}

static inline uint32_t answer_bytes(enum protocol protocol) {
  return protocol == PROTOCOL_BLK ? 1 : 108;
}

// Header, data and answer, in the order that the direction asks for: a scsi response stands before the data of a read.
static void lay_out_packed(struct client *c, struct queue *q, uint32_t slot, bool is_write) {
  uint8_t *control = q->control + (size_t)slot * SLOT_BYTES, *data = q->data + (size_t)slot * c->block_bytes;
  bool is_answer_first = c->protocol == PROTOCOL_SCSI && !is_write;
  struct packed_desc *chain = (struct packed_desc *)(control + TABLE_OFFSET);
  uint64_t to_guest = c->guest_minus_host;
  struct packed_desc body = {(uintptr_t)data + to_guest, c->block_bytes, 0, is_write ? 0 : DESC_WRITE};
  struct packed_desc answer = {(uintptr_t)control + ANSWER_OFFSET + to_guest, answer_bytes(c->protocol), 0, DESC_WRITE};
  chain[0] = (struct packed_desc){(uintptr_t)control + to_guest, header_bytes(c->protocol), 0, DESC_NEXT};
  chain[1] = is_answer_first ? answer : body;
  chain[1].flags |= DESC_NEXT;
  chain[2] = is_answer_first ? body : answer;
  q->is_write[slot] = is_write;
}

static void lay_out(struct client *c, struct queue *q, uint32_t slot, bool is_write) {
  if (c->is_packed) {
    lay_out_packed(c, q, slot, is_write);
    return;
  }
  uint8_t *control = q->control + (size_t)slot * SLOT_BYTES, *data = q->data + (size_t)slot * c->block_bytes;
  bool is_indirect = c->is_indirect, is_answer_first = c->protocol == PROTOCOL_SCSI && !is_write;
  uint16_t first = is_indirect ? 0 : (uint16_t)(slot * CHAIN_DESCRIPTORS);
  struct vring_desc *chain = is_indirect ? (struct vring_desc *)(control + TABLE_OFFSET) : &q->desc[first];
  uint64_t to_guest = c->guest_minus_host;
  struct vring_desc header = {(uintptr_t)control + to_guest, header_bytes(c->protocol), DESC_NEXT, first + 1};
  struct vring_desc body = {(uintptr_t)data + to_guest, c->block_bytes, is_write ? 0 : DESC_WRITE, 0};
  struct vring_desc answer = {(uintptr_t)control + ANSWER_OFFSET + to_guest, answer_bytes(c->protocol), DESC_WRITE, 0};
  chain[0] = header;
  chain[1] = is_answer_first ? answer : body;
  chain[1].flags |= DESC_NEXT;
  chain[1].next = first + 2;
  chain[2] = is_answer_first ? body : answer;
  if (is_indirect)
    q->desc[slot] = (struct vring_desc){(uintptr_t)chain + to_guest, CHAIN_DESCRIPTORS * 16, DESC_INDIRECT, 0};
  q->is_write[slot] = is_write;
}

// Descriptors of a chain in its ring.
static inline uint32_t slots_of(const struct client *c) {
  return c->is_indirect ? 1 : CHAIN_DESCRIPTORS;
}

static inline void submit(struct client *c, struct queue *q, uint32_t slot) {
  uint8_t *control = q->control + (size_t)slot * SLOT_BYTES;
  uint64_t block = next_block(c), unit = block * c->units_per_block;
  bool is_write = c->mode == MODE_STAMP;
  if (c->mode == MODE_MEASURE && c->write_percent > 0)
    is_write = c->write_percent >= 100 || (next_random(c) >> 32) % 100 < c->write_percent;
  if (c->protocol == PROTOCOL_BLK) {
    uint32_t type = is_write ? 1 : 0;
    memcpy(control, &type, 4);
    memcpy(control + 8, &unit, 8);
  } else {
    uint32_t lba = __builtin_bswap32((uint32_t)unit);
    control[19] = is_write ? 0x2a : 0x28;
    memcpy(control + 21, &lba, 4);
  }
  if (q->is_write[slot] != is_write) lay_out(c, q, slot, is_write);
  if (c->mode != MODE_MEASURE) {
    // A device that does not write its answer is found out here; under measurement the line stays the device's.
    memset(control + ANSWER_OFFSET, 0xff, answer_bytes(c->protocol));
    uint8_t *data = q->data + (size_t)slot * c->block_bytes;
    if (is_write) fill_stamp(c, data, block);
    else fill_poison(c, data);
    q->block_of[slot] = block;
  }
  q->is_busy[slot] = 1;
  q->in_flight++;
  q->round[q->in_round++] = (uint16_t)slot;
  if (c->is_packed) {
    struct packed_desc *chain = (struct packed_desc *)(control + TABLE_OFFSET);
    struct packed_desc table = {(uintptr_t)chain + c->guest_minus_host, CHAIN_DESCRIPTORS * 16, 0, DESC_INDIRECT};
    packed_expose(&q->packed, c->is_indirect ? &table : chain, slots_of(c), (uint16_t)slot);
    return;
  }
  uint16_t head = c->is_indirect ? (uint16_t)slot : (uint16_t)(slot * CHAIN_DESCRIPTORS);
  q->avail->ring[q->next_avail++ & (q->size - 1)] = head;
}

// True when the device wants a kick.
static inline bool publish_split(const struct client *c, struct queue *q) {
  uint16_t old = q->published;
  q->published = q->next_avail;
  __atomic_store_n(&q->avail->idx, q->next_avail, __ATOMIC_RELEASE);
  __atomic_thread_fence(__ATOMIC_SEQ_CST); // the index must be seen before the device's wish for kicks is read
  if (!c->has_event_idx) return (__atomic_load_n(&q->used->flags, __ATOMIC_RELAXED) & 1) == 0;
  uint16_t event = __atomic_load_n(vring_avail_event(q->used, q->size), __ATOMIC_RELAXED);
  return vring_needs_event(event, q->next_avail, old);
}

static inline void publish(struct client *c, struct queue *q) {
  if (q->in_round == 0) return;
  uint64_t now = clock_ticks();
  for (uint32_t i = 0; i < q->in_round; i++) q->submitted[q->round[i]] = now;
  q->in_round = 0;
  if (!(c->is_packed ? packed_publish(&q->packed, c->has_event_idx) : publish_split(c, q))) return;
  uint64_t one = 1;
  c->kicks++;
  if (write(q->kick_fd, &one, sizeof one) < 0) return; // a full counter is a kick, too
}

// With EVENT_IDX one refusal holds for half a turn of the index.
static void refuse_calls(struct client *c, struct queue *q) {
  q->refused_at = q->next_used;
  if (c->is_packed) packed_refuse_calls(&q->packed);
  else if (c->has_event_idx)
    __atomic_store_n(vring_used_event(q->avail, q->size), (uint16_t)(q->next_used + 0x8000), __ATOMIC_RELAXED);
  else __atomic_store_n(&q->avail->flags, 1, __ATOMIC_RELAXED);
}

// Status byte (blk), or response and, when that is good, status (scsi): 0 is good for both.
static inline uint8_t status_of(const struct client *c, const uint8_t *control) {
  const uint8_t *answer = control + ANSWER_OFFSET;
  if (c->protocol == PROTOCOL_BLK) return *answer;
  return answer[11] != 0 ? answer[11] : answer[10];
}

// Takes a completed request apart. Its slot, or -1 when the device made the id up.
static inline int32_t complete(struct client *c, struct queue *q, uint32_t head, uint64_t now) {
  bool is_slot = c->is_packed || c->is_indirect;
  uint32_t slot = is_slot ? head : head / CHAIN_DESCRIPTORS;
  bool is_head = is_slot || head % CHAIN_DESCRIPTORS == 0;
  if (slot >= c->depth || !is_head || !q->is_busy[slot]) return -1;
  const uint8_t *control = q->control + (size_t)slot * SLOT_BYTES;
  q->is_busy[slot] = 0;
  q->in_flight--;
  c->requests++;
  uint8_t status = status_of(c, control);
  if (status != 0) {
    c->errors++;
    c->statuses[status]++;
  }
  if (c->mode == MODE_MEASURE) {
    uint64_t ns = to_ns(c, now - q->submitted[slot]);
    c->buckets[bucket_of(ns)]++;
    c->sum_ns += ns;
    if (ns < c->min_ns) c->min_ns = ns;
    if (ns > c->max_ns) c->max_ns = ns;
  } else if (c->mode == MODE_CHECK && status == 0) {
    if (!has_stamp(c, q->data + (size_t)slot * c->block_bytes, q->block_of[slot])) c->mismatches++;
  }
  return (int32_t)slot;
}

static void clear_counts(struct client *c) {
  c->requests = c->kicks = c->sum_ns = c->max_ns = c->waited_ticks = 0;
  c->min_ns = UINT64_MAX;
  memset(c->buckets, 0, BUCKETS * sizeof *c->buckets);
}

static inline int32_t poll_packed(struct client *c, struct queue *q, uint64_t *now) {
  struct packed_ring *r = &q->packed;
  int32_t count = 0;
  for (uint32_t left = q->in_flight; left > 0 && packed_has_used(r); left--, count++) {
    if (count == 0) *now = clock_ticks();
    int32_t slot = complete(c, q, r->ring[r->used.place].id, *now);
    if (slot < 0) return -1;
    packed_advance(r, &r->used, slots_of(c));
    if (c->remaining == 0) continue;
    c->remaining--;
    submit(c, q, (uint32_t)slot);
  }
  publish(c, q);
  return count;
}

// One look at a queue. Requests completed, or -1.
static inline int32_t poll_queue(struct client *c, struct queue *q, uint64_t *now) {
  if (c->is_packed) return poll_packed(c, q, now);
  uint16_t idx = __atomic_load_n(&q->used->idx, __ATOMIC_ACQUIRE);
  uint16_t count = (uint16_t)(idx - q->next_used);
  if (count == 0) return 0;
  if (count > q->in_flight) return -1;
  *now = clock_ticks();
  for (uint16_t i = 0; i < count; i++) {
    int32_t slot = complete(c, q, q->used->ring[q->next_used++ & (q->size - 1)].id, *now);
    if (slot < 0) return -1;
    if (c->remaining == 0) continue;
    c->remaining--;
    submit(c, q, (uint32_t)slot);
  }
  publish(c, q);
  if ((uint16_t)(q->next_used - q->refused_at) >= REFUSE_EVERY) refuse_calls(c, q);
  return count;
}

// Runs to the end. 0, -EPROTO when the device completed what was not in flight, -ETIMEDOUT when it completes nothing.
static int run(struct client *c, const double *config, double *result) {
  double ns_per_tick = clock_ns_per_tick();
  uint64_t stall = (uint64_t)(config[CONFIG_STALL_NS] / ns_per_tick);
  uint64_t duration = (uint64_t)(config[CONFIG_DURATION_NS] / ns_per_tick);
  const struct timespec nap = {.tv_nsec = (long)config[CONFIG_NAP_NS]};
  bool is_timed = c->mode == MODE_MEASURE, is_warm = !is_timed;
  uint64_t start = clock_ticks(), now = start, idle_since = 0, last_look = start, stalled = 0;
  // A look that comes late says that this thread or the whole machine stood still, not the target.
  uint64_t look_max = (uint64_t)(LOOK_NS_MAX / ns_per_tick);
  uint64_t warm_at = start + (uint64_t)(config[CONFIG_WARM_UP_NS] / ns_per_tick);
  clear_counts(c);
  c->errors = c->mismatches = 0;
  c->remaining = is_timed ? UINT64_MAX : (uint64_t)config[CONFIG_COUNT];
  for (uint32_t i = 0; i < c->queue_count; i++) {
    struct queue *q = &c->queues[i];
    refuse_calls(c, q);
    for (uint32_t slot = 0; slot < c->depth && c->remaining > 0; slot++, c->remaining--) submit(c, q, slot);
    publish(c, q);
  }
  for (uint32_t spins = 0;;) {
    int32_t done = 0;
    uint32_t in_flight = 0;
    for (uint32_t i = 0; i < c->queue_count; i++) {
      int32_t count = poll_queue(c, &c->queues[i], &now);
      if (count < 0) return -EPROTO;
      if (count > 0 && done == 0 && idle_since != 0) {
        c->waited_ticks += now - idle_since;
        idle_since = 0;
      }
      done += count;
      in_flight += c->queues[i].in_flight;
    }
    if (done == 0) {
      if (in_flight == 0) break;
      if (idle_since == 0) idle_since = clock_ticks();
      if (nap.tv_nsec > 0) {
        nanosleep(&nap, NULL);
      } else {
        // Where both cores are threads of one, waiting must not take what the target computes with.
        clock_relax();
        if (++spins % SPINS_PER_LOOK != 0) continue;
      }
      now = clock_ticks();
      stalled += now - last_look < look_max ? now - last_look : look_max;
      last_look = now;
      if (stalled > stall) return -ETIMEDOUT;
    } else {
      stalled = 0;
      last_look = now;
    }
    if (is_timed && !is_warm && now >= warm_at) {
      is_warm = true;
      clear_counts(c);
      start = now;
      if (idle_since != 0) idle_since = now;
    } else if (is_timed && is_warm && c->remaining > 0 && now - start >= duration) {
      c->remaining = 0;
      if (idle_since != 0) c->waited_ticks += now - idle_since;
      result[RESULT_REQUESTS] = (double)c->requests;
      result[RESULT_ELAPSED_NS] = (double)(now - start) * ns_per_tick;
      result[RESULT_WAITED_NS] = (double)c->waited_ticks * ns_per_tick;
      result[RESULT_KICKS] = (double)c->kicks;
    }
  }
  if (!is_timed) result[RESULT_REQUESTS] = (double)c->requests;
  result[RESULT_ERRORS] = (double)c->errors;
  result[RESULT_MISMATCHES] = (double)c->mismatches;
  result[RESULT_SUM_NS] = (double)c->sum_ns;
  result[RESULT_MIN_NS] = (double)c->min_ns;
  result[RESULT_MAX_NS] = (double)c->max_ns;
  return 0;
}

static void *at(double address) {
  return (void *)(uintptr_t)address;
}

static bool open_queue(struct client *c, struct queue *q, const double *fields) {
  *q = (struct queue){
      .desc = at(fields[QUEUE_DESC]),
      .avail = at(fields[QUEUE_AVAIL]),
      .used = at(fields[QUEUE_USED]),
      .control = at(fields[QUEUE_CONTROL]),
      .data = at(fields[QUEUE_DATA]),
      .size = (uint32_t)fields[QUEUE_SIZE],
      .next_avail = (uint16_t)fields[QUEUE_NEXT_AVAIL],
      .published = (uint16_t)fields[QUEUE_NEXT_AVAIL],
      .next_used = (uint16_t)fields[QUEUE_NEXT_USED],
      .kick_fd = (int)fields[QUEUE_KICK_FD],
      .packed =
          {
              .ring = at(fields[QUEUE_DESC]),
              .driver = at(fields[QUEUE_AVAIL]),
              .device = at(fields[QUEUE_USED]),
              .size = (uint32_t)fields[QUEUE_SIZE],
              .avail = packed_place_of((uint32_t)fields[QUEUE_NEXT_AVAIL]),
              .used = packed_place_of((uint32_t)fields[QUEUE_NEXT_USED]),
              .published = packed_place_of((uint32_t)fields[QUEUE_NEXT_AVAIL]).place,
          },
      .submitted = calloc(c->depth, sizeof(uint64_t)),
      .block_of = calloc(c->depth, sizeof(uint64_t)),
      .round = calloc(c->depth, sizeof(uint16_t)),
      .is_busy = calloc(c->depth, 1),
      .is_write = calloc(c->depth, 1),
  };
  if (q->submitted == NULL || q->block_of == NULL || q->round == NULL || q->is_busy == NULL || q->is_write == NULL)
    return false;
  for (uint32_t slot = 0; slot < c->depth; slot++) lay_out(c, q, slot, false);
  return true;
}

static void close_client(struct client *c) {
  for (uint32_t i = 0; i < c->queue_count; i++) {
    struct queue *q = &c->queues[i];
    free(q->submitted);
    free(q->block_of);
    free(q->round);
    free(q->is_busy);
    free(q->is_write);
  }
  free(c);
}

// clientRun(config, queues, queueCount, buckets, statuses, result): 0 or a negative errno. The rings' positions in
// `queues` are brought up to date.
static napi_value client_run(napi_env env, napi_callback_info info) {
  BENCH_ARGS(6);
  double count = bench_f64(env, argv[2]);
  if (!(count >= 1 && count <= QUEUES_MAX)) return bench_throw(env, "clientRun: the number of queues is out of range");
  const double *config = bench_array(env, argv[0], CONFIG_FIELDS);
  double *queues = bench_array(env, argv[1], (size_t)count * QUEUE_FIELDS);
  double *buckets = bench_array(env, argv[3], BUCKETS), *statuses = bench_array(env, argv[4], STATUSES);
  double *result = bench_array(env, argv[5], RESULT_FIELDS);
  if (config == NULL || queues == NULL || buckets == NULL || statuses == NULL || result == NULL)
    return bench_throw(env, "clientRun takes five arrays of doubles and a number");
  struct client *c = calloc(1, sizeof *c);
  if (c == NULL) return bench_number(env, -ENOMEM);
  c->mode = (enum mode)config[CONFIG_MODE];
  c->protocol = (enum protocol)config[CONFIG_PROTOCOL];
  enum format format = (enum format)config[CONFIG_FORMAT];
  c->is_packed = format == FORMAT_PACKED_DIRECT || format == FORMAT_PACKED_INDIRECT;
  c->is_indirect = format == FORMAT_SPLIT_INDIRECT || format == FORMAT_PACKED_INDIRECT;
  c->has_event_idx = config[CONFIG_HAS_EVENT_IDX] != 0;
  c->is_sequential = config[CONFIG_IS_SEQUENTIAL] != 0;
  c->depth = (uint32_t)config[CONFIG_DEPTH];
  c->write_percent = (uint32_t)config[CONFIG_WRITE_PERCENT];
  c->block_bytes = (uint32_t)config[CONFIG_BLOCK_BYTES];
  c->block_count = (uint64_t)config[CONFIG_BLOCK_COUNT];
  c->units_per_block = (uint64_t)config[CONFIG_UNITS_PER_BLOCK];
  c->guest_minus_host = (uint64_t)(int64_t)config[CONFIG_GUEST_MINUS_HOST];
  c->ns_per_tick_32 = (uint64_t)(clock_ns_per_tick() * 4294967296.0);
  c->seed = (uint64_t)config[CONFIG_SEED];
  c->random = (c->seed + 1) * 0x9e3779b97f4a7c15u;
  c->stride = 1000003; // a prime that divides no disk's size, so that the blocks of a check are all different
  c->buckets = buckets;
  c->statuses = statuses;
  memset(statuses, 0, STATUSES * sizeof *statuses);
  int outcome = 0;
  for (uint32_t i = 0; i < (uint32_t)count && outcome == 0; i++) {
    c->queue_count = i + 1;
    if (!open_queue(c, &c->queues[i], queues + i * QUEUE_FIELDS)) outcome = -ENOMEM;
  }
  if (outcome == 0) outcome = run(c, config, result);
  for (uint32_t i = 0; i < c->queue_count; i++) {
    const struct queue *q = &c->queues[i];
    queues[i * QUEUE_FIELDS + QUEUE_NEXT_AVAIL] = c->is_packed ? packed_half(q->packed.avail) : q->next_avail;
    queues[i * QUEUE_FIELDS + QUEUE_NEXT_USED] = c->is_packed ? packed_half(q->packed.used) : q->next_used;
  }
  close_client(c);
  return bench_number(env, outcome);
}

void client_exports(napi_env env, napi_value exports) {
  bench_export(env, exports, "clientRun", client_run);
}

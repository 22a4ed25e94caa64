// Shared by the files of the benchmark's own addon: the clock, the split ring's layout, argument checks.
//
// Nothing here is part of the product: build/ringhost-bench.node is built for `npm run bench` and its tests only.
#pragma once
#define _GNU_SOURCE
#define NAPI_VERSION 9
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <node_api.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define BENCH_ARGS(max)                                                                \
  napi_value argv[max];                                                                \
  size_t argc = (max);                                                                 \
  if (napi_get_cb_info(env, info, &argc, argv, NULL, NULL) != napi_ok || argc < (max)) \
    return bench_throw(env, "too few arguments")

napi_value bench_throw(napi_env env, const char *message);
napi_value bench_number(napi_env env, double value);
// A number, or NaN.
double bench_f64(napi_env env, napi_value value);
// A Float64Array of at least `count` elements, or NULL.
double *bench_array(napi_env env, napi_value value, size_t count);
void bench_export(napi_env env, napi_value exports, const char *name, napi_callback call);

void clock_exports(napi_env env, napi_value exports);
void client_exports(napi_env env, napi_value exports);
void limit_exports(napi_env env, napi_value exports);
void copy_exports(napi_env env, napi_value exports);
void wake_exports(napi_env env, napi_value exports);
void disk_exports(napi_env env, napi_value exports);

// ---- clock ---------------------------------------------------------------------------------------------------------

// The processor's own counter: 8-10 ns a reading where clock_gettime takes 25-40, and no system call anywhere. It runs
// at a fixed rate on every machine that has constant_tsc (all of the last fifteen years). It is read without a fence: a
// reading may be some tens of cycles early.
static inline uint64_t clock_ticks(void) {
#if defined(__x86_64__)
  return __rdtsc();
#elif defined(__aarch64__)
  uint64_t ticks;
  __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
  return ticks;
#else
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
#endif
}

// Nanoseconds of a tick, measured against CLOCK_MONOTONIC at the first call.
double clock_ns_per_tick(void);

static inline void clock_relax(void) {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// ---- the split ring (virtio 1.3 §2.7) ------------------------------------------------------------------------------

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };

struct vring_desc {
  uint64_t address;
  uint32_t length;
  uint16_t flags;
  uint16_t next;
};

struct vring_avail {
  uint16_t flags;
  uint16_t idx;
  uint16_t ring[]; // then used_event
};

struct vring_used_element {
  uint32_t id;
  uint32_t length;
};

struct vring_used {
  uint16_t flags;
  uint16_t idx;
  struct vring_used_element ring[]; // then avail_event
};

static inline uint16_t *vring_used_event(struct vring_avail *avail, uint32_t size) {
  return &avail->ring[size];
}

static inline uint16_t *vring_avail_event(struct vring_used *used, uint32_t size) {
  return (uint16_t *)&used->ring[size];
}

// §2.7.7.2: does the step from `old` to `now` pass the index that the other side asked to be told of?
static inline bool vring_needs_event(uint16_t event, uint16_t now, uint16_t old) {
  return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

// ---- copies --------------------------------------------------------------------------------------------------------

// All but the first fetch the heads of the sources that come next; the last streams what goes to the disk.
enum copy_way { COPY_MEMCPY = 0, COPY_PREFETCH = 1, COPY_REP_MOVSB = 2, COPY_STREAM = 3, COPY_STREAM_WRITES = 4 };

// One copy of a batch.
struct copy_op {
  uint8_t *to;
  const uint8_t *from;
  size_t length;
  bool is_to_disk;
};

// Carries out a batch in order.
void copy_batch(const struct copy_op *ops, uint32_t count, enum copy_way way);

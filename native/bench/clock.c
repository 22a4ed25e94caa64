// The clock's rate, and how much of a core others take.
#include "bench.h"

#define CALIBRATION_NS 20000000u
// A gap between two readings of the clock that no interrupt of our own makes.
#define GAP_NS 5000.0

static uint64_t monotonic_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

double clock_ns_per_tick(void) {
  static double ns_per_tick = 0;
  if (ns_per_tick > 0) return ns_per_tick;
  uint64_t start_ns = monotonic_ns(), start = clock_ticks(), now_ns;
  while ((now_ns = monotonic_ns()) - start_ns < CALIBRATION_NS) clock_relax();
  ns_per_tick = (double)(now_ns - start_ns) / (double)(clock_ticks() - start);
  return ns_per_tick;
}

// stolenShare(durationNs): the share of the calling thread's core that went to others (the hypervisor, interrupts,
// other threads) while it did nothing but look at the clock.
static napi_value stolen_share(napi_env env, napi_callback_info info) {
  BENCH_ARGS(1);
  double duration_ns = bench_f64(env, argv[0]), ns_per_tick = clock_ns_per_tick();
  if (!(duration_ns > 0)) return bench_throw(env, "stolenShare(durationNs)");
  uint64_t start = clock_ticks(), last = start, now = start, lost = 0;
  uint64_t end = start + (uint64_t)(duration_ns / ns_per_tick), gap = (uint64_t)(GAP_NS / ns_per_tick);
  while (now < end) {
    now = clock_ticks();
    if (now - last > gap) lost += now - last;
    last = now;
  }
  return bench_number(env, (double)lost / (double)(now - start));
}

// processCpuNs(pid): processor time of all threads of a process, also of those that ended, or a negative errno.
static napi_value process_cpu_ns(napi_env env, napi_callback_info info) {
  BENCH_ARGS(1);
  double pid = bench_f64(env, argv[0]);
  if (!(pid > 0)) return bench_throw(env, "processCpuNs(pid)");
  clockid_t clock;
  struct timespec used;
  int failure = clock_getcpuclockid((pid_t)pid, &clock);
  if (failure != 0) return bench_number(env, -failure);
  if (clock_gettime(clock, &used) != 0) return bench_number(env, -errno);
  return bench_number(env, (double)used.tv_sec * 1e9 + (double)used.tv_nsec);
}

void clock_exports(napi_env env, napi_value exports) {
  bench_export(env, exports, "stolenShare", stolen_share);
  bench_export(env, exports, "processCpuNs", process_cpu_ns);
}

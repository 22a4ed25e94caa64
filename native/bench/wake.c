// How soon a thread that sleeps goes on once another core has written its eventfd: no target answers a first request
// sooner than that.
#include "bench.h"

#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

// Ways to sleep: in `read` of the eventfd; in `epoll_wait` on it; on an epoll descriptor that holds it within another.
enum { SLEEP_READ = 0, SLEEP_EPOLL = 1, SLEEP_NESTED = 2 };
enum { WAKE_UPS_MAX = 100000 };

struct sleeper {
  int event_fd, epoll_fd; // epoll_fd: what it waits for, -1 with SLEEP_READ
  int core;
  uint32_t wake_ups;
  uint32_t woken; // so often: it says so to the other core
};

static void *sleep_and_wake(void *data) {
  struct sleeper *self = data;
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(self->core, &cores);
  sched_setaffinity(0, sizeof cores, &cores);
  for (uint32_t i = 1; i <= self->wake_ups; i++) {
    struct epoll_event event;
    uint64_t count;
    while (self->epoll_fd >= 0 && epoll_wait(self->epoll_fd, &event, 1, -1) < 1) continue;
    // The answer goes first: reading the counter is no part of the way here, except where that is what it slept in.
    if (self->epoll_fd >= 0) __atomic_store_n(&self->woken, i, __ATOMIC_RELEASE);
    while (read(self->event_fd, &count, sizeof count) < 0 && errno == EINTR) continue;
    __atomic_store_n(&self->woken, i, __ATOMIC_RELEASE);
  }
  return NULL;
}

static int watch(int fd) {
  struct epoll_event event = {.events = EPOLLIN};
  int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
  return epoll_fd;
}

// wakeUps(core, way, napNs, out Float64Array): 0. Fills `out` with nanoseconds from the write to the first sign of the
// thread on that core, which had a nap before each. The calling thread spins meanwhile: give it another core.
static napi_value wake_ups(napi_env env, napi_callback_info info) {
  BENCH_ARGS(4);
  double core = bench_f64(env, argv[0]), way = bench_f64(env, argv[1]), nap_ns = bench_f64(env, argv[2]);
  double *out = bench_array(env, argv[3], 1);
  size_t count = 0;
  napi_get_typedarray_info(env, argv[3], NULL, &count, NULL, NULL, NULL);
  if (out == NULL || count > WAKE_UPS_MAX || !(core >= 0 && core < CPU_SETSIZE) ||
      !(way >= SLEEP_READ && way <= SLEEP_NESTED) || !(nap_ns >= 0 && nap_ns < 1e9))
    return bench_throw(env, "wakeUps(core, way, napNs, Float64Array)");
  struct sleeper sleeper = {eventfd(0, EFD_CLOEXEC), -1, (int)core, (uint32_t)count, 0};
  int inner = way >= SLEEP_EPOLL ? watch(sleeper.event_fd) : -1;
  int outer = way == SLEEP_NESTED ? watch(inner) : -1;
  sleeper.epoll_fd = outer >= 0 ? outer : inner;
  pthread_t thread;
  int failure = pthread_create(&thread, NULL, sleep_and_wake, &sleeper);
  double ns_per_tick = clock_ns_per_tick();
  for (uint32_t i = 1; i <= count && failure == 0; i++) {
    struct timespec nap = {0, (long)nap_ns};
    nanosleep(&nap, NULL);
    uint64_t start = clock_ticks(), one = 1;
    if (write(sleeper.event_fd, &one, sizeof one) < 0) failure = errno;
    while (failure == 0 && __atomic_load_n(&sleeper.woken, __ATOMIC_ACQUIRE) < i) clock_relax();
    out[i - 1] = (double)(clock_ticks() - start) * ns_per_tick;
  }
  if (failure == 0) pthread_join(thread, NULL);
  if (outer >= 0) close(outer);
  if (inner >= 0) close(inner);
  close(sleeper.event_fd);
  return bench_number(env, -failure);
}

void wake_exports(napi_env env, napi_value exports) {
  bench_export(env, exports, "wakeUps", wake_ups);
}

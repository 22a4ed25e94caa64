// What a thread can say of itself and choose for itself: its cores and its name.
#include "addon.h"

#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// setAffinity(core): 0. Pins the calling thread.
static napi_value set_affinity(napi_env env, napi_callback_info info) {
  ADDON_ARGS(1);
  int32_t core;
  if (!addon_i32(env, argv[0], &core) || core < 0 || core >= CPU_SETSIZE) return addon_throw(env, "no such core");
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  return ADDON_RESULT(sched_setaffinity(0, sizeof set, &set) < 0 ? -errno : 0);
}

// getAffinity(out Int32Array): count of cores the calling thread may use; their numbers in out
static napi_value get_affinity(napi_env env, napi_callback_info info) {
  ADDON_ARGS(1);
  int32_t *out;
  size_t length;
  if (!addon_i32_array(env, argv[0], &out, &length)) return addon_throw(env, "out must be an Int32Array");
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) < 0) return ADDON_RESULT(-errno);
  size_t count = 0;
  for (int core = 0; core < CPU_SETSIZE && count < length; core++)
    if (CPU_ISSET(core, &set)) out[count++] = core;
  return ADDON_RESULT(count);
}

// nodeOfMemory(address): NUMA node of the page
static napi_value node_of_memory(napi_env env, napi_callback_info info) {
  ADDON_ARGS(1);
  uint64_t address;
  int node;
  if (!addon_u53(env, argv[0], &address)) return addon_throw(env, "address must be a number");
  long result = syscall(SYS_get_mempolicy, &node, NULL, 0, address, MPOL_F_NODE | MPOL_F_ADDR);
  return ADDON_RESULT(result < 0 ? -errno : node);
}

// setThreadName(name): 0. At most 15 bytes.
static napi_value set_thread_name(napi_env env, napi_callback_info info) {
  ADDON_ARGS(1);
  char name[16];
  if (!addon_string(env, argv[0], name, sizeof name)) return addon_throw(env, "a thread name has at most 15 bytes");
  return ADDON_RESULT(prctl(PR_SET_NAME, name) < 0 ? -errno : 0);
}

// threadId(): the kernel's id of the calling thread
static napi_value thread_id(napi_env env, napi_callback_info info) {
  (void)info;
  return ADDON_RESULT(syscall(SYS_gettid));
}

// clockNs(): CLOCK_MONOTONIC in nanoseconds
static napi_value clock_ns(napi_env env, napi_callback_info info) {
  (void)info;
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return ADDON_RESULT((double)now.tv_sec * 1e9 + (double)now.tv_nsec);
}

// clockStamp(): CLOCK_MONOTONIC in units of 16 ns, modulo 2^32, as an int32: no number is allocated for it
static napi_value clock_stamp(napi_env env, napi_callback_info info) {
  (void)info;
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return ADDON_RESULT((int32_t)(uint32_t)(((uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec) >> 4));
}

// yieldCore(): 0. Whoever waits for this core runs first.
static napi_value yield_core(napi_env env, napi_callback_info info) {
  (void)info;
  return ADDON_RESULT(sched_yield());
}

void thread_exports(napi_env env, napi_value exports) {
  addon_export(env, exports, "setAffinity", set_affinity);
  addon_export(env, exports, "getAffinity", get_affinity);
  addon_export(env, exports, "nodeOfMemory", node_of_memory);
  addon_export(env, exports, "setThreadName", set_thread_name);
  addon_export(env, exports, "threadId", thread_id);
  addon_export(env, exports, "clockNs", clock_ns);
  addon_export(env, exports, "clockStamp", clock_stamp);
  addon_export(env, exports, "yieldCore", yield_core);
}

// Event descriptors, sets of watched descriptors on the thread's event loop, and the loop turn of a polling thread.
//
// libuv's functions are exported by every Node binary but its header is not part of the Node-API headers; the few
// prototypes below are part of its stable ABI (handles are opaque here: uv_handle_size gives their size).
#include "addon.h"

#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef struct uv_handle_s uv_handle_t;
typedef struct uv_poll_s uv_poll_t;
typedef struct uv_idle_s uv_idle_t;
enum { UV_HANDLE_IDLE = 6, UV_HANDLE_POLL = 8 };
enum { UV_READABLE = 1 };
size_t uv_handle_size(int type);
void uv_handle_set_data(uv_handle_t *handle, void *data);
void *uv_handle_get_data(const uv_handle_t *handle);
void uv_close(uv_handle_t *handle, void (*on_close)(uv_handle_t *));
int uv_poll_init(struct uv_loop_s *loop, uv_poll_t *handle, int fd);
int uv_poll_start(uv_poll_t *handle, int events, void (*on_event)(uv_poll_t *, int, int));
int uv_idle_init(struct uv_loop_s *loop, uv_idle_t *handle);
int uv_idle_start(uv_idle_t *handle, void (*on_turn)(uv_idle_t *));
int uv_idle_stop(uv_idle_t *handle);

#define EVENTS_PER_CALL 64

// One libuv handle with a JavaScript callback; closed by the owner or by the end of its thread, whichever is first.
struct watch {
  uv_handle_t *handle;
  napi_env env;
  napi_ref callback;
  napi_async_context context;
  napi_async_cleanup_hook_handle hook;
  bool closing;
  int epoll_fd;      // descriptor sets only
  napi_ref events;   // descriptor sets only: keeps the array that `pairs` points into
  int32_t *pairs;
};

static void watch_closed(uv_handle_t *handle) {
  struct watch *watch = uv_handle_get_data(handle);
  if (watch->epoll_fd >= 0) close(watch->epoll_fd);
  napi_async_cleanup_hook_handle hook = watch->hook;
  free(watch->handle);
  free(watch);
  napi_remove_async_cleanup_hook(hook);
}

static void watch_close(struct watch *watch) {
  if (watch->closing) return;
  watch->closing = true;
  napi_delete_reference(watch->env, watch->callback);
  if (watch->events != NULL) napi_delete_reference(watch->env, watch->events);
  napi_async_destroy(watch->env, watch->context);
  uv_close(watch->handle, watch_closed);
}

static void watch_cleanup(napi_async_cleanup_hook_handle hook, void *data) {
  (void)hook;
  watch_close(data);
}

static void watch_call(struct watch *watch, int count) {
  napi_handle_scope scope;
  napi_value callback, receiver, argument, error;
  if (napi_open_handle_scope(watch->env, &scope) != napi_ok) return;
  if (napi_get_reference_value(watch->env, watch->callback, &callback) == napi_ok &&
      napi_get_global(watch->env, &receiver) == napi_ok &&
      napi_create_int32(watch->env, count, &argument) == napi_ok &&
      napi_make_callback(watch->env, watch->context, receiver, callback, 1, &argument, NULL) != napi_ok &&
      napi_get_and_clear_last_exception(watch->env, &error) == napi_ok)
    napi_fatal_exception(watch->env, error);
  napi_close_handle_scope(watch->env, scope);
}

// Writes (id, events) pairs of what is ready; how many, or -1.
static int collect(struct watch *watch) {
  struct epoll_event ready[EVENTS_PER_CALL];
  int count = epoll_wait(watch->epoll_fd, ready, EVENTS_PER_CALL, 0);
  for (int i = 0; i < count; i++) {
    watch->pairs[2 * i] = ready[i].data.fd;
    watch->pairs[2 * i + 1] = (int32_t)ready[i].events;
  }
  return count;
}

static void on_readable(uv_poll_t *handle, int status, int events) {
  (void)status;
  (void)events;
  struct watch *watch = uv_handle_get_data((uv_handle_t *)handle);
  int count = watch->closing ? 0 : collect(watch);
  if (count > 0) watch_call(watch, count);
}

static void on_turn(uv_idle_t *handle) {
  struct watch *watch = uv_handle_get_data((uv_handle_t *)handle);
  if (!watch->closing) watch_call(watch, 0);
}

// The watch as an external value; NULL with an exception pending when something failed.
static napi_value watch_create(napi_env env, napi_value callback, napi_value events, int type, struct watch **out) {
  struct uv_loop_s *loop;
  napi_value name, result;
  napi_valuetype kind;
  int32_t *pairs = NULL;
  size_t length;
  if (napi_typeof(env, callback, &kind) != napi_ok || kind != napi_function ||
      (events != NULL && (!addon_i32_array(env, events, &pairs, &length) || length < 2 * EVENTS_PER_CALL)))
    return addon_throw(env, "a watch has a function, and a set an Int32Array(128)");
  int epoll_fd = type == UV_HANDLE_POLL ? epoll_create1(EPOLL_CLOEXEC) : -1;
  if (type == UV_HANDLE_POLL && epoll_fd < 0) return addon_throw(env, "cannot create an epoll descriptor");
  struct watch *watch = calloc(1, sizeof *watch);
  if (watch == NULL) return addon_throw(env, "out of memory");
  watch->env = env;
  watch->epoll_fd = epoll_fd;
  watch->pairs = pairs;
  watch->handle = calloc(1, uv_handle_size(type));
  napi_create_string_utf8(env, "ringhost", NAPI_AUTO_LENGTH, &name);
  if (watch->handle == NULL || napi_get_uv_event_loop(env, &loop) != napi_ok ||
      napi_create_reference(env, callback, 1, &watch->callback) != napi_ok ||
      (events != NULL && napi_create_reference(env, events, 1, &watch->events) != napi_ok) ||
      napi_async_init(env, NULL, name, &watch->context) != napi_ok)
    return addon_throw(env, "cannot watch the event loop");
  int error = type == UV_HANDLE_POLL ? uv_poll_init(loop, (uv_poll_t *)watch->handle, epoll_fd)
                                     : uv_idle_init(loop, (uv_idle_t *)watch->handle);
  uv_handle_set_data(watch->handle, watch);
  if (error != 0 || napi_add_async_cleanup_hook(env, watch_cleanup, watch, &watch->hook) != napi_ok ||
      napi_create_external(env, watch, NULL, NULL, &result) != napi_ok)
    return addon_throw(env, "cannot watch the event loop");
  *out = watch;
  return result;
}

static struct watch *watch_of(napi_env env, napi_value value) {
  void *data = NULL;
  if (napi_get_value_external(env, value, &data) != napi_ok) addon_throw(env, "not a watch");
  return data;
}

// fdSetCreate(callback(count), events Int32Array(128)): set. The callback finds `count` pairs (id, epoll events).
static napi_value fd_set_create(napi_env env, napi_callback_info info) {
  ADDON_ARGS(2);
  struct watch *watch;
  napi_value result = watch_create(env, argv[0], argv[1], UV_HANDLE_POLL, &watch);
  if (result != NULL) uv_poll_start((uv_poll_t *)watch->handle, UV_READABLE, on_readable);
  return result;
}

// fdSetControl(set, operation 1 add | 2 remove | 3 change, fd, id, epoll events): 0
static napi_value fd_set_control(napi_env env, napi_callback_info info) {
  ADDON_ARGS(5);
  int32_t operation, fd, id;
  uint64_t events;
  struct watch *watch = watch_of(env, argv[0]);
  if (watch == NULL) return NULL;
  if (!addon_i32(env, argv[1], &operation) || !addon_i32(env, argv[2], &fd) || !addon_i32(env, argv[3], &id) ||
      !addon_u53(env, argv[4], &events))
    return addon_throw(env, "fdSetControl(set, operation, fd, id, events)");
  struct epoll_event event = {.events = (uint32_t)events, .data = {.fd = id}};
  return ADDON_RESULT(epoll_ctl(watch->epoll_fd, operation, fd, &event) < 0 ? -errno : 0);
}

// fdSetPoll(set): how many descriptors are ready, as for the callback.
static napi_value fd_set_poll(napi_env env, napi_callback_info info) {
  ADDON_ARGS(1);
  struct watch *watch = watch_of(env, argv[0]);
  return watch == NULL ? NULL : ADDON_RESULT(collect(watch));
}

// turnCreate(callback): turn. While started, the callback runs once in every turn of the event loop.
static napi_value turn_create(napi_env env, napi_callback_info info) {
  ADDON_ARGS(1);
  struct watch *watch;
  return watch_create(env, argv[0], NULL, UV_HANDLE_IDLE, &watch);
}

// turnStart(turn) and turnStop(turn): 0
static napi_value turn_start(napi_env env, napi_callback_info info) {
  ADDON_ARGS(1);
  struct watch *watch = watch_of(env, argv[0]);
  return watch == NULL ? NULL : ADDON_RESULT(uv_idle_start((uv_idle_t *)watch->handle, on_turn));
}

static napi_value turn_stop(napi_env env, napi_callback_info info) {
  ADDON_ARGS(1);
  struct watch *watch = watch_of(env, argv[0]);
  return watch == NULL ? NULL : ADDON_RESULT(uv_idle_stop((uv_idle_t *)watch->handle));
}

// watchClose(set or turn): 0. The value must not be used afterwards.
static napi_value watch_close_call(napi_env env, napi_callback_info info) {
  ADDON_ARGS(1);
  struct watch *watch = watch_of(env, argv[0]);
  if (watch != NULL) watch_close(watch);
  return watch == NULL ? NULL : ADDON_RESULT(0);
}

// eventFdCreate(): fd, non-blocking
static napi_value event_fd_create(napi_env env, napi_callback_info info) {
  (void)info;
  int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  return ADDON_RESULT(fd < 0 ? -errno : fd);
}

// A peer's eventfd is signalled without ever waiting for the peer. write(2) would wait: the peer may fill the counter
// and clear O_NONBLOCK, which is a flag of the shared description, between any check and the write. The kernel's own
// signalling never waits, and the end of an asynchronous read does it for whatever eventfd the request names
// (IOCB_FLAG_RESFD): a read of nothing from /dev/null, which ends inside io_submit. One context a thread.
static _Thread_local struct {
  aio_context_t context;
  int null_fd;
  int error; // why there is no context
} signaller;

// Head of the ring of completions at the context's address: struct aio_ring of the kernel's fs/aio.c.
struct completions {
  uint32_t id, entries, head, tail;
};

static void signaller_open(void) {
  signaller.null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (signaller.null_fd >= 0 && syscall(SYS_io_setup, 1, &signaller.context) == 0) return;
  signaller.error = -errno;
  if (signaller.null_fd >= 0) close(signaller.null_fd);
}

static void signaller_close(void *data) {
  (void)data;
  if (signaller.context == 0) return;
  syscall(SYS_io_destroy, signaller.context);
  close(signaller.null_fd);
  signaller.context = 0;
}

// eventFdSignal(fd): 0. Never waits: a counter that is full counts as signalled.
static napi_value event_fd_signal(napi_env env, napi_callback_info info) {
  ADDON_ARGS(1);
  int32_t fd;
  if (!addon_i32(env, argv[0], &fd)) return addon_throw(env, "fd must be an integer");
  if (signaller.context == 0) return ADDON_RESULT(signaller.error);
  struct iocb read = {
      .aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = signaller.null_fd, .aio_flags = IOCB_FLAG_RESFD, .aio_resfd = fd};
  struct iocb *reads[] = {&read};
  long result = syscall(SYS_io_submit, signaller.context, 1, reads);
  int error = errno;
  // The completion is of no use: drop it, or the ring fills up. Only this thread adds any.
  struct completions *done = (struct completions *)signaller.context;
  done->head = done->tail;
  return ADDON_RESULT(result < 0 ? -error : 0);
}

// eventFdRead(fd): the counter, or -EAGAIN
static napi_value event_fd_read(napi_env env, napi_callback_info info) {
  ADDON_ARGS(1);
  int32_t fd;
  if (!addon_i32(env, argv[0], &fd)) return addon_throw(env, "fd must be an integer");
  uint64_t count;
  return ADDON_RESULT(read(fd, &count, sizeof count) < 0 ? -(double)errno : (double)count);
}

void event_exports(napi_env env, napi_value exports) {
  signaller_open();
  napi_add_env_cleanup_hook(env, signaller_close, NULL);
  addon_export(env, exports, "fdSetCreate", fd_set_create);
  addon_export(env, exports, "fdSetControl", fd_set_control);
  addon_export(env, exports, "fdSetPoll", fd_set_poll);
  addon_export(env, exports, "turnCreate", turn_create);
  addon_export(env, exports, "turnStart", turn_start);
  addon_export(env, exports, "turnStop", turn_stop);
  addon_export(env, exports, "watchClose", watch_close_call);
  addon_export(env, exports, "eventFdCreate", event_fd_create);
  addon_export(env, exports, "eventFdSignal", event_fd_signal);
  addon_export(env, exports, "eventFdRead", event_fd_read);
}

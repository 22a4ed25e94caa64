// Ceph RBD: librbd and librados, loaded when the first cluster is asked for, so that nothing depends on them.
//
// What may block (connecting, opening, resizing, locks) runs on a worker thread and answers by a promise. Requests go
// out in batches, with their own segment lists; librbd's threads put what completed on the channel's stack, which the
// reactor takes as a whole. An image is opened once; every reactor has a channel to it.
#include "addon.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

// librados.h and librbd.h: handles are pointers.
#define RADOS_CALLS(X) \
  X(int, rados_create, (void **, const char *)) X(int, rados_conf_read_file, (void *, const char *)) \
  X(int, rados_conf_set, (void *, const char *, const char *)) X(int, rados_connect, (void *)) \
  X(void, rados_shutdown, (void *)) X(int, rados_cluster_fsid, (void *, char *, size_t)) \
  X(int, rados_getaddrs, (void *, char **)) X(void, rados_buffer_free, (char *)) \
  X(int, rados_ioctx_create, (void *, const char *, void **)) X(void, rados_ioctx_destroy, (void *)) \
  X(int64_t, rados_ioctx_get_id, (void *)) \
  X(int, rados_pool_reverse_lookup, (void *, int64_t, char *, size_t)) X(int, rados_wait_for_latest_osdmap, (void *)) \
  X(ssize_t, rados_list_lockers, (void *, const char *, const char *, int *, char *, size_t *, char *, size_t *, \
                                  char *, size_t *, char *, size_t *)) \
  X(int, rados_break_lock, (void *, const char *, const char *, const char *, const char *))
#define RBD_CALLS(X) \
  X(int, rbd_open, (void *, const char *, void **, const char *)) \
  X(int, rbd_open_read_only, (void *, const char *, void **, const char *)) X(int, rbd_close, (void *)) \
  X(int, rbd_get_size, (void *, uint64_t *)) X(int, rbd_get_id, (void *, char *, size_t)) \
  X(int, rbd_resize, (void *, uint64_t)) X(int, rbd_update_watch, (void *, uint64_t *, void (*)(void *), void *)) \
  X(int, rbd_update_unwatch, (void *, uint64_t)) X(int, rbd_lock_get_owners, (void *, int *, char **, size_t *)) \
  X(void, rbd_lock_get_owners_cleanup, (char **, size_t)) \
  X(int, rbd_lock_acquire, (void *, int)) X(int, rbd_lock_break, (void *, int, const char *)) \
  X(int, rbd_lock_release, (void *)) X(int, rbd_config_image_list, (void *, struct setting *, int *)) \
  X(void, rbd_config_image_list_cleanup, (struct setting *, int)) \
  X(int, rbd_aio_create_completion, (void *, void (*)(void *, void *), void **)) \
  X(void, rbd_aio_release, (void *)) X(ssize_t, rbd_aio_get_return_value, (void *)) \
  X(int, rbd_aio_readv, (void *, const struct iovec *, int, uint64_t, void *)) \
  X(int, rbd_aio_writev, (void *, const struct iovec *, int, uint64_t, void *)) \
  X(int, rbd_aio_flush, (void *, void *)) X(int, rbd_aio_discard, (void *, uint64_t, uint64_t, void *)) \
  X(int, rbd_aio_write_zeroes, (void *, uint64_t, size_t, void *, int, int))

#define LOCK_MODE_EXCLUSIVE 0
#define OWNERS_MAX 8
#define SETTINGS_MAX 512 // Ceph has some 50 for images
#define HANDLES_MAX 16384
#define SLOTS_MAX 4096
#define TEXT_BYTES 512
#define ANSWER_BYTES 256
#define IOVS_MAX 1088
#define RECORD 6
#define NO_SLOT (-1)

struct setting { char *name, *value; int source; }; // rbd_config_option_t

#define DECLARE(type, name, arguments) static type(*name) arguments;
RADOS_CALLS(DECLARE) RBD_CALLS(DECLARE)
DECLARE(int, rados_blocklist_add, (void *, char *, uint32_t))

struct cluster {
  void *rados;
  cpu_set_t cores; // of librbd's threads; none: as they come
};

struct image {
  void *io, *rbd;
  const struct cluster *cluster;
  uint64_t watch;
  int event_fd; // its header changed, or a request failed
  _Atomic int error;
};

struct slot {
  struct channel *channel;
  int32_t next;
  double result; // bytes, or a negative errno
  struct iovec *part; // the segments, where they hold more than is asked for: librbd reads the list until the end
};

struct channel {
  struct image *image;
  int event_fd;
  _Atomic bool is_armed;
  _Atomic int32_t done;       // the slot that completed last, whose `next` is the one before
  _Atomic int32_t unfinished; // callbacks that may still touch the channel
  int32_t count;
  struct slot slots[];
};

// Threads share handles: a number goes where a pointer cannot.
enum kind { NOTHING, CLUSTER, IMAGE, CHANNEL };
static struct { enum kind kind; void *object; } handles[HANDLES_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool is_loaded;

static int handle_of(enum kind kind, void *object) {
  pthread_mutex_lock(&lock);
  int at = 1;
  while (at < HANDLES_MAX && handles[at].kind != NOTHING) at++;
  if (at < HANDLES_MAX) handles[at].object = object, handles[at].kind = kind;
  pthread_mutex_unlock(&lock);
  return at < HANDLES_MAX ? at : -EMFILE;
}

static void *object_of(napi_env env, napi_value value, enum kind kind) {
  int32_t at;
  if (addon_i32(env, value, &at) && at > 0 && at < HANDLES_MAX && handles[at].kind == kind) return handles[at].object;
  addon_throw(env, "not a handle of this kind");
  return NULL;
}

static void forget(void *object) {
  pthread_mutex_lock(&lock);
  for (int at = 1; at < HANDLES_MAX; at++)
    if (handles[at].object == object) handles[at].kind = NOTHING, handles[at].object = NULL;
  pthread_mutex_unlock(&lock);
}

// Node's binary has copies of these objects of libstdc++, and libstdc++ itself uses the copies. What RTLD_DEEPBIND
// bound to the originals would find them as they were before they were constructed.
static void share_copies(void) {
  static const char *const names[] = {"_ZNSt5ctypeIcE2idE", "_ZSt4cout", "_ZSt4cerr"};
  void *library = dlopen("libstdc++.so.6", RTLD_NOW | RTLD_NOLOAD);
  for (size_t i = 0; library != NULL && i < sizeof names / sizeof names[0]; i++) {
    void *copy = dlsym(RTLD_DEFAULT, names[i]), *original = dlsym(library, names[i]);
    Dl_info info;
    const ElfW(Sym) *symbol;
    if (copy != NULL && original != NULL && copy != original &&
        dladdr1(original, &info, (void **)&symbol, RTLD_DL_SYMENT) != 0)
      memcpy(original, copy, symbol->st_size);
  }
}

// So the libraries use their own OpenSSL, not the one that Node's binary exports. With a sanitizer they have to make do
// with that: they and the C library would use different allocators.
#ifdef __SANITIZE_ADDRESS__
#define BINDING 0
#else
#define BINDING RTLD_DEEPBIND
#endif

// The answer is what is missing, if anything is.
static void load(char *answer) {
  const char *missing = NULL;
  void *library = dlopen("librados.so.2", RTLD_NOW | RTLD_LOCAL | BINDING);
#define LOOK_UP(type, name, arguments) \
  if (missing == NULL && (library == NULL || (*(void **)&name = dlsym(library, #name)) == NULL)) missing = dlerror();
  RADOS_CALLS(LOOK_UP)
  // The second is its name before Ceph 16.
  if (missing == NULL && (*(void **)&rados_blocklist_add = dlsym(library, "rados_blocklist_add")) == NULL &&
      (*(void **)&rados_blocklist_add = dlsym(library, "rados_blacklist_add")) == NULL)
    missing = dlerror();
  if (missing == NULL) library = dlopen("librbd.so.1", RTLD_NOW | RTLD_LOCAL | BINDING);
  RBD_CALLS(LOOK_UP)
  if (missing == NULL) share_copies();
  is_loaded = missing == NULL;
  if (missing != NULL) snprintf(answer, ANSWER_BYTES, "%s", missing);
}

static void on_update(void *image) { eventfd_write(((struct image *)image)->event_fd, 1); }

static int open_image(const struct cluster *cluster, const char *pool, const char *name, bool is_readonly) {
  struct image *image = calloc(1, sizeof *image);
  if (image == NULL) return -ENOMEM;
  image->cluster = cluster;
  image->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  int result = image->event_fd < 0 ? -errno : rados_ioctx_create(cluster->rados, pool, &image->io);
  if (result == 0) result = (is_readonly ? rbd_open_read_only : rbd_open)(image->io, name, &image->rbd, NULL);
  if (result == 0) result = rbd_update_watch(image->rbd, &image->watch, on_update, image);
  if (result == 0) result = handle_of(IMAGE, image);
  if (result > 0) return result;
  if (image->rbd != NULL) rbd_close(image->rbd);
  if (image->io != NULL) rados_ioctx_destroy(image->io);
  if (image->event_fd >= 0) close(image->event_fd);
  free(image);
  return result;
}

static int close_image(struct image *image) {
  rbd_update_unwatch(image->rbd, image->watch);
  int result = rbd_close(image->rbd);
  rados_ioctx_destroy(image->io);
  close(image->event_fd);
  free(image);
  return result;
}

// Who holds the exclusive lock: an address; empty when nobody does.
static int lock_owner(struct image *image, char *answer) {
  int mode;
  char *owners[OWNERS_MAX];
  size_t count = OWNERS_MAX;
  int result = rbd_lock_get_owners(image->rbd, &mode, owners, &count);
  if (result < 0) return result == -ENOENT ? 0 : result;
  if (count > 0) snprintf(answer, ANSWER_BYTES, "%s", owners[0]);
  rbd_lock_get_owners_cleanup(owners, count);
  return 0;
}

static int image_identity(struct image *image, char *answer) {
  int length = snprintf(answer, ANSWER_BYTES, "%lld/", (long long)rados_ioctx_get_id(image->io));
  return rbd_get_id(image->rbd, answer + length, (size_t)(ANSWER_BYTES - length));
}

// librbd remembers the size of an image whose pool is not there any more.
static int64_t image_size(const struct image *image) {
  char pool[TEXT_BYTES];
  uint64_t size;
  int result = rados_pool_reverse_lookup(image->cluster->rados, rados_ioctx_get_id(image->io), pool, sizeof pool);
  if (result >= 0) result = rbd_get_size(image->rbd, &size);
  return result < 0 ? result : (int64_t)size;
}

static int image_setting(struct image *image, const char *name, char *answer) {
  struct setting settings[SETTINGS_MAX];
  int count = SETTINGS_MAX;
  int result = rbd_config_image_list(image->rbd, settings, &count);
  if (result < 0) return result;
  for (int i = 0; i < count; i++)
    if (strcmp(settings[i].name, name) == 0) snprintf(answer, ANSWER_BYTES, "%s", settings[i].value);
  rbd_config_image_list_cleanup(settings, count);
  return 0;
}

// The lock of an owner that the cluster does not listen to any more, without shutting it out once more, as
// rbd_lock_break would: that makes an epoch of the OSD map each time, and a monitor makes one a second.
static int break_fenced(struct image *image, const char *owner) {
  char id[64], object[96], tag[64], clients[TEXT_BYTES], cookies[TEXT_BYTES], addresses[TEXT_BYTES];
  size_t tag_bytes = sizeof tag, client_bytes = TEXT_BYTES, cookie_bytes = TEXT_BYTES, address_bytes = TEXT_BYTES;
  int is_exclusive, result = rados_wait_for_latest_osdmap(image->cluster->rados);
  if (result == 0) result = rbd_get_id(image->rbd, id, sizeof id);
  if (result < 0) return result;
  snprintf(object, sizeof object, "rbd_header.%s", id);
  ssize_t count = rados_list_lockers(image->io, object, "rbd_lock", &is_exclusive, tag, &tag_bytes, clients,
                                     &client_bytes, cookies, &cookie_bytes, addresses, &address_bytes);
  const char *client = clients, *cookie = cookies, *address = addresses;
  for (; count > 0; count--) { // three lists of strings, each after the end of the one before
    // With the version of its protocol before it, which librbd leaves out.
    const char *plain = strncmp(address, "v1:", 3) == 0 || strncmp(address, "v2:", 3) == 0 ? address + 3 : address;
    if (strcmp(plain, owner) == 0) return rados_break_lock(image->io, object, "rbd_lock", client, cookie);
    client += strlen(client) + 1, cookie += strlen(cookie) + 1, address += strlen(address) + 1;
  }
  return count < 0 ? (int)count : -ENOENT;
}

// What may block. sys/rbd.ts has the same numbers.
enum {
  LOAD, CONNECT, SHUTDOWN, FENCE, OPEN, CLOSE, IDENTITY, SIZE, RESIZE, OWNER, ACQUIRE, BREAK, BREAK_FENCED, SETTING,
  RELEASE, OPERATIONS
};

struct work {
  napi_async_work work;
  napi_deferred deferred;
  int operation;
  void *object;
  uint64_t number;
  char texts[2][TEXT_BYTES];
  int64_t result; // negative errno; without an answer, what the promise resolves to
  char answer[ANSWER_BYTES];
};

static void connect_cluster(struct work *work, struct cluster *cluster) {
  char fsid[64] = "", *addresses = NULL;
  work->result = rados_connect(cluster->rados);
  if (work->result == 0) work->result = rados_cluster_fsid(cluster->rados, fsid, sizeof fsid);
  if (work->result >= 0) work->result = rados_getaddrs(cluster->rados, &addresses);
  if (work->result >= 0) snprintf(work->answer, ANSWER_BYTES, "%s %s", fsid, addresses);
  if (addresses != NULL) rados_buffer_free(addresses);
}

static void execute(napi_env env, void *data) {
  (void)env;
  struct work *work = data;
  struct image *image = work->object;
  struct cluster *cluster = work->object;
  cpu_set_t before;
  // Threads that librbd starts run where this one does.
  bool is_start = work->operation == CONNECT || work->operation == OPEN;
  bool is_moved = is_start && CPU_COUNT(&cluster->cores) > 0 && sched_getaffinity(0, sizeof before, &before) == 0;
  if (is_moved) sched_setaffinity(0, sizeof cluster->cores, &cluster->cores);
  switch (work->operation) {
    case LOAD:
      pthread_mutex_lock(&lock);
      if (!is_loaded) load(work->answer);
      pthread_mutex_unlock(&lock);
      break;
    case CONNECT: connect_cluster(work, cluster); break;
    case SHUTDOWN: rados_shutdown(cluster->rados), free(cluster); break;
    case FENCE:
      work->result = rados_blocklist_add(cluster->rados, work->texts[0], (uint32_t)work->number);
      break;
    case OPEN: work->result = open_image(cluster, work->texts[0], work->texts[1], work->number != 0); break;
    case CLOSE: work->result = close_image(image); break;
    case IDENTITY: work->result = image_identity(image, work->answer); break;
    case SIZE: work->result = image_size(image); break;
    case RESIZE: work->result = rbd_resize(image->rbd, work->number); break;
    case OWNER: work->result = lock_owner(image, work->answer); break;
    case ACQUIRE: work->result = rbd_lock_acquire(image->rbd, LOCK_MODE_EXCLUSIVE); break;
    case BREAK: work->result = rbd_lock_break(image->rbd, LOCK_MODE_EXCLUSIVE, work->texts[0]); break;
    case BREAK_FENCED: work->result = break_fenced(image, work->texts[0]); break;
    case SETTING: work->result = image_setting(image, work->texts[0], work->answer); break;
    case RELEASE: work->result = rbd_lock_release(image->rbd); break;
  }
  if (is_moved) sched_setaffinity(0, sizeof before, &before);
}

static void complete(napi_env env, napi_status status, void *data) {
  (void)status;
  struct work *work = data;
  napi_value value;
  bool has_answer = work->result >= 0 && work->answer[0] != '\0';
  if (has_answer) napi_create_string_utf8(env, work->answer, NAPI_AUTO_LENGTH, &value);
  else napi_create_double(env, (double)work->result, &value);
  napi_resolve_deferred(env, work->deferred, value);
  napi_delete_async_work(env, work->work);
  free(work);
}

// rbdCall(operation, handle, text, text, number): promise of a negative errno, or of an answer. The handle of a
// cluster that is shut down, or of an image that is closed, is no handle any more.
static napi_value rbd_call(napi_env env, napi_callback_info info) {
  ADDON_ARGS(5);
  struct work *work = calloc(1, sizeof *work);
  napi_value name, promise;
  if (work == NULL) return addon_throw(env, "out of memory");
  int32_t operation;
  if (!addon_i32(env, argv[0], &operation) || operation < 0 || operation >= OPERATIONS ||
      !addon_string(env, argv[2], work->texts[0], TEXT_BYTES) ||
      !addon_string(env, argv[3], work->texts[1], TEXT_BYTES) || !addon_u53(env, argv[4], &work->number) ||
      (operation != LOAD && (work->object = object_of(env, argv[1], operation < CLOSE ? CLUSTER : IMAGE)) == NULL) ||
      napi_create_string_utf8(env, "rbd", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_create_promise(env, &work->deferred, &promise) != napi_ok ||
      napi_create_async_work(env, NULL, name, execute, complete, work, &work->work) != napi_ok) {
    free(work);
    return addon_throw(env, "rbdCall(operation, handle, text, text, number)");
  }
  work->operation = operation;
  if (operation == SHUTDOWN || operation == CLOSE) forget(work->object);
  napi_queue_async_work(env, work->work);
  return promise;
}

// rbdCluster(user or '', cores Int32Array): handle of a cluster that is not connected yet. After LOAD.
static napi_value rbd_cluster(napi_env env, napi_callback_info info) {
  ADDON_ARGS(2);
  char user[TEXT_BYTES];
  int32_t *cores;
  size_t count;
  if (!addon_string(env, argv[0], user, sizeof user) || !addon_i32_array(env, argv[1], &cores, &count) || !is_loaded)
    return addon_throw(env, "rbdCluster(user, Int32Array), with the libraries loaded");
  struct cluster *cluster = calloc(1, sizeof *cluster);
  if (cluster == NULL) return ADDON_RESULT(-ENOMEM);
  for (size_t i = 0; i < count; i++)
    if (cores[i] >= 0 && cores[i] < CPU_SETSIZE) CPU_SET(cores[i], &cluster->cores);
  int result = rados_create(&cluster->rados, user[0] == '\0' ? NULL : user);
  if (result == 0 && (result = handle_of(CLUSTER, cluster)) < 0) rados_shutdown(cluster->rados);
  if (result < 0) free(cluster);
  return ADDON_RESULT(result);
}

// rbdConfigure(cluster, name, value): 0. Without a name the value is a file to read, or '' for the usual places.
static napi_value rbd_configure(napi_env env, napi_callback_info info) {
  ADDON_ARGS(3);
  char name[TEXT_BYTES], value[4096];
  struct cluster *cluster = object_of(env, argv[0], CLUSTER);
  if (cluster == NULL) return NULL;
  if (!addon_string(env, argv[1], name, sizeof name) || !addon_string(env, argv[2], value, sizeof value))
    return addon_throw(env, "rbdConfigure(cluster, name, value)");
  if (name[0] != '\0') return ADDON_RESULT(rados_conf_set(cluster->rados, name, value));
  return ADDON_RESULT(rados_conf_read_file(cluster->rados, value[0] == '\0' ? NULL : value));
}

// rbdImageError(image): how the last request failed since the call before, or 0. Takes the signal, too.
static napi_value rbd_image_error(napi_env env, napi_callback_info info) {
  ADDON_ARGS(1);
  eventfd_t count;
  struct image *image = object_of(env, argv[0], IMAGE);
  if (image == NULL) return NULL;
  eventfd_read(image->event_fd, &count);
  return ADDON_RESULT(atomic_exchange(&image->error, 0));
}

// rbdChannelOpen(image, requests at once): handle
static napi_value rbd_channel_open(napi_env env, napi_callback_info info) {
  ADDON_ARGS(2);
  int32_t count;
  struct image *image = object_of(env, argv[0], IMAGE);
  if (image == NULL) return NULL;
  if (!addon_i32(env, argv[1], &count) || count < 1 || count > SLOTS_MAX)
    return addon_throw(env, "rbdChannelOpen(image, 1 to 4096)");
  struct channel *channel = calloc(1, sizeof *channel + (size_t)count * sizeof channel->slots[0]);
  if (channel == NULL) return ADDON_RESULT(-ENOMEM);
  channel->image = image;
  channel->count = count;
  channel->done = NO_SLOT;
  for (int32_t i = 0; i < count; i++) channel->slots[i].channel = channel;
  channel->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  int result = channel->event_fd < 0 ? -errno : handle_of(CHANNEL, channel);
  if (result > 0) return ADDON_RESULT(result);
  if (channel->event_fd >= 0) close(channel->event_fd);
  free(channel);
  return ADDON_RESULT(result);
}

// rbdFd(image or channel): readable when the image changed or a request failed; when something completed while armed.
static napi_value rbd_fd(napi_env env, napi_callback_info info) {
  ADDON_ARGS(1);
  int32_t at;
  bool is_image = addon_i32(env, argv[0], &at) && at > 0 && at < HANDLES_MAX && handles[at].kind == IMAGE;
  void *object = object_of(env, argv[0], is_image ? IMAGE : CHANNEL);
  return object == NULL ? NULL : ADDON_RESULT(is_image ? ((struct image *)object)->event_fd
                                                       : ((struct channel *)object)->event_fd);
}

// rbdChannelClose(channel): 0. Everything submitted was reaped.
static napi_value rbd_channel_close(napi_env env, napi_callback_info info) {
  ADDON_ARGS(1);
  struct channel *channel = object_of(env, argv[0], CHANNEL);
  if (channel == NULL) return NULL;
  forget(channel);
  // A callback whose result was reaped may not have returned yet.
  while (atomic_load(&channel->unfinished) > 0) sched_yield();
  close(channel->event_fd);
  free(channel);
  return ADDON_RESULT(0);
}

static void finish(struct slot *slot, double result) {
  struct channel *channel = slot->channel;
  struct image *image = channel->image;
  int32_t at = (int32_t)(slot - channel->slots);
  slot->result = result;
  free(slot->part), slot->part = NULL;
  if (result < 0 && atomic_exchange(&image->error, (int)result) != (int)result) on_update(image);
  slot->next = atomic_load(&channel->done);
  while (!atomic_compare_exchange_weak(&channel->done, &slot->next, at)) continue;
  // After the push, as rbdArm looks at the stack after it armed: one of both sees the other.
  if (atomic_exchange(&channel->is_armed, false)) eventfd_write(channel->event_fd, 1);
  atomic_fetch_sub(&channel->unfinished, 1);
}

static void on_complete(void *completion, void *argument) {
  double result = (double)rbd_aio_get_return_value(completion);
  rbd_aio_release(completion);
  finish(argument, result);
}

enum { READ, WRITE, FLUSH, DISCARD, WRITE_ZEROES };

static int submit(void *rbd, struct slot *slot, const double *record, void *completion) {
  const struct iovec *iov = (const struct iovec *)(uintptr_t)record[4];
  uint64_t offset = (uint64_t)record[2];
  size_t length = (size_t)record[3], total = 0;
  int count = (int)record[5];
  switch ((int)record[1]) {
    case FLUSH: return rbd_aio_flush(rbd, completion);
    case DISCARD: return rbd_aio_discard(rbd, offset, length, completion);
    case WRITE_ZEROES: return rbd_aio_write_zeroes(rbd, offset, length, completion, 0, 0);
  }
  if (count < 1 || count > IOVS_MAX) return -EINVAL;
  for (int i = 0; i < count; i++) total += iov[i].iov_len;
  if (total < length) return -EINVAL;
  if (total > length) {
    size_t left = length;
    struct iovec *part = slot->part = calloc((size_t)count, sizeof *part);
    if (part == NULL) return -ENOMEM;
    for (int i = 0; i < count; i++) {
      part[i] = (struct iovec){iov[i].iov_base, iov[i].iov_len < left ? iov[i].iov_len : left};
      left -= part[i].iov_len;
    }
    while (count > 1 && part[count - 1].iov_len == 0) count--;
    iov = part;
  }
  return (record[1] == READ ? rbd_aio_readv : rbd_aio_writev)(rbd, iov, count, offset, completion);
}

// rbdSubmit(channel, Float64Array, count): undefined. Each record is 6 elements: slot, type, offset, bytes, address of
// the iovecs, how many. The iovecs come from the memory map and stay until the request has completed.
static napi_value rbd_submit(napi_env env, napi_callback_info info) {
  ADDON_ARGS(3);
  int32_t count;
  double *record;
  size_t length;
  struct channel *channel = object_of(env, argv[0], CHANNEL);
  if (channel == NULL) return NULL;
  if (!addon_f64_array(env, argv[1], &record, &length) || !addon_i32(env, argv[2], &count) || count < 0 ||
      (size_t)count > length / RECORD)
    return addon_throw(env, "rbdSubmit(channel, Float64Array, count)");
  for (; count > 0; count--, record += RECORD) {
    if (!(record[0] >= 0 && record[0] < channel->count)) return addon_throw(env, "there is no such slot");
    struct slot *slot = &channel->slots[(int32_t)record[0]];
    void *completion = NULL;
    atomic_fetch_add(&channel->unfinished, 1);
    int result = rbd_aio_create_completion(slot, on_complete, &completion);
    if (result == 0) result = submit(channel->image->rbd, slot, record, completion);
    if (result >= 0) continue;
    if (completion != NULL) rbd_aio_release(completion);
    finish(slot, result);
  }
  return NULL;
}

// rbdReap(channel, Float64Array): how many pairs (slot, result) it holds now. Room for every slot.
static napi_value rbd_reap(napi_env env, napi_callback_info info) {
  ADDON_ARGS(2);
  double *out;
  size_t length;
  struct channel *channel = object_of(env, argv[0], CHANNEL);
  if (channel == NULL) return NULL;
  if (!addon_f64_array(env, argv[1], &out, &length) || length / 2 < (size_t)channel->count)
    return addon_throw(env, "rbdReap(channel, Float64Array)");
  int count = 0;
  if (atomic_load_explicit(&channel->done, memory_order_relaxed) != NO_SLOT) {
    for (int32_t at = atomic_exchange(&channel->done, NO_SLOT); at != NO_SLOT; at = channel->slots[at].next) {
      out[2 * count] = at;
      out[2 * count++ + 1] = channel->slots[at].result;
    }
  }
  return ADDON_RESULT(count);
}

// rbdArm(channel, 1 or 0): 1 when there is something to reap. Armed, its descriptor is signalled by what completes.
static napi_value rbd_arm(napi_env env, napi_callback_info info) {
  ADDON_ARGS(2);
  int32_t is_armed;
  eventfd_t count;
  struct channel *channel = object_of(env, argv[0], CHANNEL);
  if (channel == NULL) return NULL;
  if (!addon_i32(env, argv[1], &is_armed)) return addon_throw(env, "rbdArm(channel, 0 or 1)");
  atomic_store(&channel->is_armed, is_armed != 0);
  if (is_armed == 0) eventfd_read(channel->event_fd, &count);
  return ADDON_RESULT(atomic_load(&channel->done) != NO_SLOT);
}

void rbd_exports(napi_env env, napi_value exports) {
  addon_export(env, exports, "rbdCall", rbd_call);
  addon_export(env, exports, "rbdCluster", rbd_cluster);
  addon_export(env, exports, "rbdConfigure", rbd_configure);
  addon_export(env, exports, "rbdImageError", rbd_image_error);
  addon_export(env, exports, "rbdChannelOpen", rbd_channel_open);
  addon_export(env, exports, "rbdFd", rbd_fd);
  addon_export(env, exports, "rbdChannelClose", rbd_channel_close);
  addon_export(env, exports, "rbdSubmit", rbd_submit);
  addon_export(env, exports, "rbdReap", rbd_reap);
  addon_export(env, exports, "rbdArm", rbd_arm);
}

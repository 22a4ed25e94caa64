// Stream sockets for storage protocols: connecting, and transfers between a socket and lists of segments, which Node's
// own sockets cannot do; CRC32C over such a list.
//
// A list is an array of struct iovec in memory of the addon's user, given as its bytes. The kernel checks the addresses
// of a transfer once more: a wrong one is an -EFAULT, not a crash.
#include "addon.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#define IOVS_MAX 1024

// streamConnect(address, port): fd of a socket that connects; the first transfers are -EAGAIN until it did. An address
// is numeric, IPv4 or IPv6; port 0: it is the path of a Unix socket.
static napi_value stream_connect(napi_env env, napi_callback_info info) {
  ADDON_ARGS(2);
  char text[sizeof ((struct sockaddr_un *)0)->sun_path + 1];
  int32_t port;
  size_t length;
  union { struct sockaddr any; struct sockaddr_in v4; struct sockaddr_in6 v6; struct sockaddr_un file; } to;
  memset(&to, 0, sizeof to);
  to.any.sa_family = AF_UNIX;
  if (!addon_i32(env, argv[1], &port) || port < 0 || port > 65535 ||
      napi_get_value_string_utf8(env, argv[0], text, sizeof text, &length) != napi_ok)
    return addon_throw(env, "streamConnect(address, port)");
  if (port == 0) {
    if (length >= sizeof to.file.sun_path) return ADDON_RESULT(-ENAMETOOLONG);
    memcpy(to.file.sun_path, text, length);
  } else if (inet_pton(AF_INET, text, &to.v4.sin_addr) == 1) {
    to.v4.sin_family = AF_INET, to.v4.sin_port = htons((uint16_t)port);
  } else {
    if (inet_pton(AF_INET6, text, &to.v6.sin6_addr) != 1) return ADDON_RESULT(-EINVAL);
    to.v6.sin6_family = AF_INET6, to.v6.sin6_port = htons((uint16_t)port);
  }
  int fd = socket(to.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return ADDON_RESULT(-errno);
  int one = 1;
  if (port != 0) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  socklen_t size = port == 0 ? sizeof to.file : to.any.sa_family == AF_INET ? sizeof to.v4 : sizeof to.v6;
  if (connect(fd, &to.any, size) < 0 && errno != EINPROGRESS) {
    int error = errno;
    close(fd);
    return ADDON_RESULT(-error);
  }
  return ADDON_RESULT(fd);
}

// The entries [first, first + count) of a list; NULL after a throw.
static struct iovec *list_of(napi_env env, napi_value bytes, napi_value first, napi_value count, int32_t *entries) {
  uint8_t *data;
  size_t length;
  int32_t from;
  if (!addon_bytes(env, bytes, &data, &length) || !addon_i32(env, first, &from) || !addon_i32(env, count, entries) ||
      from < 0 || *entries < 0 || (size_t)from + (size_t)*entries > length / sizeof(struct iovec)) {
    addon_throw(env, "the entries are not in the list");
    return NULL;
  }
  return (struct iovec *)(void *)data + from;
}

// streamTransfer(fd, isSend, list Uint8Array, first, count): bytes; of a receive 0 is the end of the stream
static napi_value stream_transfer(napi_env env, napi_callback_info info) {
  ADDON_ARGS(5);
  int32_t fd, count;
  bool is_send;
  struct iovec *list = list_of(env, argv[2], argv[3], argv[4], &count);
  if (list == NULL) return NULL;
  if (!addon_i32(env, argv[0], &fd) || napi_get_value_bool(env, argv[1], &is_send) != napi_ok)
    return addon_throw(env, "streamTransfer(fd, isSend, Uint8Array, first, count)");
  struct msghdr message = {.msg_iov = list, .msg_iovlen = (size_t)(count < IOVS_MAX ? count : IOVS_MAX)};
  ssize_t done = is_send ? sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) : recvmsg(fd, &message, MSG_DONTWAIT);
  return ADDON_RESULT(done < 0 ? -errno : done);
}

static uint32_t crc_bytewise(uint32_t crc, const uint8_t *data, size_t length) {
  for (; length > 0; length--) {
    crc ^= *data++;
    for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (0x82f63b78 & -(crc & 1));
  }
  return crc;
}

#ifdef __x86_64__
__attribute__((target("sse4.2"))) static uint32_t crc_fast(uint32_t crc, const uint8_t *data, size_t length) {
  uint64_t sum = crc, word;
  for (; length >= sizeof word; length -= sizeof word, data += sizeof word) {
    memcpy(&word, data, sizeof word);
    sum = __builtin_ia32_crc32di(sum, word);
  }
  return crc_bytewise((uint32_t)sum, data, length);
}
#define HAS_CRC __builtin_cpu_supports("sse4.2")
#else
#define crc_fast crc_bytewise
#define HAS_CRC false
#endif

// crc32c(list Uint8Array, first, count, length, seed): the sum over the first bytes of the list as a signed number
static napi_value crc32c(napi_env env, napi_callback_info info) {
  ADDON_ARGS(5);
  int32_t count, seed;
  uint64_t length;
  const struct iovec *list = list_of(env, argv[0], argv[1], argv[2], &count);
  if (list == NULL) return NULL;
  if (!addon_u53(env, argv[3], &length) || !addon_i32(env, argv[4], &seed))
    return addon_throw(env, "crc32c(Uint8Array, first, count, length, seed)");
  uint32_t crc = ~(uint32_t)seed;
  for (; count > 0 && length > 0; count--, list++) {
    size_t part = list->iov_len < length ? list->iov_len : length;
    crc = HAS_CRC ? crc_fast(crc, list->iov_base, part) : crc_bytewise(crc, list->iov_base, part);
    length -= part;
  }
  return ADDON_RESULT((int32_t)~crc);
}

// epollCreate(): fd, itself readable while one of what it watches is ready
static napi_value epoll_create_call(napi_env env, napi_callback_info info) {
  (void)info;
  int fd = epoll_create1(EPOLL_CLOEXEC);
  return ADDON_RESULT(fd < 0 ? -errno : fd);
}

// epollControl(epoll, operation 1 add | 2 remove | 3 change, fd, events): 0
static napi_value epoll_control(napi_env env, napi_callback_info info) {
  ADDON_ARGS(4);
  int32_t set, operation, fd, events;
  if (!addon_i32(env, argv[0], &set) || !addon_i32(env, argv[1], &operation) || !addon_i32(env, argv[2], &fd) ||
      !addon_i32(env, argv[3], &events))
    return addon_throw(env, "epollControl(epoll, operation, fd, events)");
  struct epoll_event event = {.events = (uint32_t)events};
  return ADDON_RESULT(epoll_ctl(set, operation, fd, &event) < 0 ? -errno : 0);
}

void stream_exports(napi_env env, napi_value exports) {
  addon_export(env, exports, "streamConnect", stream_connect);
  addon_export(env, exports, "streamTransfer", stream_transfer);
  addon_export(env, exports, "crc32c", crc32c);
  addon_export(env, exports, "epollCreate", epoll_create_call);
  addon_export(env, exports, "epollControl", epoll_control);
}

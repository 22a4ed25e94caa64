// Unix sockets with file descriptors (SCM_RIGHTS), which Node's own sockets cannot carry.
#include "addon.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

// The kernel's own limit of descriptors in one message (SCM_MAX_FD).
#define FDS_MAX 253

static bool unix_address(napi_env env, napi_value value, struct sockaddr_un *address) {
  memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  return addon_string(env, value, address->sun_path, sizeof address->sun_path);
}

// socketListen(path, backlog): fd. The file must not exist.
static napi_value socket_listen(napi_env env, napi_callback_info info) {
  ADDON_ARGS(2);
  struct sockaddr_un address;
  int32_t backlog;
  if (!unix_address(env, argv[0], &address)) return ADDON_RESULT(-ENAMETOOLONG);
  if (!addon_i32(env, argv[1], &backlog)) return addon_throw(env, "backlog must be an integer");
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return ADDON_RESULT(-errno);
  if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, backlog) < 0) {
    int error = errno;
    close(fd);
    return ADDON_RESULT(-error);
  }
  return ADDON_RESULT(fd);
}

// socketAccept(fd): fd
static napi_value socket_accept(napi_env env, napi_callback_info info) {
  ADDON_ARGS(1);
  int32_t fd;
  if (!addon_i32(env, argv[0], &fd)) return addon_throw(env, "fd must be an integer");
  int accepted = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  return ADDON_RESULT(accepted < 0 ? -errno : accepted);
}

// socketConnect(path): fd
static napi_value socket_connect(napi_env env, napi_callback_info info) {
  ADDON_ARGS(1);
  struct sockaddr_un address;
  if (!unix_address(env, argv[0], &address)) return ADDON_RESULT(-ENAMETOOLONG);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return ADDON_RESULT(-errno);
  if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
    int error = errno;
    close(fd);
    return ADDON_RESULT(-error);
  }
  return ADDON_RESULT(fd);
}

// socketPair(out Int32Array(2)): 0
static napi_value socket_pair(napi_env env, napi_callback_info info) {
  ADDON_ARGS(1);
  int32_t *out;
  size_t length;
  if (!addon_i32_array(env, argv[0], &out, &length) || length < 2) return addon_throw(env, "out must be Int32Array(2)");
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) return ADDON_RESULT(-errno);
  out[0] = pair[0];
  out[1] = pair[1];
  return ADDON_RESULT(0);
}

// receiveMessage(fd, bytes, offset, length, fds Int32Array): bytes read, 0 at end of stream.
// fds[0] is the count of descriptors received, fds[1…] the descriptors (close-on-exec). Truncated control data is
// -EMSGSIZE, with every descriptor closed.
static napi_value receive_message(napi_env env, napi_callback_info info) {
  ADDON_ARGS(5);
  int32_t fd, *fds;
  uint64_t offset, length;
  uint8_t *bytes;
  size_t capacity, fds_capacity;
  if (!addon_i32(env, argv[0], &fd) || !addon_bytes(env, argv[1], &bytes, &capacity) ||
      !addon_u53(env, argv[2], &offset) || !addon_u53(env, argv[3], &length) ||
      !addon_i32_array(env, argv[4], &fds, &fds_capacity) || fds_capacity < 2)
    return addon_throw(env, "receiveMessage(fd, Uint8Array, offset, length, Int32Array)");
  if (offset > capacity || length > capacity - offset) return addon_throw(env, "the range is outside the array");
  char control[CMSG_SPACE(sizeof(int) * FDS_MAX)] __attribute__((aligned(8)));
  struct iovec part = {.iov_base = bytes + offset, .iov_len = length};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  fds[0] = 0;
  ssize_t received = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (received < 0) return ADDON_RESULT(-errno);
  bool truncated = (message.msg_flags & MSG_CTRUNC) != 0;
  for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header != NULL; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
      int one;
      memcpy(&one, CMSG_DATA(header) + i * sizeof(int), sizeof one);
      if ((size_t)fds[0] + 1 < fds_capacity) {
        fds[++fds[0]] = one;
      } else {
        close(one);
        truncated = true;
      }
    }
  }
  if (truncated) {
    for (int32_t i = 1; i <= fds[0]; i++) close(fds[i]);
    fds[0] = 0;
    return ADDON_RESULT(-EMSGSIZE);
  }
  return ADDON_RESULT(received);
}

// sendMessage(fd, bytes, offset, length, fds Int32Array, fdCount): bytes sent. Descriptors go with the first byte.
static napi_value send_message(napi_env env, napi_callback_info info) {
  ADDON_ARGS(6);
  int32_t fd, *fds, count;
  uint64_t offset, length;
  uint8_t *bytes;
  size_t capacity, fds_capacity;
  if (!addon_i32(env, argv[0], &fd) || !addon_bytes(env, argv[1], &bytes, &capacity) ||
      !addon_u53(env, argv[2], &offset) || !addon_u53(env, argv[3], &length) ||
      !addon_i32_array(env, argv[4], &fds, &fds_capacity) || !addon_i32(env, argv[5], &count))
    return addon_throw(env, "sendMessage(fd, Uint8Array, offset, length, Int32Array, fdCount)");
  if (offset > capacity || length > capacity - offset) return addon_throw(env, "the range is outside the array");
  if (count < 0 || count > FDS_MAX || (size_t)count > fds_capacity) return addon_throw(env, "too many descriptors");
  char control[CMSG_SPACE(sizeof(int) * FDS_MAX)] __attribute__((aligned(8)));
  struct iovec part = {.iov_base = bytes + offset, .iov_len = length};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  if (count > 0) {
    memset(control, 0, sizeof control);
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
    memcpy(CMSG_DATA(header), fds, sizeof(int) * (size_t)count);
  }
  ssize_t sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  return ADDON_RESULT(sent < 0 ? -errno : sent);
}

// writeNow(fd, bytes, offset): bytes written, perhaps not all, to a socket, pipe, terminal or file. Never waits.
static napi_value write_now(napi_env env, napi_callback_info info) {
  ADDON_ARGS(3);
  int32_t fd;
  uint64_t offset;
  uint8_t *bytes;
  size_t length;
  if (!addon_i32(env, argv[0], &fd) || !addon_bytes(env, argv[1], &bytes, &length) ||
      !addon_u53(env, argv[2], &offset) || offset > length)
    return addon_throw(env, "writeNow(fd, Uint8Array, offset)");
  length -= offset;
  ssize_t written = send(fd, bytes + offset, length, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (written < 0 && errno == ENOTSOCK) {
    // O_NONBLOCK would be seen by all who share the description. A pipe that is ready has room for PIPE_BUF bytes.
    struct pollfd ready = {.fd = fd, .events = POLLOUT};
    if (poll(&ready, 1, 0) == 0) return ADDON_RESULT(-EAGAIN);
    written = write(fd, bytes + offset, length < PIPE_BUF ? length : PIPE_BUF);
  }
  return ADDON_RESULT(written < 0 ? -errno : written);
}

// peerCredentials(fd, out Int32Array(3)): 0; out is pid, uid, gid (SO_PEERCRED).
static napi_value peer_credentials(napi_env env, napi_callback_info info) {
  ADDON_ARGS(2);
  int32_t fd, *out;
  size_t length;
  if (!addon_i32(env, argv[0], &fd) || !addon_i32_array(env, argv[1], &out, &length) || length < 3)
    return addon_throw(env, "peerCredentials(fd, Int32Array(3))");
  struct ucred credentials;
  socklen_t size = sizeof credentials;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) < 0) return ADDON_RESULT(-errno);
  out[0] = (int32_t)credentials.pid;
  out[1] = (int32_t)credentials.uid;
  out[2] = (int32_t)credentials.gid;
  return ADDON_RESULT(0);
}

// setNonBlocking(fd): 0
static napi_value set_non_blocking(napi_env env, napi_callback_info info) {
  ADDON_ARGS(1);
  int32_t fd;
  if (!addon_i32(env, argv[0], &fd)) return addon_throw(env, "fd must be an integer");
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0) return ADDON_RESULT(-errno);
  return ADDON_RESULT(fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0);
}

// closeFd(fd): 0
static napi_value close_fd(napi_env env, napi_callback_info info) {
  ADDON_ARGS(1);
  int32_t fd;
  if (!addon_i32(env, argv[0], &fd)) return addon_throw(env, "fd must be an integer");
  return ADDON_RESULT(close(fd) < 0 ? -errno : 0);
}

void socket_exports(napi_env env, napi_value exports) {
  addon_export(env, exports, "socketListen", socket_listen);
  addon_export(env, exports, "socketAccept", socket_accept);
  addon_export(env, exports, "socketConnect", socket_connect);
  addon_export(env, exports, "socketPair", socket_pair);
  addon_export(env, exports, "receiveMessage", receive_message);
  addon_export(env, exports, "sendMessage", send_message);
  addon_export(env, exports, "writeNow", write_now);
  addon_export(env, exports, "peerCredentials", peer_credentials);
  addon_export(env, exports, "setNonBlocking", set_non_blocking);
  addon_export(env, exports, "closeFd", close_fd);
}

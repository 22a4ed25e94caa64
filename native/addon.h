// Shared by the files of the addon: argument checks and result helpers over plain Node-API.
#pragma once
#define _GNU_SOURCE
#define NAPI_VERSION 9
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <node_api.h>

#define ADDON_ARGS(max)                                                        \
  napi_value argv[max];                                                        \
  size_t argc = (max);                                                         \
  if (napi_get_cb_info(env, info, &argc, argv, NULL, NULL) != napi_ok || argc < (max)) \
    return addon_throw(env, "too few arguments")

// A negative errno for a failed call, its result otherwise: the convention of every call here.
#define ADDON_RESULT(value) addon_number(env, (double)(value))

napi_value addon_throw(napi_env env, const char *message);
napi_value addon_number(napi_env env, double value);
// An integer of 32 bits; what is not one is refused, not rounded.
bool addon_i32(napi_env env, napi_value value, int32_t *out);
bool addon_f64(napi_env env, napi_value value, double *out);
// An address or a length: a non-negative integer below 2^53.
bool addon_u53(napi_env env, napi_value value, uint64_t *out);
bool addon_string(napi_env env, napi_value value, char *out, size_t capacity);
// Bytes of any typed array; *length in bytes.
bool addon_bytes(napi_env env, napi_value value, uint8_t **data, size_t *length);
// An Int32Array; *length in elements.
bool addon_i32_array(napi_env env, napi_value value, int32_t **data, size_t *length);
bool addon_f64_array(napi_env env, napi_value value, double **data, size_t *length);
napi_value addon_export(napi_env env, napi_value exports, const char *name, napi_callback call);

void socket_exports(napi_env env, napi_value exports);
void memory_exports(napi_env env, napi_value exports);
void event_exports(napi_env env, napi_value exports);
void copy_exports(napi_env env, napi_value exports);
void gather_exports(napi_env env, napi_value exports);
void confine_exports(napi_env env, napi_value exports);
void thread_exports(napi_env env, napi_value exports);
void uring_exports(napi_env env, napi_value exports);
void vfio_exports(napi_env env, napi_value exports);
void stream_exports(napi_env env, napi_value exports);
void rbd_exports(napi_env env, napi_value exports);

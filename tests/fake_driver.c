/* A libcuda.so.1 without a GPU: what numba-cuda asks of the driver in order to compile and launch.

   Contexts are current per thread, as in CUDA. Launches are recorded, not run. The environment says how many
   GPUs there are (FAKE_GPUS) and of which compute capability (FAKE_CAPABILITY, 90 for 9.0). */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INVALID_DEVICE = 101, INVALID_CONTEXT = 201, NOT_FOUND = 500, GPUS = 8, DEPTH = 64, NAMES = 256 };

static char contexts[GPUS][64];
static __thread void *stack[DEPTH];
static __thread int depth;

static const char *names[NAMES];
static int counts[NAMES], known;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Of the last launch: GPU (-1: no context is current), stream, grid, threads, the first three arguments. */
static int64_t launched[9];

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static void called(const char *name) {
    int i = 0;
    pthread_mutex_lock(&lock);
    while (i < known && strcmp(names[i], name)) i++;
    if (i == known && known < NAMES) names[known++] = name;
    if (i < NAMES) counts[i]++;
    pthread_mutex_unlock(&lock);
}

static void *current(void) { return depth ? stack[depth - 1] : NULL; }
static int gpu_of(void *context) { return context ? (int)(((char *)context - contexts[0]) / sizeof contexts[0]) : -1; }

/* For the test. */
int fake_count(const char *name) {
    for (int i = 0; i < known; i++) if (!strcmp(names[i], name)) return counts[i];
    return 0;
}
int fake_calls(void) { int all = 0; for (int i = 0; i < known; i++) all += counts[i]; return all; }
int64_t fake_launched(int i) { return launched[i]; }

#define CALL(name, ...) int name(__VA_ARGS__) { called(#name);
#define END return 0; }

CALL(cuInit, unsigned flags) END
CALL(cuDriverGetVersion, int *version) *version = 13000; END
CALL(cuDeviceGetCount, int *count) *count = number("FAKE_GPUS", 1); END
CALL(cuDeviceGet, int *device, int index)
    if (index >= number("FAKE_GPUS", 1)) return INVALID_DEVICE;
    *device = index; END
CALL(cuDeviceGetName, char *name, int size, int device) snprintf(name, size, "no GPU"); END
CALL(cuDeviceGetUuid, char *uuid, int device) memset(uuid, device + 1, 16); END
CALL(cuDeviceGetAttribute, int *value, int attribute, int device)
    int capability = number("FAKE_CAPABILITY", 90);
    *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : 1024; END
CALL(cuDevicePrimaryCtxRetain, void **context, int device) *context = contexts[device]; END
CALL(cuDevicePrimaryCtxRelease, int device) END
CALL(cuDevicePrimaryCtxGetState, int device, unsigned *flags, int *active) *flags = 0; *active = 1; END
CALL(cuCtxPushCurrent, void *context) stack[depth++] = context; END
CALL(cuCtxPopCurrent, void **context)
    if (!depth) return INVALID_CONTEXT;
    void *last = stack[--depth];
    if (context) *context = last; END
CALL(cuCtxSetCurrent, void *context)
    if (!depth) depth = 1;
    stack[depth - 1] = context; END
CALL(cuCtxGetCurrent, void **context) *context = current(); END
CALL(cuCtxGetDevice, int *device)
    if (!depth) return INVALID_CONTEXT;
    *device = gpu_of(current()); END
CALL(cuMemGetInfo, size_t *unused, size_t *total) *unused = *total = (size_t)1 << 34; END
CALL(cuPointerGetAttribute, void *value, int attribute, void *pointer)
    if (attribute == 3) *(void **)value = pointer; else if (attribute == 1) *(void **)value = current();
    else *(int *)value = attribute == 2 ? 2 : 0; END
CALL(cuLibraryLoadData, void **library, const void *code, void *a, void *b, unsigned c, void *d, void *e, unsigned f)
    if (memcmp(code, "\177ELF", 4)) return NOT_FOUND;
    *library = calloc(1, 64); END
CALL(cuLibraryUnload, void *library) END
CALL(cuLibraryGetKernel, void **kernel, void *library, const char *name) *kernel = library; END
CALL(cuLibraryGetGlobal, void **pointer, size_t *size, void *library, const char *name) return NOT_FOUND; }
CALL(cuKernelGetFunction, void **function, void *kernel) *function = kernel; END
CALL(cuKernelGetAttribute, int *value, int attribute, void *kernel, int device) *value = attribute ? 32 : 1024; END
CALL(cuFuncGetAttribute, int *value, int attribute, void *function) *value = attribute ? 32 : 1024; END

typedef struct { unsigned grid[3], block[3], shared; void *stream; void *attributes; unsigned count; } Config;

CALL(cuLaunchKernelEx, const Config *config, void *kernel, void **arguments, void **extra)
    launched[0] = gpu_of(current());
    launched[1] = (int64_t)config->stream;
    for (int i = 0; i < 3; i++) launched[2 + i] = config->grid[i];
    launched[5] = config->block[0];
    for (int i = 0; i < 3; i++) launched[6 + i] = *(int64_t *)arguments[i];
    if (!depth) return INVALID_CONTEXT; END

CALL(cuGetErrorName, int error, const char **text) *text = "CUDA_ERROR_FAKE"; END
CALL(cuGetErrorString, int error, const char **text) *text = "an error of the fake driver"; END

int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *found) {
    static void *self;
    if (!self) self = dlopen("libcuda.so.1", RTLD_NOW);
    *function = strcmp(name, "cuGetProcAddress") ? dlsym(self, name) : (void *)cuGetProcAddress_v2;
    if (found) *found = *function ? 0 : 1;
    return *function ? 0 : NOT_FOUND;
}
int cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}

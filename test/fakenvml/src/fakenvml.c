// A stand-in for libnvidia-ml.so.1. See ../doc.go for its purpose; the world it
// reports is a file of key=value lines, its events a file of "gpu type data
// [gi ci]" lines beside it with the suffix ".events".
//
// Compiled against the nvml.h of the go-nvml module: the compiler checks every
// signature against the header, so the stand-in cannot drift from the real ABI.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "nvml.h"

#define API __attribute__((visibility("default")))
enum { MAX_GPUS = 16, MAX_MIG = 8, MAX_KEYS = 4096, MAX_LINE = 512 };
#define NO_INSTANCE 0xFFFFFFFFu

struct nvmlDevice_st { int gpu, mig; };           // mig is -1 for a whole GPU
struct nvmlGpuInstance_st { int gpu, mig; };
struct nvmlComputeInstance_st { int gpu, mig; };
struct nvmlEventSet_st { long offset; unsigned long long mask[MAX_GPUS]; };

static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static struct { char *key, *val; } world[MAX_KEYS];
static int world_len;
static struct stat world_stat;
static int refs;                                  // Init calls not yet undone
static int order[MAX_GPUS], order_len;            // enumeration, frozen at Init
static struct nvmlDevice_st whole[MAX_GPUS], slice[MAX_GPUS][MAX_MIG];
static struct nvmlGpuInstance_st gis[MAX_GPUS][MAX_MIG];
static struct nvmlComputeInstance_st cis[MAX_GPUS][MAX_MIG];

// ---- the world ----

static const char *state_path(void) {
  static char path[4096];
  const char *env = getenv("FAKE_NVML_STATE");
  Dl_info info;
  if (env && *env) return env;
  if (!path[0] && dladdr((void *)state_path, &info) && info.dli_fname) {
    const char *slash = strrchr(info.dli_fname, '/');
    int n = slash ? (int)(slash - info.dli_fname) : 1;
    snprintf(path, sizeof path, "%.*s/fakenvml.state", n, slash ? info.dli_fname : ".");
  }
  return path;
}

static void forget(void) {
  for (int i = 0; i < world_len; i++) free(world[i].key);
  world_len = 0;
}

// reload reads the world again if its file was replaced or changed.
static void reload(void) {
  struct stat st;
  if (stat(state_path(), &st)) { forget(); memset(&world_stat, 0, sizeof world_stat); return; }
  if (st.st_ino == world_stat.st_ino && st.st_size == world_stat.st_size &&
      st.st_mtim.tv_sec == world_stat.st_mtim.tv_sec && st.st_mtim.tv_nsec == world_stat.st_mtim.tv_nsec) return;
  FILE *f = fopen(state_path(), "r");
  if (!f) return;
  forget();
  char line[MAX_LINE];
  while (world_len < MAX_KEYS && fgets(line, sizeof line, f)) {
    char *eq = strchr(line, '=');
    line[strcspn(line, "\r\n")] = 0;
    if (line[0] == '#' || !eq) continue;
    char *copy = strdup(line);
    copy[eq - line] = 0;
    world[world_len].key = copy;
    world[world_len++].val = copy + (eq - line) + 1;
  }
  fclose(f);
  world_stat = st;
}

static const char *get(const char *key) {
  for (int i = 0; i < world_len; i++)
    if (!strcmp(world[i].key, key)) return world[i].val;
  return NULL;
}

static const char *gstr(const struct nvmlDevice_st *d, const char *name, const char *def) {
  char key[128];
  if (d->mig >= 0) snprintf(key, sizeof key, "gpu.%d.mig.%d.%s", d->gpu, d->mig, name);
  else snprintf(key, sizeof key, "gpu.%d.%s", d->gpu, name);
  const char *v = get(key);
  return v ? v : def;
}

static long long num(const char *v, long long def) { return v ? strtoll(v, NULL, 0) : def; }
static long long gnum(const struct nvmlDevice_st *d, const char *name, long long def) { return num(gstr(d, name, NULL), def); }

static int present(int gpu) {
  struct nvmlDevice_st d = {gpu, -1};
  return gstr(&d, "uuid", NULL) && !gnum(&d, "absent", 0);
}

static nvmlReturn_t put(char *out, unsigned len, const char *v) {
  if (!out) return NVML_ERROR_INVALID_ARGUMENT;
  if (strlen(v) >= len) return NVML_ERROR_INSUFFICIENT_SIZE;
  strcpy(out, v);
  return NVML_SUCCESS;
}

// misbehave obeys hang= and crash=: the name of a function, or "all".
static void misbehave(const char *func) {
  const char *h = get("hang"), *c = get("crash");
  if (c && (!strcmp(c, func) || !strcmp(c, "all"))) abort();
  if (h && (!strcmp(h, func) || !strcmp(h, "all"))) {
    pthread_mutex_unlock(&mu);
    for (;;) pause();
  }
}

#define RET(x) do { nvmlReturn_t _r = (x); pthread_mutex_unlock(&mu); return _r; } while (0)
#define ENTER0 pthread_mutex_lock(&mu); reload(); misbehave(__func__); if (!refs) RET(NVML_ERROR_UNINITIALIZED)
// ENTER checks the handle "device": a GPU that is gone or lost answers nothing.
#define ENTER ENTER0; struct nvmlDevice_st *d = device.handle; if (!d) RET(NVML_ERROR_INVALID_ARGUMENT); \
  { struct nvmlDevice_st p = {d->gpu, -1}; if (!present(d->gpu) || gnum(&p, "lost", 0)) RET(NVML_ERROR_GPU_IS_LOST); }
#define WHOLE if (d->mig >= 0) RET(NVML_ERROR_NOT_SUPPORTED)
#define SLICE if (d->mig < 0) RET(NVML_ERROR_NOT_SUPPORTED)

// ---- library and system ----

static nvmlReturn_t init(void) {
  pthread_mutex_lock(&mu);
  reload();
  misbehave("nvmlInit_v2");
  long long e = num(get("init_error"), 0);
  if (e) RET((nvmlReturn_t)e);
  if (refs++ == 0) {
    order_len = 0;
    for (int g = 0; g < MAX_GPUS; g++) {
      whole[g] = (struct nvmlDevice_st){g, -1};
      for (int m = 0; m < MAX_MIG; m++) {
        slice[g][m] = (struct nvmlDevice_st){g, m};
        gis[g][m] = (struct nvmlGpuInstance_st){g, m};
        cis[g][m] = (struct nvmlComputeInstance_st){g, m};
      }
      if (present(g)) order[order_len++] = g;
    }
  }
  RET(NVML_SUCCESS);
}
API nvmlReturn_t nvmlInit_v2(void) { return init(); }
API nvmlReturn_t nvmlInitWithFlags(unsigned int flags) { (void)flags; return init(); }
API nvmlReturn_t nvmlShutdown(void) { ENTER0; refs--; RET(NVML_SUCCESS); }

API const char *nvmlErrorString(nvmlReturn_t r) {
  switch (r) {
  case NVML_SUCCESS: return "Success";
  case NVML_ERROR_UNINITIALIZED: return "Uninitialized";
  case NVML_ERROR_INVALID_ARGUMENT: return "Invalid Argument";
  case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
  case NVML_ERROR_NO_PERMISSION: return "Insufficient Permissions";
  case NVML_ERROR_NOT_FOUND: return "Not Found";
  case NVML_ERROR_INSUFFICIENT_SIZE: return "Insufficient Size";
  case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
  case NVML_ERROR_TIMEOUT: return "Timeout";
  case NVML_ERROR_GPU_IS_LOST: return "GPU is lost";
  case NVML_ERROR_LIB_RM_VERSION_MISMATCH: return "Driver/library version mismatch";
  default: return "Unknown Error";
  }
}
API nvmlReturn_t nvmlSystemGetDriverVersion(char *v, unsigned int n) { ENTER0; RET(put(v, n, get("driver_version") ?: "570.124.06")); }
API nvmlReturn_t nvmlSystemGetNVMLVersion(char *v, unsigned int n) { ENTER0; RET(put(v, n, get("nvml_version") ?: "12.570.124.06")); }
API nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *v) { ENTER0; *v = (int)num(get("cuda_version"), 12080); RET(NVML_SUCCESS); }

// ---- finding devices ----

API nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *n) { ENTER0; *n = (unsigned)order_len; RET(NVML_SUCCESS); }

static nvmlReturn_t handle(int gpu, nvmlDevice_t *out) {
  if (!present(gpu) || gnum(&whole[gpu], "lost", 0)) return NVML_ERROR_GPU_IS_LOST;
  out->handle = &whole[gpu];
  return NVML_SUCCESS;
}
API nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int i, nvmlDevice_t *out) {
  ENTER0;
  if (i >= (unsigned)order_len) RET(NVML_ERROR_INVALID_ARGUMENT);
  RET(handle(order[i], out));
}
API nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *out) {
  ENTER0;
  for (int i = 0; i < order_len; i++) {
    int g = order[i];
    if (!strcmp(gstr(&whole[g], "uuid", ""), uuid)) RET(handle(g, out));
    for (int m = 0; m < MAX_MIG; m++)
      if (!strcmp(gstr(&slice[g][m], "uuid", ""), uuid)) {
        nvmlReturn_t r = handle(g, out);
        if (r == NVML_SUCCESS) out->handle = &slice[g][m];
        RET(r);
      }
  }
  RET(NVML_ERROR_NOT_FOUND);
}
API nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *id, nvmlDevice_t *out) {
  ENTER0;
  for (int i = 0; i < order_len; i++)
    if (!strcasecmp(gstr(&whole[order[i]], "pci_bus_id", ""), id)) RET(handle(order[i], out));
  RET(NVML_ERROR_NOT_FOUND);
}
API nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *out) {
  ENTER;
  for (int i = 0; i < order_len; i++)
    if (order[i] == d->gpu) *out = (unsigned)(d->mig >= 0 ? d->mig : i);
  RET(NVML_SUCCESS);
}

// ---- what a device is ----

API nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *v, unsigned int n) { ENTER; RET(put(v, n, gstr(d, "uuid", ""))); }
API nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *v, unsigned int n) { ENTER; RET(put(v, n, gstr(d, "name", gstr(&whole[d->gpu], "name", "NVIDIA Fake")))); }
API nvmlReturn_t nvmlDeviceGetSerial(nvmlDevice_t device, char *v, unsigned int n) {
  ENTER; WHOLE;
  const char *s = gstr(d, "serial", NULL);
  RET(s ? put(v, n, s) : NVML_ERROR_NOT_SUPPORTED);
}
API nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *v) { ENTER; WHOLE; *v = (unsigned)gnum(d, "minor", d->gpu); RET(NVML_SUCCESS); }
API nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, nvmlDeviceArchitecture_t *v) { ENTER; *v = (nvmlDeviceArchitecture_t)gnum(&whole[d->gpu], "arch", NVML_DEVICE_ARCH_AMPERE); RET(NVML_SUCCESS); }
API nvmlReturn_t nvmlDeviceGetBrand(nvmlDevice_t device, nvmlBrandType_t *v) { ENTER; *v = (nvmlBrandType_t)gnum(&whole[d->gpu], "brand", NVML_BRAND_NVIDIA); RET(NVML_SUCCESS); }
API nvmlReturn_t nvmlDeviceGetNumaNodeId(nvmlDevice_t device, unsigned int *v) {
  ENTER; WHOLE;
  if (!gstr(d, "numa", NULL)) RET(NVML_ERROR_NOT_SUPPORTED);
  *v = (unsigned)gnum(d, "numa", 0);
  RET(NVML_SUCCESS);
}
API nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor) {
  ENTER;
  int cc = (int)gnum(&whole[d->gpu], "compute_capability", 80);
  *major = cc / 10; *minor = cc % 10;
  RET(NVML_SUCCESS);
}
static void pci(const struct nvmlDevice_st *d, nvmlPciInfo_t *v) {
  char def[32];
  snprintf(def, sizeof def, "00000000:%02X:00.0", d->gpu + 1);
  memset(v, 0, sizeof *v);
  snprintf(v->busId, sizeof v->busId, "%s", gstr(d, "pci_bus_id", def));
  snprintf(v->busIdLegacy, sizeof v->busIdLegacy, "%.12s", v->busId + 4);
  sscanf(v->busId, "%x:%x:%x", &v->domain, &v->bus, &v->device);
  v->pciDeviceId = (unsigned)gnum(d, "pci_device_id", 0x223010DE);
}
API nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *v) { ENTER; WHOLE; pci(d, v); RET(NVML_SUCCESS); }

// ---- readings ----

API nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *v) {
  ENTER;
  v->total = (unsigned long long)gnum(d, "mem_total", 0);
  v->used = (unsigned long long)gnum(d, "mem_used", 0);
  v->free = v->total - v->used;
  RET(NVML_SUCCESS);
}
API nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *u) {
  ENTER; WHOLE;
  u->gpu = (unsigned)gnum(d, "util_gpu", 0);
  u->memory = (unsigned)gnum(d, "util_mem", 0);
  RET(NVML_SUCCESS);
}
API nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t s, unsigned int *v) { (void)s; ENTER; WHOLE; *v = (unsigned)gnum(d, "temp", 35); RET(NVML_SUCCESS); }
API nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *v) { ENTER; WHOLE; *v = (unsigned)gnum(d, "power_mw", 25000); RET(NVML_SUCCESS); }
API nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device, unsigned int *v) { ENTER; WHOLE; *v = (unsigned)gnum(d, "power_limit_mw", 300000); RET(NVML_SUCCESS); }
API nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, nvmlEnableState_t *cur, nvmlEnableState_t *pend) {
  ENTER; WHOLE;
  if (!gstr(d, "ecc", NULL)) RET(NVML_ERROR_NOT_SUPPORTED);
  *cur = *pend = (nvmlEnableState_t)gnum(d, "ecc", 0);
  RET(NVML_SUCCESS);
}
API nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, nvmlMemoryErrorType_t type, nvmlEccCounterType_t counter, unsigned long long *v) {
  (void)counter;
  ENTER; WHOLE;
  if (!gnum(d, "ecc", 0)) RET(NVML_ERROR_NOT_SUPPORTED);
  *v = (unsigned long long)gnum(d, type == NVML_MEMORY_ERROR_TYPE_UNCORRECTED ? "ecc_unc" : "ecc_cor", 0);
  RET(NVML_SUCCESS);
}
API nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned int *cor, unsigned int *unc, unsigned int *pending, unsigned int *failed) {
  ENTER; WHOLE;
  *cor = (unsigned)gnum(d, "rows_cor", 0);
  *unc = (unsigned)gnum(d, "rows_unc", 0);
  *pending = (unsigned)gnum(d, "rows_pending", 0);
  *failed = (unsigned)gnum(d, "rows_failed", 0);
  RET(NVML_SUCCESS);
}
API nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int n, nvmlFieldValue_t *v) {
  ENTER;
  for (int i = 0; i < n; i++) {
    char name[32];
    snprintf(name, sizeof name, "field.%u", v[i].fieldId);
    v[i].nvmlReturn = gstr(d, name, NULL) ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
    v[i].valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
    memset(&v[i].value, 0, sizeof v[i].value);
    v[i].value.uiVal = (unsigned)gnum(d, name, 0);
  }
  RET(NVML_SUCCESS);
}

// ---- processes ----

static long long pnum(const struct nvmlDevice_st *d, int i, const char *name) {
  char key[64];
  snprintf(key, sizeof key, "proc.%d.%s", i, name);
  return gnum(d, key, 0);
}
API nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *n, nvmlProcessInfo_t *v) {
  ENTER;
  unsigned have = (unsigned)gnum(d, "nproc", 0), room = *n;
  *n = have;
  if (have > room) RET(NVML_ERROR_INSUFFICIENT_SIZE);
  for (unsigned i = 0; i < have; i++)
    v[i] = (nvmlProcessInfo_t){.pid = (unsigned)pnum(d, (int)i, "pid"), .usedGpuMemory = (unsigned long long)pnum(d, (int)i, "mem"),
                               .gpuInstanceId = NO_INSTANCE, .computeInstanceId = NO_INSTANCE};
  RET(NVML_SUCCESS);
}
API nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *v, unsigned int *n, unsigned long long since) {
  ENTER; WHOLE;
  (void)since;
  unsigned have = (unsigned)gnum(d, "nproc", 0), room = *n;
  *n = have;
  if (!have) RET(NVML_ERROR_NOT_FOUND);
  if (!v || have > room) RET(NVML_ERROR_INSUFFICIENT_SIZE);
  for (unsigned i = 0; i < have; i++) {
    memset(&v[i], 0, sizeof v[i]);
    v[i].pid = (unsigned)pnum(d, (int)i, "pid");
    v[i].smUtil = (unsigned)pnum(d, (int)i, "sm");
    v[i].timeStamp = (unsigned long long)time(NULL) * 1000000ull;
  }
  RET(NVML_SUCCESS);
}

// ---- topology ----

static long long pairnum(const struct nvmlDevice_st *a, const char *what, int peer, const char *tail, long long def) {
  char key[64];
  snprintf(key, sizeof key, "%s.%d%s", what, peer, tail);
  return gnum(a, key, def);
}
API nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t device, nvmlDevice_t peer, nvmlGpuTopologyLevel_t *v) {
  ENTER; WHOLE;
  if (!peer.handle) RET(NVML_ERROR_INVALID_ARGUMENT);
  *v = (nvmlGpuTopologyLevel_t)pairnum(d, "topo", peer.handle->gpu, "", NVML_TOPOLOGY_SYSTEM);
  RET(NVML_SUCCESS);
}
API nvmlReturn_t nvmlDeviceGetP2PStatus(nvmlDevice_t device, nvmlDevice_t peer, nvmlGpuP2PCapsIndex_t cap, nvmlGpuP2PStatus_t *v) {
  ENTER; WHOLE;
  if (!peer.handle) RET(NVML_ERROR_INVALID_ARGUMENT);
  char tail[16];
  snprintf(tail, sizeof tail, ".%d", (int)cap);
  *v = (nvmlGpuP2PStatus_t)pairnum(d, "p2p", peer.handle->gpu, tail, NVML_P2P_STATUS_NOT_SUPPORTED);
  RET(NVML_SUCCESS);
}
API nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned int link, nvmlEnableState_t *v) {
  ENTER; WHOLE;
  if (link >= (unsigned)gnum(d, "nvlinks", 0)) RET(NVML_ERROR_NOT_SUPPORTED);
  *v = NVML_FEATURE_ENABLED;
  RET(NVML_SUCCESS);
}
API nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t device, unsigned int link, nvmlPciInfo_t *v) {
  ENTER; WHOLE;
  if (link >= (unsigned)gnum(d, "nvlinks", 0)) RET(NVML_ERROR_NOT_SUPPORTED);
  long long peer = pairnum(d, "nvlink", (int)link, ".peer", -1);
  if (peer < 0 || peer >= MAX_GPUS) RET(NVML_ERROR_NOT_FOUND);
  pci(&whole[peer], v);
  RET(NVML_SUCCESS);
}

// ---- MIG ----

static int mig_on(int gpu) { return gnum(&whole[gpu], "mig_mode", 0) == 1; }
static int mig_there(int gpu, int m) { return m >= 0 && m < MAX_MIG && gstr(&slice[gpu][m], "uuid", NULL); }

API nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *cur, unsigned int *pend) {
  ENTER; WHOLE;
  if (!gstr(d, "mig_mode", NULL)) RET(NVML_ERROR_NOT_SUPPORTED);
  *cur = *pend = (unsigned)gnum(d, "mig_mode", 0);
  RET(NVML_SUCCESS);
}
API nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *n) { ENTER; WHOLE; *n = gstr(d, "mig_mode", NULL) ? MAX_MIG : 0; RET(NVML_SUCCESS); }
API nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int i, nvmlDevice_t *out) {
  ENTER; WHOLE;
  if (!mig_on(d->gpu) || !mig_there(d->gpu, (int)i)) RET(NVML_ERROR_NOT_FOUND);
  out->handle = &slice[d->gpu][i];
  RET(NVML_SUCCESS);
}
API nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned int *v) { ENTER; *v = d->mig >= 0; RET(NVML_SUCCESS); }
API nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t device, nvmlDevice_t *out) { ENTER; SLICE; out->handle = &whole[d->gpu]; RET(NVML_SUCCESS); }
API nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned int *v) { ENTER; SLICE; *v = (unsigned)gnum(d, "gi", d->mig + 1); RET(NVML_SUCCESS); }
API nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, unsigned int *v) { ENTER; SLICE; *v = (unsigned)gnum(d, "ci", 0); RET(NVML_SUCCESS); }
API nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *v) {
  ENTER; SLICE;
  memset(v, 0, sizeof *v);
  v->multiprocessorCount = (unsigned)gnum(d, "sm", 14);
  v->gpuInstanceSliceCount = (unsigned)gnum(d, "gi_slices", 1);
  v->computeInstanceSliceCount = (unsigned)gnum(d, "ci_slices", gnum(d, "gi_slices", 1));
  v->memorySizeMB = (unsigned long long)gnum(d, "mem_mb", 4864);
  RET(NVML_SUCCESS);
}

// The walk below is how the toolkit finds a slice's profile: the instance's
// profile id is searched among the profiles that the device offers. Here the
// id of a profile is its number.
static unsigned profile_of(long long slices) {
  switch (slices) {
  case 2: return NVML_GPU_INSTANCE_PROFILE_2_SLICE;
  case 3: return NVML_GPU_INSTANCE_PROFILE_3_SLICE;
  case 4: return NVML_GPU_INSTANCE_PROFILE_4_SLICE;
  case 7: return NVML_GPU_INSTANCE_PROFILE_7_SLICE;
  default: return NVML_GPU_INSTANCE_PROFILE_1_SLICE;
  }
}
API nvmlReturn_t nvmlDeviceGetGpuInstanceById(nvmlDevice_t device, unsigned int id, nvmlGpuInstance_t *out) {
  ENTER; WHOLE;
  for (int m = 0; m < MAX_MIG; m++)
    if (mig_there(d->gpu, m) && gnum(&slice[d->gpu][m], "gi", m + 1) == id) { out->handle = &gis[d->gpu][m]; RET(NVML_SUCCESS); }
  RET(NVML_ERROR_NOT_FOUND);
}
API nvmlReturn_t nvmlGpuInstanceGetComputeInstanceById(nvmlGpuInstance_t gi, unsigned int id, nvmlComputeInstance_t *out) {
  ENTER0;
  struct nvmlGpuInstance_st *h = gi.handle;
  if (!h) RET(NVML_ERROR_INVALID_ARGUMENT);
  long long want = gnum(&slice[h->gpu][h->mig], "gi", h->mig + 1);
  for (int m = 0; m < MAX_MIG; m++) {
    struct nvmlDevice_st *s = &slice[h->gpu][m];
    if (mig_there(h->gpu, m) && gnum(s, "gi", m + 1) == want && gnum(s, "ci", 0) == id) { out->handle = &cis[h->gpu][m]; RET(NVML_SUCCESS); }
  }
  RET(NVML_ERROR_NOT_FOUND);
}
API nvmlReturn_t nvmlGpuInstanceGetInfo(nvmlGpuInstance_t gi, nvmlGpuInstanceInfo_t *v) {
  ENTER0;
  struct nvmlGpuInstance_st *h = gi.handle;
  if (!h) RET(NVML_ERROR_INVALID_ARGUMENT);
  struct nvmlDevice_st *s = &slice[h->gpu][h->mig];
  memset(v, 0, sizeof *v);
  v->device.handle = &whole[h->gpu];
  v->id = (unsigned)gnum(s, "gi", h->mig + 1);
  v->profileId = (unsigned)gnum(s, "gi_profile", profile_of(gnum(s, "gi_slices", 1)));
  RET(NVML_SUCCESS);
}
API nvmlReturn_t nvmlComputeInstanceGetInfo_v2(nvmlComputeInstance_t ci, nvmlComputeInstanceInfo_t *v) {
  ENTER0;
  struct nvmlComputeInstance_st *h = ci.handle;
  if (!h) RET(NVML_ERROR_INVALID_ARGUMENT);
  struct nvmlDevice_st *s = &slice[h->gpu][h->mig];
  memset(v, 0, sizeof *v);
  v->device.handle = &whole[h->gpu];
  v->gpuInstance.handle = &gis[h->gpu][h->mig];
  v->id = (unsigned)gnum(s, "ci", 0);
  v->profileId = profile_of(gnum(s, "ci_slices", gnum(s, "gi_slices", 1)));
  RET(NVML_SUCCESS);
}
API nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfo(nvmlDevice_t device, unsigned int profile, nvmlGpuInstanceProfileInfo_t *v) {
  ENTER; WHOLE;
  memset(v, 0, sizeof *v);
  v->id = profile;
  RET(NVML_SUCCESS);
}
API nvmlReturn_t nvmlGpuInstanceGetComputeInstanceProfileInfo(nvmlGpuInstance_t gi, unsigned int profile, unsigned int engine, nvmlComputeInstanceProfileInfo_t *v) {
  ENTER0;
  if (!gi.handle || engine) RET(NVML_ERROR_INVALID_ARGUMENT);
  memset(v, 0, sizeof *v);
  v->id = profile;
  RET(NVML_SUCCESS);
}

// ---- events ----

static FILE *open_events(void) {
  char path[4200];
  snprintf(path, sizeof path, "%s.events", state_path());
  return fopen(path, "r");
}
API nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, unsigned long long *v) {
  ENTER;
  if (d->mig >= 0) RET(NVML_ERROR_INVALID_ARGUMENT);
  *v = (unsigned long long)gnum(d, "event_types", nvmlEventTypeXidCriticalError | nvmlEventTypeDoubleBitEccError | nvmlEventTypeSingleBitEccError);
  RET(NVML_SUCCESS);
}
API nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set) {
  ENTER0;
  FILE *f = open_events();
  set->handle = calloc(1, sizeof *set->handle);
  if (!set->handle) RET(NVML_ERROR_MEMORY);
  if (f) {
    fseek(f, 0, SEEK_END);
    set->handle->offset = ftell(f);
    fclose(f);
  }
  RET(NVML_SUCCESS);
}
API nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set) { ENTER0; free(set.handle); RET(NVML_SUCCESS); }
API nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types, nvmlEventSet_t set) {
  ENTER;
  if (!set.handle || d->mig >= 0) RET(NVML_ERROR_INVALID_ARGUMENT);
  unsigned long long can = (unsigned long long)gnum(d, "event_types", nvmlEventTypeXidCriticalError | nvmlEventTypeDoubleBitEccError | nvmlEventTypeSingleBitEccError);
  if (types & ~can) RET(NVML_ERROR_NOT_SUPPORTED);
  set.handle->mask[d->gpu] |= types;
  RET(NVML_SUCCESS);
}

// next_event takes the next whole line that the set listens to; 0 if none.
static int next_event(struct nvmlEventSet_st *s, nvmlEventData_t *out) {
  char line[MAX_LINE];
  FILE *f = open_events();
  int found = 0;
  if (!f) return 0;
  fseek(f, s->offset, SEEK_SET);
  while (!found && fgets(line, sizeof line, f)) {
    unsigned gpu, gi = NO_INSTANCE, ci = NO_INSTANCE;
    unsigned long long type, data;
    if (!strchr(line, '\n')) break;
    s->offset = ftell(f);
    if (sscanf(line, "%u %llu %llu %u %u", &gpu, &type, &data, &gi, &ci) < 3 || gpu >= MAX_GPUS || !(s->mask[gpu] & type)) continue;
    out->device.handle = &whole[gpu];
    out->eventType = type;
    out->eventData = data;
    out->gpuInstanceId = gi;
    out->computeInstanceId = ci;
    found = 1;
  }
  fclose(f);
  return found;
}
API nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeoutms) {
  for (unsigned waited = 0;; waited += 10) {
    ENTER0;
    long long e = num(get("wait_error"), 0);
    if (e) RET((nvmlReturn_t)e);
    if (!set.handle) RET(NVML_ERROR_INVALID_ARGUMENT);
    for (int g = 0; g < MAX_GPUS; g++)
      if (set.handle->mask[g] && (!present(g) || gnum(&whole[g], "wait_lost", 0))) RET(NVML_ERROR_GPU_IS_LOST);
    if (next_event(set.handle, data)) RET(NVML_SUCCESS);
    if (waited >= timeoutms) RET(NVML_ERROR_TIMEOUT);
    pthread_mutex_unlock(&mu);
    usleep(10000);
  }
}

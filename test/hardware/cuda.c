// Uses each GPU that CUDA finds: allocates, fills and reads back memory, and
// prints the card's UUID. Exits with 1 on the first error. It is built without
// NVIDIA's headers, so that nothing but the driver is needed.
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { words = 16 << 20 }; // 64 MiB

static void *lib;

static void *need(const char *name) {
	void *f = dlsym(lib, name);
	if (!f) {
		fprintf(stderr, "libcuda.so.1 has no %s\n", name);
		exit(1);
	}
	return f;
}

static void ok(const char *what, int result) {
	if (result != 0) {
		fprintf(stderr, "%s: CUDA error %d\n", what, result);
		exit(1);
	}
}

int main(void) {
	lib = dlopen("libcuda.so.1", RTLD_NOW);
	if (!lib) {
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	int (*init)(unsigned) = need("cuInit");
	int (*count)(int *) = need("cuDeviceGetCount");
	int (*device)(int *, int) = need("cuDeviceGet");
	int (*uuid)(unsigned char *, int) = need("cuDeviceGetUuid");
	int (*retain)(void **, int) = need("cuDevicePrimaryCtxRetain");
	int (*use)(void *) = need("cuCtxSetCurrent");
	int (*alloc)(uint64_t *, size_t) = need("cuMemAlloc_v2");
	int (*fill)(uint64_t, unsigned, size_t) = need("cuMemsetD32_v2");
	int (*read)(void *, uint64_t, size_t) = need("cuMemcpyDtoH_v2");

	int n;
	ok("cuInit", init(0));
	ok("cuDeviceGetCount", count(&n));
	uint32_t *back = malloc(words * sizeof *back);
	for (int i = 0; i < n; i++) {
		int dev;
		void *ctx;
		uint64_t mem;
		unsigned char u[16];
		ok("cuDeviceGet", device(&dev, i));
		ok("cuDeviceGetUuid", uuid(u, dev));
		ok("cuDevicePrimaryCtxRetain", retain(&ctx, dev));
		ok("cuCtxSetCurrent", use(ctx));
		ok("cuMemAlloc", alloc(&mem, words * sizeof *back));
		ok("cuMemsetD32", fill(mem, 0xC0FFEE00u + i, words));
		ok("cuMemcpyDtoH", read(back, mem, words * sizeof *back));
		for (int w = 0; w < words; w++) {
			if (back[w] != 0xC0FFEE00u + i) {
				fprintf(stderr, "device %d: word %d is %08x\n", i, w, back[w]);
				return 1;
			}
		}
		printf("cuda GPU-");
		for (int b = 0; b < 16; b++) {
			printf(b == 4 || b == 6 || b == 8 || b == 10 ? "-%02x" : "%02x", u[b]);
		}
		printf("\n");
	}
	return 0;
}

/*
 * What the fuzz targets share: libFuzzer's entry points, and a check that ends the process with
 * the place, so that the fuzzer keeps the input. NDEBUG does not take it away.
 */
#ifndef VGPUFS_FUZZ_H
#define VGPUFS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fuzz_failed(__FILE__, __LINE__, #condition);                                           \
    } while (0)

_Noreturn void fuzz_failed(const char *file, int line, const char *condition);

/* fuzz_copy returns the bytes in an allocation of exactly `size` and a NUL, to be free()d: a
 * sanitizer sees any read beyond. */
char *fuzz_copy(const uint8_t *data, size_t size);

#endif

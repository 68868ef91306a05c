#include "driver.h"

#include "common/log.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The version of the entry points that cuGetProcAddress is asked for. */
#define ENTRY_VERSION 12000

struct driver driver;

static void *library;
static cuGetProcAddress_v2_type *get_address;
static cuGetProcAddress_type *get_address_11;

static const struct call {
    const char *name, *exported;
    size_t offset;
    bool optional;
} calls[] = {
#define NEEDED(name, exported, parameters) {#name, #exported, offsetof(struct driver, name), false},
#define OPTIONAL(name, exported, parameters)                                                       \
    {#name, #exported, offsetof(struct driver, name), true},
    FOR_EACH_NEEDED_CALL(NEEDED) FOR_EACH_OPTIONAL_CALL(OPTIONAL)
#undef NEEDED
#undef OPTIONAL
};

static const struct {
    CUresult result;
    enum driver_fault fault;
} faults[] = {
    {CUDA_ERROR_NOT_INITIALIZED, DRIVER_FAULT_DEVICE},
    {CUDA_ERROR_DEINITIALIZED, DRIVER_FAULT_DEVICE},
    {CUDA_ERROR_DEVICE_UNAVAILABLE, DRIVER_FAULT_RETRYABLE},
    {CUDA_ERROR_NO_DEVICE, DRIVER_FAULT_DEVICE},
    {CUDA_ERROR_INVALID_DEVICE, DRIVER_FAULT_DEVICE},
    {CUDA_ERROR_DEVICE_NOT_LICENSED, DRIVER_FAULT_DEVICE},
    {CUDA_ERROR_INVALID_CONTEXT, DRIVER_FAULT_DEVICE},
    {CUDA_ERROR_ECC_UNCORRECTABLE, DRIVER_FAULT_DEVICE},
    {CUDA_ERROR_NVLINK_UNCORRECTABLE, DRIVER_FAULT_DEVICE},
    {CUDA_ERROR_CONTAINED, DRIVER_FAULT_STICKY},
    {CUDA_ERROR_ILLEGAL_ADDRESS, DRIVER_FAULT_STICKY},
    {CUDA_ERROR_LAUNCH_TIMEOUT, DRIVER_FAULT_STICKY},
    {CUDA_ERROR_CONTEXT_IS_DESTROYED, DRIVER_FAULT_STICKY},
    {CUDA_ERROR_ASSERT, DRIVER_FAULT_STICKY},
    {CUDA_ERROR_HARDWARE_STACK_ERROR, DRIVER_FAULT_STICKY},
    {CUDA_ERROR_ILLEGAL_INSTRUCTION, DRIVER_FAULT_STICKY},
    {CUDA_ERROR_MISALIGNED_ADDRESS, DRIVER_FAULT_STICKY},
    {CUDA_ERROR_INVALID_ADDRESS_SPACE, DRIVER_FAULT_STICKY},
    {CUDA_ERROR_INVALID_PC, DRIVER_FAULT_STICKY},
    {CUDA_ERROR_LAUNCH_FAILED, DRIVER_FAULT_STICKY},
    {CUDA_ERROR_TENSOR_MEMORY_LEAK, DRIVER_FAULT_STICKY},
    {CUDA_ERROR_SYSTEM_NOT_READY, DRIVER_FAULT_RETRYABLE},
    {CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, DRIVER_FAULT_DEVICE},
    {CUDA_ERROR_MPS_CONNECTION_FAILED, DRIVER_FAULT_RETRYABLE},
    {CUDA_ERROR_MPS_RPC_FAILURE, DRIVER_FAULT_STICKY},
    {CUDA_ERROR_MPS_SERVER_NOT_READY, DRIVER_FAULT_RETRYABLE},
    {CUDA_ERROR_MPS_MAX_CLIENTS_REACHED, DRIVER_FAULT_RETRYABLE},
    {CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED, DRIVER_FAULT_RETRYABLE},
    {CUDA_ERROR_MPS_CLIENT_TERMINATED, DRIVER_FAULT_STICKY},
    {CUDA_ERROR_UNKNOWN, DRIVER_FAULT_DEVICE},
};

/* What people can do about an error of cuInit, which is where a broken installation shows. */
static const struct {
    CUresult result;
    const char *advice;
} installation[] = {
    {CUDA_ERROR_STUB_LIBRARY,
     "the " DRIVER_LIBRARY
     " that was found is the CUDA toolkit's stub, for linking alone: take the toolkit's "
     "directory lib64/stubs out of LD_LIBRARY_PATH"},
    {CUDA_ERROR_NO_DEVICE,
     "the driver finds no device: look at nvidia-smi -L, at CUDA_VISIBLE_DEVICES, and whether "
     "/dev/nvidia* may be opened"},
    {CUDA_ERROR_SYSTEM_DRIVER_MISMATCH,
     DRIVER_LIBRARY " and the kernel's driver are of different versions: restart the machine after "
                    "a driver update"},
    {CUDA_ERROR_UNKNOWN, "is the kernel's module nvidia_uvm loaded? Try nvidia-smi, or "
                         "nvidia-modprobe -u -c 0"},
};

static const char *advice_of(CUresult result)
{
    for (size_t i = 0; i < sizeof(installation) / sizeof(installation[0]); i++)
        if (installation[i].result == result)
            return installation[i].advice;
    return NULL;
}

static enum driver_fault fault_of(CUresult result)
{
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
        if (faults[i].result == result)
            return faults[i].fault;
    return DRIVER_FAULT_JOB;
}

const char *driver_fault_name(enum driver_fault fault)
{
    static const char *const names[] = {
        [DRIVER_FAULT_JOB] = "job",
        [DRIVER_FAULT_RETRYABLE] = "retryable",
        [DRIVER_FAULT_STICKY] = "sticky",
        [DRIVER_FAULT_DEVICE] = "device",
    };
    return names[fault];
}

enum driver_fault driver_explain(CUresult result, const char *call, char *error, size_t size)
{
    static const char *const consequences[] = {
        [DRIVER_FAULT_JOB] = "",
        [DRIVER_FAULT_RETRYABLE] = ": try again later",
        [DRIVER_FAULT_STICKY] = ": the executor starts anew",
        [DRIVER_FAULT_DEVICE] = ": the executor starts anew and probes the device",
    };
    const char *name = NULL, *text = NULL;
    enum driver_fault fault = fault_of(result);
    if (driver.cuGetErrorName)
        driver.cuGetErrorName(result, &name);
    if (driver.cuGetErrorString)
        driver.cuGetErrorString(result, &text);
    snprintf(error, size, "%s: %s (%d)%s%s%s", call, name ? name : "CUDA error", result,
             text ? ", " : "", text ? text : "", consequences[fault]);
    return fault;
}

/* find_address: the address of an entry point, or NULL. */
static void *find_address(const struct call *call)
{
    void *address = NULL;
    int found = 0;
    CUresult result = get_address ? get_address(call->name, &address, ENTRY_VERSION, 0, &found)
                                  : get_address_11(call->name, &address, ENTRY_VERSION, 0);
    return result == CUDA_SUCCESS && found == 0 && address ? address
                                                           : dlsym(library, call->exported);
}

bool driver_has(const char *name, const char *exported)
{
    struct call call = {.name = name, .exported = exported};
    return find_address(&call) != NULL;
}

static int find_calls(char *error, size_t size)
{
    char missing[512] = "";
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        void *address = find_address(&calls[i]);
        size_t used = strlen(missing);
        if (!address && !calls[i].optional) {
            snprintf(error, size,
                     DRIVER_LIBRARY " has no %s: install a newer NVIDIA driver (CUDA 12 or later)",
                     calls[i].name);
            return -1;
        }
        if (!address)
            snprintf(missing + used, sizeof(missing) - used, " %s", calls[i].name);
        memcpy((char *)&driver + calls[i].offset, &address, sizeof(address));
    }
    if (missing[0])
        log_warning("the driver lacks%s: the cuda backend goes on without", missing);
    return 0;
}

/* library_is_stub: the toolkit's stub answers every call alike. */
static bool library_is_stub(void)
{
    void *address = NULL;
    int found = 0;
    return (get_address
                ? get_address("cuInit", &address, ENTRY_VERSION, 0, &found)
                : get_address_11("cuInit", &address, ENTRY_VERSION, 0)) == CUDA_ERROR_STUB_LIBRARY;
}

static int load_library(char *error, size_t size)
{
    library = dlopen(DRIVER_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *why = dlerror();
        snprintf(error, size,
                 "%s: install the NVIDIA driver's user-space library " DRIVER_LIBRARY " (Debian: "
                 "libcuda1; Ubuntu: libnvidia-compute-*; Fedora: "
                 "xorg-x11-drv-nvidia-cuda-libs)",
                 why ? why : DRIVER_LIBRARY " cannot be loaded");
        return -1;
    }
    /* ISO C has no conversion from an object pointer to a function's; POSIX dlsym(3) relies on it.
     */
    void *symbol = dlsym(library, "cuGetProcAddress_v2");
    memcpy(&get_address, &symbol, sizeof(symbol));
    symbol = dlsym(library, "cuGetProcAddress");
    memcpy(&get_address_11, &symbol, sizeof(symbol));
    if (!get_address && !get_address_11)
        snprintf(error, size,
                 DRIVER_LIBRARY
                 " has no cuGetProcAddress: the driver is older than CUDA 11.3: install "
                 "a newer one");
    else if (library_is_stub())
        snprintf(error, size, "%s", advice_of(CUDA_ERROR_STUB_LIBRARY));
    else
        return 0;
    return -1;
}

static int initialise(char *error, size_t size)
{
    /* Kernels are loaded when the executor starts, not in the first job that uses one (CUDA
     * Programming Guide, "Lazy Loading"). What the administrator has set holds. */
    setenv("CUDA_MODULE_LOADING", "EAGER", 0);
    CUresult result = driver.cuInit(0);
    if (result == CUDA_SUCCESS)
        return 0;
    driver_explain(result, "cuInit", error, size);
    if (advice_of(result))
        snprintf(error, size, "cuInit: error %d: %s", result, advice_of(result));
    return -1;
}

int driver_load(char *error, size_t size)
{
    static bool loaded;
    /* What does not work stays loaded: nobody promises that the library can be unloaded. */
    if (!loaded)
        loaded = load_library(error, size) == 0 && find_calls(error, size) == 0 &&
                 initialise(error, size) == 0;
    return loaded ? 0 : -1;
}

int driver_version(void)
{
    int version = 0;
    return driver.cuDriverGetVersion(&version) == CUDA_SUCCESS ? version : 0;
}

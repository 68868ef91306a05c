#include "device.h"

#include "blas.h"
#include "fft_library.h"

#include "common/log.h"
#include "common/number.h"
#include "driver.h"
#include "executor/generate.h"
#include "image.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Blocks of an array kernel for each multiprocessor: 2048 threads, the most that one can hold. */
#define BLOCKS_PER_MULTIPROCESSOR 8
/* The driver's pool keeps up to that much for the next job instead of giving it back. */
#define POOL_KEEPS_BYTES ((uint64_t)1 << 30)
#define PROBE_ELEMENTS   1021

struct device device;

static struct {
    bool context; /* is retained */
    CUmodule module;
    CUfunction functions[KERNEL_COUNT];
    struct {
        CUdeviceptr address;
        size_t bytes;
    } allocations[DEVICE_MAX_ALLOCATIONS];
    size_t allocation_count;
    uint64_t allocated_bytes;
    char broken[JOB_ERROR_SIZE]; /* why; "" if not */
} state;

#ifdef KERNELS_IMAGE
static const char *const kernel_names[] = {
#define KERNEL_NAME(name) #name,
    FOR_EACH_KERNEL(KERNEL_NAME)
#undef KERNEL_NAME
};
#endif

/* check: 0 if the call worked, else -1 and the job has failed, and perhaps no other can follow. */
static int check(struct job *job, CUresult result, const char *call)
{
    char error[JOB_ERROR_SIZE];
    if (result == CUDA_SUCCESS)
        return 0;
    enum driver_fault fault = driver_explain(result, call, error, sizeof(error));
    if ((fault == DRIVER_FAULT_STICKY || fault == DRIVER_FAULT_DEVICE) && !state.broken[0])
        snprintf(state.broken, sizeof(state.broken), "%s", error);
    job_fail(job, "%s", error);
    job->fault = driver_fault_name(fault);
    return -1;
}

#define CHECK(job, call, arguments) check(job, driver.call arguments, #call)

const char *device_broken(void)
{
    return state.broken[0] ? state.broken : NULL;
}

static int clear(struct job *job, CUdeviceptr address, uint64_t bytes)
{
    struct device_lane *lane = &device.lanes[0];
    if (driver.cuMemsetD8Async)
        return CHECK(job, cuMemsetD8Async, (address, 0, bytes, lane->stream));
    void *arguments[] = {&address, &bytes};
    return device_launch_array(job, lane, KERNEL_clear, bytes / 16, arguments);
}

/* allocate is device_allocate_if_room without a word about what is lacking. */
static int allocate(struct job *job, size_t bytes, CUdeviceptr *address)
{
    if (state.allocation_count == DEVICE_MAX_ALLOCATIONS)
        abort(); /* a mistake in the workload */
    CUstream stream = device.lanes[0].stream;
    CUresult result = device.pooled ? driver.cuMemAllocAsync(address, bytes, stream)
                                    : driver.cuMemAlloc(address, bytes);
    if (result == CUDA_ERROR_OUT_OF_MEMORY)
        return 0;
    if (check(job, result, device.pooled ? "cuMemAllocAsync" : "cuMemAlloc") < 0)
        return -1;
    state.allocations[state.allocation_count].address = *address;
    state.allocations[state.allocation_count++].bytes = bytes;
    state.allocated_bytes += bytes;
    /* An executor that was killed, or another program, may have left something in it. */
    if (device.scrubbed && clear(job, *address, bytes) < 0)
        return -1;
    /* The memory is there, and clear, in the order of its stream; the other lane is to have it too.
     */
    if ((device.pooled || device.scrubbed) && CHECK(job, cuStreamSynchronize, (stream)) < 0)
        return -1;
    return 1;
}

int device_allocate_if_room(struct job *job, size_t bytes, CUdeviceptr *address)
{
    return bytes > device.job_memory_bytes - state.allocated_bytes ? 0
                                                                   : allocate(job, bytes, address);
}

int device_allocate(struct job *job, size_t bytes, CUdeviceptr *address)
{
    if (bytes > device.job_memory_bytes - state.allocated_bytes) {
        job_fail(job,
                 "the pool's device_memory of %" PRIu64 " MiB does not do for this job: take a "
                 "smaller one",
                 device.job_memory_bytes >> 20);
        return -1;
    }
    int got = allocate(job, bytes, address);
    if (got == 0)
        job_fail(job, "the device has no %zu MiB of memory left: take a smaller job",
                 (bytes >> 20) + 1);
    return got > 0 ? 0 : -1;
}

int device_copy_in(struct job *job, struct device_lane *lane, CUdeviceptr to, const void *from,
                   size_t bytes)
{
    return CHECK(job, cuMemcpyHtoDAsync, (to, from, bytes, lane->stream));
}

int device_copy_out(struct job *job, struct device_lane *lane, void *to, CUdeviceptr from,
                    size_t bytes)
{
    return CHECK(job, cuMemcpyDtoHAsync, (to, from, bytes, lane->stream));
}

int device_launch(struct job *job, struct device_lane *lane, enum kernel_name kernel,
                  unsigned blocks_x, unsigned blocks_y, unsigned threads, void **arguments)
{
    return CHECK(job, cuLaunchKernel,
                 (state.functions[kernel], blocks_x, blocks_y, 1, threads, 1, 1, 0, lane->stream,
                  arguments, NULL));
}

int device_launch_array(struct job *job, struct device_lane *lane, enum kernel_name kernel,
                        uint64_t elements, void **arguments)
{
    uint64_t most = (uint64_t)device.multiprocessors * BLOCKS_PER_MULTIPROCESSOR;
    uint64_t blocks = elements / ARRAY_THREADS + 1;
    return device_launch(job, lane, kernel, (unsigned)(blocks < most ? blocks : most), 1,
                         ARRAY_THREADS, arguments);
}

int device_mark(struct job *job, struct device_lane *lane, enum device_mark mark)
{
    if (mark == MARK_BEGIN)
        lane->begin_ns = job_clock_ns();
    if (!device.timed)
        return 0;
    lane->marked[mark] = true;
    return CHECK(job, cuEventRecord, (lane->events[mark], lane->stream));
}

/* lane_times adds the time between each mark and the one before. */
static int lane_times(struct job *job, struct device_lane *lane)
{
    if (!device.timed) {
        job->compute_ns += job_clock_ns() - lane->begin_ns;
        return 0;
    }
    int before = MARK_BEGIN;
    for (int mark = MARK_LOADED; mark < MARK_COUNT; mark++) {
        float ms = 0;
        if (!lane->marked[mark])
            continue;
        if (CHECK(job, cuEventElapsedTime, (&ms, lane->events[before], lane->events[mark])) < 0)
            return -1;
        *(mark == MARK_COMPUTED ? &job->compute_ns : &job->copy_ns) += (uint64_t)(ms * 1e6F);
        before = mark;
    }
    memset(lane->marked, 0, sizeof(lane->marked));
    return 0;
}

int device_wait(struct job *job, struct device_lane *lane)
{
    return CHECK(job, cuStreamSynchronize, (lane->stream)) < 0 ? -1 : lane_times(job, lane);
}

int device_load(struct job *job, CUdeviceptr to, const void *from, uint64_t bytes)
{
    bool busy[DEVICE_LANES] = {false};
    unsigned turn = 0;
    for (uint64_t done = 0; done < bytes; turn = (turn + 1) % DEVICE_LANES) {
        struct device_lane *lane = &device.lanes[turn];
        size_t here =
            bytes - done < DEVICE_STAGING_BYTES ? (size_t)(bytes - done) : DEVICE_STAGING_BYTES;
        if (busy[turn] && device_wait(job, lane) < 0)
            return -1;
        memcpy(lane->staging, (const char *)from + done, here);
        if (device_mark(job, lane, MARK_BEGIN) < 0 ||
            device_copy_in(job, lane, to + done, lane->staging, here) < 0 ||
            device_mark(job, lane, MARK_LOADED) < 0)
            return -1;
        busy[turn] = true;
        done += here;
    }
    for (turn = 0; turn < DEVICE_LANES; turn++)
        if (busy[turn] && device_wait(job, &device.lanes[turn]) < 0)
            return -1;
    return 0;
}

/* store_arrived takes what a lane has copied to its staging. */
static int store_arrived(struct job *job, struct device_lane *lane, char *to, size_t *bytes)
{
    if (*bytes == 0)
        return 0;
    if (device_wait(job, lane) < 0)
        return -1;
    memcpy(to, lane->staging, *bytes);
    *bytes = 0;
    return 0;
}

int device_store(struct job *job, void *to, CUdeviceptr from, uint64_t bytes)
{
    char *at[DEVICE_LANES] = {NULL};
    size_t waiting[DEVICE_LANES] = {0};
    unsigned turn = 0;
    for (uint64_t done = 0; done < bytes; turn = (turn + 1) % DEVICE_LANES) {
        struct device_lane *lane = &device.lanes[turn];
        size_t here =
            bytes - done < DEVICE_STAGING_BYTES ? (size_t)(bytes - done) : DEVICE_STAGING_BYTES;
        if (store_arrived(job, lane, at[turn], &waiting[turn]) < 0 ||
            device_mark(job, lane, MARK_BEGIN) < 0 ||
            device_copy_out(job, lane, lane->staging, from + done, here) < 0 ||
            device_mark(job, lane, MARK_STORED) < 0)
            return -1;
        at[turn] = (char *)to + done;
        waiting[turn] = here;
        done += here;
    }
    for (unsigned i = 0; i < DEVICE_LANES; i++)
        if (store_arrived(job, &device.lanes[i], at[i], &waiting[i]) < 0)
            return -1;
    return 0;
}

static int take_back(struct job *job)
{
    for (size_t i = 0; i < DEVICE_LANES; i++)
        if (device.lanes[i].stream && CHECK(job, cuStreamSynchronize, (device.lanes[i].stream)) < 0)
            return -1;
    CUstream stream = device.lanes[0].stream;
    for (size_t i = 0; device.scrubbed && i < state.allocation_count; i++)
        if (clear(job, state.allocations[i].address, state.allocations[i].bytes) < 0)
            return -1;
    /* Only what is known to be clear is given back. */
    if (state.allocation_count > 0 && CHECK(job, cuStreamSynchronize, (stream)) < 0)
        return -1;
    state.allocated_bytes = 0;
    while (state.allocation_count > 0) {
        CUdeviceptr address = state.allocations[--state.allocation_count].address;
        if (device.pooled ? CHECK(job, cuMemFreeAsync, (address, stream)) < 0
                          : CHECK(job, cuMemFree, (address)) < 0)
            return -1;
    }
    return 0;
}

int device_end_job(struct job *job)
{
    for (size_t i = 0; i < DEVICE_LANES; i++)
        memset(device.lanes[i].marked, 0, sizeof(device.lanes[i].marked));
    if (state.broken[0])
        return -1;
    if (take_back(job) == 0)
        return 0;
    /* Memory that could not be cleared goes with the process. */
    if (!state.broken[0])
        snprintf(state.broken, sizeof(state.broken), "%.400s: its memory cannot be cleared",
                 job->error);
    return -1;
}

/* --- opening -----------------------------------------------------------------------------------
 */

void device_uuid(CUdevice handle, const char *prefix, char text[DEVICE_UUID_SIZE])
{
    CUuuid uuid;
    snprintf(text, DEVICE_UUID_SIZE, "-");
    if (!driver.cuDeviceGetUuid || driver.cuDeviceGetUuid(&uuid, handle) != CUDA_SUCCESS)
        return;
    const unsigned char *b = (const unsigned char *)uuid.bytes;
    snprintf(text, DEVICE_UUID_SIZE,
             "%s%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", prefix, b[0],
             b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13],
             b[14], b[15]);
}

static int find_by_index(const char *which, int count, char *error, size_t size)
{
    uint64_t index = 0;
    if (which && number_parse(which, 0, INT32_MAX, &index) < 0) {
        snprintf(error, size, "no device %s: take an index, GPU-uuid or MIG-uuid of nvidia-smi -L",
                 which);
        return -1;
    }
    if (index < (uint64_t)count)
        return (int)index;
    snprintf(error, size, "no device %" PRIu64 ": the driver finds %d (nvidia-smi -L lists them)",
             index, count);
    return -1;
}

/*
 * find_by_uuid: CUDA_VISIBLE_DEVICES has left the wanted device alone, or none, as the first (CUDA
 * Programming Guide, "CUDA Environment Variables"). Where the driver can tell, it is checked.
 */
static int find_by_uuid(const char *which, int count, char *error, size_t size)
{
    bool mig = strncmp(which, "MIG-", 4) == 0;
    for (int i = 0; i < count; i++) {
        char uuid[DEVICE_UUID_SIZE];
        CUdevice handle;
        if (driver.cuDeviceGet(&handle, i) != CUDA_SUCCESS)
            break;
        device_uuid(handle, mig ? "MIG-" : "GPU-", uuid);
        /* A uuid may be shortened; an older driver's MIG-GPU-uuid/gi/ci is the driver's to know. */
        if (strncmp(uuid, which, strlen(which)) == 0 || strcmp(uuid, "-") == 0 ||
            strncmp(which, "MIG-GPU-", 8) == 0)
            return i;
    }
    snprintf(error, size, "no device %s: nvidia-smi -L lists those of this machine", which);
    return -1;
}

static bool is_uuid(const char *which)
{
    return which && (strncmp(which, "GPU-", 4) == 0 || strncmp(which, "MIG-", 4) == 0);
}

static int find_device(struct job *probe, const char *which)
{
    int count = 0, index;
    if (CHECK(probe, cuDeviceGetCount, (&count)) < 0)
        return -1;
    index = is_uuid(which) ? find_by_uuid(which, count, probe->error, sizeof(probe->error))
                           : find_by_index(which, count, probe->error, sizeof(probe->error));
    return index < 0 ? -1 : CHECK(probe, cuDeviceGet, (&device.handle, index));
}

static int describe(struct job *probe, const char *which)
{
    bool mig = which && strncmp(which, "MIG-", 4) == 0;
    int multiprocessors = 1, pools = 0;
    if (CHECK(probe, cuDeviceGetName, (device.name, sizeof(device.name), device.handle)) < 0 ||
        CHECK(probe, cuDeviceTotalMem, (&device.memory_bytes, device.handle)) < 0 ||
        CHECK(probe, cuDeviceGetAttribute,
              (&device.major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device.handle)) < 0 ||
        CHECK(probe, cuDeviceGetAttribute,
              (&device.minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device.handle)) < 0 ||
        CHECK(probe, cuDeviceGetAttribute,
              (&multiprocessors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device.handle)) < 0)
        return -1;
    device.multiprocessors = multiprocessors > 0 ? (unsigned)multiprocessors : 1;
    device_uuid(device.handle, mig ? "MIG-" : "GPU-", device.uuid);
    device.pooled = driver.cuMemAllocAsync && driver.cuMemFreeAsync &&
                    driver.cuDeviceGetAttribute(&pools, CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED,
                                                device.handle) == CUDA_SUCCESS &&
                    pools;
    return 0;
}

static int load_module(struct job *probe)
{
#ifdef KERNELS_IMAGE
    CUresult result = driver.cuModuleLoadData(&state.module, kernels_fatbin);
    if (result != CUDA_SUCCESS) /* a driver may know PTX alone */
        result = driver.cuModuleLoadData(&state.module, kernels_ptx);
    int known = driver_version();
    if (result != CUDA_SUCCESS && known < kernels_cuda_version) {
        job_fail(probe,
                 "the driver knows CUDA %d.%d and cannot load the kernels, which are of CUDA "
                 "%d.%d: install an NVIDIA driver of that version or newer",
                 known / 1000, known % 1000 / 10, kernels_cuda_version / 1000,
                 kernels_cuda_version % 1000 / 10);
        return -1;
    }
    if (check(probe, result, "cuModuleLoadData") < 0)
        return -1;
    for (size_t i = 0; i < KERNEL_COUNT; i++)
        if (CHECK(probe, cuModuleGetFunction,
                  (&state.functions[i], state.module, kernel_names[i])) < 0)
            return -1;
    return 0;
#else
    job_fail(probe, "this build has no kernels");
    return -1;
#endif
}

/* raise_pool: without it the pool would give memory back at each job's end. A driver that
 * cannot is only slower. */
static void raise_pool(void)
{
    CUmemoryPool pool;
    uint64_t keeps =
        device.job_memory_bytes < POOL_KEEPS_BYTES ? device.job_memory_bytes : POOL_KEEPS_BYTES;
    if (driver.cuDeviceGetDefaultMemPool && driver.cuMemPoolSetAttribute &&
        driver.cuDeviceGetDefaultMemPool(&pool, device.handle) == CUDA_SUCCESS &&
        driver.cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keeps) ==
            CUDA_SUCCESS)
        return;
    log_warning("the device's memory pool cannot be told to keep memory: jobs start slower");
}

/* make_staging: pinned memory or, where the driver has none, any: copies are slower then. */
static int make_staging(struct job *probe, struct device_lane *lane)
{
    void *memory = NULL;
    if (device.pinned) {
        CUresult result = driver.cuMemHostAlloc(&memory, DEVICE_STAGING_BYTES, 0);
        if (check(probe, result, "cuMemHostAlloc") < 0)
            return -1;
    } else {
        memory = aligned_alloc(4096, DEVICE_STAGING_BYTES);
    }
    if (!memory) {
        job_fail(probe, "out of memory");
        return -1;
    }
    lane->staging = memory;
    return 0;
}

static int make_lane(struct job *probe, struct device_lane *lane)
{
    if (CHECK(probe, cuStreamCreate, (&lane->stream, CU_STREAM_NON_BLOCKING)) < 0 ||
        make_staging(probe, lane) < 0)
        return -1;
    for (int mark = 0; device.timed && mark < MARK_COUNT; mark++)
        if (CHECK(probe, cuEventCreate, (&lane->events[mark], 0)) < 0)
            return -1;
    return 0;
}

/* try_device has the device make up numbers and compares them with the host's. */
static int try_device(struct job *probe)
{
    struct device_lane *lane = &device.lanes[DEVICE_LANES - 1];
    const size_t bytes = PROBE_ELEMENTS * sizeof(float);
    uint64_t key = generate_key(1, 0), first = 0, count = PROBE_ELEMENTS;
    unsigned bits = 22;
    CUdeviceptr memory;
    void *arguments[] = {&memory, &key, &first, &count, &bits};
    if (device_allocate(probe, bytes, &memory) < 0 ||
        device_launch_array(probe, lane, KERNEL_fill_f32, count, arguments) < 0 ||
        device_copy_out(probe, lane, lane->staging, memory, bytes) < 0 ||
        device_wait(probe, lane) < 0)
        return -1;
    for (size_t i = 0; i < PROBE_ELEMENTS; i++) {
        float found;
        memcpy(&found, lane->staging + i * sizeof(found), sizeof(found));
        if (found != (float)generate_real(key, i, bits)) {
            job_fail(probe, "the device %s computes wrongly: element %zu of its trial is %a",
                     device.name, i, (double)found);
            return -1;
        }
    }
    return 0;
}

static int make_context(struct job *probe)
{
    CUcontext context;
    if (CHECK(probe, cuDevicePrimaryCtxRetain, (&context, device.handle)) < 0)
        return -1;
    state.context = true;
    return CHECK(probe, cuCtxSetCurrent, (context));
}

/* set_environment: the driver reads it in cuInit. */
static void set_environment(const struct backend_options *options)
{
    char percent[16];
    if (is_uuid(options->device))
        setenv("CUDA_VISIBLE_DEVICES", options->device, 1);
    /* "Multi-Process Service", section 5.3: CUDA_MPS_ACTIVE_THREAD_PERCENTAGE. */
    snprintf(percent, sizeof(percent), "%u", options->mps_percent);
    if (options->mps_percent)
        setenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", percent, 1);
}

int device_open(const struct backend_options *options, char *error, size_t size)
{
    struct job probe = {0};
    const char *which = options->device;
    set_environment(options);
    if (driver_load(error, size) < 0)
        return -1;
    device.scrubbed = !options->keep_memory;
    device.job_memory_bytes = options->job_memory_bytes ? options->job_memory_bytes : UINT64_MAX;
    device.pinned = driver.cuMemHostAlloc && driver.cuMemFreeHost;
    device.timed = driver.cuEventCreate && driver.cuEventRecord && driver.cuEventElapsedTime &&
                   driver.cuEventDestroy;
    if (find_device(&probe, which) < 0 || describe(&probe, which) < 0 || make_context(&probe) < 0 ||
        load_module(&probe) < 0)
        goto error;
    if (device.pooled)
        raise_pool();
    for (size_t i = 0; i < DEVICE_LANES; i++)
        if (make_lane(&probe, &device.lanes[i]) < 0)
            goto error;
    blas_open();
    fft_library_open();
    if (try_device(&probe) < 0 || device_end_job(&probe) < 0)
        goto error;
    return 0;
error:
    snprintf(error, size, "%s", probe.error);
    device_close();
    return -1;
}

static void destroy_lane(struct device_lane *lane)
{
    for (int mark = 0; mark < MARK_COUNT; mark++)
        if (lane->events[mark])
            driver.cuEventDestroy(lane->events[mark]);
    if (lane->stream)
        driver.cuStreamDestroy(lane->stream);
    if (lane->staging && device.pinned)
        driver.cuMemFreeHost(lane->staging);
    else
        free(lane->staging);
}

void device_close(void)
{
    if (state.context && !state.broken[0]) {
        struct job rest = {0};
        device_end_job(&rest);
    }
    /* After a sticky error every call fails; what is left goes with the process. */
    if (state.broken[0])
        return;
    if (state.context) {
        blas_close();
        fft_library_close();
        for (size_t i = 0; i < DEVICE_LANES; i++)
            destroy_lane(&device.lanes[i]);
        if (state.module && driver.cuModuleUnload)
            driver.cuModuleUnload(state.module);
        driver.cuCtxSetCurrent(NULL);
        driver.cuDevicePrimaryCtxRelease(device.handle);
    }
    memset(&device, 0, sizeof(device));
    memset(&state, 0, sizeof(state));
}

/*
 * A stand-in for NVIDIA's libcuda.so.1, for tests on machines without a GPU. It has the entry
 * points that the project asks for, device memory of its own with a limit, a worker thread for each
 * stream, and runs the shim-compiled kernels by name. It is no CUDA, and says so in its device's
 * name. What it does wrong on request, by environment variables:
 *
 *   STANDIN_FAIL=CALL:N:CODE    the Nth call of CALL fails with CODE; after a sticky code every
 *                               later call fails with it, as only a new process helps then. CALL
 *                               may be "launched": the Nth kernel fails when it has run
 *   STANDIN_SKIP=N              the Nth launched kernel does nothing: its output is wrong
 *   STANDIN_ENDLESS=N           the Nth launched kernel never ends
 *   STANDIN_LOST=FILE           while that file exists the device is lost: cuInit fails with 100,
 *                               cuLaunchKernel with 999
 *   STANDIN_PATTERN=WORD        memory that was given back is handed out again as it is, and how
 *                               often it then has that 32-bit word is counted
 *   STANDIN_LATE_US=T           every operation of a stream starts that much later
 *   STANDIN_MEMORY=BYTES        how much memory the device has
 *   STANDIN_DEVICES=N           how many devices there are
 *   STANDIN_STUB=1              every call fails as the toolkit's stub library does
 *   STANDIN_DRIVER=12040        the driver's version; one below the kernels' cannot load them
 *   STANDIN_MISSING=CALL,CALL   entry points that it does not have
 *   STANDIN_NO_FATBIN=1         it takes PTX alone
 *   STANDIN_EXPORTS=1           it has cuGetExportTable, as a driver for which libraries are loaded
 *   STANDIN_ACCOUNT=FILE        at the process's end: how often each call was made, what was left
 *                               behind, how much memory was given back without being cleared, how
 *                               many allocations were used without being cleared first, how often
 *                               the pattern was seen, and the share under MPS
 */
#include "executor/cuda/api.h"
#include "kernel_table.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <unistd.h>

#define FATBIN_MAGIC   0xba55ed50u
#define KERNELS_DRIVER 13000

struct CUctx_st {
    int retained;
};

struct CUmod_st {
    std::string ptx; /* empty: loaded from a fatbin */
};

struct CUstream_st {
    std::mutex lock;
    std::condition_variable changed;
    std::deque<std::function<CUresult()>> operations;
    bool busy = false, ending = false;
    std::thread worker;
};

struct CUevent_st {
    bool recorded = false;
    std::chrono::steady_clock::time_point time;
};

struct CUmemPoolHandle_st {
    uint64_t threshold;
};

/* Everything; never destroyed, since workers may outlive main(). */
struct standin {
    std::mutex lock;
    std::map<std::string, long> counts, launches;
    std::string fail_call;
    long fail_number = 0, launched = 0, skip = 0, endless = 0, late_us = 0;
    CUresult fail_code = 0, sticky = 0;
    bool initialised = false, stub = false, no_fatbin = false, exports = false;
    int devices = 1, driver = KERNELS_DRIVER;
    size_t memory = (size_t)1 << 30, used = 0, peak = 0, unclear_bytes = 0, unwiped = 0, seen = 0;
    uint32_t pattern = 0;
    std::string missing, account, lost, mps;
    std::map<CUdeviceptr, size_t> allocations;
    std::map<CUdeviceptr, long> fresh; /* not used yet, with the launches before */
    std::multimap<size_t, void *> given_back;
    std::set<void *> host;
    std::set<CUstream> streams;
    std::set<CUevent> events;
    std::set<CUmodule> modules;
    std::vector<int> visible;
    CUctx_st context = {0};
    CUcontext current = nullptr;
    CUmemPoolHandle_st pool = {0};
};

static std::mutex one_kernel; /* the shim runs one at a time */

static const char *setting(const char *name)
{
    const char *value = getenv(name);
    return value ? value : "";
}

static long number(const char *name, long otherwise)
{
    return *setting(name) ? atol(setting(name)) : otherwise;
}

static standin *make()
{
    standin *s = new standin;
    const std::string fail = setting("STANDIN_FAIL");
    const size_t first = fail.find(':'), second = fail.find(':', first + 1);
    if (second != std::string::npos) {
        s->fail_call = fail.substr(0, first);
        s->fail_number = atol(fail.c_str() + first + 1);
        s->fail_code = atoi(fail.c_str() + second + 1);
    }
    s->skip = number("STANDIN_SKIP", 0);
    s->endless = number("STANDIN_ENDLESS", 0);
    s->late_us = number("STANDIN_LATE_US", 0);
    s->memory = (size_t)number("STANDIN_MEMORY", 1L << 30);
    s->devices = (int)number("STANDIN_DEVICES", 1);
    s->stub = number("STANDIN_STUB", 0);
    s->driver = (int)number("STANDIN_DRIVER", KERNELS_DRIVER);
    s->exports = number("STANDIN_EXPORTS", 0);
    s->no_fatbin = number("STANDIN_NO_FATBIN", 0);
    s->missing = std::string(",") + setting("STANDIN_MISSING") + ",";
    s->account = setting("STANDIN_ACCOUNT");
    s->lost = setting("STANDIN_LOST");
    s->pattern = (uint32_t)strtoul(setting("STANDIN_PATTERN"), nullptr, 0);
    return s;
}

static standin &self = *make();

static bool is_sticky(CUresult code)
{
    return code == 700 || code == 702 || code == 709 || code == 710 || (code >= 714 && code <= 719);
}

/* failure: what the call that has just been counted should fail with, or 0. */
static CUresult failure(const std::string &call, long count)
{
    if (call != self.fail_call || count != self.fail_number)
        return CUDA_SUCCESS;
    if (is_sticky(self.fail_code))
        self.sticky = self.fail_code;
    return self.fail_code;
}

static CUresult enter(const char *call)
{
    std::lock_guard<std::mutex> guard(self.lock);
    const long count = ++self.counts[call];
    if (self.stub)
        return CUDA_ERROR_STUB_LIBRARY;
    if (self.sticky)
        return self.sticky;
    if (!self.lost.empty() && access(self.lost.c_str(), F_OK) == 0) {
        if (strcmp(call, "cuInit") == 0)
            return CUDA_ERROR_NO_DEVICE;
        if (strcmp(call, "cuLaunchKernel") == 0)
            return CUDA_ERROR_UNKNOWN;
    }
    const CUresult result = failure(call, count);
    if (result == CUDA_SUCCESS && !self.initialised && strcmp(call, "cuInit") != 0)
        return CUDA_ERROR_NOT_INITIALIZED;
    return result;
}

#define ENTER()                                                                                    \
    do {                                                                                           \
        const CUresult entered = enter(__func__);                                                  \
        if (entered != CUDA_SUCCESS)                                                               \
            return entered;                                                                        \
    } while (0)

#define REQUIRE(condition, code)                                                                   \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return code;                                                                           \
    } while (0)

/* --- streams -----------------------------------------------------------------------------------
 */

static void work(CUstream stream)
{
    std::unique_lock<std::mutex> guard(stream->lock);
    for (;;) {
        stream->changed.wait(guard,
                             [stream] { return stream->ending || !stream->operations.empty(); });
        if (stream->operations.empty())
            return;
        const std::function<CUresult()> operation = stream->operations.front();
        stream->operations.pop_front();
        stream->busy = true;
        guard.unlock();
        if (self.late_us)
            usleep((useconds_t)self.late_us);
        CUresult result;
        {
            std::lock_guard<std::mutex> all(self.lock);
            result = self.sticky;
        }
        if (result == CUDA_SUCCESS)
            result = operation();
        if (result != CUDA_SUCCESS) {
            std::lock_guard<std::mutex> all(self.lock);
            self.sticky = result;
        }
        guard.lock();
        stream->busy = false;
        stream->changed.notify_all();
    }
}

static CUresult enqueue(CUstream stream, const std::function<CUresult()> &operation)
{
    REQUIRE(self.streams.count(stream), CUDA_ERROR_INVALID_VALUE);
    std::lock_guard<std::mutex> guard(stream->lock);
    stream->operations.push_back(operation);
    stream->changed.notify_all();
    return CUDA_SUCCESS;
}

static void drain(CUstream stream)
{
    std::unique_lock<std::mutex> guard(stream->lock);
    stream->changed.wait(guard, [stream] { return stream->operations.empty() && !stream->busy; });
}

static CUresult cuStreamCreate(CUstream *stream, unsigned)
{
    ENTER();
    REQUIRE(self.current, CUDA_ERROR_INVALID_CONTEXT);
    *stream = new CUstream_st;
    (*stream)->worker = std::thread(work, *stream);
    self.streams.insert(*stream);
    return CUDA_SUCCESS;
}

static CUresult cuStreamSynchronize(CUstream stream)
{
    ENTER();
    REQUIRE(self.streams.count(stream), CUDA_ERROR_INVALID_VALUE);
    drain(stream);
    std::lock_guard<std::mutex> guard(self.lock);
    return self.sticky;
}

static CUresult cuStreamDestroy(CUstream stream)
{
    ENTER();
    REQUIRE(self.streams.erase(stream), CUDA_ERROR_INVALID_VALUE);
    drain(stream);
    {
        std::lock_guard<std::mutex> guard(stream->lock);
        stream->ending = true;
        stream->changed.notify_all();
    }
    stream->worker.join();
    delete stream;
    return CUDA_SUCCESS;
}

/* --- events ------------------------------------------------------------------------------------
 */

static CUresult cuEventCreate(CUevent *event, unsigned)
{
    ENTER();
    *event = new CUevent_st;
    self.events.insert(*event);
    return CUDA_SUCCESS;
}

static CUresult cuEventRecord(CUevent event, CUstream stream)
{
    ENTER();
    REQUIRE(self.events.count(event), CUDA_ERROR_INVALID_VALUE);
    event->recorded = false;
    return enqueue(stream, [event] {
        event->time = std::chrono::steady_clock::now();
        std::lock_guard<std::mutex> guard(self.lock);
        event->recorded = true;
        return CUDA_SUCCESS;
    });
}

static CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end)
{
    ENTER();
    REQUIRE(self.events.count(start) && self.events.count(end), CUDA_ERROR_INVALID_VALUE);
    std::lock_guard<std::mutex> guard(self.lock);
    REQUIRE(start->recorded && end->recorded, 600);
    *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
    return CUDA_SUCCESS;
}

static CUresult cuEventDestroy(CUevent event)
{
    ENTER();
    REQUIRE(self.events.erase(event), CUDA_ERROR_INVALID_VALUE);
    delete event;
    return CUDA_SUCCESS;
}

/* --- memory ------------------------------------------------------------------------------------
 */

/* Device memory is memory of the process: kernels and sanitizers see it as it is. */
static CUresult allocate(CUdeviceptr *address, size_t bytes)
{
    std::lock_guard<std::mutex> guard(self.lock);
    void *memory = nullptr;
    REQUIRE(bytes > 0, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(bytes <= self.memory - self.used, CUDA_ERROR_OUT_OF_MEMORY);
    const auto old = self.given_back.find(bytes);
    if (old != self.given_back.end()) {
        memory = old->second;
        self.given_back.erase(old);
        for (size_t i = 0; i + sizeof(uint32_t) <= bytes; i += sizeof(uint32_t))
            self.seen += memcmp((char *)memory + i, &self.pattern, sizeof(uint32_t)) == 0;
    } else {
        REQUIRE(posix_memalign(&memory, 256, bytes) == 0, CUDA_ERROR_OUT_OF_MEMORY);
        memset(memory, 0xcd, bytes);
    }
    self.used += bytes;
    self.peak = std::max(self.peak, self.used);
    *address = (CUdeviceptr)memory;
    self.allocations[*address] = bytes;
    self.fresh[*address] = self.counts["cuLaunchKernel"];
    return CUDA_SUCCESS;
}

static CUresult release(CUdeviceptr address)
{
    std::lock_guard<std::mutex> guard(self.lock);
    const auto found = self.allocations.find(address);
    REQUIRE(found != self.allocations.end(), CUDA_ERROR_INVALID_VALUE);
    const unsigned char *bytes = (const unsigned char *)address;
    for (size_t i = 0; i < found->second; i++)
        self.unclear_bytes += bytes[i] != 0;
    self.used -= found->second;
    self.unwiped += self.fresh.erase(address);
    if (self.pattern)
        self.given_back.insert({found->second, (void *)address});
    else
        free((void *)address);
    self.allocations.erase(found);
    return CUDA_SUCCESS;
}

/* wiped: the first thing done with an allocation is to clear all of it, or it is counted. */
static void wiped(CUdeviceptr address, size_t bytes)
{
    std::lock_guard<std::mutex> guard(self.lock);
    const auto found = self.fresh.find(address);
    if (found == self.fresh.end())
        return;
    self.unwiped +=
        bytes != self.allocations[address] || found->second != self.counts["cuLaunchKernel"];
    self.fresh.erase(found);
}

static bool inside(CUdeviceptr address, size_t bytes)
{
    std::lock_guard<std::mutex> guard(self.lock);
    auto after = self.allocations.upper_bound(address);
    if (after == self.allocations.begin())
        return false;
    --after;
    return address + bytes <= after->first + after->second;
}

static CUresult cuMemAlloc(CUdeviceptr *address, size_t bytes)
{
    ENTER();
    REQUIRE(self.current, CUDA_ERROR_INVALID_CONTEXT);
    return allocate(address, bytes);
}

static CUresult cuMemFree(CUdeviceptr address)
{
    ENTER();
    for (CUstream stream : self.streams)
        drain(stream);
    return release(address);
}

static CUresult cuMemAllocAsync(CUdeviceptr *address, size_t bytes, CUstream stream)
{
    ENTER();
    REQUIRE(self.streams.count(stream), CUDA_ERROR_INVALID_VALUE);
    drain(stream); /* what was freed before in a stream's order can be had */
    return allocate(address, bytes);
}

static CUresult cuMemFreeAsync(CUdeviceptr address, CUstream stream)
{
    ENTER();
    return enqueue(stream, [address] { return release(address); });
}

static CUresult cuMemGetInfo(size_t *available, size_t *total)
{
    ENTER();
    *available = self.memory - self.used;
    *total = self.memory;
    return CUDA_SUCCESS;
}

static CUresult cuMemHostAlloc(void **memory, size_t bytes, unsigned)
{
    ENTER();
    REQUIRE(posix_memalign(memory, 4096, bytes) == 0, CUDA_ERROR_OUT_OF_MEMORY);
    memset(*memory, 0xcd, bytes);
    self.host.insert(*memory);
    return CUDA_SUCCESS;
}

static CUresult cuMemFreeHost(void *memory)
{
    ENTER();
    REQUIRE(self.host.erase(memory), CUDA_ERROR_INVALID_VALUE);
    free(memory);
    return CUDA_SUCCESS;
}

/* Host memory is read and written when the stream comes to it, and not before. */
static CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t bytes, CUstream stream)
{
    ENTER();
    wiped(to, 0);
    REQUIRE(inside(to, bytes), CUDA_ERROR_INVALID_VALUE);
    return enqueue(stream, [=] {
        memcpy((void *)to, from, bytes);
        return CUDA_SUCCESS;
    });
}

static CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    ENTER();
    REQUIRE(inside(from, bytes), CUDA_ERROR_INVALID_VALUE);
    return enqueue(stream, [=] {
        memcpy(to, (const void *)from, bytes);
        return CUDA_SUCCESS;
    });
}

static CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream)
{
    ENTER();
    REQUIRE(inside(to, bytes), CUDA_ERROR_INVALID_VALUE);
    if (value == 0)
        wiped(to, bytes);
    return enqueue(stream, [=] {
        memset((void *)to, value, bytes);
        return CUDA_SUCCESS;
    });
}

static CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice)
{
    ENTER();
    *pool = &self.pool;
    return CUDA_SUCCESS;
}

static CUresult cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute, void *value)
{
    ENTER();
    REQUIRE(attribute == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, CUDA_ERROR_INVALID_VALUE);
    memcpy(&pool->threshold, value, sizeof(pool->threshold));
    return CUDA_SUCCESS;
}

/* --- modules and kernels -----------------------------------------------------------------------
 */

static CUresult cuModuleLoadData(CUmodule *module, const void *image)
{
    ENTER();
    REQUIRE(self.current, CUDA_ERROR_INVALID_CONTEXT);
    uint32_t magic;
    memcpy(&magic, image, sizeof(magic));
    const bool fatbin = magic == FATBIN_MAGIC;
    REQUIRE(fatbin || strstr((const char *)image, ".version"), CUDA_ERROR_INVALID_IMAGE);
    REQUIRE(!fatbin || !self.no_fatbin, CUDA_ERROR_INVALID_IMAGE);
    REQUIRE(self.driver >= KERNELS_DRIVER, CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
    *module = new CUmod_st;
    if (!fatbin)
        (*module)->ptx = (const char *)image;
    self.modules.insert(*module);
    return CUDA_SUCCESS;
}

static CUresult cuModuleUnload(CUmodule module)
{
    ENTER();
    REQUIRE(self.modules.erase(module), CUDA_ERROR_INVALID_VALUE);
    delete module;
    return CUDA_SUCCESS;
}

static CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name)
{
    ENTER();
    REQUIRE(self.modules.count(module), CUDA_ERROR_INVALID_VALUE);
    const kernel_entry *entry = kernel_find(name);
    REQUIRE(entry, CUDA_ERROR_NOT_FOUND);
    REQUIRE(module->ptx.empty() ||
                module->ptx.find(std::string(".entry ") + name + "(") != std::string::npos,
            CUDA_ERROR_NOT_FOUND);
    *function = (CUfunction)entry;
    return CUDA_SUCCESS;
}

static CUresult run_kernel(const std::function<void()> &kernel, shim_index grid, shim_index block)
{
    long launched;
    {
        std::lock_guard<std::mutex> guard(self.lock);
        launched = ++self.launched;
    }
    while (launched == self.endless)
        usleep(1000);
    if (launched != self.skip) {
        std::lock_guard<std::mutex> guard(one_kernel);
        shim_launch(grid, block, kernel);
    }
    std::lock_guard<std::mutex> guard(self.lock);
    return failure("launched", launched);
}

static CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y,
                               unsigned grid_z, unsigned block_x, unsigned block_y,
                               unsigned block_z, unsigned, CUstream stream, void **parameters,
                               void **)
{
    ENTER();
    const kernel_entry *entry = (const kernel_entry *)function;
    REQUIRE(grid_x && grid_y && grid_z && block_x && block_y && block_z, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(grid_y <= 65535 && grid_z <= 65535 && block_x * block_y * block_z <= 1024,
            CUDA_ERROR_INVALID_VALUE);
    self.launches[entry->name]++;
    const std::function<void()> kernel = entry->bind(parameters);
    return enqueue(stream, [=] {
        return run_kernel(kernel, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z});
    });
}

/* --- devices -----------------------------------------------------------------------------------
 */

static void make_uuid(int number, unsigned char bytes[16])
{
    for (int i = 0; i < 16; i++)
        bytes[i] = (unsigned char)(i * 17);
    bytes[15] = (unsigned char)number;
}

static std::string uuid_text(int number)
{
    unsigned char bytes[16];
    char text[40] = "";
    make_uuid(number, bytes);
    for (int i = 0; i < 16; i++)
        sprintf(text + strlen(text), "%02x%s", bytes[i],
                i == 3 || i == 5 || i == 7 || i == 9 ? "-" : "");
    return text;
}

static CUresult cuInit(unsigned)
{
    ENTER();
    const std::string wanted = setting("CUDA_VISIBLE_DEVICES");
    self.mps = setting("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE");
    for (int i = 0; i < self.devices && !self.initialised; i++)
        if (wanted.empty() || ("GPU-" + uuid_text(i)).compare(0, wanted.size(), wanted) == 0 ||
            ("MIG-" + uuid_text(i)).compare(0, wanted.size(), wanted) == 0)
            self.visible.push_back(i);
    REQUIRE(!self.visible.empty(), CUDA_ERROR_NO_DEVICE);
    self.initialised = true;
    return CUDA_SUCCESS;
}

static CUresult cuDriverGetVersion(int *version)
{
    ENTER();
    *version = self.driver;
    return CUDA_SUCCESS;
}

static CUresult cuDeviceGetCount(int *count)
{
    ENTER();
    *count = (int)self.visible.size();
    return CUDA_SUCCESS;
}

static CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    ENTER();
    REQUIRE(ordinal >= 0 && (size_t)ordinal < self.visible.size(), CUDA_ERROR_INVALID_DEVICE);
    *device = self.visible[(size_t)ordinal];
    return CUDA_SUCCESS;
}

static CUresult cuDeviceGetName(char *name, int size, CUdevice device)
{
    ENTER();
    snprintf(name, (size_t)size, "vgpufs test stand-in %d (no GPU)", device);
    return CUDA_SUCCESS;
}

static CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice)
{
    static const std::map<int, int> attributes = {
        {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 2},
        {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 7},
        {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 5},
        {CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1},
    };
    ENTER();
    REQUIRE(attributes.count(attribute), CUDA_ERROR_INVALID_VALUE);
    *value = attributes.at(attribute);
    return CUDA_SUCCESS;
}

static CUresult cuDeviceTotalMem(size_t *bytes, CUdevice)
{
    ENTER();
    *bytes = self.memory;
    return CUDA_SUCCESS;
}

static CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device)
{
    ENTER();
    make_uuid(device, (unsigned char *)uuid->bytes);
    return CUDA_SUCCESS;
}

static CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice)
{
    ENTER();
    self.context.retained++;
    *context = &self.context;
    return CUDA_SUCCESS;
}

static CUresult cuDevicePrimaryCtxRelease(CUdevice)
{
    ENTER();
    REQUIRE(self.context.retained > 0, CUDA_ERROR_INVALID_CONTEXT);
    self.context.retained--;
    return CUDA_SUCCESS;
}

static CUresult cuCtxSetCurrent(CUcontext context)
{
    ENTER();
    self.current = context;
    return CUDA_SUCCESS;
}

/* --- errors, entry points, account -------------------------------------------------------------
 */

static CUresult cuGetErrorName(CUresult result, const char **name)
{
    static const std::map<int, const char *> names = {
        {2, "CUDA_ERROR_OUT_OF_MEMORY"},
        {700, "CUDA_ERROR_ILLEGAL_ADDRESS"},
    };
    *name = names.count(result) ? names.at(result) : "CUDA_ERROR_OF_STANDIN";
    return CUDA_SUCCESS;
}

static CUresult cuGetErrorString(CUresult, const char **text)
{
    *text = "as the stand-in was told to";
    return CUDA_SUCCESS;
}

/* NVIDIA's runtime asks for its tables; here are none. */
static CUresult no_export_table(const void **, const CUuuid *)
{
    return CUDA_ERROR_NOT_FOUND;
}

extern "C" __attribute__((visibility("default"))) CUresult
cuGetProcAddress_v2(const char *name, void **address, int version, uint64_t, int *found);

CUresult cuGetProcAddress_v2(const char *name, void **address, int version, uint64_t, int *found)
{
    static const std::map<std::string, void *> calls = {
#define CALL(name, exported, parameters) {#name, (void *)(name##_type *)name},
        FOR_EACH_NEEDED_CALL(CALL) FOR_EACH_OPTIONAL_CALL(CALL)
#undef CALL
    };
    if (self.stub)
        return CUDA_ERROR_STUB_LIBRARY;
    if (strcmp(name, "cuGetExportTable") == 0 && self.exports) {
        *address = (void *)no_export_table;
        if (found)
            *found = 0;
        return CUDA_SUCCESS;
    }
    const auto call = calls.find(name);
    const bool has = call != calls.end() && version >= 12000 &&
                     self.missing.find(std::string(",") + name + ",") == std::string::npos;
    *address = has ? call->second : nullptr;
    if (found)
        *found = has ? 0 : 1;
    return has ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

/* stop drops what no stream has begun and waits for what one has, unless that never ends. */
static void stop()
{
    for (CUstream stream : self.streams) {
        std::unique_lock<std::mutex> guard(stream->lock);
        stream->operations.clear();
        stream->changed.wait(guard, [stream] { return !stream->busy || self.endless; });
    }
}

__attribute__((destructor)) static void write_account()
{
    stop();
    FILE *file = self.account.empty() ? nullptr : fopen(self.account.c_str(), "a");
    if (!file)
        return;
    std::lock_guard<std::mutex> guard(self.lock);
    fprintf(file, "process %ld\n", (long)getpid());
    fprintf(file, "sticky %d\n", self.sticky);
    fprintf(file,
            "left memory=%zu allocations=%zu host=%zu streams=%zu events=%zu modules=%zu "
            "contexts=%d\n",
            self.used, self.allocations.size(), self.host.size(), self.streams.size(),
            self.events.size(), self.modules.size(), self.context.retained);
    fprintf(file, "unclear %zu\npeak %zu\nthreshold %llu\n", self.unclear_bytes, self.peak,
            (unsigned long long)self.pool.threshold);
    fprintf(file, "unwiped %zu\nseen %zu\nmps %s\n", self.unwiped, self.seen, self.mps.c_str());
    for (const auto &each : self.counts)
        fprintf(file, "call %s %ld\n", each.first.c_str(), each.second);
    for (const auto &each : self.launches)
        fprintf(file, "launch %s %ld\n", each.first.c_str(), each.second);
    fclose(file);
}

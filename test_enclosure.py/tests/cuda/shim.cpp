#include "shim.h"

#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <vector>

#include <dlfcn.h>
#include <sys/mman.h>
#include <ucontext.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#define STACK_BYTES ((size_t)256 << 10)
#define WARP        32u

shim_index threadIdx, blockIdx, blockDim, gridDim;
shim_order shim_thread_order = SHIM_FORWARD;

enum fiber_state { READY, AT_BARRIER, AT_WARP, OVER };

struct fiber {
    ucontext_t context;
    char *stack;
    fiber_state state;
    unsigned mask; /* AT_WARP: who must come */
    uint64_t bits; /* brought to an exchange */
    shim_index index;
    void *fake_stack;
};

/* Never destroyed: a worker of the stand-in may still run when the process ends. */
static std::vector<fiber> &fibers = *new std::vector<fiber>;
static size_t fiber_count, current;
static ucontext_t scheduler;
static void *scheduler_fake_stack;
static const void *scheduler_stack;
static size_t scheduler_stack_bytes;
static const std::function<void()> *body;

[[noreturn]] static void fail(const char *what)
{
    fprintf(stderr, "shim: thread %u,%u,%u of block %u,%u,%u: %s\n", threadIdx.x, threadIdx.y,
            threadIdx.z, blockIdx.x, blockIdx.y, blockIdx.z, what);
    abort();
}

/* --- switching, told to AddressSanitizer (sanitizer/common_interface_defs.h) -------------------
 */

static void before_switch(void **save, const void *bottom, size_t bytes)
{
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(save, bottom, bytes);
#else
    (void)save, (void)bottom, (void)bytes;
#endif
}

static void after_switch(void *saved, const void **bottom, size_t *bytes)
{
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(saved, bottom, bytes);
#else
    (void)saved, (void)bottom, (void)bytes;
#endif
}

/*
 * switch_context is libc's own swapcontext(3): AddressSanitizer's stands before it and warns that
 * it does not know fibers, of which it is told above.
 */
static void switch_context(ucontext_t *from, ucontext_t *to)
{
    typedef int swapcontext_type(ucontext_t *, const ucontext_t *);
    static swapcontext_type *const swap =
        (swapcontext_type *)dlsym(dlopen("libc.so.6", RTLD_LAZY), "swapcontext");
    if (!swap || swap(from, to) != 0)
        abort();
}

static void fiber_main()
{
    after_switch(nullptr, &scheduler_stack, &scheduler_stack_bytes);
    (*body)();
    fibers[current].state = OVER;
    before_switch(nullptr, scheduler_stack, scheduler_stack_bytes);
    switch_context(&fibers[current].context, &scheduler);
}

/* yield gives the turn back; the fiber goes on when the scheduler takes it again. */
static void yield(fiber_state state)
{
    fiber &self = fibers[current];
    self.state = state;
    before_switch(&self.fake_stack, scheduler_stack, scheduler_stack_bytes);
    switch_context(&self.context, &scheduler);
    after_switch(self.fake_stack, &scheduler_stack, &scheduler_stack_bytes);
}

static void resume(size_t number)
{
    fiber &next = fibers[number];
    current = number;
    threadIdx = next.index;
    before_switch(&scheduler_fake_stack, next.stack, STACK_BYTES);
    switch_context(&scheduler, &next.context);
    after_switch(scheduler_fake_stack, nullptr, nullptr);
}

/* --- barriers ----------------------------------------------------------------------------------
 */

void __syncthreads()
{
    yield(AT_BARRIER);
}

unsigned shim_lane()
{
    return (unsigned)(current % WARP);
}

void __syncwarp(unsigned mask)
{
    if (!(mask >> shim_lane() & 1))
        fail("a warp's mask without the thread itself");
    fibers[current].mask = mask;
    yield(AT_WARP);
}

uint64_t shim_exchange(unsigned mask, uint64_t bits, unsigned from)
{
    const size_t source = current / WARP * WARP + from;
    fibers[current].bits = bits;
    __syncwarp(mask);
    if (!(mask >> from & 1) || source >= fiber_count)
        fail("a shuffle from a lane that is not in its mask");
    const uint64_t found = fibers[source].bits;
    __syncwarp(mask);
    return found;
}

unsigned __ballot_sync(unsigned mask, int vote)
{
    unsigned votes = 0;
    fibers[current].bits = vote != 0;
    __syncwarp(mask);
    for (unsigned lane = 0; lane < WARP; lane++)
        if (mask >> lane & 1)
            votes |= (unsigned)fibers[current / WARP * WARP + lane].bits << lane;
    __syncwarp(mask);
    return votes;
}

/* release_warps lets those warps of fibers begin … end - 1 go on in which all lanes of the mask
 * have come. */
static bool release_warps(size_t begin, size_t end)
{
    bool released = false;
    for (size_t i = begin; i < end; i++) {
        if (fibers[i].state != AT_WARP)
            continue;
        const size_t first = i / WARP * WARP;
        const unsigned mask = fibers[i].mask;
        for (unsigned lane = 0; lane < WARP; lane++)
            if (mask >> lane & 1 &&
                (first + lane >= fiber_count || fibers[first + lane].state != AT_WARP ||
                 fibers[first + lane].mask != mask))
                fail("a warp's mask names lanes that do not come");
        for (unsigned lane = 0; lane < WARP; lane++)
            if (mask >> lane & 1)
                fibers[first + lane].state = READY;
        released = true;
    }
    return released;
}

static bool release_barrier()
{
    size_t waiting = 0, over = 0;
    for (size_t i = 0; i < fiber_count; i++) {
        waiting += fibers[i].state == AT_BARRIER;
        over += fibers[i].state == OVER;
    }
    if (waiting && over)
        fail("__syncthreads() that not all threads of the block reach");
    for (size_t i = 0; i < fiber_count; i++)
        if (waiting)
            fibers[i].state = READY;
    return waiting > 0;
}

/* --- blocks ------------------------------------------------------------------------------------
 */

static std::vector<size_t> order_of_threads()
{
    std::vector<size_t> order(fiber_count);
    std::iota(order.begin(), order.end(), 0);
    if (shim_thread_order == SHIM_BACKWARD)
        for (size_t i = 0; i < fiber_count; i++)
            order[i] = fiber_count - 1 - i;
    if (shim_thread_order == SHIM_SHUFFLED)
        for (size_t i = fiber_count; i > 1; i--)
            std::swap(order[i - 1], order[(size_t)rand() % i]);
    return order;
}

static void prepare(fiber &f, size_t number)
{
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack;
    f.context.uc_stack.ss_size = STACK_BYTES;
    f.context.uc_link = nullptr;
    f.state = READY;
    f.index.x = (unsigned)(number % blockDim.x);
    f.index.y = (unsigned)(number / blockDim.x % blockDim.y);
    f.index.z = (unsigned)(number / blockDim.x / blockDim.y);
    makecontext(&f.context, fiber_main, 0);
}

static void run_by_warp()
{
    for (size_t begin = 0, end; begin < fiber_count; begin = end) {
        end = begin + WARP < fiber_count ? begin + WARP : fiber_count;
        do {
            for (size_t i = begin; i < end; i++)
                if (fibers[i].state == READY)
                    resume(i);
        } while (release_warps(begin, end));
    }
}

static void run_block()
{
    for (size_t i = 0; i < fiber_count; i++)
        prepare(fibers[i], i);
    do {
        if (shim_thread_order == SHIM_BY_WARP)
            run_by_warp();
        else
            for (size_t number : order_of_threads())
                if (fibers[number].state == READY)
                    resume(number);
    } while (release_warps(0, fiber_count) || release_barrier());
}

void shim_launch(shim_index grid, shim_index block, const std::function<void()> &thread)
{
    fiber_count = (size_t)block.x * block.y * block.z;
    while (fibers.size() < fiber_count) {
        fiber f = {};
        f.stack = (char *)mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (f.stack == MAP_FAILED)
            abort();
        fibers.push_back(f);
    }
    body = &thread;
    gridDim = grid;
    blockDim = block;
    for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++)
                run_block();
}

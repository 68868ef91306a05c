/*
 * SORT: radix sort by eight bits after the other, from the lowest, which keeps the order of equal
 * digits. Each pass counts the digits of each block's keys (sort_count), turns the counts into
 * places (sort_offsets), and moves the keys there (sort_move). Before and after, numbers become
 * keys whose unsigned order is IEEE 754's totalOrder, and numbers again.
 */
#include "executor/cuda/device_code.h"

template <typename K> static __device__ __forceinline__ K sort_sign()
{
    return (K)1 << (8 * sizeof(K) - 1);
}

/* sort_sum adds all threads' values to *total; all threads of the grid must come. */
static __device__ __forceinline__ void sort_sum(unsigned long long value, unsigned long long *total)
{
#pragma unroll
    for (unsigned lanes = 16; lanes > 0; lanes /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, lanes);
    if (threadIdx.x % 32 == 0 && value != 0)
        atomicAdd(total, value);
}

template <typename K>
static __device__ __forceinline__ void sort_encode(K *keys, u64 count, sort_found *found)
{
    unsigned long long checksum = 0;
    for (u64 i = thread_number(); i < count; i += threads_of_grid()) {
        const K bits = keys[i];
        checksum += generate_mix((u64)bits + 1);
        keys[i] = bits & sort_sign<K>() ? (K)~bits : bits | sort_sign<K>();
    }
    sort_sum(checksum, &found->checksum);
}

/* sort_encode_*: reads and writes 8 (16) bytes a key: 419 (209) G keys/s; the checksum's two
 * 64-bit products, some 20 32-bit operations, take less. */
KERNEL(sort_encode_f32, ARRAY_THREADS)(uint32_t *keys, u64 count, sort_found *found)
{
    sort_encode(keys, count, found);
}

KERNEL(sort_encode_f64, ARRAY_THREADS)(u64 *keys, u64 count, sort_found *found)
{
    sort_encode(keys, count, found);
}

template <typename K> static __device__ __forceinline__ unsigned sort_digit(K key, unsigned shift)
{
    return (unsigned)(key >> shift) % SORT_DIGITS;
}

template <typename K>
static __device__ __forceinline__ void sort_count(const K *keys, u64 count, u64 tiles,
                                                  unsigned shift, u64 *counts)
{
    __shared__ unsigned digits[SORT_DIGITS];
    const u64 first = blockIdx.x * tiles * SORT_TILE, most = tiles * SORT_TILE;
    const u64 end = count - first < most ? count : first + most;
    digits[threadIdx.x] = 0;
    __syncthreads();
#pragma unroll 4
    for (u64 i = first + threadIdx.x; i < end; i += SORT_DIGITS)
        atomicAdd(&digits[sort_digit(keys[i], shift)], 1u);
    __syncthreads();
    counts[blockIdx.x * (u64)SORT_DIGITS + threadIdx.x] = digits[threadIdx.x];
}

/* sort_count_*: reads 4 (8) bytes a key: 837 (419) G keys/s; the atomic addition in shared memory
 * does one key a bank and cycle: 132 * 32 * 1.7 GHz, more than that unless digits are all equal. */
KERNEL(sort_count_f32, SORT_DIGITS)
(const uint32_t *keys, u64 count, u64 tiles, unsigned shift, u64 *counts)
{
    sort_count(keys, count, tiles, shift, counts);
}

KERNEL(sort_count_f64, SORT_DIGITS)
(const u64 *keys, u64 count, u64 tiles, unsigned shift, u64 *counts)
{
    sort_count(keys, count, tiles, shift, counts);
}

/*
 * sort_offsets makes places of the counts: those of a digit begin where those of the lower digits
 * end, block after block. One block; reads twice and writes once 2 KiB for each block of the
 * others, of which there are a few on each multiprocessor: some 20 us whatever the number of keys.
 */
KERNEL(sort_offsets, SORT_DIGITS)(u64 *counts, u64 blocks)
{
    __shared__ u64 ends[SORT_DIGITS];
    u64 *const mine = counts + threadIdx.x;
    u64 total = 0;
#pragma unroll 8
    for (u64 block = 0; block < blocks; block++)
        total += mine[block * SORT_DIGITS];
    ends[threadIdx.x] = total;
    __syncthreads();
    for (unsigned step = 1; step < SORT_DIGITS; step *= 2) {
        const u64 before = threadIdx.x >= step ? ends[threadIdx.x - step] : 0;
        __syncthreads();
        ends[threadIdx.x] += before;
        __syncthreads();
    }
    u64 place = ends[threadIdx.x] - total;
    for (u64 block = 0; block < blocks; block++) {
        const u64 here = mine[block * SORT_DIGITS];
        mine[block * SORT_DIGITS] = place;
        place += here;
    }
}

/*
 * sort_peers returns the lanes of the warp that have a key with this digit: for each of its bits,
 * those that have voted as this lane did. All lanes must come.
 */
static __device__ __forceinline__ unsigned sort_peers(unsigned digit)
{
    unsigned peers = 0xffffffffu;
#pragma unroll
    for (unsigned bit = 1; bit < SORT_DIGITS; bit *= 2) {
        const unsigned votes = __ballot_sync(0xffffffffu, (digit & bit) != 0);
        peers &= digit & bit ? votes : ~votes;
    }
    return peers;
}

/*
 * sort_rank finds for each key of a warp how many before it, in this warp's part of the tile, have
 * the same digit, and leaves in `counts` how many each digit has. What stands in for keys behind
 * the last one is behind all others, whose ranks it does not change. Votes come before all
 * counting: they order no memory, but in the shim of the tests they do, and would hide a missing
 * barrier.
 */
template <typename K>
static __device__ __forceinline__ void sort_rank(const K *from, u64 first, u64 count,
                                                 unsigned shift, unsigned *counts, K *keys,
                                                 unsigned *ranks)
{
    const unsigned lane = threadIdx.x % 32;
#pragma unroll
    for (unsigned i = 0; i < SORT_ITEMS; i++) {
        const u64 index = first + i * 32 + lane;
        keys[i] = index < count ? from[index] : (K)0;
    }
#pragma unroll
    for (unsigned i = 0; i < SORT_ITEMS; i++)
        ranks[i] = sort_peers(sort_digit(keys[i], shift));
#pragma unroll
    for (unsigned i = 0; i < SORT_ITEMS; i++) {
        const unsigned digit = sort_digit(keys[i], shift), peers = ranks[i];
        const unsigned before = counts[digit], lower = __popc(peers & ((1u << lane) - 1));
        ranks[i] = before + lower;
        __syncwarp();
        if (lower == 0)
            counts[digit] = before + __popc(peers);
        __syncwarp();
    }
}

template <typename K>
static __device__ __forceinline__ void sort_move(const K *from, K *to, u64 count, u64 tiles,
                                                 unsigned shift, const u64 *places)
{
    const unsigned warps = SORT_DIGITS / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    __shared__ unsigned counts[warps][SORT_DIGITS];
    __shared__ u64 next[SORT_DIGITS];
    next[threadIdx.x] = places[blockIdx.x * (u64)SORT_DIGITS + threadIdx.x];
    for (u64 tile = 0; tile < tiles; tile++) {
        const u64 first = (blockIdx.x * tiles + tile) * SORT_TILE + warp * 32 * SORT_ITEMS;
        K keys[SORT_ITEMS];
        unsigned ranks[SORT_ITEMS], sum = 0;
#pragma unroll
        for (unsigned w = 0; w < warps; w++)
            counts[w][threadIdx.x] = 0;
        __syncthreads();
        sort_rank(from, first, count, shift, counts[warp], keys, ranks);
        __syncthreads();
#pragma unroll
        for (unsigned w = 0; w < warps; w++) {
            const unsigned here = counts[w][threadIdx.x];
            counts[w][threadIdx.x] = sum;
            sum += here;
        }
        __syncthreads();
#pragma unroll
        for (unsigned i = 0; i < SORT_ITEMS; i++) {
            const unsigned digit = sort_digit(keys[i], shift);
            const u64 place = next[digit] + counts[warp][digit] + ranks[i];
            /* Wrong counts are found by verification, and write nowhere else. */
            if (first + i * 32 + lane < count && place < count)
                to[place] = keys[i];
        }
        __syncthreads();
        next[threadIdx.x] += sum;
    }
}

/*
 * sort_move_*: reads and writes 8 (16) bytes a key: 419 (209) G keys/s; some 50 operations a key
 * for its rank, of 33 T/s, take 660 G keys/s. A tile has 8 keys of a digit on the average, which
 * go to one place: 32 (64) bytes, a sector (two). With sort_count a pass is 12 (24) bytes a
 * key, a sort 48 (192): 70 (17) G keys/s.
 */
KERNEL(sort_move_f32, SORT_DIGITS)
(const uint32_t *from, uint32_t *to, u64 count, u64 tiles, unsigned shift, const u64 *places)
{
    sort_move(from, to, count, tiles, shift, places);
}

KERNEL(sort_move_f64, SORT_DIGITS)
(const u64 *from, u64 *to, u64 count, u64 tiles, unsigned shift, const u64 *places)
{
    sort_move(from, to, count, tiles, shift, places);
}

template <typename K>
static __device__ __forceinline__ void sort_decode(const K *keys, K *numbers, u64 count,
                                                   sort_found *found)
{
    unsigned long long checksum = 0, unsorted = 0;
    for (u64 i = thread_number(); i < count; i += threads_of_grid()) {
        const K key = keys[i];
        const K bits = key & sort_sign<K>() ? key ^ sort_sign<K>() : (K)~key;
        unsorted += i > 0 && keys[i - 1] > key;
        checksum += generate_mix((u64)bits + 1);
        numbers[i] = bits;
    }
    sort_sum(checksum, &found->checksum);
    sort_sum(unsorted, &found->unsorted);
}

/* sort_decode_*: as sort_encode_*; a key's predecessor comes from the first-level cache. */
KERNEL(sort_decode_f32, ARRAY_THREADS)
(const uint32_t *keys, uint32_t *numbers, u64 count, sort_found *found)
{
    sort_decode(keys, numbers, count, found);
}

KERNEL(sort_decode_f64, ARRAY_THREADS)
(const u64 *keys, u64 *numbers, u64 count, sort_found *found)
{
    sort_decode(keys, numbers, count, found);
}

/* CONV2D, BLACK_SCHOLES, NBODY, SHA256 and SANITY. */
#include "executor/cuda/device_code.h"

/*
 * convolve makes a tile of the output, four rows of it a thread, from the tile of the image around
 * it in shared memory: rows `first` up to `end`. Beyond the image are zeros. Products are added row
 * after row of the kernel, as on the cpu.
 */
template <typename T>
static __device__ __forceinline__ void convolve(const T *image, const T *kernel, T *out, u64 h,
                                                u64 w, unsigned k, u64 first, u64 end)
{
    const unsigned most = CONVOLVE_SIDE + CONVOLVE_MAX_K - 1,
                   down = CONVOLVE_THREADS / CONVOLVE_SIDE;
    const unsigned rows = CONVOLVE_SIDE / down;
    __shared__ T tile[most * most], taps[CONVOLVE_MAX_K * CONVOLVE_MAX_K];
    const u64 row = first + (u64)blockIdx.y * CONVOLVE_SIDE,
              column = (u64)blockIdx.x * CONVOLVE_SIDE;
    const unsigned side = CONVOLVE_SIDE + k - 1, radius = k / 2;
    for (unsigned i = threadIdx.x; i < k * k; i += CONVOLVE_THREADS)
        taps[i] = kernel[i];
    for (unsigned i = threadIdx.x; i < side * side; i += CONVOLVE_THREADS) {
        /* Before the first row or column the difference wraps, and is outside too. */
        const u64 y = row + i / side - radius, x = column + i % side - radius;
        tile[i] = y < h && x < w ? image[y * w + x] : (T)0;
    }
    __syncthreads();
    const unsigned across = threadIdx.x % CONVOLVE_SIDE, top = threadIdx.x / CONVOLVE_SIDE * rows;
    T sums[rows] = {};
    for (unsigned i = 0; i < k; i++) {
        for (unsigned j = 0; j < k; j++) {
            const T tap = taps[i * k + j];
#pragma unroll
            for (unsigned r = 0; r < rows; r++)
                sums[r] += tap * tile[(top + r + i) * side + across + j];
        }
    }
#pragma unroll
    for (unsigned r = 0; r < rows; r++)
        if (row + top + r < end && column + across < w)
            out[(row + top + r) * w + column + across] = sums[r];
}

/*
 * convolve_*: 2 k^2 operations an element, and 8 (16) bytes, of which what tiles share is read more
 * than once: 1.1 times with k 3, 3.8 times with k 31. From k 5 on (f64: k 4) bound by shared
 * memory, of which an element takes k^2 reads of 4 (8) bytes, at 33 TB/s: 8.2 T (4.1 T) products a
 * second, a quarter of what the arithmetic would do.
 */
KERNEL(convolve_f32, CONVOLVE_THREADS)
(const float *image, const float *kernel, float *out, u64 h, u64 w, unsigned k, u64 first, u64 end)
{
    convolve(image, kernel, out, h, w, k, first, end);
}

KERNEL(convolve_f64, CONVOLVE_THREADS)
(const double *image, const double *kernel, double *out, u64 h, u64 w, unsigned k, u64 first,
 u64 end)
{
    convolve(image, kernel, out, h, w, k, first, end);
}

/* price: the formula of workloads/black_scholes.c, in the same order. */
template <typename T>
static __device__ __forceinline__ void price(const T *spots, const T *strikes, const T *years,
                                             T *calls, T *puts, u64 count, T rate, T volatility)
{
    const T half_root = (T)0.70710678118654752440084436210484903928;
    for (u64 i = thread_number(); i < count; i += threads_of_grid()) {
        const T spot = spots[i], strike = strikes[i], time = years[i];
        const T deviation = volatility * sqrt(time), moneyness = log(spot / strike);
        const T d1 = (moneyness + (rate + volatility * volatility / 2) * time) / deviation;
        const T d2 = d1 - deviation, discount = exp(-rate * time);
        calls[i] =
            spot * (erfc(-d1 * half_root) / 2) - strike * discount * (erfc(-d2 * half_root) / 2);
        puts[i] =
            strike * discount * (erfc(d2 * half_root) / 2) - spot * (erfc(d1 * half_root) / 2);
    }
}

/* price_*: 20 (40) bytes and some 200 (600) operations an option: bound by memory in f32, 167 G
 * options/s; by arithmetic in f64, 57 G options/s. */
KERNEL(price_f32, ARRAY_THREADS)
(const float *spots, const float *strikes, const float *years, float *calls, float *puts, u64 count,
 float rate, float volatility)
{
    price(spots, strikes, years, calls, puts, count, rate, volatility);
}

KERNEL(price_f64, ARRAY_THREADS)
(const double *spots, const double *strikes, const double *years, double *calls, double *puts,
 u64 count, double rate, double volatility)
{
    price(spots, strikes, years, calls, puts, count, rate, volatility);
}

/* What a body does to others. */
template <typename T> struct nbody_source {
    T mass, x, y, z;
};

/* nbody_tile brings a block's share of the bodies from `base` on into shared memory. All threads
 * must come, and none may still read the tile before. */
template <typename T>
static __device__ __forceinline__ void nbody_tile(nbody_source<T> *tile, const T *numbers,
                                                  u64 stride, u64 base, u64 count)
{
    const u64 j = base + threadIdx.x;
    if (j < count)
        tile[threadIdx.x] = {numbers[j], numbers[NBODY_X * stride + j],
                             numbers[(NBODY_X + 1) * stride + j],
                             numbers[(NBODY_X + 2) * stride + j]};
    __syncthreads();
}

/*
 * accelerate: for bodies `first` up to `end`, all `count` attract. Each number of the bodies begins
 * `stride` elements after the one before. In the order of the bodies, as on the cpu.
 */
template <typename T>
static __device__ __forceinline__ void accelerate(T *numbers, u64 stride, u64 count, u64 first,
                                                  u64 end, T soft)
{
    __shared__ nbody_source<T> tile[NBODY_THREADS];
    const u64 i = first + thread_number();
    const bool mine = i < end;
    const T x = mine ? numbers[NBODY_X * stride + i] : (T)0;
    const T y = mine ? numbers[(NBODY_X + 1) * stride + i] : (T)0;
    const T z = mine ? numbers[(NBODY_X + 2) * stride + i] : (T)0;
    T ax = 0, ay = 0, az = 0;
    for (u64 base = 0; base < count; base += NBODY_THREADS) {
        const unsigned here =
            count - base < NBODY_THREADS ? (unsigned)(count - base) : NBODY_THREADS;
        nbody_tile(tile, numbers, stride, base, count);
#pragma unroll 8
        for (unsigned j = 0; j < here; j++) {
            const nbody_source<T> other = tile[j];
            const T dx = other.x - x, dy = other.y - y, dz = other.z - z;
            const T inverse = rsqrt(dx * dx + dy * dy + dz * dz + soft);
            const T force = other.mass * inverse * inverse * inverse;
            ax += force * dx;
            ay += force * dy;
            az += force * dz;
        }
        __syncthreads();
    }
    if (mine) {
        numbers[NBODY_AX * stride + i] = ax;
        numbers[(NBODY_AX + 1) * stride + i] = ay;
        numbers[(NBODY_AX + 2) * stride + i] = az;
    }
}

/* accelerate_*: 20 operations a pair, of which the root is one of sixteen a cycle and
 * multiprocessor (in f64 ten more instructions): 1.7 T (0.6 T) pairs/s; a pair reads 16 (32) bytes
 * of shared memory, one address for all of a warp. */
KERNEL(accelerate_f32, NBODY_THREADS)
(float *numbers, u64 stride, u64 count, u64 first, u64 end, float soft)
{
    accelerate(numbers, stride, count, first, end, soft);
}

KERNEL(accelerate_f64, NBODY_THREADS)
(double *numbers, u64 stride, u64 count, u64 first, u64 end, double soft)
{
    accelerate(numbers, stride, count, first, end, soft);
}

/* potential: of bodies `first` up to `end`, in float64, itself left out. */
template <typename T>
static __device__ __forceinline__ void potential(const T *numbers, double *potentials, u64 stride,
                                                 u64 count, u64 first, u64 end, double soft)
{
    __shared__ nbody_source<T> tile[NBODY_THREADS];
    const u64 i = first + thread_number();
    const bool mine = i < end;
    const double x = mine ? (double)numbers[NBODY_X * stride + i] : 0;
    const double y = mine ? (double)numbers[(NBODY_X + 1) * stride + i] : 0;
    const double z = mine ? (double)numbers[(NBODY_X + 2) * stride + i] : 0;
    double sum = 0;
    for (u64 base = 0; base < count; base += NBODY_THREADS) {
        const unsigned here =
            count - base < NBODY_THREADS ? (unsigned)(count - base) : NBODY_THREADS;
        nbody_tile(tile, numbers, stride, base, count);
        for (unsigned j = 0; j < here; j++) {
            const nbody_source<T> other = tile[j];
            const double dx = other.x - x, dy = other.y - y, dz = other.z - z;
            const double mass = base + j == i ? 0 : (double)other.mass;
            sum -= mass * rsqrt(dx * dx + dy * dy + dz * dz + soft);
        }
        __syncthreads();
    }
    if (mine)
        potentials[i] = sum;
}

/* potential_*: twice a job; some 25 operations in f64 a pair: 1.3 T pairs/s. */
KERNEL(potential_f32, NBODY_THREADS)
(const float *numbers, double *potentials, u64 stride, u64 count, u64 first, u64 end, double soft)
{
    potential(numbers, potentials, stride, count, first, end, soft);
}

KERNEL(potential_f64, NBODY_THREADS)
(const double *numbers, double *potentials, u64 stride, u64 count, u64 first, u64 end, double soft)
{
    potential(numbers, potentials, stride, count, first, end, soft);
}

/* move_*: 12 (24) bytes and 2 operations an element: 279 (140) G elements/s. */
KERNEL(move_f32, ARRAY_THREADS)(float *to, const float *from, float factor, u64 count)
{
    for (u64 i = thread_number(); i < count; i += threads_of_grid())
        to[i] += factor * from[i];
}

KERNEL(move_f64, ARRAY_THREADS)(double *to, const double *from, double factor, u64 count)
{
    for (u64 i = thread_number(); i < count; i += threads_of_grid())
        to[i] += factor * from[i];
}

/*
 * sha256_fill: bytes `first` up to first + count of a stream of 64-bit numbers, little endian. Some
 * 40 operations for 8 bytes: 0.8 T numbers/s, more than what can be written, 0.4 T.
 */
KERNEL(sha256_fill, ARRAY_THREADS)(unsigned char *to, u64 key, u64 first, u64 count)
{
    const u64 end = first + count;
    for (u64 i = first / 8 + thread_number(); i * 8 < end; i += threads_of_grid()) {
        const u64 bits = generate_bits(key, i);
        if (first % 8 == 0 && i * 8 + 8 <= end) {
            *(u64 *)(to + (i * 8 - first)) = bits;
            continue;
        }
#pragma unroll
        for (unsigned j = 0; j < 8; j++)
            if (i * 8 + j >= first && i * 8 + j < end)
                to[i * 8 + j - first] = (unsigned char)(bits >> 8 * j);
    }
}

/* FIPS 180-4, 4.2.2. */
static __constant__ const uint32_t sha256_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

/* FIPS 180-4, 5.3.3. */
static __constant__ const uint32_t sha256_initial[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

static __device__ __forceinline__ uint32_t sha256_turn(uint32_t x, unsigned bits)
{
    return x >> bits | x << (32 - bits);
}

static __device__ __forceinline__ uint32_t sha256_small(uint32_t x, unsigned a, unsigned b,
                                                        unsigned shift)
{
    return sha256_turn(x, a) ^ sha256_turn(x, b) ^ x >> shift;
}

/* sha256_compress: FIPS 180-4, 6.2.2, with the last 16 words of the schedule alone. */
static __device__ __forceinline__ void sha256_compress(uint32_t *state, uint32_t *words)
{
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
#pragma unroll
    for (unsigned t = 0; t < 64; t++) {
        if (t >= 16)
            words[t % 16] += sha256_small(words[(t + 14) % 16], 17, 19, 10) + words[(t + 9) % 16] +
                             sha256_small(words[(t + 1) % 16], 7, 18, 3);
        const uint32_t sum1 = sha256_turn(e, 6) ^ sha256_turn(e, 11) ^ sha256_turn(e, 25);
        const uint32_t sum0 = sha256_turn(a, 2) ^ sha256_turn(a, 13) ^ sha256_turn(a, 22);
        const uint32_t first =
            h + sum1 + ((e & f) ^ (~e & g)) + sha256_constants[t] + words[t % 16];
        const uint32_t second = sum0 + ((a & b) ^ (a & c) ^ (b & c));
        h = g;
        g = f;
        f = e;
        e = d + first;
        d = c;
        c = b;
        b = a;
        a = first + second;
    }
    const uint32_t sums[8] = {a, b, c, d, e, f, g, h};
#pragma unroll
    for (unsigned i = 0; i < 8; i++)
        state[i] += sums[i];
}

/* sha256_load makes the big-endian words of a block: of data, of the one bit and the zeros behind,
 * and of the length in bits (FIPS 180-4, 5.1.1). */
static __device__ __forceinline__ void sha256_load(uint32_t *words, const unsigned char *data,
                                                   u64 length, u64 block, u64 last)
{
    const unsigned char *from = data + block * 64;
    if (block * 64 + 64 <= length && (uintptr_t)from % 16 == 0) {
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            const vector<uint32_t> quarter = ((const vector<uint32_t> *)from)[i];
#pragma unroll
            for (unsigned j = 0; j < 4; j++)
                words[4 * i + j] = __byte_perm(quarter.of[j], 0, 0x0123);
        }
        return;
    }
#pragma unroll
    for (unsigned i = 0; i < 64; i++) {
        const u64 at = block * 64 + i;
        const uint32_t byte = at < length ? data[at] : at == length ? 0x80 : 0;
        words[i / 4] = i % 4 == 0 ? byte << 24 : words[i / 4] | byte << (24 - i % 4 * 8);
    }
    if (block == last) {
        words[14] = (uint32_t)(length >> 29);
        words[15] = (uint32_t)(length << 3);
    }
}

/*
 * sha256_chunks: each thread goes through the blocks `first` up to `end` of its chunk, the last of
 * which may be shorter; in between, states[i * chunks + chunk] is word i of its state. The digest
 * comes with the last block.
 */
KERNEL(sha256_chunks, SHA256_THREADS)
(const unsigned char *data, u64 bytes, u64 chunk_bytes, u64 chunks, u64 first, u64 end,
 uint32_t *states, unsigned char *digests)
{
    const u64 chunk = thread_number();
    if (chunk >= chunks)
        return;
    const u64 begin = chunk * chunk_bytes;
    const u64 length = bytes - begin < chunk_bytes ? bytes - begin : chunk_bytes;
    const u64 last = (length + 8) / 64;
    uint32_t state[8], words[16];
#pragma unroll
    for (unsigned i = 0; i < 8; i++)
        state[i] = first == 0 ? sha256_initial[i] : states[i * chunks + chunk];
    for (u64 block = first; block < end && block <= last; block++) {
        sha256_load(words, data + begin, length, block, last);
        sha256_compress(state, words);
    }
#pragma unroll
    for (unsigned i = 0; i < 8; i++)
        states[i * chunks + chunk] = state[i];
    if (first > last || last >= end)
        return;
#pragma unroll
    for (unsigned i = 0; i < 32; i++)
        digests[chunk * 32 + i] = (unsigned char)(state[i / 4] >> (24 - i % 4 * 8));
}

/*
 * sha256_chunks: some 1500 32-bit operations for 64 bytes: with a chunk for each of the 270,000
 * threads that an H100 can hold, 1.4 TB/s; with fewer each thread does some 40 MB/s, since a round
 * waits for the one before.
 */

/* sanity_write: writes 8 bytes a word, 0.42 T words/s. */
KERNEL(sanity_write, ARRAY_THREADS)(u64 *to, u64 key, u64 count)
{
    for (u64 i = thread_number(); i < count; i += threads_of_grid())
        to[i] = generate_bits(key, i);
}

/* sanity_copy: reads and writes 16 bytes a word, 209 G words/s; `count` is even. */
KERNEL(sanity_copy, ARRAY_THREADS)(const u64 *from, u64 *to, u64 count)
{
    const vector<u64> *x = (const vector<u64> *)from;
    vector<u64> *y = (vector<u64> *)to;
#pragma unroll 4
    for (u64 i = thread_number(); i < count / 2; i += threads_of_grid())
        y[i] = x[i];
}

static __device__ __forceinline__ void sanity_count(unsigned long long wrong,
                                                    unsigned long long *total)
{
    if (wrong != 0)
        atomicAdd(total, wrong);
}

/* sanity_check: reads 8 bytes a word, 0.42 T words/s. */
KERNEL(sanity_check, ARRAY_THREADS)
(const u64 *from, u64 key, u64 count, unsigned long long *total)
{
    unsigned long long wrong = 0;
    for (u64 i = thread_number(); i < count; i += threads_of_grid())
        wrong += from[i] != generate_bits(key, i);
    sanity_count(wrong, total);
}

/*
 * sanity_compute: x = x / 2 + x0 / 2 gives x0 again and again, as in workloads/sanity.c. 192
 * operations in f64 a word: 89 G words/s with fused products and sums, of which that is half.
 */
KERNEL(sanity_compute, ARRAY_THREADS)(const u64 *from, u64 count, unsigned long long *total)
{
    unsigned long long wrong = 0;
    for (u64 i = thread_number(); i < count; i += threads_of_grid()) {
        const double start = 1 + (double)(int)(from[i] % 1024) * 0x1p-10;
        double x = start;
#pragma unroll 8
        for (unsigned round = 0; round < SANITY_ROUNDS; round++)
            x = x * 0.5 + start * 0.5;
        wrong += x != start;
    }
    sanity_count(wrong, total);
}

/* The kernels of CONV2D, BLACK_SCHOLES, NBODY, SHA256 and SANITY: kernels_numeric.cu. */
#include "kernel_test.h"

#include <algorithm>

template <typename T> static void make_small(array<T> &a, unsigned stream)
{
    for (size_t i = 0; i < a.size; i++)
        a.data[i] = (T)(generate_real(stream, i, 30) - 0.5);
}

template <typename T> static long double roundoff()
{
    return sizeof(T) == 4 ? 0x1p-24L : 0x1p-53L;
}

template <typename T>
static void test_convolve_size(uint64_t h, uint64_t w, unsigned k, uint64_t first, uint64_t end)
{
    array<T> image(h * w), kernel(k * k), out(h * w);
    array<T> untouched(1);
    make_small(image, 1);
    make_small(kernel, 2);
    launch(typed<T>("convolve").c_str(), (unsigned)((w + CONVOLVE_SIDE - 1) / CONVOLVE_SIDE),
           (unsigned)((end - first + CONVOLVE_SIDE - 1) / CONVOLVE_SIDE), CONVOLVE_THREADS,
           {&image.data, &kernel.data, &out.data, &h, &w, &k, &first, &end});
    for (uint64_t y = 0; y < h; y++) {
        for (uint64_t x = 0; x < w; x++) {
            const T found = out.data[y * w + x];
            long double sum = 0, absolute = 0;
            for (uint64_t i = 0; i < k; i++)
                for (uint64_t j = 0; j < k; j++) {
                    const uint64_t row = y + i - k / 2, column = x + j - k / 2;
                    if (row >= h || column >= w)
                        continue;
                    const long double product =
                        (long double)kernel.data[i * k + j] * image.data[row * w + column];
                    sum += product;
                    absolute += fabsl(product);
                }
            if (y < first || y >= end)
                CHECK(memcmp(&found, untouched.data, sizeof(T)) == 0, "row %zu was written",
                      (size_t)y);
            else /* Higham 3.1 */
                CHECK(fabsl(found - sum) <= (k * k + 1) * roundoff<T>() * absolute,
                      "%zux%zu k %u: %zu, %zu", (size_t)h, (size_t)w, k, (size_t)y, (size_t)x);
        }
    }
}

template <typename T> static void test_convolve()
{
    for (unsigned k : {1, 3, 5, 31}) {
        test_convolve_size<T>(1, 1, k, 0, 1);
        test_convolve_size<T>(5, 40, k, 0, 5);
        test_convolve_size<T>(33, 31, k, 0, 33);
    }
    test_convolve_size<T>(70, 65, 3, 32, 64);
}

template <typename T> static void test_price()
{
    for (uint64_t count : {1, 255, 512, 513, 1100}) {
        array<T> spot(count), strike(count), years(count), call(count), put(count);
        const T rate = (T)0.02, volatility = (T)0.3;
        for (uint64_t i = 0; i < count; i++) {
            spot.data[i] = (T)(50 + 100 * generate_real(1, i, 16));
            strike.data[i] = (T)(50 + 100 * generate_real(2, i, 16));
            years.data[i] = (T)(0.25 + 2 * generate_real(3, i, 16));
        }
        launch(typed<T>("price").c_str(), 2, 1, ARRAY_THREADS,
               {&spot.data, &strike.data, &years.data, &call.data, &put.data, &count, (void *)&rate,
                (void *)&volatility});
        for (uint64_t i = 0; i < count; i++) {
            const long double s = spot.data[i], k = strike.data[i], t = years.data[i],
                              v = volatility;
            const long double deviation = v * sqrtl(t), discount = expl(-(long double)rate * t);
            const long double d1 = (logl(s / k) + ((long double)rate + v * v / 2) * t) / deviation;
            const long double d2 = d1 - deviation;
            auto normal = [](long double x) { return erfcl(-x / sqrtl(2)) / 2; };
            /* Far inside the executor's bound for such options. */
            const long double bound = 100 * 150 * roundoff<T>();
            CHECK(fabsl(call.data[i] - (s * normal(d1) - k * discount * normal(d2))) <= bound,
                  "call %zu of %zu", (size_t)i, (size_t)count);
            CHECK(fabsl(put.data[i] - (k * discount * normal(-d2) - s * normal(-d1))) <= bound,
                  "put %zu of %zu", (size_t)i, (size_t)count);
        }
    }
}

template <typename T> static void test_nbody_size(uint64_t count, uint64_t first, uint64_t end)
{
    uint64_t stride = count; /* so that what is beyond the last number is nobody's */
    array<T> numbers(NBODY_NUMBERS * stride), before(NBODY_NUMBERS * stride);
    array<double> potentials(count);
    const T soft = (T)0.01;
    const double wide_soft = 0.01;
    make_small(numbers, 1);
    memcpy(before.data, numbers.data, numbers.size * sizeof(T));
    const unsigned blocks = (unsigned)((end - first + NBODY_THREADS - 1) / NBODY_THREADS);
    launch(typed<T>("accelerate").c_str(), blocks, 1, NBODY_THREADS,
           {&numbers.data, &stride, &count, &first, &end, (void *)&soft});
    launch(typed<T>("potential").c_str(), blocks, 1, NBODY_THREADS,
           {&numbers.data, &potentials.data, &stride, &count, &first, &end, (void *)&wide_soft});
    for (uint64_t i = 0; i < count; i++) {
        long double sums[3] = {0}, absolute[3] = {0}, potential = 0, most = 0;
        for (uint64_t j = 0; j < count; j++) {
            long double d[3], square = (long double)soft, wide_square = 0.01L;
            for (int axis = 0; axis < 3; axis++) {
                d[axis] = (long double)before.data[(NBODY_X + axis) * stride + j] -
                          before.data[(NBODY_X + axis) * stride + i];
                square += d[axis] * d[axis];
                wide_square += d[axis] * d[axis];
            }
            const long double mass = before.data[j];
            for (int axis = 0; axis < 3; axis++) {
                sums[axis] += mass * d[axis] / (square * sqrtl(square));
                absolute[axis] += fabsl(mass * d[axis] / (square * sqrtl(square)));
            }
            if (j != i) {
                potential -= mass / sqrtl(wide_square);
                most += fabsl(mass) / sqrtl(wide_square);
            }
        }
        for (int axis = 0; axis < 3; axis++) {
            const T found = numbers.data[(NBODY_AX + axis) * stride + i];
            if (i < first || i >= end)
                CHECK(found == before.data[(NBODY_AX + axis) * stride + i], "body %zu was moved",
                      (size_t)i);
            else
                CHECK(fabsl(found - sums[axis]) <= (count + 28) * roundoff<T>() * absolute[axis],
                      "body %zu of %zu", (size_t)i, (size_t)count);
        }
        CHECK(i < first || i >= end ||
                  fabsl(potentials.data[i] - potential) <= (count + 16) * 0x1p-53L * most,
              "body %zu of %zu", (size_t)i, (size_t)count);
    }
}

template <typename T> static void test_nbody()
{
    for (uint64_t count : {1, 2, 127, 128, 129, 300})
        test_nbody_size<T>(count, 0, count);
    test_nbody_size<T>(270, 128, 256);
}

template <typename T> static void test_move()
{
    for (uint64_t count : {1, 511, 512, 513, 1300}) {
        array<T> to(count), from(count), before(count);
        const T factor = (T)0.5;
        make_small(to, 1);
        make_small(from, 2);
        memcpy(before.data, to.data, count * sizeof(T));
        launch(typed<T>("move").c_str(), 2, 1, ARRAY_THREADS,
               {&to.data, &from.data, (void *)&factor, &count});
        for (uint64_t i = 0; i < count; i++)
            CHECK(to.data[i] == before.data[i] + factor * from.data[i], "%zu of %zu", (size_t)i,
                  (size_t)count);
    }
}

static void test_sha256_fill()
{
    for (uint64_t count : {1, 2, 7, 8, 9, 4095, 4096, 4097, 9000}) {
        for (uint64_t first :
             {(uint64_t)0, (uint64_t)5, (uint64_t)1 << 40, ((uint64_t)1 << 40) + 3}) {
            array<unsigned char> to(count);
            uint64_t key = generate_key(1, 0);
            launch("sha256_fill", 2, 1, ARRAY_THREADS, {&to.data, &key, &first, &count});
            for (uint64_t i = 0; i < count; i++)
                CHECK(to.data[i] == (unsigned char)(generate_bits(key, (first + i) / 8) >>
                                                    (first + i) % 8 * 8),
                      "byte %zu of %zu from %zu", (size_t)i, (size_t)count, (size_t)first);
        }
    }
}

/* digests of chunks of 'a's, as printed by sha256sum(1) of coreutils */
static const struct {
    uint64_t bytes;
    const char *digest;
} digests[] = {
    {1, "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"},
    {3, "9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0"},
    {55, "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318"},
    {56, "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a"},
    {63, "7d3e74a05d7db15bce4ad9ec0658ea98e3f06eeecf16b4c6fff2da457ddc2f34"},
    {64, "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb"},
    {65, "635361c48bb9eab14198e76ea8ab7f1a41685d6ad62aa9146d301d4f17eb0ae0"},
    {128, "6836cf13bac400e9105071cd6af47084dfacad4e5e302c94bfed24e013afb73e"},
    {183, "a88d44a2940a3a2fc363304926d263bf271afb562bab5640cb0e81f5e84320a3"},
    {200, "c2a908d98f5df987ade41b5fce213067efbcc21ef2240212a41e54b5e7c28ae5"},
};

static std::string digest_text(const unsigned char *digest)
{
    char text[65];
    for (int i = 0; i < 32; i++)
        snprintf(text + 2 * i, 3, "%02x", digest[i]);
    return text;
}

/* `chunks` chunks, of which the last has `rest` bytes, in steps of `blocks` blocks. Each chunk's
 * digest must come once, with its last block. */
static void test_sha256_chunks(size_t number, size_t rest, uint64_t chunks, uint64_t blocks)
{
    uint64_t chunk = digests[number].bytes, bytes = (chunks - 1) * chunk + digests[rest].bytes;
    array<unsigned char> data(bytes), found(chunks * 32);
    array<uint32_t> states(8 * chunks);
    memset(data.data, 'a', bytes);
    const array<unsigned char> untouched(32);
    std::vector<std::string> wanted(chunks, digests[number].digest), came(chunks);
    wanted[chunks - 1] = digests[rest].digest;
    for (uint64_t first = 0; first <= (chunk + 8) / 64; first += blocks) {
        uint64_t end = first + blocks;
        launch("sha256_chunks", (unsigned)((chunks + SHA256_THREADS - 1) / SHA256_THREADS), 1,
               SHA256_THREADS,
               {&data.data, &bytes, &chunk, &chunks, &first, &end, &states.data, &found.data});
        for (uint64_t i = 0; i < chunks; i++) {
            if (memcmp(found.data + i * 32, untouched.data, 32) != 0)
                came[i] += digest_text(found.data + i * 32);
            memcpy(found.data + i * 32, untouched.data, 32);
        }
    }
    for (uint64_t i = 0; i < chunks; i++)
        CHECK(came[i] == wanted[i], "chunk %zu of %zu of %zu bytes: %s", (size_t)i, (size_t)chunks,
              (size_t)chunk, came[i].c_str());
}

static void test_sha256()
{
    const size_t kinds = sizeof(digests) / sizeof(digests[0]);
    for (size_t number = 0; number < kinds; number++) {
        for (uint64_t blocks : {1, 2, 100})
            test_sha256_chunks(number, number, 3, blocks);
        test_sha256_chunks(number, 0, 65, 2);
    }
}

static void test_sanity()
{
    for (uint64_t count : {2, 510, 512, 514, 4096, 4098}) {
        array<uint64_t> from(count), to(count);
        array<unsigned long long> wrong(1);
        uint64_t key = generate_key(1, 0), odd = count - 1;
        launch("sanity_write", 2, 1, ARRAY_THREADS, {&from.data, &key, &count});
        launch("sanity_copy", 2, 1, ARRAY_THREADS, {&from.data, &to.data, &count});
        for (uint64_t i = 0; i < count; i++)
            CHECK(to.data[i] == generate_bits(key, i), "%zu of %zu", (size_t)i, (size_t)count);
        *wrong.data = 0;
        launch("sanity_check", 2, 1, ARRAY_THREADS, {&to.data, &key, &count, &wrong.data});
        launch("sanity_compute", 2, 1, ARRAY_THREADS, {&to.data, &count, &wrong.data});
        CHECK(*wrong.data == 0, "%llu of %zu", *wrong.data, (size_t)count);
        to.data[0] ^= 1;
        to.data[odd] ^= (uint64_t)1 << 63;
        launch("sanity_check", 2, 1, ARRAY_THREADS, {&to.data, &key, &count, &wrong.data});
        CHECK(*wrong.data == 2, "%llu of %zu", *wrong.data, (size_t)count);
    }
}

void test_numeric_kernels()
{
    test_convolve<float>();
    test_convolve<double>();
    test_price<float>();
    test_price<double>();
    test_nbody<float>();
    test_nbody<double>();
    test_move<float>();
    test_move<double>();
    test_sha256_fill();
    test_sha256();
    test_sanity();
}

/* The kernels of SORT: kernels_sort.cu. */
#include "kernel_test.h"

#include <algorithm>
#include <limits>

template <typename K> static K key_of(K bits)
{
    const K sign = (K)1 << (8 * sizeof(K) - 1);
    return bits & sign ? (K)~bits : bits | sign;
}

/* Every kind of number, and many that are equal. */
template <typename T, typename K> static void make_numbers(array<K> &a, unsigned kind)
{
    const T special[] = {(T)0.0,
                         (T)-0.0,
                         std::numeric_limits<T>::infinity(),
                         -std::numeric_limits<T>::infinity(),
                         std::numeric_limits<T>::quiet_NaN(),
                         -std::numeric_limits<T>::quiet_NaN(),
                         std::numeric_limits<T>::denorm_min(),
                         std::numeric_limits<T>::max(),
                         (T)1};
    for (size_t i = 0; i < a.size; i++) {
        const uint64_t bits = generate_bits(kind, i);
        T number = special[bits % 9];
        if (kind == 0) /* any bits */
            a.data[i] = (K)bits;
        else
            memcpy(&a.data[i], &number, sizeof(K));
    }
}

template <typename K> static uint64_t checksum_of(const array<K> &a)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < a.size; i++)
        sum += generate_mix((uint64_t)a.data[i] + 1);
    return sum;
}

template <typename K> static std::string kernel(const char *name)
{
    return std::string(name) + (sizeof(K) == 4 ? "_f32" : "_f64");
}

/* One pass, by blocks of `tiles` tiles: order by the digit, and otherwise as before. */
template <typename K> static void pass(array<K> &from, array<K> &to, uint64_t tiles, unsigned shift)
{
    uint64_t count = from.size;
    uint64_t blocks = (count + tiles * SORT_TILE - 1) / (tiles * SORT_TILE);
    array<uint64_t> counts(blocks * SORT_DIGITS);
    launch(kernel<K>("sort_count").c_str(), (unsigned)blocks, 1, SORT_DIGITS,
           {&from.data, &count, &tiles, &shift, &counts.data});
    for (uint64_t block = 0; block < blocks; block++) {
        uint64_t wanted[SORT_DIGITS] = {0};
        const uint64_t end = std::min<uint64_t>(count, (block + 1) * tiles * SORT_TILE);
        for (uint64_t i = block * tiles * SORT_TILE; i < end; i++)
            wanted[from.data[i] >> shift & 255]++;
        for (unsigned digit = 0; digit < SORT_DIGITS; digit++)
            CHECK(counts.data[block * SORT_DIGITS + digit] == wanted[digit], "digit %u", digit);
    }
    launch("sort_offsets", 1, 1, SORT_DIGITS, {&counts.data, &blocks});
    launch(kernel<K>("sort_move").c_str(), (unsigned)blocks, 1, SORT_DIGITS,
           {&from.data, &to.data, &count, &tiles, &shift, &counts.data});
    std::vector<K> wanted(from.data, from.data + count);
    std::stable_sort(wanted.begin(), wanted.end(),
                     [shift](K a, K b) { return (a >> shift & 255) < (b >> shift & 255); });
    for (uint64_t i = 0; i < count; i++)
        CHECK(to.data[i] == wanted[i], "element %zu of %zu, bits from %u", (size_t)i, (size_t)count,
              shift);
}

template <typename T, typename K>
static void test_sort_size(size_t size, uint64_t tiles, unsigned kind)
{
    array<K> a(size), b(size);
    uint64_t count = size;
    array<sort_found> found(2);
    memset(found.data, 0, 2 * sizeof(sort_found));
    sort_found *before = &found.data[0], *after = &found.data[1];
    make_numbers<T>(a, kind);
    const uint64_t checksum = checksum_of(a);
    std::vector<K> wanted(a.data, a.data + size);
    std::sort(wanted.begin(), wanted.end(), [](K x, K y) { return key_of(x) < key_of(y); });
    launch(kernel<K>("sort_encode").c_str(), 2, 1, ARRAY_THREADS, {&a.data, &count, &before});
    CHECK(before->checksum == checksum, "%zu", size);
    /* What is as it came is in order only if it was. */
    launch(kernel<K>("sort_decode").c_str(), 2, 1, ARRAY_THREADS,
           {&a.data, &b.data, &count, &after});
    unsigned long long unsorted = 0;
    for (size_t i = 1; i < size; i++)
        unsorted += a.data[i - 1] > a.data[i];
    CHECK(after->unsorted == unsorted && after->checksum == checksum, "%llu, not %llu",
          after->unsorted, unsorted);
    memset(after, 0, sizeof(*after));
    const int failed = failures;
    for (unsigned shift = 0; shift < 8 * sizeof(K) && failures == failed; shift += 16) {
        pass(a, b, tiles, shift);
        pass(b, a, tiles, shift + 8);
    }
    if (failures != failed)
        return;
    launch(kernel<K>("sort_decode").c_str(), 2, 1, ARRAY_THREADS,
           {&a.data, &b.data, &count, &after});
    CHECK(after->unsorted == 0 && after->checksum == checksum, "%zu", size);
    for (size_t i = 0; i < size; i++)
        CHECK(b.data[i] == wanted[i], "element %zu of %zu", i, size);
}

/* One pass alone: around a tile, and blocks of two tiles. */
template <typename T, typename K> static void test_pass(size_t size, uint64_t tiles)
{
    array<K> from(size), to(size);
    make_numbers<T>(from, 0);
    pass(from, to, tiles, 8);
}

/* What sort_move writes: the keys of its own blocks, and nothing beyond the array when the places
 * are wrong. */
template <typename T, typename K> static void test_move_bounds()
{
    uint64_t count = 2 * SORT_TILE, tiles = 1, blocks = 2;
    unsigned shift = 0;
    array<K> from(count), to(count), untouched(1);
    array<uint64_t> places(blocks * SORT_DIGITS);
    make_numbers<T>(from, 0);
    launch(kernel<K>("sort_count").c_str(), (unsigned)blocks, 1, SORT_DIGITS,
           {&from.data, &count, &tiles, &shift, &places.data});
    launch("sort_offsets", 1, 1, SORT_DIGITS, {&places.data, &blocks});
    const auto move = [&](unsigned launched) {
        launch(kernel<K>("sort_move").c_str(), launched, 1, SORT_DIGITS,
               {&from.data, &to.data, &count, &tiles, &shift, &places.data});
        return count - (uint64_t)std::count(to.data, to.data + count, *untouched.data);
    };
    const uint64_t of_one_block = move(1);
    CHECK(of_one_block == SORT_TILE, "%zu", (size_t)of_one_block);
    std::fill(to.data, to.data + count, *untouched.data);
    std::fill(places.data, places.data + places.size, count - 1);
    const uint64_t astray = move((unsigned)blocks);
    CHECK(astray == 1 && to.data[count - 1] != *untouched.data, "%zu", (size_t)astray);
}

template <typename T, typename K> static void test_sort()
{
    test_sort_size<T, K>(1, 1, 0);
    test_sort_size<T, K>(33, 1, 1);
    test_sort_size<T, K>(513, 1, 0);
    test_sort_size<T, K>(513, 1, 1);
    test_pass<T, K>(SORT_TILE + 1, 1);
    test_pass<T, K>(3 * SORT_TILE - 5, 2);
    test_move_bounds<T, K>();
}

void test_sort_kernels()
{
    test_sort<float, uint32_t>();
    test_sort<double, uint64_t>();
}

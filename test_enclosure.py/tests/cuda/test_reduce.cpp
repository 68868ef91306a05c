/* The kernels that make little of much: kernels_reduce.cu. */
#include "kernel_test.h"

#include <algorithm>
#include <cmath>
#include <limits>

/* Around one vector, one row of lanes, one row of threads, one tile of a scan, and one part. */
static const size_t sizes[] = {1,
                               2,
                               7,
                               8,
                               9,
                               15,
                               16,
                               17,
                               31,
                               32,
                               33,
                               63,
                               64,
                               65,
                               255,
                               256,
                               257,
                               511,
                               513,
                               2047,
                               2048,
                               2049,
                               4097,
                               PART_ELEMENTS - 1,
                               PART_ELEMENTS,
                               PART_ELEMENTS + 1,
                               PART_ELEMENTS + 17,
                               2 * PART_ELEMENTS + 33};

static unsigned lane_blocks(size_t count)
{
    const unsigned per = PART_THREADS / SUM_LANES;
    return (parts_of(count) + per - 1) / per;
}

static size_t end_of_part(size_t part, size_t count)
{
    return std::min(count, (part + 1) * PART_ELEMENTS);
}

/* --- sums --------------------------------------------------------------------------------------
 */

/* cpu_sum adds as workloads/reduce.c and dot.c do: in 16 lanes, and these pairwise. */
template <typename T> static double cpu_sum(const T *x, const T *y, size_t first, size_t end)
{
    double lanes[16] = {};
    for (size_t i = first; i < end; i++) {
        const volatile double term = y ? (double)x[i] * (double)y[i] : (double)x[i];
        lanes[(i - first) % 16] += term;
    }
    for (size_t width = 8; width > 0; width /= 2)
        for (size_t lane = 0; lane < width; lane++)
            lanes[lane] += lanes[lane + width];
    return lanes[0];
}

template <typename T>
static void check_sum(const sum_result &found, const T *x, const T *y, size_t first, size_t end)
{
    long double sum = 0, absolute = 0, lost = 0;
    for (size_t i = first; i < end; i++) {
        /* Two long doubles: the product of two f64 has 106 digits. */
        const long double term = y ? (long double)x[i] * y[i] : (long double)x[i];
        const long double total = sum + term, rounded = total - sum;
        lost += (sum - (total - rounded)) + (term - rounded);
        sum = total;
        absolute += fabsl(term);
    }
    sum += lost;
    CHECK(found.value == cpu_sum(x, y, first, end), "%a of %zu to %zu", found.value, first, end);
    const long double most = (long double)(end - first) * 0x1p-64L * absolute;
    const long double reference = (long double)found.reference + found.lost;
    CHECK(fabsl(reference - sum) <= (y ? most : 0x1p-63L * absolute), "%La, not %La of %zu to %zu",
          reference, sum, first, end);
    CHECK(fabsl(found.absolute - absolute) <= (long double)(end - first) * 0x1p-53L * absolute,
          "%a", found.absolute);
}

template <typename T> static void test_sum(bool product)
{
    for (uint64_t count : sizes) {
        array<T> x(count), y(product ? count : 0);
        array<sum_result> results(parts_of(count));
        make(x, 3);
        make(y, 4);
        std::vector<void *> arguments = {&x.data};
        if (product)
            arguments.push_back(&y.data);
        arguments.push_back(&count);
        arguments.push_back(&results.data);
        launch(typed<T>(product ? "dot" : "sum").c_str(), lane_blocks(count), 1, PART_THREADS,
               arguments);
        launch(typed<T>(product ? "dot_reference" : "sum_reference").c_str(), parts_of(count), 1,
               PART_THREADS, arguments);
        for (size_t part = 0; part < results.size; part++)
            check_sum(results.data[part], x.data, product ? y.data : nullptr, part * PART_ELEMENTS,
                      end_of_part(part, count));
    }
}

template <typename T> static void test_checksum()
{
    for (uint64_t count : sizes) {
        array<T> x(count);
        array<double> results(parts_of(count));
        for (size_t i = 0; i < count; i++)
            x.data[i] = (T)(generate_bits(3, i) % 1000); /* sums are exact */
        launch(typed<T>("checksum").c_str(), parts_of(count), 1, PART_THREADS,
               {&x.data, &count, &results.data});
        for (size_t part = 0; part < results.size; part++) {
            double sum = 0;
            for (size_t i = part * PART_ELEMENTS; i < end_of_part(part, count); i++)
                sum += x.data[i] * (T)(i % 7 + 1);
            CHECK(results.data[part] == sum, "%a, not %a", results.data[part], sum);
        }
    }
}

/* --- extremes ----------------------------------------------------------------------------------
 */

template <typename T> static bool same(T a, T b)
{
    return (a != a && b != b) || (a == b && std::signbit(a) == std::signbit(b));
}

/* cpu_extreme: as workloads/reduce.c, whose order tells which of two zeros it is. */
template <typename T> static T cpu_extreme(const T *x, size_t count, bool least)
{
    const T sign = least ? 1 : -1;
    const size_t whole = count / 16 * 16;
    T lanes[16];
    for (T &lane : lanes)
        lane = sign * x[0];
    for (size_t i = 0; i < whole; i++) {
        const T candidate = sign * x[i], best = lanes[i % 16];
        lanes[i % 16] = candidate != candidate || candidate < best ? candidate : best;
    }
    T found = lanes[0];
    for (int lane = 1; lane < 16; lane++)
        found = lanes[lane] < found || lanes[lane] != lanes[lane] ? lanes[lane] : found;
    for (size_t i = whole; i < count; i++)
        found = sign * x[i] < found || x[i] != x[i] ? sign * x[i] : found;
    return sign * found;
}

template <typename T>
static uint64_t wrong_extremes(array<T> &x, array<sum_result> &results, unsigned least)
{
    uint64_t count = x.size, wrong = 0;
    launch(typed<T>("extreme_reference").c_str(), parts_of(count), 1, PART_THREADS,
           {&x.data, &count, &least, &results.data});
    for (size_t part = 0; part < results.size; part++)
        wrong += results.data[part].wrong;
    return wrong;
}

template <typename T> static void check_extreme(array<T> &x, unsigned least)
{
    uint64_t count = x.size;
    array<sum_result> results(parts_of(count));
    launch(typed<T>("extreme").c_str(), lane_blocks(count), 1, PART_THREADS,
           {&x.data, &count, &least, &results.data});
    for (size_t part = 0; part < results.size; part++) {
        const size_t first = part * PART_ELEMENTS, end = end_of_part(part, count);
        const T wanted = cpu_extreme(x.data + first, end - first, least);
        CHECK(same((T)results.data[part].value, wanted), "%g, not %g, of %zu",
              results.data[part].value, (double)wanted, (size_t)count);
    }
    CHECK(wrong_extremes(x, results, least) == 0, "of %zu", (size_t)count);
    const double right = results.data[0].value, inf = std::numeric_limits<double>::infinity();
    for (double value :
         {right == 0 ? 1 : right * 1.5, -inf, inf, std::numeric_limits<double>::quiet_NaN()}) {
        results.data[0].value = value;
        const bool differs = !same(value, right);
        CHECK(wrong_extremes(x, results, least) == differs, "%g for %g of %zu", value, right,
              (size_t)count);
    }
}

template <typename T> static void test_extreme()
{
    const T nan = std::numeric_limits<T>::quiet_NaN();
    for (size_t count : sizes) {
        for (unsigned least : {0u, 1u}) {
            array<T> x(count);
            make(x, 5);
            check_extreme(x, least);
            for (size_t at : {(size_t)0, count / 2, count - 1}) {
                const T before = x.data[at];
                x.data[at] = least ? (T)-1e9 : (T)1e9;
                check_extreme(x, least);
                x.data[at] = nan;
                check_extreme(x, least);
                x.data[at] = before;
            }
            /* Zeros of both signs: the first one in the order of the cpu is it. */
            for (size_t i = 0; i < count; i++)
                x.data[i] = generate_bits(count, i) % 3 ? (T)0 : -(T)0;
            check_extreme(x, least);
        }
    }
    /* An extreme that is an element, but not the last of them. */
    array<T> x(100);
    array<sum_result> results(1);
    for (size_t i = 0; i < x.size; i++)
        x.data[i] = (T)(i + 1);
    for (unsigned least : {0u, 1u}) {
        results.data[0].value = 50;
        CHECK(wrong_extremes(x, results, least) == 1, "50 of 1 to 100");
    }
}

/* --- prefix sums -------------------------------------------------------------------------------
 */

static const double relative = (PART_ELEMENTS + 4) * (0x1p-53 + 0x1p-63);

template <typename T> struct scan_run {
    array<T> x, out;
    array<scan_result> results;
    uint64_t count;
    unsigned exclusive;

    scan_run(size_t size, unsigned without)
        : x(size), out(size), results(parts_of(size)), count(size), exclusive(without)
    {
    }

    /* Phase by phase, with what the host does in between. */
    void run(double before)
    {
        double absolute = fabs(before);
        launch(typed<T>("scan_sum").c_str(), parts_of(count), 1, PART_THREADS,
               {&x.data, &count, &results.data});
        for (size_t part = 0; part < results.size; part++) {
            scan_result &result = results.data[part];
            result.before = result.reference_before = before;
            result.lost_before = 0;
            result.absolute_before = absolute;
            before += result.sum;
            absolute += result.absolute;
        }
        launch(typed<T>("scan").c_str(), parts_of(count), 1, SCAN_THREADS,
               {&x.data, &out.data, &count, &exclusive, &results.data});
    }

    uint64_t wrong()
    {
        double smallest = std::numeric_limits<T>::min(), largest = std::numeric_limits<T>::max();
        double off = relative;
        uint64_t all = 0;
        launch(typed<T>("verify_scan").c_str(), parts_of(count), 1, PART_THREADS,
               {&x.data, &out.data, &count, &exclusive, &off, &smallest, &largest, &results.data});
        for (size_t part = 0; part < results.size; part++)
            all += results.data[part].wrong;
        return all;
    }
};

template <typename T> static void check_exact_scan(size_t count, unsigned exclusive)
{
    scan_run<T> scan(count, exclusive);
    for (size_t i = 0; i < count; i++) /* all sums are exact */
        scan.x.data[i] = (T)(int64_t)(generate_bits(6, i) % 257) - 100;
    scan.run(5);
    long double sum = 5;
    double worst = 0;
    for (size_t i = 0; i < count; i++) {
        const T wanted = (T)(exclusive ? sum : sum + scan.x.data[i]);
        CHECK(scan.out.data[i] == wanted, "element %zu of %zu: %g, not %g", i, count,
              (double)scan.out.data[i], (double)wanted);
        sum += scan.x.data[i];
        if (i + 1 == end_of_part(i / PART_ELEMENTS, count)) {
            const scan_result &result = scan.results.data[i / PART_ELEMENTS];
            CHECK(result.last == (double)wanted, "%g", result.last);
        }
    }
    CHECK(scan.wrong() == 0, "of %zu", count);
    for (size_t part = 0; part < scan.results.size; part++)
        worst = fmax(worst, scan.results.data[part].max_abs_error);
    CHECK(worst == 0 || sizeof(T) == 4, "%g", worst);
    for (size_t at : {(size_t)0, count / 2, count - 1}) {
        const T right = scan.out.data[at];
        scan.out.data[at] = right + 1;
        CHECK(scan.wrong() == 1, "element %zu of %zu", at, count);
        CHECK(scan.results.data[at / PART_ELEMENTS].max_abs_error >= 1, "element %zu", at);
        scan.out.data[at] = std::numeric_limits<T>::quiet_NaN();
        CHECK(scan.wrong() == 1, "element %zu of %zu", at, count);
        scan.out.data[at] = right;
    }
    scan.results.data[0].reference += 1; /* of what all parts after it build upon */
    CHECK(scan.wrong() == 1, "of %zu", count);
}

template <typename T> static void test_scan()
{
    for (size_t count : sizes)
        for (unsigned exclusive : {0u, 1u})
            check_exact_scan<T>(count, exclusive);
    for (size_t count : {(size_t)5000, (size_t)PART_ELEMENTS}) {
        scan_run<T> scan(count, 0);
        make(scan.x, 7);
        scan.run(1e6);
        CHECK(scan.wrong() == 0, "of %zu", count);
        scan.x.data[count / 2] = std::numeric_limits<T>::infinity();
        scan.run(0);
        CHECK(scan.wrong() == 0, "of %zu", count);
        CHECK(std::isinf(scan.out.data[count - 1]) && !std::isinf(scan.out.data[count / 2 - 1]),
              "of %zu", count);
    }
}

/* --- counts ------------------------------------------------------------------------------------
 */

struct counts_run {
    array<unsigned long long> outside;
    array<unsigned> bins;

    explicit counts_run(size_t size) : outside(HISTOGRAM_OUTSIDE), bins(size)
    {
        memset(outside.data, 0, HISTOGRAM_OUTSIDE * sizeof(*outside.data));
        memset(bins.data, 0, size * sizeof(*bins.data));
    }
};

/* Two blocks, and numbers on all edges. */
template <typename T>
static void check_histogram(uint64_t count, unsigned bins, double low, double high)
{
    double limit = 4 * 0x1p-53;
    array<T> x(count);
    counts_run found(bins), reference(bins), near(bins), wanted(bins), wanted_near(bins);
    for (size_t i = 0; i < count; i++) {
        const double random = generate_real(8, i, 40) * 1.5 - 0.25;
        const double edge = (double)(generate_bits(9, i) % (bins + 1)) / bins;
        x.data[i] = (T)(low + (high - low) * (i % 5 ? random : edge));
        if (i % 31 == 30)
            x.data[i] = std::numeric_limits<T>::quiet_NaN();
        if (i % 31 == 29) /* the last one that is in a bin */
            x.data[i] = std::nextafter((T)high, (T)low);
        const double number = x.data[i];
        if (!(number >= low && number < high)) {
            wanted.outside.data[number < low     ? HISTOGRAM_BELOW
                                : number >= high ? HISTOGRAM_ABOVE
                                                 : HISTOGRAM_NAN]++;
            continue;
        }
        const unsigned bin = (unsigned)((number - low) * ((double)bins / (high - low)));
        wanted.bins.data[std::min(bin, bins - 1)]++;
        /* As workloads/histogram.c. */
        const long double position = ((long double)number - low) * bins / ((long double)high - low);
        const unsigned exact = std::min((unsigned)position, bins - 1);
        const long double off = position - exact;
        if (exact > 0 && off <= position * limit) {
            wanted_near.bins.data[exact]++;
            wanted_near.bins.data[exact - 1]++;
        }
        if (exact + 1 < bins && off >= 1 - position * limit) {
            wanted_near.bins.data[exact]++;
            wanted_near.bins.data[exact + 1]++;
        }
    }
    launch(typed<T>("histogram").c_str(), 2, 1, ARRAY_THREADS,
           {&x.data, &count, &low, &high, &bins, &found.outside.data, &found.bins.data});
    launch(typed<T>("histogram_reference").c_str(), 2, 1, ARRAY_THREADS,
           {&x.data, &count, &low, &high, &bins, &limit, &reference.bins.data, &near.bins.data});
    for (unsigned i = 0; i < HISTOGRAM_OUTSIDE; i++)
        CHECK(found.outside.data[i] == wanted.outside.data[i], "outside %u of %zu in %u", i,
              (size_t)count, bins);
    for (unsigned i = 0; i < bins; i++) {
        const unsigned one = found.bins.data[i], other = reference.bins.data[i];
        CHECK(one == wanted.bins.data[i], "bin %u of %u, %zu numbers: %u, not %u", i, bins,
              (size_t)count, one, wanted.bins.data[i]);
        CHECK((one > other ? one - other : other - one) <= near.bins.data[i], "bin %u of %u", i,
              bins);
        CHECK(near.bins.data[i] == wanted_near.bins.data[i], "near bin %u of %u: %u, not %u", i,
              bins, near.bins.data[i], wanted_near.bins.data[i]);
    }
}

template <typename T> static void test_histogram()
{
    for (unsigned bins : {1u, 2u, 64u, 255u, 256u, 257u, 511u, 512u, 513u, 1366u, 4095u, 4096u})
        check_histogram<T>(3001, bins, -1, 3);
    for (uint64_t count : {1, 31, 32, 33, 255, 256, 257, 511, 512, 513, 2049})
        check_histogram<T>(count, 10, 0.1, 0.7);
    /* Differences and positions that round up to what no bin has. */
    for (unsigned bins : {10u, 300u, 4096u}) {
        check_histogram<T>(62, bins, -1, 1);
        check_histogram<T>(62, bins, -0x1p40, 1);
    }
    check_histogram<T>(62, 4095, -1e300, 0);
}

void test_reduce_kernels()
{
    test_sum<float>(false);
    test_sum<double>(false);
    test_sum<float>(true);
    test_sum<double>(true);
    test_checksum<float>();
    test_checksum<double>();
    test_extreme<float>();
    test_extreme<double>();
    test_scan<float>();
    test_scan<double>();
    test_histogram<float>();
    test_histogram<double>();
}

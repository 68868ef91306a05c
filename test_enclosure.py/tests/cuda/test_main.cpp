/*
 * The kernels' source, compiled for the CPU with AddressSanitizer and UndefinedBehaviorSanitizer,
 * against references: each in every order of threads, for sizes at and around what it handles at a
 * time. Device arrays end where their memory ends: an access beyond is reported.
 */
#include "kernel_test.h"

int failures;
const char *const orders[SHIM_ORDERS] = {"forward", "backward", "shuffled", "by warp"};

void launch(const char *name, unsigned across, unsigned down, unsigned threads,
            std::vector<void *> arguments)
{
    const kernel_entry *entry = kernel_find(name);
    if (!entry)
        abort();
    shim_launch({across, down, 1}, {threads, 1, 1}, entry->bind(arguments.data()));
}

int main()
{
    for (int order = 0; order < SHIM_ORDERS; order++) {
        shim_thread_order = (shim_order)order;
        test_array_kernels();
        test_reduce_kernels();
        test_fft_kernels();
        test_numeric_kernels();
        test_sort_kernels();
    }
    if (failures)
        fprintf(stderr, "%d checks failed\n", failures);
    return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}

#include "kernel_table.h"

#include "executor/cuda/module.cu"

#include <tuple>
#include <utility>

template <typename... A, size_t... I>
static std::function<void()> bind_each(void (*kernel)(A...), void **arguments,
                                       std::index_sequence<I...>)
{
    const std::tuple<A...> values(*(A *)arguments[I]...);
    return [kernel, values] { std::apply(kernel, values); };
}

template <typename... A>
static std::function<void()> bind_to(void (*kernel)(A...), void **arguments)
{
    return bind_each(kernel, arguments, std::index_sequence_for<A...>{});
}

#define BIND(name) {#name, [](void **arguments) { return bind_to(name, arguments); }},
static const kernel_entry table[] = {FOR_EACH_KERNEL(BIND)};
#undef BIND

const kernel_entry *kernel_find(const char *name)
{
    for (const kernel_entry &entry : table)
        if (strcmp(entry.name, name) == 0)
            return &entry;
    return nullptr;
}

#include "library.h"

#include "driver.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

void library_leave_out(struct library_name *name, const char *what, const char *why)
{
    name->known = true;
    snprintf(name->text, sizeof(name->text), "own kernels (%.60s: %.100s)", what, why);
}

bool library_is_wanted(struct library_name *name, const char *what)
{
    /* CUDA's runtime, which is a part of these libraries, asks the driver for tables that only
     * NVIDIA's has: with another one hundreds of megabytes would be loaded for nothing. */
    if (driver_has("cuGetExportTable", "cuGetExportTable"))
        return true;
    library_leave_out(name, what, "this driver is for the driver API alone");
    return false;
}

bool library_load(struct library_name *name, const char *file, const struct library_call *calls,
                  size_t count, void *table)
{
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        /* One that is there and does not work says more than one that is not there. */
        if (!name->known) {
            library_leave_out(name, file, "not installed, or not where ld.so(8) looks");
            name->known = false;
        }
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        void *address = dlsym(library, calls[i].name);
        if (!address) {
            library_leave_out(name, file, calls[i].name);
            return false;
        }
        memcpy((char *)table + calls[i].offset, &address, sizeof(address));
    }
    return true;
}

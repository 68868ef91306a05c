#include "disk.h"

#include "mounts.h"

#include <fcntl.h>
#include <unistd.h>

void disk_sync(struct samples *samples, size_t rounds)
{
    static const char record[64] = "NOP";
    int file = file_open(bench_path("disk"), O_WRONLY | O_CREAT | O_APPEND);
    for (size_t i = 0; i < rounds; i++) {
        double start = bench_now_us();
        file_write(file, record, sizeof(record));
        if (fdatasync(file) < 0)
            bench_die("fdatasync");
        samples_add(samples, bench_now_us() - start);
    }
    close(file);
}

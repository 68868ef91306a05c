/*
 * The one CUDA device of this executor: its primary context, its kernels, two lanes, and the
 * device memory of the running job.
 *
 * A lane is a stream with a pinned buffer on the host. What is given to one lane happens in order;
 * two of them let one chunk be copied while the one before is computed on.
 *
 * Everything belongs to the executor's one thread. device_open makes all of it, so that a job
 * neither loads nor creates anything; device_end_job takes back what a job has allocated.
 */
#ifndef VGPUFS_EXECUTOR_CUDA_DEVICE_H
#define VGPUFS_EXECUTOR_CUDA_DEVICE_H

#include "api.h"
#include "executor/backend.h"
#include "executor/job.h"
#include "kernels.h"

#include <stdbool.h>

#define DEVICE_LANES 2
/* Three arrays of 4 MiB, and a little for results. */
#define DEVICE_ARRAYS_BYTES  ((size_t)12 << 20)
#define DEVICE_STAGING_BYTES (DEVICE_ARRAYS_BYTES + ((size_t)64 << 10))
/* GPU- or MIG-, 32 hexadecimal digits in five groups; "-" where the driver cannot tell. */
#define DEVICE_UUID_SIZE 48
/* The most allocations that a job may have at one time. */
#define DEVICE_MAX_ALLOCATIONS 16

/* Points of a chunk's way through its lane, for its times. */
enum device_mark { MARK_BEGIN, MARK_LOADED, MARK_COMPUTED, MARK_STORED, MARK_COUNT };

struct device_lane {
    CUstream stream;
    char *staging; /* DEVICE_STAGING_BYTES, shared by host and device */
    CUevent events[MARK_COUNT];
    bool marked[MARK_COUNT]; /* since the last device_wait */
    uint64_t begin_ns;
};

struct device {
    CUdevice handle;
    char name[128], uuid[DEVICE_UUID_SIZE];
    int major, minor; /* compute capability */
    unsigned multiprocessors;
    size_t memory_bytes;
    uint64_t job_memory_bytes;  /* the most that a job may have; UINT64_MAX: all */
    bool scrubbed;              /* a job's memory is cleared */
    bool pooled, pinned, timed; /* optional parts of the driver in use */
    struct device_lane lanes[DEVICE_LANES];
};

/* device_open takes an index, GPU-uuid or MIG-uuid (NULL: the first), and tries the device. */
int device_open(const struct backend_options *options, char *error, size_t size);
void device_close(void);
/* device_broken says why no further job can run in this process, or NULL. */
const char *device_broken(void);

/* device_uuid needs driver_load alone. */
void device_uuid(CUdevice handle, const char *prefix, char text[DEVICE_UUID_SIZE]);

/* Valid between device_open and device_close. */
extern struct device device;

/*
 * For workloads. Each returns 0, or -1 and the job has failed. Copies and launches return before
 * they are done: device_wait waits for a lane. A host address of a copy is in its lane's staging.
 */
int device_allocate(struct job *job, size_t bytes, CUdeviceptr *address);
/* device_allocate_if_room: 1 if there was room, 0 if not, -1 and the job has failed. */
int device_allocate_if_room(struct job *job, size_t bytes, CUdeviceptr *address);
int device_copy_in(struct job *job, struct device_lane *lane, CUdeviceptr to, const void *from,
                   size_t bytes);
int device_copy_out(struct job *job, struct device_lane *lane, void *to, CUdeviceptr from,
                    size_t bytes);
int device_launch(struct job *job, struct device_lane *lane, enum kernel_name kernel,
                  unsigned blocks_x, unsigned blocks_y, unsigned threads, void **arguments);
/* device_launch_array launches a kernel that walks over `elements` in steps of its grid. */
int device_launch_array(struct job *job, struct device_lane *lane, enum kernel_name kernel,
                        uint64_t elements, void **arguments);
/* device_mark tells where in a chunk's way the lane is. */
int device_mark(struct job *job, struct device_lane *lane, enum device_mark mark);
/* device_wait waits for the lane and adds the times between its marks to the job's. */
int device_wait(struct job *job, struct device_lane *lane);

/* device_load copies host memory to the device through both lanes; device_store the other way. */
int device_load(struct job *job, CUdeviceptr to, const void *from, uint64_t bytes);
int device_store(struct job *job, void *to, CUdeviceptr from, uint64_t bytes);

/*
 * device_end_job waits for the lanes, clears what the job had on the device unless that was not
 * wanted, and gives it back: the next job, of another VM perhaps, can get the same memory. 0, or -1
 * and device_broken.
 */
int device_end_job(struct job *job);

#endif

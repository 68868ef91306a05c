/*
 * The files of one VM over a state in a scratch directory, for the tests of data.c. What fails here
 * fails the test. Not thread-safe.
 */
#ifndef DATA_FIXTURE_H
#define DATA_FIXTURE_H

#include "data.h"

#include <stdbool.h>
#include <stdint.h>

#define VM         3
#define QUOTA      1000
#define MOST_FILES 2000
#define MOST_OPEN  3

extern const struct data_limits limits;
extern struct state *state;
extern struct data data;
extern uint64_t adopted;            /* what files_start is to find again; 0: nothing */
extern struct data_file *kept_file; /* … and a reference to it */

/* What a daemon does at its start and at its end. */
void files_start(void);
void files_stop(void);
void files_restart(void);

int files_setup(void **unused);
int files_teardown(void **unused);

/* file_put makes a file of that content and returns its number. */
uint64_t file_put(const char *name, const char *content);
/* file_backing_path returns where the bytes of that file lie: see scratch_path. */
const char *file_backing_path(uint64_t number);
bool file_has_backing(uint64_t number);
/* wait_state: what the state does once it is written has been done. */
void wait_state(void);

void assert_content(struct data_file *file, const char *content);
/* assert_file: a file of that name is there, with that number and content. */
void assert_file(const char *name, uint64_t number, const char *content);
void assert_no_file(const char *name);
void assert_usage(uint64_t bytes, uint64_t files);
/* assert_saved: so many names are in the state. */
void assert_saved(unsigned expected);

#endif

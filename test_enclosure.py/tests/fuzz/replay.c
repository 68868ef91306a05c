/*
 * Runs a fuzz target once on each file of the folders that are named: the corpus, in builds that
 * have no libFuzzer. A folder that is missing or empty is an error.
 */
#include "fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_BYTES (4u << 20)

static int replay_file(const char *path)
{
    static uint8_t bytes[MOST_BYTES];
    FILE *file = fopen(path, "rbe");
    if (!file) {
        perror(path);
        return -1;
    }
    size_t size = fread(bytes, 1, sizeof(bytes), file);
    int failed = ferror(file);
    fclose(file);
    if (failed) {
        fprintf(stderr, "%s: cannot be read\n", path);
        return -1;
    }
    LLVMFuzzerTestOneInput(bytes, size);
    return 0;
}

/* replay_folder returns how many files it ran, -1 after an error. */
static int replay_folder(const char *folder)
{
    int count = 0;
    DIR *directory = opendir(folder);
    if (!directory) {
        perror(folder);
        return -1;
    }
    for (struct dirent *entry; count >= 0 && (entry = readdir(directory));) {
        char path[4096];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        count = replay_file(path) < 0 ? -1 : count + 1;
    }
    closedir(directory);
    if (count == 0)
        fprintf(stderr, "%s: no files\n", folder);
    return count;
}

int main(int argc, char **argv)
{
    int total = 0;
    LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc; i++) {
        int count = replay_folder(argv[i]);
        if (count <= 0)
            return EXIT_FAILURE;
        total += count;
    }
    printf("%d inputs\n", total);
    return total ? EXIT_SUCCESS : EXIT_FAILURE;
}

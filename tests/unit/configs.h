/*
 * Configurations in a string, for tests of what is taken and of what is refused. Each fails the
 * test. Not thread-safe.
 */
#ifndef VGPUFS_TEST_CONFIGS_H
#define VGPUFS_TEST_CONFIGS_H

#include "config.h"

#include <stdbool.h>

/* parse_as returns the configuration, to be freed; parse as root. */
struct config *parse_as(const char *content, bool plain_user);
struct config *parse(const char *content);
/* assert_refused_as: it is refused with exactly this message; assert_refused for root. */
void assert_refused_as(const char *content, bool plain_user, const char *message);
void assert_refused(const char *content, const char *message);

#endif

/*
 * Built in only with -Db_sanitize=thread. OpenBLAS is not built with it, so ThreadSanitizer sees
 * what its threads write with memset(3), but not how they hand it over, and reports a race that is
 * none. __tsan_default_suppressions is ThreadSanitizer's name (sanitizer/tsan_interface.h has no
 * declaration of it).
 */
const char *__tsan_default_suppressions(void);

__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void)
{
    return "race:libopenblas\n";
}

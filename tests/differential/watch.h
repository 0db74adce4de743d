/* A process that watches another one run cases: says which case it died of, or hung in. */
#ifndef TESTS_DIFFERENTIAL_WATCH_H
#define TESTS_DIFFERENTIAL_WATCH_H

#include <stdint.h>

/*
 * Forks. In the child, returns. The parent waits for it and exits as it does; if it dies of a signal or makes no progress
 * for long, the parent prints a failed test and the command that repeats the case: `program`, its options and the seed.
 */
void watch_start(const char *program, uint64_t seed);
/* In the child: about to run this case. `options` is a constant string, such as "--bits 64". */
void watch_case(const char *options, unsigned number);

#endif

/* Types every layer shares: guest addresses and small arithmetic helpers. */
#ifndef MACHINE_TYPES_H
#define MACHINE_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef uint64_t gpa_t; /* guest-physical address; never a host pointer */
typedef uint64_t gva_t; /* guest-linear (virtual) address */

#define GUEST_PAGE_SHIFT 12
#define GUEST_PAGE_SIZE ((uint64_t)1 << GUEST_PAGE_SHIFT)
#define GUEST_PAGE_MASK (~(GUEST_PAGE_SIZE - 1))

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

/* Our own bug, never a guest's: stays on in every build. */
#define BUG_ON(cond)                                                               \
	do {                                                                       \
		if (__builtin_expect(!!(cond), 0)) {                               \
			fprintf(stderr, "bug: %s:%d: %s\n", __FILE__, __LINE__, #cond); \
			abort();                                                   \
		}                                                                  \
	} while (0)

#endif

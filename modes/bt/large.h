/* Large host pages under the translations, their tables and guest RAM (large.c). */
#ifndef BT_LARGE_H
#define BT_LARGE_H

#include <stddef.h>
#include <stdint.h>

#include "machine/machine.h"

#define BT_LARGE_BYTES MACHINE_LARGE_PAGE
#ifndef BT_LARGE_FILLS
#define BT_LARGE_FILLS 120u /* TLB fills in a region of RAM until it counts as in use */
#endif
#define BT_LARGE_DONE 0xffu
#define BT_LARGE_FAILURES 8u

struct bt_large {
	uint8_t *ram; /* host address of the memfd's first byte, aligned to a large page */
	uint64_t bytes;
	uint8_t *fills; /* by region; BT_LARGE_DONE: nothing more to do */
	uint32_t failures, regions;
};

/* Asks for large pages under [done, end), as far as whole ones lie below limit; returns how far it has got. */
uint8_t *bt_large_code(uint8_t *done, const uint8_t *end, const uint8_t *limit);
/* A TLB entry for the page at `host`, which lies in guest RAM, was filled. Any thread. */
void bt_large_ram(struct bt_large *l, uint8_t *host);
/*
 * These bytes of RAM, counted from its host address, went back to the host. A region that lost some of its pages is not
 * made one large page any more, which would take them again; one that lost all of them may become one anew.
 */
void bt_large_discarded(struct bt_large *l, const uint8_t *host, uint64_t n);

#endif

/* How long to look for something before sleeping, learnt from how long the last waits took. */
#ifndef MACHINE_SPIN_H
#define MACHINE_SPIN_H

#include "machine/types.h"

/*
 * To put a thread to sleep and have another processor wake it costs 5 us on bare metal and 30 us and more in a VM, where each
 * such wake is an exit. What answers sooner than that (a disk in the page cache, the guest with its next request) is
 * better looked for; what does not must not be looked for at all. So a thread looks while its waits are short on average,
 * and one that was long, because another process had the processor, changes little.
 */
#define SPIN_MOST_NS 100000u
#define SPIN_SHARE 8 /* of the newest wait in the average */

struct spin {
	uint64_t most_ns; /* 0: never look; there is no processor to spare */
	uint64_t average_ns;
};

static inline void spin_init(struct spin *spin, uint64_t most_ns) { *spin = (struct spin){most_ns, 4 * most_ns}; }

/* For how long to look now. */
static inline uint64_t spin_window_ns(const struct spin *spin) { return spin->average_ns < spin->most_ns ? spin->most_ns : 0; }

/* After a wait of that long, the looking included. */
static inline void spin_learn(struct spin *spin, uint64_t waited_ns)
{
	if (waited_ns > 4 * spin->most_ns)
		waited_ns = 4 * spin->most_ns;
	spin->average_ns += waited_ns / SPIN_SHARE;
	spin->average_ns -= spin->average_ns / SPIN_SHARE;
}

#endif

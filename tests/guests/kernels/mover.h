/* What the moved guest (mover.c) and who moves it (tests/unit/test_move.c) share, in the guest's memory. */
#ifndef TEST_MOVER_H
#define TEST_MOVER_H

#include <stdint.h>

#define MOVER_FINISH 2

struct mover_box {
	volatile uint32_t goal; /* the driver's: MOVER_FINISH to end */
	uint32_t pad;
	volatile uint64_t steps, ticks, pit_ticks, calls;
	volatile uint64_t tsc_back, clock_back, clock_jump; /* ns, but the first */
	volatile uint64_t other_lstar;
};

#endif

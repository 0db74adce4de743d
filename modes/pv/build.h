/* The domain builder, for the mode's front and tests. */
#ifndef PV_BUILD_H
#define PV_BUILD_H

#include "modes/pv/image.h"
#include "modes/pv/private.h"

#define PV_WHY_BYTES 512

/* The machine's RAM as frames: fills regions, frames, and where the monitor's own begin. -ENOSPC: too little, -ENOMEM. */
int pv_find_memory(struct pv_domain *d);
/* Everything for a start, or a start anew. 0 or -errno with *ret_error (thread-local) as of machine_boot. */
int pv_build(struct pv_domain *d, const struct machine_boot *boot, struct cpu_state *ret_bsp, const char **ret_error);
/* A page of entries for hypercalls, 32 bytes each. */
void pv_hypercall_page(uint8_t *ret_page);

#endif

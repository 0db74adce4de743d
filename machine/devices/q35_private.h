/* What q35.c and q35_pm.c share. */
#ifndef MACHINE_DEVICES_Q35_PRIVATE_H
#define MACHINE_DEVICES_Q35_PRIVATE_H

#include "machine/devices/q35.h"

void pm_init(struct machine *machine, struct q35 *q35);
void pm_reset(struct q35 *q35);

#endif

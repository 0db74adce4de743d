/* Names of a VM's states, as the control protocol and result.json write them. */
#include "proto/control.h"

#include <string.h>

static const char *const state_names[VM_STATE_COUNT] = {
	[VM_STARTING] = "starting",   [VM_RUNNING] = "running", [VM_PAUSED] = "paused", [VM_SHUTDOWN] = "shutdown",
	[VM_DESTROYED] = "destroyed", [VM_CRASHED] = "crashed", [VM_FAILED] = "failed",
};

const char *vm_state_name(enum vm_state state)
{
	return (unsigned)state < VM_STATE_COUNT ? state_names[state] : "unknown";
}

bool vm_state_parse(const char *name, enum vm_state *ret_state)
{
	for (unsigned i = 0; i < VM_STATE_COUNT; i++)
		if (!strcmp(name, state_names[i])) {
			*ret_state = (enum vm_state)i;
			return true;
		}
	return false;
}

/* Devices of the host that the guest is given, taken before the sandbox closes their files to us. */
#include "vm/private.h"

#include <errno.h>

int vm_passthrough_claim(struct vm *vm)
{
	const char *addresses[VMDEF_PASSTHROUGH_MAX];
	char text[VFIO_ERROR_BYTES];

	_Static_assert(VMDEF_PASSTHROUGH_MAX <= VFIO_DEVICES_MAX, "as many as can be claimed");
	if (!vm->def->passthrough_count)
		return 0;
	if (!(vm->mode->capabilities & MODE_CAP_PASSTHROUGH)) {
		snprintf(vm->reason, sizeof(vm->reason), "passthrough: mode %s cannot give a guest devices of the host; mode hvm can",
			 vm->mode->name);
		return -ENOTSUP;
	}
	for (unsigned i = 0; i < vm->def->passthrough_count; i++)
		addresses[i] = vm->def->passthrough[i];
	int rc = vfio_claim_create(&vfio_linux, addresses, vm->def->passthrough_count, &vm->passthrough, text);
	if (rc)
		snprintf(vm->reason, sizeof(vm->reason), "passthrough: %s", text);
	return rc;
}

/* The file with a firmware's variables: a VM's own copy of a template, made before the VM first runs. */
#include "vm/private.h"

#include "proto/file.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define NVRAM_MAX_BYTES ((size_t)16 << 20)

/* Names the file, what is wrong, and what helps. */
static int fail(struct vm *vm, int rc, const char *what, const char *path, const char *remedy)
{
	snprintf(vm->reason, sizeof(vm->reason), "%s %.300s: %s; %s", what, path, strerror(-rc), remedy);
	return rc;
}

int vm_nvram_prepare(struct vm *vm)
{
	const char *path = vm->def->boot.nvram.path, *template = vm->def->boot.nvram.template;
	char *bytes = NULL;
	size_t n = 0;

	/* What is there is the guest's, whatever it is: the loader looks at it. */
	if (!path || access(path, F_OK) == 0 || errno != ENOENT)
		return 0;
	if (!template)
		return fail(vm, -ENOENT, "nvram", path,
			    "name what to make it from with boot.nvram.template (OVMF's is OVMF_VARS_4M.fd)");
	int rc = file_read(template, NVRAM_MAX_BYTES, &bytes, &n);
	if (rc)
		return fail(vm, rc, "nvram template", template, "name the firmware's empty variables, such as OVMF_VARS_4M.fd");
	/* All of it is written now, so that the disk cannot be full when the guest sets a variable. */
	rc = file_write_atomic(path, bytes, n, 0600);
	free(bytes);
	if (rc == -ENOSPC || rc == -EDQUOT)
		return fail(vm, rc, "nvram", path, "it could not be made from its template: free some space");
	if (rc)
		return fail(vm, rc, "nvram", path, "it could not be made from its template: name a place where this user may write");
	return 0;
}

/* The methods of vm that change a running VM's devices: discs of CD-ROM drives. */
#include "api/jsonrpc/methods.h"
#include "proto/vmdef.h"

#include <string.h>

/* The drive's place among the disks; -1: there is none. */
static int find_drive(struct vm *vm, int64_t number)
{
	struct daemon_vm_info info;
	const struct vmdef *def;

	daemon_vm_inspect(vm, &info);
	def = info.running_def ? info.running_def : info.def;
	for (unsigned i = 0; i < def->disk_count; i++)
		if (def->disks[i].device == VMDEF_DEVICE_CDROM && number-- == 0)
			return (int)i;
	return -1;
}

static void change(struct rpc_call *call, json_object *params, bool insert)
{
	struct vm *vm = rpc_find_vm(call, params);
	json_object *value = NULL, *disc;
	bool force = json_object_object_get_ex(params, "force", &value) && json_object_get_boolean(value);
	int64_t drive = json_object_object_get_ex(params, "drive", &value) ? json_object_get_int64(value) : 0;
	int number;

	if (!vm)
		return;
	number = find_drive(vm, drive);
	if (number < 0) {
		rpc_fail(call, rpc_error_code(DAEMON_NOT_FOUND), "VM \"%.200s\" has no CD-ROM drive %lld; \"device\": \"cdrom\" in a disk of its "
								 "definition makes one", rpc_string(params, "vm"), (long long)drive);
		return;
	}
	disc = json_object_new_object();
	json_object_object_add(disc, "device", json_object_new_string("cdrom"));
	if (insert) {
		json_object_object_add(disc, "path", json_object_new_string(rpc_string(params, "path")));
		if (json_object_object_get_ex(params, "format", &value))
			json_object_object_add(disc, "format", json_object_get(value));
	}
	daemon_change_disc(call->conn->daemon, vm, (unsigned)number, disc, force, NULL, rpc_done, call);
	json_object_put(disc);
}

static void handle_media_change(struct rpc_call *call, json_object *params) { change(call, params, true); }
static void handle_eject(struct rpc_call *call, json_object *params) { change(call, params, false); }

/* clang-format off: tables, a row for each field and method */

#define DRIVE_FIELD {"drive", RPC_INTEGER, 0, 0, 15, .summary = "which of its CD-ROM drives, from 0 on (default: 0)"}
#define FORCE_FIELD {"force", RPC_BOOLEAN, 0, .summary = "even if the guest uses the disc that is in (default: false)"}
static const struct rpc_field media_change_params[] = {
	VM_FIELD,
	{"path", RPC_STRING, RPC_REQUIRED, 1, 4095, .summary = "an image, or a block device; an absolute path"},
	{"format", RPC_STRING, 0, .summary = "of the image, as a disk's (default: raw, which an ISO image is)"},
	DRIVE_FIELD,
	FORCE_FIELD,
	END,
};
static const struct rpc_field eject_params[] = {VM_FIELD, DRIVE_FIELD, FORCE_FIELD, END};

const struct rpc_method rpc_device_methods[] = {
	{"vm.media_change",
	 "Puts another disc into a running VM's CD-ROM drive, until the VM ends.",
	 media_change_params, NOTHING, handle_media_change},
	{"vm.eject",
	 "Takes the disc out of a running VM's CD-ROM drive, until the VM ends.",
	 eject_params, NOTHING, handle_eject},
	{.name = NULL},
};

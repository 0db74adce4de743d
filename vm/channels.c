/* What programs in the guest and on the host talk through: sockets, bound before the sandbox, behind virtio-console. */
#include "vm/private.h"

#include "proto/sock.h"

#include <errno.h>
#include <json-c/json.h>
#include <string.h>
#include <unistd.h>

const char *vm_channel_path(const struct vm *vm, unsigned number, char ret_path[PATH_MAX])
{
	const struct vmdef_channel *channel = &vm->def->channels[number];

	if (channel->path)
		snprintf(ret_path, PATH_MAX, "%s", channel->path);
	else
		snprintf(ret_path, PATH_MAX, "%s/%s.channel", vm->options.dir, channel->name);
	return ret_path;
}

int vm_channels_prepare(struct vm *vm)
{
	char path[PATH_MAX];

	for (unsigned i = 0; i < VMDEF_CHANNELS_MAX; i++)
		vm->channel_fd[i] = -1;
	for (unsigned i = 0; i < vm->def->channel_count; i++) {
		int fd = sock_listen(vm_channel_path(vm, i, path), 0600);

		if (fd < 0) {
			snprintf(vm->reason, sizeof(vm->reason), "channels[%u]: the socket %.300s cannot be made: %s", i, path, strerror(-fd));
			return fd;
		}
		vm->channel_fd[i] = fd;
	}
	return 0;
}

int vm_channels_add(struct vm *vm, const char **ret_why)
{
	struct machine_port ports[1 + VMDEF_CHANNELS_MAX];
	unsigned count = 0;
	int fd = -1, rc;

	if (!vm->def->guest_agent && !vm->def->channel_count && !vm->def->virtio_console)
		return 0;
	if (vm->def->guest_agent) {
		rc = vm_agent_open(vm, &fd);
		if (rc < 0) {
			*ret_why = "no socket for the guest's agent";
			return rc;
		}
		ports[count++] = (struct machine_port){.name = VMDEF_AGENT_CHANNEL, .listener = -1, .fd = fd};
	}
	for (unsigned i = 0; i < vm->def->channel_count; i++)
		ports[count++] = (struct machine_port){.name = vm->def->channels[i].name, .listener = vm->channel_fd[i], .fd = -1};
	rc = machine_add_console(vm->machine, vm->def->virtio_console, ports, count, ret_why);
	for (unsigned i = 0; i < VMDEF_CHANNELS_MAX; i++)
		vm->channel_fd[i] = -1;
	return rc;
}

struct json_object *vm_channels_json(const struct vm *vm)
{
	struct json_object *list = json_object_new_array();
	char path[PATH_MAX];

	for (unsigned i = 0; i < vm->def->channel_count; i++) {
		struct json_object *channel = json_object_new_object();
		bool open = vm->machine && machine_port_is_open(vm->machine, i + vm->def->guest_agent);

		json_object_object_add(channel, "name", json_object_new_string(vm->def->channels[i].name));
		json_object_object_add(channel, "path", json_object_new_string(vm_channel_path(vm, i, path)));
		json_object_object_add(channel, "connected", json_object_new_boolean(open));
		json_object_array_add(list, channel);
	}
	return list;
}

void vm_channels_close(struct vm *vm)
{
	char path[PATH_MAX];

	for (unsigned i = 0; vm->def && i < vm->def->channel_count; i++) {
		if (vm->channel_fd[i] >= 0)
			close(vm->channel_fd[i]);
		unlink(vm_channel_path(vm, i, path));
	}
}

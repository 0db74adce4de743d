/* Changes to a running VM's devices that take files: a process of trivisor-vm's opens them and hands them to the VM's. */
#include "daemon/private.h"

#include "daemon/log.h"
#include "proto/line.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define ANSWER_MAX 4096

struct change {
	struct daemon *daemon;
	char uuid[VMDEF_UUID_BYTES];
	unsigned number; /* of the disk */
	struct vmdef_disk disc;
	char *libvirt_xml; /* what the running domain's XML is then; NULL: as it was */
	pid_t pid;
	int fd; /* what it says */
	struct event *event;
	char text[ANSWER_MAX];
	size_t bytes;
	daemon_done_fn done;
	void *opaque;
};

static void change_free(struct change *change)
{
	if (change->event)
		event_free(change->event);
	if (change->fd >= 0)
		close(change->fd);
	vmdef_disk_finish(&change->disc);
	free(change->libvirt_xml);
	free(change);
}

/* From here on the definition that it runs by says so, also to the next daemon. */
static void remember(struct change *change, struct vm *vm)
{
	struct vmdef *def = vm->process ? vm->process->def : NULL;
	json_object *told;
	int rc;

	if (!def || change->number >= def->disk_count)
		return;
	vmdef_disk_finish(&def->disks[change->number]);
	def->disks[change->number] = change->disc;
	change->disc = (struct vmdef_disk){0};
	if (change->libvirt_xml) {
		free(def->libvirt_xml);
		def->libvirt_xml = change->libvirt_xml;
		change->libvirt_xml = NULL;
	}
	rc = vmdir_write_definition(vm->process->dir, def);
	if (rc)
		log_warning("VM %s: its new disc is forgotten with this daemon: %s", vm->name, strerror(-rc));
	told = json_object_new_object();
	json_object_object_add(told, "disk", json_object_new_int64(change->number));
	json_object_object_add(told, "path", def->disks[change->number].path[0] ? json_object_new_string(def->disks[change->number].path) : NULL);
	event_emit(vm, "media", told);
}

static void finished(struct change *change)
{
	struct vm *vm = registry_find_uuid(change->daemon, change->uuid);
	json_object *answer = NULL, *error = NULL, *result;
	const char *why = "it says nothing";

	waitpid(change->pid, NULL, 0); /* it has closed its output, which is the last that it does */
	if (line_parse_json(change->text, change->bytes, &answer, &why) || !json_object_is_type(answer, json_type_object)) {
		answer_error(change->done, change->opaque, DAEMON_INTERNAL, "the files could not be handed over: %s", why);
	} else if (json_object_object_get_ex(answer, "error", &error)) {
		answer_error(change->done, change->opaque, DAEMON_VM, "%s", json_object_get_string(error));
	} else {
		if (vm)
			remember(change, vm);
		result = json_object_new_object();
		change->done(change->opaque, NULL, result);
		json_object_put(result);
	}
	json_object_put(answer);
	change_free(change);
}

static void on_output(evutil_socket_t fd, short what, void *opaque)
{
	struct change *change = opaque;
	ssize_t n = read(fd, change->text + change->bytes, sizeof(change->text) - 1 - change->bytes);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0)
		change->bytes += (size_t)n;
	if (n <= 0 || change->bytes == sizeof(change->text) - 1)
		finished(change);
}

static int start(struct change *change, const char *dir, json_object *request)
{
	char *const argv[] = {change->daemon->settings->vm_program, (char *)"--dir", (char *)dir, (char *)"--attach",
			      (char *)json_object_to_json_string_ext(request, JSON_C_TO_STRING_PLAIN), NULL};
	char log_path[PATH_MAX + 16];
	int fds[2], rc;

	snprintf(log_path, sizeof(log_path), "%s/" CONTROL_FILE_LOG, dir);
	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	change->fd = fds[0];
	rc = supervisor_spawn(argv, log_path, fds[1], &change->pid);
	close(fds[1]);
	if (rc)
		return rc;
	change->event = event_new(change->daemon->base, change->fd, EV_READ | EV_PERSIST, on_output, change);
	/* Without the event it still does what it was told; only nobody hears of it. */
	return change->event && event_add(change->event, NULL) == 0 ? 0 : -ENOMEM;
}

void daemon_change_disc(struct daemon *daemon, struct vm *vm, unsigned number, json_object *disc, bool force, const char *libvirt_xml,
			daemon_done_fn done, void *opaque)
{
	const struct vmdef *def = vm->process ? vm->process->def : NULL;
	char error[VMDEF_ERROR_BYTES] = "";
	json_object *request;
	struct change *change;
	int rc;

	if (!def || vm->state == VM_STARTING) {
		answer_error(done, opaque, DAEMON_WRONG_STATE, "VM \"%s\" does not run", vm->name);
		return;
	}
	if (number >= def->disk_count || def->disks[number].device != VMDEF_DEVICE_CDROM) {
		answer_error(done, opaque, DAEMON_NOT_FOUND, "VM \"%s\" has no such CD-ROM drive", vm->name);
		return;
	}
	change = calloc(1, sizeof(*change));
	if (!change) {
		answer_error(done, opaque, DAEMON_INTERNAL, "out of memory");
		return;
	}
	*change = (struct change){.daemon = daemon, .number = number, .fd = -1, .done = done, .opaque = opaque};
	memcpy(change->uuid, vm->uuid, sizeof(change->uuid));
	change->libvirt_xml = libvirt_xml ? strdup(libvirt_xml) : NULL;
	if (vmdef_disk_from_json(disc, &change->disc, error)) {
		answer_error(done, opaque, DAEMON_INVALID, "%s", error[0] ? error : "out of memory");
		change_free(change);
		return;
	}
	request = json_object_new_object();
	json_object_object_add(request, "drive", json_object_new_int64(number));
	json_object_object_add(request, "force", json_object_new_boolean(force));
	json_object_object_add(request, "disc", vmdef_disk_to_json(&change->disc));
	rc = start(change, vm->process->dir, request);
	json_object_put(request);
	if (!rc)
		return;
	answer_error(done, opaque, DAEMON_INTERNAL, "cannot start %s: %s", daemon->settings->vm_program, strerror(-rc));
	change_free(change);
}

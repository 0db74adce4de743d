/*
 * The disks of a definition. Image formats are qemu-nbd's business: one process for each such disk, started before the
 * sandbox closes, talked to over a socket that only the two have, and ended by that socket's end.
 */
#include "vm/private.h"

#include "proto/sock.h"

#include <ctype.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROGRAM "qemu-nbd"
/* The VM before may have been killed: its server then closes the image, in a moment. */
#define LOCK_TRIES 20
#define LOCK_RETRY_MS 100

static const char *const cache_option[] = {
	[VMDEF_CACHE_WRITEBACK] = "--cache=writeback",	 [VMDEF_CACHE_WRITETHROUGH] = "--cache=writethrough",
	[VMDEF_CACHE_DIRECT] = "--cache=none",		 [VMDEF_CACHE_DIRECTSYNC] = "--cache=directsync",
	[VMDEF_CACHE_UNSAFE] = "--cache=unsafe",
};

__attribute__((format(printf, 3, 4))) static int fail(struct vm *vm, int rc, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	vsnprintf(vm->reason, sizeof(vm->reason), format, ap);
	va_end(ap);
	return rc;
}

bool vm_disk_needs_server(const struct vmdef_disk *disk) { return disk->format != VMDEF_FORMAT_RAW || disk->snapshot; }

/* ---- the child ---- */

/* In the child, between fork and exec. */
static void become_server(const void *opaque)
{
	const struct vmdef_disk *disk = opaque;
	char format[40], pid[16];
	const char *argv[12];
	unsigned n = 0;

	snprintf(format, sizeof(format), "--format=%s", vmdef_format_name(disk->format));
	argv[n++] = PROGRAM;
	argv[n++] = format;
	argv[n++] = cache_option[disk->cache];
	argv[n++] = disk->discard == VMDEF_DISCARD_UNMAP ? "--discard=unmap" : "--discard=ignore";
	if (disk->readonly)
		argv[n++] = "--read-only";
	/* A temporary image over this one, without a name from its first moment: $TMPDIR, or /var/tmp. */
	if (disk->snapshot)
		argv[n++] = "--snapshot";
	argv[n++] = disk->path; /* absolute: no option, nor a protocol */
	argv[n] = NULL;

	/* sd_listen_fds(3): the descriptor is the one that it expects. */
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", "1", 1);
	execvp(PROGRAM, (char *const *)argv);
}

/* ---- starting one ---- */

/* -EAGAIN: it has ended, and said why. */
static int start_once(struct vm *vm, struct vm_server *server, const struct vmdef_disk *disk, char *ret_words, size_t bytes)
{
	char name[32];
	int rc;

	snprintf(name, sizeof(name), "disk-%d", (int)getpid());
	rc = vm_server_start(vm, server, name, become_server, disk);
	if (rc)
		return rc == -EAGAIN ? -ENOMEM : rc;
	if (vm_server_answers(server))
		return 0;
	vm_server_last_words(server, PROGRAM, ret_words, bytes);
	return -EAGAIN;
}

int vm_disk_start_server(struct vm *vm, const struct vmdef_disk *disk, struct vm_server *server)
{
	char words[300] = "";
	int rc;

	vm_server_init(server);
	for (unsigned try = 0;; try++) {
		rc = start_once(vm, server, disk, words, sizeof(words));
		if (rc == 0)
			break;
		vm_server_close(server);
		if (rc != -EAGAIN)
			return rc;
		if (!strstr(words, " lock") || try == LOCK_TRIES)
			break;
		usleep(LOCK_RETRY_MS * 1000);
	}
	if (rc == 0)
		return 0;
	if (strstr(words, " lock"))
		return fail(vm, -EBUSY, "disk %s is in use by another VM or program: stop that, or make both read-only", disk->path);
	if (!strcmp(words, strerror(ENOENT)))
		return fail(vm, -ENOENT, "disk %s of format %s needs " PROGRAM ": install qemu-utils", disk->path,
			    vmdef_format_name(disk->format));
	return fail(vm, -EINVAL, PROGRAM " cannot open disk %s as %s: %s", disk->path, vmdef_format_name(disk->format),
		    words[0] ? words : "it says nothing");
}

/* ---- all of them ---- */

int vm_disks_prepare(struct vm *vm)
{
	for (unsigned i = 0; i < vm->def->disk_count; i++) {
		struct vm_server *server;
		int rc;

		if (!vm_disk_needs_server(&vm->def->disks[i]))
			continue;
		if (!vm->disk_servers)
			vm->disk_servers = calloc(VMDEF_DISKS_MAX, sizeof(*vm->disk_servers));
		if (!vm->disk_servers)
			return fail(vm, -ENOMEM, "out of memory");
		server = &vm->disk_servers[i];
		rc = vm_disk_start_server(vm, &vm->def->disks[i], server);
		if (rc)
			return fail(vm, rc, "disks[%u]: %.480s", i, strdupa(vm->reason));
		if (vm_server_watch(server, "disk", vm->def->disks[i].path))
			return fail(vm, -ENOMEM, "out of memory");
	}
	return 0;
}

const struct vmdef_disk *vm_disk_numbered(const struct vm *vm, unsigned number)
{
	for (unsigned i = 0; i < vm->def->disk_count; i++)
		if (vm->def->disks[i].device == VMDEF_DEVICE_DISK && !number--)
			return &vm->def->disks[i];
	return NULL;
}

int vm_disks_add(struct vm *vm)
{
	for (unsigned i = 0; i < vm->def->disk_count; i++) {
		const struct vmdef_disk *def = &vm->def->disks[i];
		struct machine_disk disk = {
			.path = def->path,
			.readonly = def->readonly,
			.discard = def->discard == VMDEF_DISCARD_UNMAP,
			.cache = (enum machine_cache)def->cache,	/* the same numbers */
			.on_error = (enum machine_on_error)def->on_error,
			.serial = def->serial,
		};
		const char *why = "unknown";
		int rc;

		if (vm_disk_needs_server(def)) {
			disk.nbd = true;
			disk.nbd_fd = vm->disk_servers[i].socket;
			vm->disk_servers[i].socket = -1;
		}
		rc = def->device == VMDEF_DEVICE_CDROM ? machine_add_cdrom(vm->machine, &disk, &why)
							: machine_add_disk(vm->machine, &disk, &why);
		if (rc)
			return fail(vm, rc, "disks[%u]: %s", i, why);
	}
	return 0;
}

void vm_disks_finish(struct vm *vm)
{
	/* An image is whole, and free for the next one, once its server has ended. */
	for (unsigned i = 0; vm->disk_servers && i < VMDEF_DISKS_MAX; i++)
		vm_server_finish(&vm->disk_servers[i]);
	free(vm->disk_servers);
	vm->disk_servers = NULL;
}

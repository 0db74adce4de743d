/* A daemon's beginning and end: directories, lock, store, registry. */
#include "daemon/private.h"

#include "config.h"
#include "daemon/log.h"
#include "daemon/networks.h"
#include "daemon/images.h"
#include "daemon/pools.h"
#include "proto/file.h"
#include "proto/paths.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* Ours alone: in a shared /tmp somebody else may have made it first. */
static int check_directory(const char *path, char *error, size_t error_size)
{
	struct stat st;
	int rc = 0;

	if (lstat(path, &st) < 0)
		rc = -errno;
	else if (!S_ISDIR(st.st_mode))
		rc = -ENOTDIR;
	else if (st.st_uid != geteuid() || st.st_mode & 022)
		rc = -EPERM;
	if (rc)
		snprintf(error, error_size, "runtime directory %s: %s", path,
			 rc == -EPERM
				 ? "belongs to another user, or others may write to it; name another with --runtime-dir"
				 : strerror(-rc));
	return rc;
}

/* Members of socket_group must get through to the socket; vms/ stays closed to them. */
void daemon_settings_changed(struct daemon *daemon)
{
	const char *dir = daemon->settings->runtime_dir;
	struct stat st;

	if (daemon->settings->socket_group && stat(dir, &st) == 0 && (st.st_mode & 0011) != 0011 &&
	    chmod(dir, (st.st_mode & 07777) | 0011) < 0)
		log_warning("runtime directory %s: cannot let socket_group through: %s", dir, strerror(errno));
}

static int open_runtime(struct daemon *daemon, char *error, size_t error_size)
{
	const char *dir = daemon->settings->runtime_dir;
	char path[PATH_MAX];
	int rc = file_make_dirs(dir, 0700);

	if (rc) {
		snprintf(error, error_size, "runtime directory %s: %s; name another with --runtime-dir", dir,
			 strerror(-rc));
		return rc;
	}
	rc = check_directory(dir, error, error_size);
	if (rc)
		return rc;
	daemon_settings_changed(daemon);
	if (paths_join(path, sizeof(path), dir, "lock"))
		return -ENAMETOOLONG;
	daemon->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (daemon->lock_fd < 0 || flock(daemon->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		rc = -errno;
		snprintf(error, error_size, "%s: %s%s", path, strerror(-rc),
			 rc == -EWOULDBLOCK ? "; another trivisord uses this runtime directory" : "");
		return rc;
	}
	rc = paths_join(daemon->vms_dir, sizeof(daemon->vms_dir), dir, "vms");
	if (!rc)
		rc = file_make_dirs(daemon->vms_dir, 0700);
	if (rc)
		snprintf(error, error_size, "%s: %s", daemon->vms_dir, strerror(-rc));
	return rc;
}

static json_object *parse_object(const char *text)
{
	return text ? json_tokener_parse(text) : NULL;
}

static void load_row(void *opaque, const char *uuid, const char *definition, double created, const char *decision,
		     const char *result)
{
	struct daemon *daemon = opaque;
	char error[VMDEF_ERROR_BYTES];
	struct vmdef *def = NULL;
	struct vm *vm;

	if (vmdef_from_text(definition, strlen(definition), &def, error)) {
		log_error("stored definition %s: %s; the VM is left out", uuid, error);
		return;
	}
	vm = registry_add(daemon, def, created);
	if (!vm) {
		log_error("stored definition %s: out of memory", uuid);
		return;
	}
	if (decision)
		registry_set_decision(vm, parse_object(decision));
	if (result)
		registry_set_result(vm, parse_object(result));
}

int daemon_create(struct event_base *base, struct settings *settings, struct daemon **ret_daemon, char *error,
		  size_t error_size)
{
	struct daemon *daemon = calloc(1, sizeof(*daemon));
	int rc;

	if (!daemon) {
		snprintf(error, error_size, "out of memory");
		return -ENOMEM;
	}
	daemon->base = base;
	daemon->settings = settings;
	daemon->lock_fd = -1;
	daemon->started = epoch_seconds();
	TAILQ_INIT(&daemon->vms);
	LIST_INIT(&daemon->plans);
	rc = open_runtime(daemon, error, error_size);
	if (!rc)
		rc = store_open(settings->state_dir, base, &daemon->store, error, error_size);
	if (!rc && store_problem(daemon->store))
		log_error("store: %s", store_problem(daemon->store));
	if (!rc)
		rc = store_load(daemon->store, load_row, daemon, error, error_size);
	if (rc) {
		daemon_destroy(daemon);
		return rc;
	}
	/* Before results of VMs that ended meanwhile are taken in. */
	policy_probe(&daemon->host);
	learning_load(daemon);
	calibrate_init(daemon);
	daemon->pools = pools_open(settings->state_dir);
	if (!daemon->pools) {
		snprintf(error, error_size, "out of memory");
		daemon_destroy(daemon);
		return -ENOMEM;
	}
	/* Before VMs that are to start with the host: they connect to them. */
	rc = networks_open(daemon, &daemon->networks);
	if (rc) {
		snprintf(error, error_size, "networks: %s", strerror(-rc));
		daemon_destroy(daemon);
		return rc;
	}
	adopt_all(daemon);
	*ret_daemon = daemon;
	return 0;
}

void daemon_stopping(struct daemon *daemon)
{
	daemon->ending = true;
}

void daemon_destroy(struct daemon *daemon)
{
	struct vm *vm;

	if (!daemon)
		return;
	daemon->ending = true;
	calibrate_finish(daemon);
	plans_finish(daemon);
	daemon_images_close(daemon);
	while ((vm = TAILQ_FIRST(&daemon->vms))) {
		struct vm_process *process = vm->process;

		vm->process = NULL;
		supervisor_release(process);
		registry_remove(vm);
	}
	store_close(daemon->store);
	pools_close(daemon->pools);
	networks_close(daemon->networks);
	while (daemon->listeners) {
		struct daemon_listener *listener = daemon->listeners;

		daemon->listeners = listener->next;
		free(listener);
	}
	if (daemon->lock_fd >= 0)
		close(daemon->lock_fd);
	free(daemon);
}

static void on_autostarted(void *opaque, const struct daemon_error *error, json_object *result)
{
	if (error)
		log_error("autostart: %s", error->message);
}

void daemon_autostart(struct daemon *daemon)
{
	static const struct daemon_start options;
	char path[PATH_MAX], *boot = NULL, *done = NULL;
	size_t bytes, done_bytes;
	struct vm *vm, *next;
	bool again;

	if (paths_join(path, sizeof(path), daemon->settings->runtime_dir, "autostarted") ||
	    file_read("/proc/sys/kernel/random/boot_id", 256, &boot, &bytes))
		return;
	again = !file_read(path, 256, &done, &done_bytes) && done_bytes == bytes && !memcmp(done, boot, bytes);
	free(done);
	if (!again && file_write_atomic(path, boot, bytes, 0600))
		log_warning("%s: cannot be written; the next daemon will autostart again", path);
	free(boot);
	for (vm = again ? NULL : daemon_next(daemon, NULL); vm; vm = next) {
		next = daemon_next(daemon, vm);
		if (vm->def->autostart && !vm->process)
			daemon_start_vm(daemon, vm, &options, on_autostarted, NULL);
	}
}

struct pools *daemon_pools(struct daemon *daemon)
{
	return daemon->pools;
}

struct event_base *daemon_base(struct daemon *daemon)
{
	return daemon->base;
}

const struct settings *daemon_settings(struct daemon *daemon)
{
	return daemon->settings;
}

unsigned daemon_running(struct daemon *daemon)
{
	struct vm *vm;
	unsigned n = 0;

	TAILQ_FOREACH(vm, &daemon->vms, link)
	n += vm->process != NULL;
	return n;
}

json_object *daemon_version(struct daemon *daemon)
{
	json_object *object = json_object_new_object();

	put_text(object, "name", "trivisord");
	put_text(object, "version", PACKAGE_VERSION);
	json_object_object_add(object, "control_protocol", json_object_new_int(CONTROL_VERSION));
	json_object_object_add(object, "pid", json_object_new_int(getpid()));
	json_object_object_add(object, "uid", json_object_new_int64(geteuid()));
	json_object_object_add(object, "started", json_object_new_double(daemon->started));
	put_text(object, "socket", daemon->settings->socket_path);
	put_text(object, "state_dir", daemon->settings->state_dir);
	put_text(object, "runtime_dir", daemon->settings->runtime_dir);
	put_text(object, "store_problem", store_problem(daemon->store));
	return object;
}

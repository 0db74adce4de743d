/*
 * Folders of the host that the guest sees by virtiofs: a virtiofsd for each, which shuts itself into its folder. Where it may not
 * (a plain user), it is started in a user namespace of its own, in which it may.
 */
#include "vm/private.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define PROGRAM "virtiofsd"
/* Debian 12's (qemu-system-common), and where later ones have theirs. */
static const char *const programs[] = {"/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"};

struct start {
	const struct vmdef_share *share;
	const char *program;
	const char *sandbox; /* namespace or chroot */
	bool own_users;	     /* a user namespace, where this user is root */
};

__attribute__((format(printf, 4, 5))) static int refuse(struct vm *vm, unsigned number, int rc, const char *format, ...)
{
	char why[VM_REASON_BYTES - 32];
	va_list ap;

	va_start(ap, format);
	vsnprintf(why, sizeof(why), format, ap);
	va_end(ap);
	snprintf(vm->reason, sizeof(vm->reason), "shares[%u]: %s", number, why);
	return rc;
}

/* ---- the child ------------------------------------------------------------------------------------ */

static bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return ok;
}

/* user_namespaces(7): this user and group are 0 in it, and there are no others. */
static bool become_own_root(void)
{
	char users[40], groups[40];

	snprintf(users, sizeof(users), "0 %u 1", (unsigned)geteuid());
	snprintf(groups, sizeof(groups), "0 %u 1", (unsigned)getegid());
	return unshare(CLONE_NEWUSER) == 0 && write_file("/proc/self/setgroups", "deny") && write_file("/proc/self/uid_map", users) &&
	       write_file("/proc/self/gid_map", groups);
}

static void become_server(const void *opaque)
{
	const struct start *start = opaque;
	char listener[24], source[PATH_MAX + 16], sandbox[32];
	const char *const argv[] = {PROGRAM, listener, "-f", "-o", source, "-o", sandbox, "-o", "log_level=err", start->own_users ? "--rlimit-nofile=0" : NULL, NULL};

	snprintf(listener, sizeof(listener), "--fd=%d", VM_SERVER_LISTENER);
	snprintf(source, sizeof(source), "source=%s", start->share->path);
	snprintf(sandbox, sizeof(sandbox), "sandbox=%s", start->sandbox);
	if (start->own_users && !become_own_root()) {
		dprintf(STDERR_FILENO, "no user namespace: ");
		return;
	}
	execv(start->program, (char *const *)argv);
}

/* ---- starting one ------------------------------------------------------------------------------------- */

/* A first question, to which it can only answer once it is shut in. The answer is the machine's to hear again. */
static bool greets(struct vm_server *server)
{
	const uint32_t get_features[3] = {1, 1, 0};
	uint8_t answer[20];

	return send(server->socket, get_features, sizeof(get_features), MSG_NOSIGNAL) == sizeof(get_features) &&
	       vm_server_answers(server) && recv(server->socket, answer, sizeof(answer), MSG_WAITALL) == sizeof(answer);
}

static int start_once(struct vm *vm, struct vm_server *server, unsigned number, const struct start *start, char *ret_words, size_t bytes)
{
	char name[32];
	int rc;

	snprintf(name, sizeof(name), "share%u", number);
	rc = vm_server_start(vm, server, name, become_server, start);
	if (rc)
		return refuse(vm, number, rc == -EAGAIN ? -ENOMEM : rc, "%.400s", strdupa(vm->reason));
	if (greets(server))
		return 0;
	vm_server_last_words(server, PROGRAM, ret_words, bytes);
	vm_server_close(server);
	return -EAGAIN;
}

static const char *find_program(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(programs); i++)
		if (access(programs[i], X_OK) == 0)
			return programs[i];
	return NULL;
}

static int check_folder(struct vm *vm, unsigned number)
{
	const char *path = vm->def->shares[number].path;
	struct stat st;

	if (stat(path, &st) < 0)
		return refuse(vm, number, -errno, "folder %.300s: %s", path, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return refuse(vm, number, -ENOTDIR, "%.300s is no folder: a disk image is for disks, and a file for the folder it is in", path);
	if (access(path, R_OK | X_OK) < 0)
		return refuse(vm, number, -errno, "folder %.300s: %s", path, strerror(errno));
	return 0;
}

static int start_server(struct vm *vm, struct vm_server *server, unsigned number)
{
	struct start start = {.share = &vm->def->shares[number], .program = find_program(), .sandbox = "namespace",
			      .own_users = geteuid() != 0};
	char words[300] = "";
	int rc = check_folder(vm, number);

	if (rc)
		return rc;
	if (!start.program)
		return refuse(vm, number, -ENOENT, "folder %.300s needs " PROGRAM ": install qemu-system-common", start.share->path);
	rc = start_once(vm, server, number, &start, words, sizeof(words));
	if (rc == -EAGAIN && !start.own_users && strstr(words, "unshare")) {
		/* Root in a container: its folder alone then, without namespaces. */
		start.sandbox = "chroot";
		rc = start_once(vm, server, number, &start, words, sizeof(words));
	}
	if (rc != -EAGAIN)
		return rc;
	if (start.own_users && (strstr(words, "namespace") || strstr(words, "unshare")))
		return refuse(vm, number, -EPERM, "a plain user can share a folder only where user namespaces are allowed (%.150s): allow them "
			      "(user.max_user_namespaces, the container's seccomp profile), or run this as root", words);
	return refuse(vm, number, -EINVAL, PROGRAM " cannot serve %.200s: %.200s", start.share->path, words[0] ? words : "it says nothing");
}

/* ---- all of them -------------------------------------------------------------------------------------------- */

int vm_shares_prepare(struct vm *vm)
{
	if (!vm->def->share_count)
		return 0;
	vm->share_servers = calloc(VMDEF_SHARES_MAX, sizeof(*vm->share_servers));
	if (!vm->share_servers)
		return refuse(vm, 0, -ENOMEM, "out of memory");
	for (unsigned i = 0; i < vm->def->share_count; i++) {
		struct vm_server *server = &vm->share_servers[i];
		int rc;

		vm_server_init(server);
		rc = start_server(vm, server, i);
		if (!rc && vm_server_watch(server, "folder", vm->def->shares[i].path))
			rc = refuse(vm, i, -ENOMEM, "out of memory");
		if (rc)
			return rc;
	}
	return 0;
}

int vm_shares_add(struct vm *vm)
{
	for (unsigned i = 0; i < vm->def->share_count; i++) {
		const struct vmdef_share *def = &vm->def->shares[i];
		const struct machine_share share = {.tag = def->tag, .socket = vm->share_servers[i].socket, .readonly = def->readonly};
		const char *why = "unknown";
		int rc = machine_add_share(vm->machine, &share, &why);

		if (rc)
			return refuse(vm, i, rc, "%s", why);
		vm->share_servers[i].socket = -1;
	}
	return 0;
}

void vm_shares_finish(struct vm *vm)
{
	for (unsigned i = 0; vm->share_servers && i < VMDEF_SHARES_MAX; i++)
		vm_server_finish(&vm->share_servers[i]);
	free(vm->share_servers);
	vm->share_servers = NULL;
}

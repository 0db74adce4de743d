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
#define ACTIVATED_FD 3 /* sd_listen_fds(3) */
/* The VM before may have been killed: its server then closes the image, in a moment. */
#define LOCK_TRIES 20
#define LOCK_RETRY_MS 100
#define END_TIMEOUT_MS 10000

struct vm_disk_server {
	struct vm *vm;
	const char *path;
	int socket; /* to the server; the machine's once it has the disk */
	pid_t pid;
	int pidfd;
	int messages; /* what it writes to standard error */
	struct event *event;
};

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

static bool needs_server(const struct vmdef_disk *disk) { return disk->format != VMDEF_FORMAT_RAW || disk->snapshot; }

/* ---- the child ---- */

/* In the child, between fork and exec. */
static void become_server(const struct vmdef_disk *disk, int listener, int messages)
{
	char format[40], pid[16];
	const char *argv[12];
	unsigned n = 0;
	sigset_t none;

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

	/* It ends with its only client; this is for the case that it does not notice. */
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", "1", 1);
	if (dup2(messages, STDERR_FILENO) < 0 || dup2(messages, STDOUT_FILENO) < 0)
		_exit(127);
	if (listener == ACTIVATED_FD)
		fcntl(listener, F_SETFD, 0);
	else if (dup2(listener, ACTIVATED_FD) < 0)
		_exit(127);
	execvp(PROGRAM, (char *const *)argv);
	dprintf(STDERR_FILENO, "%s", strerror(errno));
	_exit(127);
}

/* ---- starting one ---- */

/* A listening socket in the VM's directory, without a name once we have connected to it. */
static int open_sockets(struct vm *vm, struct vm_disk_server *server, unsigned number)
{
	char path[PATH_MAX];
	int listener;

	snprintf(path, sizeof(path), "%s/disk%u.sock", vm->options.dir, number);
	listener = sock_listen(path, 0600);
	if (listener < 0)
		return fail(vm, listener, "disks[%u]: %s: %s", number, path, strerror(-listener));
	server->socket = sock_connect(path);
	unlink(path);
	if (server->socket < 0) {
		close(listener);
		return fail(vm, server->socket, "disks[%u]: %s: %s", number, path, strerror(-server->socket));
	}
	return listener;
}

/* The server answers (its greeting can be read), or has ended. */
static bool wait_for_greeting(const struct vm_disk_server *server)
{
	struct pollfd wait[] = {{.fd = server->socket, .events = POLLIN}, {.fd = server->pidfd, .events = POLLIN}};
	char byte;

	while (poll(wait, ARRAY_SIZE(wait), -1) < 0 && errno == EINTR)
		;
	return recv(server->socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1;
}

static void close_server(struct vm_disk_server *server)
{
	if (server->event)
		event_free(server->event);
	if (server->socket >= 0)
		close(server->socket);
	if (server->messages >= 0)
		close(server->messages);
	if (server->pidfd >= 0)
		close(server->pidfd);
	*server = (struct vm_disk_server){.socket = -1, .messages = -1, .pidfd = -1};
}

/* What it said last before it ended, without its name in front. */
static void last_words(struct vm_disk_server *server, char *ret_text, size_t bytes)
{
	ssize_t n = read(server->messages, ret_text, bytes - 1);
	char *name;

	ret_text[n > 0 ? n : 0] = '\0';
	for (char *at = ret_text; *at; at++)
		if (iscntrl((unsigned char)*at))
			*at = ' ';
	for (size_t end = strlen(ret_text); end && ret_text[end - 1] == ' ';)
		ret_text[--end] = '\0';
	name = strstr(ret_text, PROGRAM ": ");
	if (name == ret_text)
		memmove(ret_text, ret_text + strlen(PROGRAM ": "), strlen(ret_text + strlen(PROGRAM ": ")) + 1);
}

static int start_once(struct vm *vm, struct vm_disk_server *server, unsigned number, char *ret_words, size_t bytes)
{
	const struct vmdef_disk *disk = &vm->def->disks[number];
	int messages[2], listener = open_sockets(vm, server, number), error;

	if (listener < 0)
		return listener;
	if (pipe2(messages, O_CLOEXEC | O_NONBLOCK) < 0) {
		close(listener);
		return fail(vm, -errno, "disks[%u]: no pipe: %s", number, strerror(errno));
	}
	server->messages = messages[0];
	server->pid = fork();
	error = errno;
	if (server->pid == 0)
		become_server(disk, listener, messages[1]);
	close(messages[1]);
	close(listener);
	if (server->pid < 0)
		return fail(vm, -error, "disks[%u]: cannot start " PROGRAM ": %s", number, strerror(error));
	server->pidfd = (int)syscall(SYS_pidfd_open, server->pid, 0);
	if (server->pidfd >= 0 && wait_for_greeting(server))
		return 0;
	close(server->socket);
	server->socket = -1;
	waitpid(server->pid, NULL, 0);
	last_words(server, ret_words, bytes);
	return -EAGAIN;
}

static int start_server(struct vm *vm, struct vm_disk_server *server, unsigned number)
{
	const struct vmdef_disk *disk = &vm->def->disks[number];
	char words[300] = "";
	int rc;

	for (unsigned try = 0;; try++) {
		rc = start_once(vm, server, number, words, sizeof(words));
		if (rc == 0)
			break;
		close_server(server);
		if (rc != -EAGAIN)
			return rc;
		if (!strstr(words, " lock") || try == LOCK_TRIES)
			break;
		usleep(LOCK_RETRY_MS * 1000);
	}
	server->vm = vm;
	server->path = disk->path;
	if (rc == 0)
		return 0;
	if (strstr(words, " lock"))
		return fail(vm, -EBUSY, "disks[%u]: disk %s is in use by another VM or program: stop that, or make both read-only",
			    number, disk->path);
	if (!strcmp(words, strerror(ENOENT)))
		return fail(vm, -ENOENT, "disks[%u]: disk %s of format %s needs " PROGRAM ": install qemu-utils", number, disk->path,
			    vmdef_format_name(disk->format));
	return fail(vm, -EINVAL, "disks[%u]: " PROGRAM " cannot open disk %s as %s: %s", number, disk->path,
		    vmdef_format_name(disk->format), words[0] ? words : "it says nothing");
}

/* ---- its life ---- */

static void on_message(evutil_socket_t fd, short what, void *opaque)
{
	struct vm_disk_server *server = opaque;
	char text[512];
	ssize_t n = read(fd, text, sizeof(text) - 1);

	if (n <= 0) {
		if (n == 0 || errno != EAGAIN)
			event_del(server->event);
		return;
	}
	text[n] = '\0';
	for (char *rest = text, *line; (line = strsep(&rest, "\r\n"));)
		if (line[0])
			vm_log("disk %s: %s", server->path, line);
}

int vm_disks_prepare(struct vm *vm)
{
	for (unsigned i = 0; i < vm->def->disk_count; i++) {
		struct vm_disk_server *server;
		int rc;

		if (!needs_server(&vm->def->disks[i]))
			continue;
		if (!vm->disk_servers)
			vm->disk_servers = calloc(VMDEF_DISKS_MAX, sizeof(*vm->disk_servers));
		if (!vm->disk_servers)
			return fail(vm, -ENOMEM, "out of memory");
		server = &vm->disk_servers[i];
		*server = (struct vm_disk_server){.socket = -1, .messages = -1, .pidfd = -1};
		rc = start_server(vm, server, i);
		if (rc)
			return rc;
		server->event = event_new(vm->base, server->messages, EV_READ | EV_PERSIST, on_message, server);
		if (!server->event || event_add(server->event, NULL) < 0)
			return fail(vm, -ENOMEM, "out of memory");
	}
	/* One that dies leaves no zombie; inside the sandbox nobody could wait for it. */
	if (vm->disk_servers)
		signal(SIGCHLD, SIG_IGN);
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

		if (needs_server(def)) {
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
	for (unsigned i = 0; vm->disk_servers && i < VMDEF_DISKS_MAX; i++) {
		struct vm_disk_server *server = &vm->disk_servers[i];
		struct pollfd wait = {.fd = server->pidfd, .events = POLLIN};

		if (!server->vm)
			continue;
		/* The image is whole, and free for the next one, once it has ended. */
		if (server->socket >= 0) {
			close(server->socket);
			server->socket = -1;
		}
		if (poll(&wait, 1, END_TIMEOUT_MS) == 0)
			vm_log("disk %s: " PROGRAM " does not end; left behind", server->path);
		close_server(server);
	}
	free(vm->disk_servers);
	vm->disk_servers = NULL;
}

/*
 * The host's ends of a VM's vsock. Programs of the host connect to a socket; for programs of the guest, which connect to ports of
 * the host, a process of its own connects to sockets, since the VM's process may not: that one would reach the daemon, and
 * whoever else trusts this user. It is asked for a port and nothing else, and ends with the VM.
 */
#include "vm/private.h"

#include "proto/sock.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define STREAM_FILES 4096 /* descriptors: two ends of many streams */

static int refuse(struct vm *vm, int rc, const char *what)
{
	snprintf(vm->reason, sizeof(vm->reason), "vsock: %.400s: %s", what, strerror(-rc));
	return rc;
}

static void socket_path(const struct vm *vm, char *ret_path)
{
	if (vm->def->vsock.path)
		snprintf(ret_path, PATH_MAX, "%s", vm->def->vsock.path);
	else
		snprintf(ret_path, PATH_MAX, "%s/" CONTROL_FILE_VSOCK, vm->options.dir);
}

/* ---- the process that connects ------------------------------------------------------------------ */

static void answer(int socket, uint32_t id, int fd)
{
	struct machine_vsock_answer answer = {.id = id};
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = {&answer, sizeof(answer)};
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fd >= 0) {
		message.msg_control = &control;
		message.msg_controllen = sizeof(control);
		control.header = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	}
	while (sendmsg(socket, &message, MSG_NOSIGNAL) < 0 && errno == EINTR)
		;
}

/* The name is ours to remove only while it is our socket's. */
static void remove_socket(const char *path, const struct stat *ours)
{
	struct stat st;

	if (lstat(path, &st) == 0 && st.st_ino == ours->st_ino && st.st_dev == ours->st_dev)
		unlink(path);
}

static void connector_main(int socket, const char *path)
{
	struct machine_vsock_question question;
	char listener[PATH_MAX + 16];
	struct stat ours = {0};

	if (lstat(path, &ours) < 0)
		_exit(1);
	for (;;) {
		ssize_t n = recv(socket, &question, sizeof(question), 0);
		int fd;

		if (n < 0 && errno == EINTR)
			continue;
		if (n != (ssize_t)sizeof(question))
			break;
		snprintf(listener, sizeof(listener), "%s_%u", path, question.port);
		fd = sock_connect_nonblock(listener);
		answer(socket, question.id, fd);
		if (fd >= 0)
			close(fd);
	}
	remove_socket(path, &ours);
	_exit(0);
}

/* In the child: nothing of the VM's stays open here, so that its end is seen by everybody. */
static void become_connector(int socket, const char *path)
{
	prctl(PR_SET_NAME, "vsock-connect");
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (dup2(socket, STDIN_FILENO) < 0 || close_range(STDIN_FILENO + 1, UINT_MAX, 0) < 0)
		_exit(1);
	connector_main(STDIN_FILENO, path);
}

/* ---- set-up ---------------------------------------------------------------------------------------- */

/* A descriptor for each stream; the usual 1024 are few. */
static void allow_files(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) < 0 || files.rlim_cur >= STREAM_FILES)
		return;
	files.rlim_cur = files.rlim_max < STREAM_FILES ? files.rlim_max : STREAM_FILES;
	setrlimit(RLIMIT_NOFILE, &files);
}

int vm_vsock_prepare(struct vm *vm)
{
	char path[PATH_MAX];
	int pair[2];
	pid_t pid;

	if (!vm->def->vsock.present)
		return 0;
	allow_files();
	socket_path(vm, path);
	vm->vsock_listener = sock_listen(path, 0600);
	if (vm->vsock_listener == -EADDRINUSE) {
		snprintf(vm->reason, sizeof(vm->reason), "vsock: %.400s is in use by another VM or program: choose another path", path);
		return -EADDRINUSE;
	}
	if (vm->vsock_listener < 0)
		return refuse(vm, vm->vsock_listener, path);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return refuse(vm, -errno, "no sockets");
	pid = fork();
	if (pid == 0)
		become_connector(pair[1], path);
	close(pair[1]);
	vm->vsock_connector = pair[0];
	if (pid < 0)
		return refuse(vm, -errno, "no process for connections to the host");
	/* Inside the sandbox nobody could wait for it. */
	signal(SIGCHLD, SIG_IGN);
	return 0;
}

int vm_vsock_add(struct vm *vm, const char **ret_why)
{
	const struct machine_vsock vsock = {
		.cid = vm->def->vsock.cid, .listener = vm->vsock_listener, .connector = vm->vsock_connector};
	int rc = machine_add_vsock(vm->machine, &vsock, ret_why);

	if (rc == 0)
		vm->vsock_listener = vm->vsock_connector = -1;
	return rc;
}

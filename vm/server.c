/*
 * Programs that serve a VM over a socket that only the two have: qemu-nbd for a disk, virtiofsd for a folder. Each is started
 * before the sandbox closes, and ended by that socket's end.
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

#define END_TIMEOUT_MS 10000

void vm_server_init(struct vm_server *server) { *server = (struct vm_server){.socket = -1, .messages = -1, .pidfd = -1}; }

/* ---- the child ---- */

static void prepare_child(const struct vm *vm, int listener, int messages)
{
	sigset_t none;

	/*
	 * It ends with its only client; this is for the case that it does not notice. One that is started for another process
	 * outlives us.
	 */
	if (!vm->options.attach)
		prctl(PR_SET_PDEATHSIG, SIGTERM);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (dup2(messages, STDERR_FILENO) < 0 || dup2(messages, STDOUT_FILENO) < 0)
		_exit(127);
	if (listener == VM_SERVER_LISTENER)
		fcntl(listener, F_SETFD, 0);
	else if (dup2(listener, VM_SERVER_LISTENER) < 0)
		_exit(127);
}

/* ---- starting one ---- */

/* A listening socket in the VM's directory, without a name once we have connected to it. */
static int open_sockets(struct vm *vm, struct vm_server *server, const char *name)
{
	char path[PATH_MAX];
	int listener;

	snprintf(path, sizeof(path), "%s/%s.sock", vm->options.dir, name);
	listener = sock_listen(path, 0600);
	if (listener < 0) {
		snprintf(vm->reason, sizeof(vm->reason), "%.400s: %s", path, strerror(-listener));
		return listener;
	}
	server->socket = sock_connect(path);
	unlink(path);
	if (server->socket < 0) {
		close(listener);
		snprintf(vm->reason, sizeof(vm->reason), "%.400s: %s", path, strerror(-server->socket));
		return server->socket;
	}
	return listener;
}

int vm_server_start(struct vm *vm, struct vm_server *server, const char *name, void (*become)(const void *opaque), const void *opaque)
{
	int messages[2], listener = open_sockets(vm, server, name);

	if (listener < 0)
		return listener;
	if (pipe2(messages, O_CLOEXEC | O_NONBLOCK) < 0) {
		snprintf(vm->reason, sizeof(vm->reason), "no pipe: %s", strerror(errno));
		close(listener);
		return -errno;
	}
	server->messages = messages[0];
	server->pid = fork();
	if (server->pid == 0) {
		prepare_child(vm, listener, messages[1]);
		become(opaque);
		dprintf(STDERR_FILENO, "%s", strerror(errno));
		_exit(127);
	}
	if (server->pid < 0)
		snprintf(vm->reason, sizeof(vm->reason), "cannot start a process: %s", strerror(errno));
	close(messages[1]);
	close(listener);
	if (server->pid < 0)
		return -EAGAIN;
	server->vm = vm;
	server->pidfd = (int)syscall(SYS_pidfd_open, server->pid, 0);
	return 0;
}

bool vm_server_answers(const struct vm_server *server)
{
	struct pollfd wait[] = {{.fd = server->socket, .events = POLLIN}, {.fd = server->pidfd, .events = POLLIN}};
	char byte;

	while (poll(wait, ARRAY_SIZE(wait), -1) < 0 && errno == EINTR)
		;
	return server->pidfd >= 0 && recv(server->socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1;
}

void vm_server_close(struct vm_server *server)
{
	if (server->event)
		event_free(server->event);
	if (server->socket >= 0)
		close(server->socket);
	if (server->messages >= 0)
		close(server->messages);
	if (server->pidfd >= 0)
		close(server->pidfd);
	vm_server_init(server);
}

void vm_server_last_words(struct vm_server *server, const char *program, char *ret_text, size_t bytes)
{
	size_t prefix = strlen(program);
	ssize_t n;

	close(server->socket);
	server->socket = -1;
	waitpid(server->pid, NULL, 0);
	n = read(server->messages, ret_text, bytes - 1);
	ret_text[n > 0 ? n : 0] = '\0';
	for (char *at = ret_text; *at; at++)
		if (iscntrl((unsigned char)*at))
			*at = ' ';
	for (size_t end = strlen(ret_text); end && ret_text[end - 1] == ' ';)
		ret_text[--end] = '\0';
	if (!strncmp(ret_text, program, prefix) && !strncmp(ret_text + prefix, ": ", 2))
		memmove(ret_text, ret_text + prefix + 2, strlen(ret_text + prefix + 2) + 1);
}

/* ---- its life ---- */

static void on_message(evutil_socket_t fd, short what, void *opaque)
{
	struct vm_server *server = opaque;
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
			vm_log("%s %s: %s", server->kind, server->path, line);
}

int vm_server_watch(struct vm_server *server, const char *kind, const char *path)
{
	server->kind = kind;
	server->path = path;
	server->event = event_new(server->vm->base, server->messages, EV_READ | EV_PERSIST, on_message, server);
	if (!server->event || event_add(server->event, NULL) < 0)
		return -ENOMEM;
	/* One that dies leaves no zombie; inside the sandbox nobody could wait for it. */
	signal(SIGCHLD, SIG_IGN);
	return 0;
}

void vm_server_finish(struct vm_server *server)
{
	struct pollfd wait = {.fd = server->pidfd, .events = POLLIN};

	if (!server->vm)
		return;
	if (server->socket >= 0) {
		close(server->socket);
		server->socket = -1;
	}
	if (server->kind && poll(&wait, 1, END_TIMEOUT_MS) == 0)
		vm_log("%s %s: its server does not end; left behind", server->kind, server->path);
	vm_server_close(server);
}

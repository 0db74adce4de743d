/*
 * A VM's console for users who may use the daemon but cannot reach the VM's directory (members of socket_group): a
 * child process with a connection of its own turns the daemon's console stream into a socket.
 */
#include "api/cli/cli.h"
#include "api/cli/terminal.h"

#include "proto/base64.h"
#include "proto/sock.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

static bool put_all(int fd, const unsigned char *data, size_t n)
{
	while (n) {
		ssize_t r = send(fd, data, n, MSG_NOSIGNAL);

		if (r <= 0 && errno != EINTR)
			return false;
		if (r > 0) {
			data += r;
			n -= (size_t)r;
		}
	}
	return true;
}

/* One notification or answer. False: the stream has ended. */
static bool take_message(json_object *message, int64_t stream, int fd)
{
	json_object *method = NULL, *params = NULL, *number = NULL, *data = NULL;
	unsigned char *bytes;
	ssize_t n;
	bool ok;

	if (!json_object_object_get_ex(message, "method", &method) ||
	    !json_object_object_get_ex(message, "params", &params) ||
	    !json_object_object_get_ex(params, "stream", &number) || json_object_get_int64(number) != stream)
		return true;
	if (!json_object_object_get_ex(params, "data", &data))
		return strcmp(json_object_get_string(method), "console.end") != 0;
	bytes = malloc((size_t)json_object_get_string_len(data) + 4);
	n = bytes ? base64_decode(json_object_get_string(data), (size_t)json_object_get_string_len(data), bytes) : -1;
	ok = n >= 0 && put_all(fd, bytes, (size_t)n);
	free(bytes);
	return ok;
}

static bool take_input(struct client *client, int64_t stream, int fd)
{
	unsigned char bytes[4096];
	ssize_t n = recv(fd, bytes, sizeof(bytes), 0);
	json_object *params;
	char *data;
	int64_t id;

	if (n <= 0)
		return n < 0 && errno == EINTR;
	data = base64_encode(bytes, (size_t)n);
	if (!data)
		return false;
	params = json_object_new_object();
	json_object_object_add(params, "stream", json_object_new_int64(stream));
	json_object_object_add(params, "data", json_object_new_string(data));
	free(data);
	id = client_send(client, "vm.console_write", params);
	return id > 0;
}

static int open_stream(struct client *client, const char *vm, int64_t *ret_stream)
{
	json_object *params = json_object_new_object(), *result = NULL, *stream = NULL;
	int status;

	json_object_object_add(params, "vm", json_object_new_string(vm));
	json_object_object_add(params, "stream", json_object_new_boolean(1));
	status = client_call(client, "vm.console", params, &result);
	if (status)
		return status;
	json_object_object_get_ex(result, "stream", &stream);
	*ret_stream = json_object_get_int64(stream);
	json_object_put(result);
	return 0;
}

static void bridge(const char *socket_path, const char *vm, int fd)
{
	struct client client;
	int64_t stream;
	bool open = true;

	if (client_connect(&client, socket_path) || open_stream(&client, vm, &stream))
		return;
	while (open) {
		struct pollfd fds[2] = {{.fd = client.line.fd, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
		json_object *message = NULL;
		int rc;

		/* What came with the answer is in the client's buffer, not in the socket. */
		while (open && (rc = client_next(&client, 0, &message)) == 0) {
			open = take_message(message, stream, fd);
			json_object_put(message);
		}
		if (!open || rc != -ETIMEDOUT || (poll(fds, 2, -1) < 0 && errno != EINTR))
			break;
		if (fds[1].revents)
			open = take_input(&client, stream, fd);
	}
	client_close(&client);
}

static int start_bridge(const char *socket_path, const char *vm)
{
	int ends[2];
	pid_t pid, parent = getpid();

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return -errno;
	pid = fork();
	if (pid < 0) {
		int rc = -errno;

		close(ends[0]);
		close(ends[1]);
		return rc;
	}
	if (pid == 0) {
		close(ends[0]);
		/* It ends with its parent, and leaves the terminal's signals to that. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		signal(SIGINT, SIG_IGN);
		if (getppid() == parent)
			bridge(socket_path, vm, ends[1]);
		_exit(0);
	}
	close(ends[1]);
	return ends[0];
}

int terminal_connect(const char *socket_path, const char *vm, const char *console_path)
{
	int fd = sock_connect(console_path);

	return fd == -EACCES ? start_bridge(socket_path, vm) : fd;
}

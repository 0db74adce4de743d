/*
 * A VM's console for users who may use the daemon but cannot reach the VM's directory (members of socket_group): a
 * child process with a connection of its own turns the daemon's console stream into a socket.
 */
#include "api/cli/cli.h"
#include "api/cli/terminal.h"

#include "proto/base64.h"
#include "proto/control.h"
#include "proto/sock.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER_MS 10000

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

/* Over a connection of its own. 0 or an exit status: it was reported. */
static int open_stream(struct client *client, const char *socket_path, const char *vm, const struct terminal_wish *wish,
		       int64_t *ret_stream)
{
	json_object *params = json_object_new_object(), *result = NULL, *stream = NULL;
	int status = client_connect(client, socket_path);

	if (status) {
		complain("%s: %s", socket_path, strerror(-status));
		json_object_put(params);
		return EXIT_NO_DAEMON;
	}
	json_object_object_add(params, "vm", json_object_new_string(vm));
	json_object_object_add(params, "stream", json_object_new_boolean(1));
	json_object_object_add(params, "read_only", json_object_new_boolean(wish->read_only));
	json_object_object_add(params, "force", json_object_new_boolean(wish->force));
	if (wish->scrollback >= 0)
		json_object_object_add(params, "scrollback", json_object_new_int64(wish->scrollback));
	status = client_call(client, "vm.console", params, &result);
	if (status) {
		client_close(client);
		return status;
	}
	json_object_object_get_ex(result, "stream", &stream);
	*ret_stream = json_object_get_int64(stream);
	json_object_put(result);
	return 0;
}

static void bridge(struct client *client, int64_t stream, int fd)
{
	bool open = true;

	while (open) {
		struct pollfd fds[2] = {{.fd = client->line.fd, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
		json_object *message = NULL;
		int rc;

		/* What came with the answer is in the client's buffer, not in the socket. */
		while (open && (rc = client_next(client, 0, &message)) == 0) {
			open = take_message(message, stream, fd);
			json_object_put(message);
		}
		if (!open || rc != -ETIMEDOUT || (poll(fds, 2, -1) < 0 && errno != EINTR))
			break;
		if (fds[1].revents)
			open = take_input(client, stream, fd);
	}
}

/* 0 or an exit status: it was reported. */
static int start_bridge(const char *socket_path, const char *vm, const struct terminal_wish *wish, int *ret_fd)
{
	struct client client;
	int64_t stream = 0;
	int ends[2], status;
	pid_t pid, parent = getpid();

	status = open_stream(&client, socket_path, vm, wish, &stream);
	if (status)
		return status;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
		complain("socketpair: %s", strerror(errno));
		client_close(&client);
		return EXIT_ERROR;
	}
	pid = fork();
	if (pid == 0) {
		close(ends[0]);
		/* It ends with its parent, and leaves the terminal's signals to that. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		signal(SIGINT, SIG_IGN);
		if (getppid() == parent)
			bridge(&client, stream, ends[1]);
		_exit(0);
	}
	if (pid < 0)
		complain("fork: %s", strerror(errno));
	/* The child has both from here on. */
	client_close(&client);
	close(ends[1]);
	if (pid < 0)
		close(ends[0]);
	*ret_fd = ends[0];
	return pid < 0 ? EXIT_ERROR : 0;
}

int terminal_connect(const char *socket_path, const char *vm, const char *console_path)
{
	static const struct terminal_wish all = {.scrollback = -1};
	int fd = sock_connect(console_path);

	if (fd == -EACCES && start_bridge(socket_path, vm, &all, &fd))
		return -EACCES;
	return fd;
}

/* ---- with a role ---------------------------------------------------------------------- */

static json_object *request_of(const struct terminal_wish *wish)
{
	json_object *request = json_object_new_object(), *params = json_object_new_object();
	char who[64];

	snprintf(who, sizeof(who), "trictl, process %d,", (int)getpid());
	json_object_object_add(params, "read_only", json_object_new_boolean(wish->read_only));
	json_object_object_add(params, "force", json_object_new_boolean(wish->force));
	json_object_object_add(params, "scrollback", json_object_new_int64(wish->scrollback));
	json_object_object_add(params, "client", json_object_new_string(who));
	json_object_object_add(request, "jsonrpc", json_object_new_string("2.0"));
	json_object_object_add(request, "id", json_object_new_int(1));
	json_object_object_add(request, "method", json_object_new_string(CONTROL_ATTACH));
	json_object_object_add(request, "params", params);
	return request;
}

/* The answer's line and not a byte more: the console's output follows it. 0 or -errno. */
static int read_answer(int fd, json_object **ret_answer)
{
	char text[4096];
	const char *why;
	size_t used = 0;

	while (!used || text[used - 1] != '\n') {
		struct pollfd readable = {.fd = fd, .events = POLLIN};
		int ready = poll(&readable, 1, ANSWER_MS);

		if (ready < 0 && errno == EINTR)
			continue;
		if (ready <= 0)
			return ready ? -errno : -ETIMEDOUT;
		ssize_t n = recv(fd, text + used, 1, 0);
		if (n <= 0)
			return n ? -errno : -EPIPE;
		if (++used == sizeof(text))
			return -EMSGSIZE;
	}
	return line_parse_json(text, used - 1, ret_answer, &why);
}

/* Takes fd on a failure. 0 or an exit status: it was reported. */
static int ask(int fd, const char *vm, const struct terminal_wish *wish)
{
	json_object *request = request_of(wish), *answer = NULL, *error = NULL;
	struct line_client line;
	int rc;

	line_client_init(&line, fd);
	rc = line_client_send_json(&line, request);
	json_object_put(request);
	if (!rc)
		rc = read_answer(fd, &answer);
	if (rc)
		complain("VM \"%s\": its process does not answer: %s", vm, strerror(-rc));
	else if (json_object_object_get_ex(answer, "error", &error))
		complain("VM \"%s\": %s", vm, client_error_text(error));
	json_object_put(answer);
	if (rc || error) {
		close(fd);
		return EXIT_ERROR;
	}
	return 0;
}

int terminal_open(const char *socket_path, const char *vm, const char *console_path, const struct terminal_wish *wish,
		  int *ret_fd)
{
	const char *slash = strrchr(console_path, '/');
	char path[PATH_MAX];
	int fd, status;

	snprintf(path, sizeof(path), "%.*s%s", slash ? (int)(slash + 1 - console_path) : 0, console_path, CONTROL_FILE_ATTACH);
	fd = sock_connect(path);
	if (fd == -EACCES)
		return start_bridge(socket_path, vm, wish, ret_fd);
	if (fd < 0) {
		complain("%s: %s", path, strerror(-fd));
		return EXIT_ERROR;
	}
	status = ask(fd, vm, wish);
	if (!status)
		*ret_fd = fd;
	return status;
}

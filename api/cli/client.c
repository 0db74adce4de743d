/* trictl's connection to a daemon. */
#include "api/cli/client.h"

#include "proto/sock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

#define BACKLOG_RETRY_MS 50

void complain(const char *format, ...)
{
	va_list args;

	fflush(stdout);
	fputs("trictl: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
}

int complain_hung(const char *socket_path, int ms)
{
	complain("%s: trivisord has not answered within %g s: it is stopped or hangs; look at its state and log, or end it and "
		 "start it again (VMs run on meanwhile)",
		 socket_path, ms / 1000.0);
	return EXIT_NO_DAEMON;
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int client_connect(struct client *client, const char *socket_path)
{
	const struct timeval send_timeout = {.tv_sec = CLIENT_ANSWER_MS / 1000};
	int64_t deadline = now_ms() + CLIENT_ANSWER_MS;
	int fd;

	memset(client, 0, sizeof(*client));
	client->line.fd = -1;
	/* -EAGAIN: a daemon that accepts nobody has a full queue of them. */
	while ((fd = sock_connect_nonblock(socket_path)) == -EAGAIN && now_ms() < deadline)
		poll(NULL, 0, BACKLOG_RETRY_MS);
	if (fd < 0)
		return fd == -EAGAIN ? -ETIMEDOUT : fd;
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &send_timeout, sizeof(send_timeout));
	snprintf(client->socket, sizeof(client->socket), "%s", socket_path);
	client->answer_ms = CLIENT_ANSWER_MS;
	line_client_init(&client->line, fd);
	client->waiting = json_object_new_array();
	client->connected = true;
	return 0;
}

void client_close(struct client *client)
{
	if (!client->connected)
		return;
	line_client_finish(&client->line);
	json_object_put(client->waiting);
	memset(client, 0, sizeof(*client));
}

int64_t client_send(struct client *client, const char *method, json_object *params)
{
	json_object *message = json_object_new_object();
	int64_t id = ++client->last_id;
	int rc;

	json_object_object_add(message, "jsonrpc", json_object_new_string("2.0"));
	json_object_object_add(message, "id", json_object_new_int64(id));
	json_object_object_add(message, "method", json_object_new_string(method));
	if (params)
		json_object_object_add(message, "params", params);
	rc = line_client_send_json(&client->line, message);
	json_object_put(message);
	return rc ? rc : id;
}

static int receive(struct client *client, int timeout_ms, json_object **ret_message)
{
	return line_client_receive_json(&client->line, timeout_ms, ret_message);
}

int client_next(struct client *client, int timeout_ms, json_object **ret_message)
{
	if (client->waiting_at < json_object_array_length(client->waiting)) {
		*ret_message = json_object_get(json_object_array_get_idx(client->waiting, client->waiting_at++));
		return 0;
	}
	if (client->waiting_at) {
		json_object_put(client->waiting);
		client->waiting = json_object_new_array();
		client->waiting_at = 0;
	}
	return receive(client, timeout_ms, ret_message);
}

bool client_is_answer(json_object *message, int64_t id, json_object **ret_result, json_object **ret_error)
{
	json_object *value = NULL, *result = NULL, *error = NULL;

	if (!json_object_is_type(message, json_type_object) || json_object_object_get_ex(message, "method", NULL))
		return false;
	json_object_object_get_ex(message, "error", &error);
	/* An error without an id is about whatever we sent: the daemon turns us away, say. */
	if (json_object_object_get_ex(message, "id", &value) && value) {
		if (json_object_get_int64(value) != id)
			return false;
	} else if (!error) {
		return false;
	}
	json_object_object_get_ex(message, "result", &result);
	*ret_result = error ? NULL : result;
	*ret_error = error;
	return true;
}

const char *client_error_text(json_object *error)
{
	json_object *message = NULL;

	if (json_object_object_get_ex(error, "message", &message))
		return json_object_get_string(message);
	return "the daemon answered with an error that has no message";
}

/*
 * Answered when a VM is up (start_timeout in the configuration is the limit), or has ended; or when its guest has done what it
 * was asked for, for which the daemon has a limit of its own.
 */
static bool takes_long(const char *method)
{
	static const char *const methods[] = {"vm.start", "vm.run", "vm.wait", "host.calibrate"};
	static const char guest[] = "vm.guest.";

	if (!strncmp(method, guest, strlen(guest)))
		return true;

	for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++)
		if (!strcmp(method, methods[i]))
			return true;
	return false;
}

/* The answer to `id`, for the caller to put. 0 or -errno; -ETIMEDOUT: the daemon does not answer. */
static int await(struct client *client, int64_t id, bool patient, json_object **ret_message, json_object **ret_result,
		 json_object **ret_error)
{
	int64_t deadline = now_ms() + client->answer_ms, probe = 0;
	json_object *message = NULL;

	for (;;) {
		int64_t left = deadline - now_ms();
		int rc = receive(client, left > 0 ? (int)left : 0, &message);

		if (rc == -ETIMEDOUT && patient && !probe) {
			/* Is it that this takes long, or does the daemon hang? */
			probe = client_send(client, "daemon.version", NULL);
			deadline = now_ms() + client->answer_ms;
			if (probe < 0)
				return (int)probe;
			continue;
		}
		if (rc)
			return rc;
		if (client_is_answer(message, id, ret_result, ret_error)) {
			*ret_message = message;
			return 0;
		}
		if (probe && client_is_answer(message, probe, ret_result, ret_error)) {
			json_object_put(message);
			probe = 0;
			deadline = now_ms() + client->answer_ms;
			continue;
		}
		json_object_array_add(client->waiting, message);
	}
}

int client_call(struct client *client, const char *method, json_object *params, json_object **ret_result)
{
	int64_t id = client_send(client, method, params);
	json_object *message = NULL, *result = NULL, *error = NULL;
	/* Who was turned away finds the reason in what the daemon sent before it closed. */
	int rc = id < 0 && id != -EPIPE ? (int)id : await(client, id, takes_long(method), &message, &result, &error);

	if (rc == -ETIMEDOUT || rc == -EAGAIN) {
		if (!client->quiet)
			complain_hung(client->socket, client->answer_ms);
		return EXIT_NO_DAEMON;
	}
	if (rc) {
		if (!client->quiet)
			complain("the daemon is gone: %s", rc == -EPIPE ? "it closed the connection" : strerror(-rc));
		return EXIT_NO_DAEMON;
	}
	if (error && !client->quiet)
		complain("%s", client_error_text(error));
	if (!error)
		*ret_result = json_object_get(result);
	json_object_put(message);
	return error ? EXIT_ERROR : 0;
}

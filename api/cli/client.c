/* trictl's connection to a daemon. */
#include "api/cli/client.h"

#include "proto/sock.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

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

int client_connect(struct client *client, const char *socket_path)
{
	int fd = sock_connect(socket_path);

	memset(client, 0, sizeof(*client));
	client->line.fd = -1;
	if (fd < 0)
		return fd;
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

int client_call(struct client *client, const char *method, json_object *params, json_object **ret_result)
{
	int64_t id = client_send(client, method, params);
	json_object *message = NULL, *result = NULL, *error = NULL;
	int rc = id < 0 && id != -EPIPE ? (int)id : 0;

	/* Who was turned away finds the reason in what the daemon sent before it closed. */
	while (!rc) {
		rc = receive(client, -1, &message);
		if (rc)
			break;
		if (client_is_answer(message, id, &result, &error))
			break;
		json_object_array_add(client->waiting, message);
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

/* A switch's control socket: JSON-RPC 2.0, one object a line, from the daemon (or anybody with the same uid). */
#include <errno.h>
#include <event2/event.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "machine/types.h"
#include "proto/sock.h"
#include "switch/private.h"

#define CLIENTS_MAX 16

struct client {
	LIST_ENTRY(client) link;
	struct fabric *fabric;
	struct line_peer *peer;
};

static void put_number(json_object *to, const char *key, uint64_t value)
{
	json_object_object_add(to, key, json_object_new_int64((int64_t)value));
}

/* ---- methods ---- */

static json_object *do_hello(struct fabric *fabric)
{
	json_object *result = json_object_new_object();

	put_number(result, "version", SWITCH_VERSION);
	put_number(result, "pid", (uint64_t)getpid());
	return result;
}

static json_object *do_stats(struct fabric *fabric)
{
	json_object *result = json_object_new_object();

	put_number(result, "ports", fabric->bridge.port_count);
	put_number(result, "addresses", fabric->bridge.address_count);
	put_number(result, "forwarded", fabric->bridge.forwarded);
	put_number(result, "flooded", fabric->bridge.flooded);
	put_number(result, "filtered", fabric->bridge.filtered);
	put_number(result, "refused", fabric->bridge.refused);
	return result;
}

static json_object *do_ports(struct fabric *fabric)
{
	json_object *result = json_object_new_object();

	json_object_object_add(result, "ports", ports_json(fabric));
	return result;
}

static json_object *do_end(struct fabric *fabric)
{
	const struct timeval soon = {.tv_usec = 100000};

	/* The answer goes out first. */
	event_base_loopexit(fabric->base, &soon);
	return json_object_new_object();
}

static const struct {
	const char *name;
	json_object *(*run)(struct fabric *fabric);
} methods[] = {{SWITCH_HELLO, do_hello}, {SWITCH_STATS, do_stats}, {SWITCH_PORTS, do_ports}, {SWITCH_END, do_end}};

/* ---- requests ---- */

static void answer(struct client *client, json_object *id, json_object *result, int code, const char *message)
{
	json_object *out = json_object_new_object(), *error;

	json_object_object_add(out, "jsonrpc", json_object_new_string("2.0"));
	json_object_object_add(out, "id", json_object_get(id));
	if (result) {
		json_object_object_add(out, "result", result);
	} else {
		error = json_object_new_object();
		json_object_object_add(error, "code", json_object_new_int(code));
		json_object_object_add(error, "message", json_object_new_string(message));
		json_object_object_add(out, "error", error);
	}
	line_peer_send_json(client->peer, out);
	json_object_put(out);
}

static void on_line(void *opaque, char *text, size_t bytes)
{
	struct client *client = opaque;
	json_object *request = NULL, *id = NULL, *method = NULL;
	const char *why;

	if (line_parse_json(text, bytes, &request, &why)) {
		answer(client, NULL, NULL, -32700, why);
		return;
	}
	if (json_object_is_type(request, json_type_object)) {
		json_object_object_get_ex(request, "id", &id);
		json_object_object_get_ex(request, "method", &method);
	}
	for (size_t i = 0; json_object_is_type(method, json_type_string) && i < ARRAY_SIZE(methods); i++)
		if (strcmp(methods[i].name, json_object_get_string(method)) == 0) {
			answer(client, id, methods[i].run(client->fabric), 0, NULL);
			goto out;
		}
	answer(client, id, NULL, method ? -32601 : -32600, method ? "no such method" : "this is no JSON-RPC 2.0 request");
out:
	json_object_put(request);
}

static void client_free(struct client *client)
{
	LIST_REMOVE(client, link);
	client->fabric->client_count--;
	line_peer_destroy(client->peer);
	free(client);
}

static void on_close(void *opaque, int error) { client_free(opaque); }

static const struct line_ops client_ops = {.on_line = on_line, .on_close = on_close};

static void on_connection(evutil_socket_t fd, short what, void *opaque)
{
	struct fabric *fabric = opaque;
	int sock = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct client *client;

	if (sock < 0)
		return;
	client = fabric->client_count < CLIENTS_MAX ? calloc(1, sizeof(*client)) : NULL;
	if (!client) {
		close(sock);
		return;
	}
	client->fabric = fabric;
	client->peer = line_peer_create(fabric->base, sock, &client_ops, client);
	if (!client->peer) {
		free(client);
		return;
	}
	LIST_INSERT_HEAD(&fabric->clients, client, link);
	fabric->client_count++;
}

int control_open(struct fabric *fabric)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/" SWITCH_FILE_CONTROL, fabric->dir);
	fabric->control_fd = sock_listen(path, 0600);
	if (fabric->control_fd < 0)
		return fabric->control_fd;
	fabric->control_event = event_new(fabric->base, fabric->control_fd, EV_READ | EV_PERSIST, on_connection, fabric);
	return fabric->control_event && event_add(fabric->control_event, NULL) == 0 ? 0 : -ENOMEM;
}

void control_close(struct fabric *fabric)
{
	while (!LIST_EMPTY(&fabric->clients))
		client_free(LIST_FIRST(&fabric->clients));
	if (fabric->control_event)
		event_free(fabric->control_event);
	if (fabric->control_fd >= 0)
		close(fabric->control_fd);
}

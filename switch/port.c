/* A switch's ports: greetings, frames in, frames out and those that wait. What comes from a VM is believed in nothing. */
#include <errno.h>
#include <event2/event.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "machine/net/net.h"
#include "proto/sock.h"
#include "proto/vmdef.h"
#include "switch/private.h"

#define BATCH 64 /* messages of one port before others have their turn */
#define CONNECTIONS_MAX (BRIDGE_PORTS_MAX + 64)
#define SOCKET_BYTES (4 << 20)

_Static_assert(SWITCH_FRAME_MAX == NET_FRAME_MAX, "what a NIC may send, a switch may carry");

static uint32_t now_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return (uint32_t)ts.tv_sec;
}

static void drop_first(struct port *port)
{
	struct waiting *w = STAILQ_FIRST(&port->queue);

	STAILQ_REMOVE_HEAD(&port->queue, link);
	port->queue_bytes -= w->bytes;
	port->queue_frames--;
	free(w);
}

static void port_free(struct port *port)
{
	if (port->greeted)
		bridge_remove(&port->fabric->bridge, &port->bridge);
	while (!STAILQ_EMPTY(&port->queue))
		drop_first(port);
	LIST_REMOVE(port, link);
	port->fabric->connections--;
	if (port->readable)
		event_free(port->readable);
	if (port->writable)
		event_free(port->writable);
	close(port->fd);
	free(port);
}

/* ---- frames to a port ------------------------------------------------------------------------------- */

/* 1: sent; 0: not now; negative: never. */
static int try_send(const struct port *port, const struct iovec *iov, unsigned count)
{
	struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = count};

	if (sendmsg(port->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
		return 1;
	return errno == EAGAIN || errno == ENOBUFS || errno == EINTR ? 0 : -errno;
}

static bool send_frame(struct bridge_port *bridge_port, const struct iovec *iov, unsigned count, size_t bytes)
{
	struct port *port = CONTAINER_OF(bridge_port, struct port, bridge);
	struct waiting *w;
	size_t done = 0;

	if (STAILQ_EMPTY(&port->queue)) {
		int sent = try_send(port, iov, count);

		if (sent != 0)
			return sent > 0; /* a port that is gone is noticed when it is read */
	}
	if (port->queue_frames >= SWITCH_QUEUE_FRAMES || port->queue_bytes + bytes > SWITCH_QUEUE_BYTES ||
	    !(w = malloc(sizeof(*w) + bytes)))
		return false;
	w->bytes = bytes;
	for (unsigned i = 0; i < count; i++) {
		memcpy(w->message + done, iov[i].iov_base, iov[i].iov_len);
		done += iov[i].iov_len;
	}
	if (STAILQ_EMPTY(&port->queue))
		event_add(port->writable, NULL);
	STAILQ_INSERT_TAIL(&port->queue, w, link);
	port->queue_bytes += bytes;
	port->queue_frames++;
	return true;
}

static void on_writable(evutil_socket_t fd, short what, void *opaque)
{
	struct port *port = opaque;

	while (!STAILQ_EMPTY(&port->queue)) {
		struct waiting *w = STAILQ_FIRST(&port->queue);
		const struct iovec iov = {.iov_base = w->message, .iov_len = w->bytes};

		if (try_send(port, &iov, 1) == 0)
			return;
		drop_first(port);
	}
	event_del(port->writable);
}

/* ---- greetings ------------------------------------------------------------------------------------------ */

static const char *text_of(json_object *greeting, const char *key)
{
	json_object *value = NULL;

	return json_object_object_get_ex(greeting, key, &value) && json_object_is_type(value, json_type_string)
		       ? json_object_get_string(value)
		       : "";
}

static bool number_of(json_object *from, int64_t min, int64_t max, int64_t *ret)
{
	if (!json_object_is_type(from, json_type_int))
		return false;
	*ret = json_object_get_int64(from);
	return *ret >= min && *ret <= max;
}

/* NULL, or what is wrong. */
static const char *take_vlans(struct port *port, json_object *greeting)
{
	json_object *value = NULL;
	int64_t vlan;

	port->bridge.vlan = SWITCH_DEFAULT_VLAN;
	if (json_object_object_get_ex(greeting, "vlan", &value)) {
		if (!number_of(value, 1, BRIDGE_VLANS - 2, &vlan))
			return "vlan: a number from 1 to 4094 is wanted";
		port->bridge.vlan = (uint16_t)vlan;
	}
	if (json_object_object_get_ex(greeting, "trunk", &value)) {
		port->bridge.trunk = true;
		if (json_object_is_type(value, json_type_string) && strcmp(json_object_get_string(value), "all") == 0)
			memset(port->bridge.allowed, 0xff, sizeof(port->bridge.allowed));
		else if (!json_object_is_type(value, json_type_array))
			return "trunk: \"all\" or an array of VLANs is wanted";
		for (size_t i = 0; json_object_is_type(value, json_type_array) && i < json_object_array_length(value); i++) {
			if (!number_of(json_object_array_get_idx(value, i), 1, BRIDGE_VLANS - 2, &vlan))
				return "trunk: numbers from 1 to 4094 are wanted";
			bridge_allow(&port->bridge, (unsigned)vlan);
		}
	}
	if (json_object_object_get_ex(greeting, "mirror", &value))
		port->bridge.mirror = json_object_get_boolean(value);
	if (json_object_object_get_ex(greeting, "own_mac_only", &value))
		port->bridge.own_mac_only = json_object_get_boolean(value);
	if (port->bridge.own_mac_only && strlen(port->mac) != VMDEF_MAC_BYTES - 1)
		return "mac: an address is wanted";
	vmdef_mac_bytes(port->mac, port->bridge.mac);
	return NULL;
}

static const char *take_greeting(struct port *port, json_object *greeting)
{
	json_object *value = NULL;
	char why[VMDEF_ERROR_BYTES];
	const char *wrong;
	int64_t number = 0;

	if (!json_object_is_type(greeting, json_type_object))
		return "the greeting is no JSON object";
	if (!json_object_object_get_ex(greeting, "version", &value) || !number_of(value, SWITCH_VERSION, SWITCH_VERSION, &number))
		return "this switch is of another version; delete the network and make it anew";
	if (json_object_object_get_ex(greeting, "nic", &value) && !number_of(value, 0, 1000, &number))
		return "nic: a number is wanted";
	port->nic = (unsigned)(json_object_object_get_ex(greeting, "nic", NULL) ? number : 0);
	snprintf(port->vm, sizeof(port->vm), "%s", text_of(greeting, "vm"));
	snprintf(port->uuid, sizeof(port->uuid), "%s", text_of(greeting, "uuid"));
	snprintf(port->mac, sizeof(port->mac), "%s", text_of(greeting, "mac"));
	if (!vmdef_name_valid(port->vm, why))
		return "vm: a name is wanted";
	wrong = take_vlans(port, greeting);
	if (wrong)
		return wrong;
	port->bridge.send = send_frame;
	if (!bridge_add(&port->fabric->bridge, &port->bridge))
		return "every port of this switch is taken";
	port->greeted = true;
	return NULL;
}

/* `text` has room for a byte behind it. */
static void greet(struct port *port, uint8_t *text, size_t n)
{
	json_object *greeting = NULL, *answer = json_object_new_object();
	const char *why = NULL, *out;

	text[n] = '\0';
	if (n > SWITCH_GREETING_MAX || line_parse_json((const char *)text, n, &greeting, &why))
		why = why ? why : "the greeting is too long";
	else
		why = take_greeting(port, greeting);
	if (why)
		json_object_object_add(answer, "error", json_object_new_string(why));
	else
		json_object_object_add(answer, "ok", json_object_new_boolean(true));
	out = json_object_to_json_string(answer);
	(void)!send(port->fd, out, strlen(out), MSG_DONTWAIT | MSG_NOSIGNAL);
	if (why)
		switch_log("a connection was refused: %s", why);
	else
		switch_log("port %u: VM %s, NIC %u, VLAN %u%s%s", port->bridge.index, port->vm, port->nic, port->bridge.vlan,
			   port->bridge.trunk ? ", trunk" : "", port->bridge.mirror ? ", mirror" : "");
	json_object_put(greeting);
	json_object_put(answer);
	if (why)
		port_free(port);
}

/* ---- frames from a port ------------------------------------------------------------------------------------ */

static void take_frame(struct port *port, size_t n)
{
	struct fabric *fabric = port->fabric;
	struct switch_header header;
	const uint8_t *frame = fabric->message + sizeof(header);

	if (n <= sizeof(header)) {
		port->bridge.counters.rx_dropped++;
		return;
	}
	memcpy(&header, fabric->message, sizeof(header));
	/* The receiver's address of nothing: only what a NIC may ask for goes on. */
	header.reserved = 0;
	header.net.flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID;
	if (!net_header_valid(&header.net, frame, n - sizeof(header))) {
		port->bridge.counters.rx_dropped++;
		return;
	}
	bridge_input(&fabric->bridge, &port->bridge, &header, frame, n - sizeof(header), now_s());
}

static void on_readable(evutil_socket_t fd, short what, void *opaque)
{
	struct port *port = opaque;
	struct fabric *fabric = port->fabric;

	for (unsigned i = 0; i < BATCH; i++) {
		ssize_t n = recv(fd, fabric->message, sizeof(fabric->message) - 1, MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		/* A message of no bytes looks as the end does: nobody of ours sends one. */
		if (n <= 0) {
			if (port->greeted)
				switch_log("port %u: VM %s, NIC %u is gone", port->bridge.index, port->vm, port->nic);
			port_free(port);
			return;
		}
		if (!port->greeted) {
			greet(port, fabric->message, (size_t)n);
			return;
		}
		take_frame(port, (size_t)n);
	}
}

static void on_connection(evutil_socket_t fd, short what, void *opaque)
{
	struct fabric *fabric = opaque;
	const int bytes = SOCKET_BYTES;
	int sock = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct port *port;

	if (sock < 0)
		return;
	port = fabric->connections < CONNECTIONS_MAX ? calloc(1, sizeof(*port)) : NULL;
	if (!port) {
		close(sock);
		return;
	}
	/* As much as the system allows. */
	setsockopt(sock, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	port->fabric = fabric;
	port->fd = sock;
	STAILQ_INIT(&port->queue);
	LIST_INSERT_HEAD(&fabric->ports, port, link);
	fabric->connections++;
	port->readable = event_new(fabric->base, sock, EV_READ | EV_PERSIST, on_readable, port);
	port->writable = event_new(fabric->base, sock, EV_WRITE | EV_PERSIST, on_writable, port);
	if (!port->readable || !port->writable || event_add(port->readable, NULL) < 0)
		port_free(port);
}

int ports_open(struct fabric *fabric)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/" SWITCH_FILE_PORTS, fabric->dir);
	fabric->ports_fd = sock_listen_packets(path, 0600);
	if (fabric->ports_fd < 0)
		return fabric->ports_fd;
	fabric->ports_event = event_new(fabric->base, fabric->ports_fd, EV_READ | EV_PERSIST, on_connection, fabric);
	return fabric->ports_event && event_add(fabric->ports_event, NULL) == 0 ? 0 : -ENOMEM;
}

void ports_close(struct fabric *fabric)
{
	while (!LIST_EMPTY(&fabric->ports))
		port_free(LIST_FIRST(&fabric->ports));
	if (fabric->ports_event)
		event_free(fabric->ports_event);
	if (fabric->ports_fd >= 0)
		close(fabric->ports_fd);
}

static json_object *trunk_json(const struct bridge_port *port)
{
	json_object *list = json_object_new_array();

	for (unsigned vlan = 1; vlan < BRIDGE_VLANS - 1; vlan++)
		if (port->allowed[vlan / 64] >> vlan % 64 & 1)
			json_object_array_add(list, json_object_new_int((int)vlan));
	return list;
}

struct json_object *ports_json(const struct fabric *fabric)
{
	json_object *list = json_object_new_array();
	const struct port *port;

	LIST_FOREACH(port, &fabric->ports, link) {
		const struct bridge_counters *c = &port->bridge.counters;
		const struct {
			const char *key;
			uint64_t value;
		} rows[] = {{"port", port->bridge.index},	{"nic", port->nic},		{"vlan", port->bridge.vlan},
			    {"addresses", port->bridge.addresses}, {"rx_frames", c->rx_frames},	{"rx_bytes", c->rx_bytes},
			    {"rx_dropped", c->rx_dropped},	{"tx_frames", c->tx_frames},	{"tx_bytes", c->tx_bytes},
			    {"tx_dropped", c->tx_dropped}};
		json_object *row;

		if (!port->greeted)
			continue;
		row = json_object_new_object();
		json_object_object_add(row, "vm", json_object_new_string(port->vm));
		json_object_object_add(row, "uuid", json_object_new_string(port->uuid));
		json_object_object_add(row, "mac", json_object_new_string(port->mac));
		for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
			json_object_object_add(row, rows[i].key, json_object_new_int64((int64_t)rows[i].value));
		if (port->bridge.trunk)
			json_object_object_add(row, "trunk", trunk_json(&port->bridge));
		json_object_object_add(row, "mirror", json_object_new_boolean(port->bridge.mirror));
		json_object_object_add(row, "own_mac_only", json_object_new_boolean(port->bridge.own_mac_only));
		json_object_array_add(list, row);
	}
	return list;
}

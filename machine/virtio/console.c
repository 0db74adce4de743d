/* virtio-console (virtio 1.2, 5.3): a console for the guest (hvc0), and named ports to sockets of the host. */
#include <errno.h>
#include <event2/event.h>
#include <linux/virtio_console.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "machine/virtio/virtio.h"

#define CONTROL_RX 2u /* what we tell the driver */
#define CONTROL_TX 3u
#define QUEUES(ports) (2 * (ports) + 2)
_Static_assert(QUEUES(MACHINE_PORTS_MAX + 1) <= VIRTIO_QUEUES, "a pair of queues for each port, one for control");

#define IN_BYTES 4096u
#define OUT_BYTES 32768u
/* Pieces that one round moves for one port, so that none starves another. */
#define ROUND 64
/* A client that has gone leaves bytes in its socket for a guest that is not there. */
#define DRAIN_MAX (1u << 20)

/* Messages that a port still owes the driver, in the order in which they go out. */
enum { OWE_ADD = 1, OWE_CONSOLE = 2, OWE_NAME = 4, OWE_RESIZE = 8, OWE_OPEN = 16 };

struct port {
	struct virtio_console *console;
	unsigned id; /* the driver's number; 0: the console */
	char name[MACHINE_PORT_NAME_BYTES];
	int listener, fd; /* -1: none */
	bool fixed;	  /* fd was there from the beginning, and nobody follows it */
	struct event *acceptable, *readable, *writable, *closed;
	unsigned owed;
	bool ready; /* the driver knows it */
	_Atomic bool guest_open;
	uint8_t in[IN_BYTES], out[OUT_BYTES]; /* to the guest, to the host */
	size_t in_at, in_end, out_at, out_end;
	uint64_t tx_offset; /* of the first chain in the ring, what was taken of it */
};

struct virtio_console {
	struct virtio_device dev;
	struct virtio_console_config config;
	struct virtq_chain chain; /* the worker's scratch */
	_Atomic uint64_t rx_bytes, tx_bytes;
	bool has_console;
	unsigned ids; /* one more than the largest id */
	pthread_mutex_t lock; /* innermost: what is typed, and the size of the terminal */
	uint8_t typed[IN_BYTES];
	size_t typed_bytes;
	uint16_t columns, rows;
	bool resized;
	struct port *port[MACHINE_PORTS_MAX + 1]; /* by id; NULL: none */
};

static unsigned rx_queue(unsigned id) { return id == 0 ? 0 : 2 * id + 2; }
static bool is_console(const struct port *port) { return port->id == 0; }

static bool is_multiport(struct virtio_console *con) { return virtio_has_feature(&con->dev, VIRTIO_CONSOLE_F_MULTIPORT); }

/* The host's end is there. */
static bool is_connected(const struct port *port) { return is_console(port) || port->fd >= 0; }

static void tell(struct virtio_console *con)
{
	machine_lock(con->dev.machine);
	machine_tell(con->dev.machine, MACHINE_EVENT_PORT, 0);
	machine_unlock(con->dev.machine);
}

/* What was meant for the program that had it open is not for the next one. */
static void forget_input(struct port *port)
{
	uint8_t waste[512];

	port->in_at = port->in_end = 0;
	for (size_t n = 0; port->fixed && port->fd >= 0 && n < DRAIN_MAX; n += sizeof(waste))
		if (recv(port->fd, waste, sizeof(waste), MSG_DONTWAIT) <= 0)
			break;
}

static void set_guest_open(struct port *port, bool open)
{
	if (atomic_exchange(&port->guest_open, open) == open)
		return;
	if (!open)
		forget_input(port);
	if (!open && port->closed)
		event_add(port->closed, NULL);
	tell(port->console);
}

/* ---- what the driver is told --------------------------------------------------------------------- */

/* Under dev.lock. Puts a message into the driver's next buffer. False: there is none. */
static bool send_control(struct virtio_console *con, unsigned id, uint16_t event, uint16_t value, const void *more, size_t n, bool *ret_broken)
{
	struct virtq *q = &con->dev.queue[CONTROL_RX];
	const struct virtio_console_control message = {.id = id, .event = event, .value = value};
	enum virtq_result result = virtio_may_work(&con->dev) ? virtq_pop(q, &con->chain) : VIRTQ_EMPTY;
	uint8_t bytes[sizeof(message) + MACHINE_PORT_NAME_BYTES];

	if (result != VIRTQ_CHAIN) {
		*ret_broken |= result == VIRTQ_BROKEN;
		return false;
	}
	memcpy(bytes, &message, sizeof(message));
	memcpy(bytes + sizeof(message), more, n);
	virtq_push(q, con->chain.head, (uint32_t)virtq_chain_write(con->dev.machine, &con->chain, 0, bytes, sizeof(message) + n));
	con->dev.to_signal |= 1u << CONTROL_RX;
	return true;
}

/* Under dev.lock. One of the messages that are owed; false: there is no buffer for it. */
static bool send_owed(struct port *port, unsigned owed, bool *ret_broken)
{
	struct virtio_console *con = port->console;
	uint16_t size[2];

	switch (owed) {
	case OWE_ADD: return send_control(con, port->id, VIRTIO_CONSOLE_PORT_ADD, 1, "", 0, ret_broken);
	case OWE_CONSOLE: return send_control(con, port->id, VIRTIO_CONSOLE_CONSOLE_PORT, 1, "", 0, ret_broken);
	case OWE_NAME: /* with its NUL, which Linux overwrites */
		return send_control(con, port->id, VIRTIO_CONSOLE_PORT_NAME, 1, port->name, strlen(port->name) + 1, ret_broken);
	case OWE_RESIZE:
		/* As the standard (5.3.6.2) has it, and Debian's kernels; older Linux drivers take it the other way round. */
		pthread_mutex_lock(&con->lock);
		size[0] = con->columns;
		size[1] = con->rows;
		pthread_mutex_unlock(&con->lock);
		return send_control(con, port->id, VIRTIO_CONSOLE_RESIZE, 1, size, sizeof(size), ret_broken);
	default:
		return send_control(con, port->id, VIRTIO_CONSOLE_PORT_OPEN, is_connected(port), "", 0, ret_broken);
	}
}

/* True: the driver's buffers have run out. */
static bool pump_control(struct virtio_console *con)
{
	bool broken = false, more = is_multiport(con), empty;

	pthread_mutex_lock(&con->dev.lock);
	for (unsigned id = 0; id < con->ids && more; id++) {
		struct port *port = con->port[id];

		while (port && port->owed && more) {
			unsigned owed = port->owed & -port->owed;

			more = send_owed(port, owed, &broken);
			if (more)
				port->owed &= ~owed;
		}
	}
	empty = !virtq_pending(&con->dev.queue[CONTROL_RX]);
	pthread_mutex_unlock(&con->dev.lock);
	if (broken)
		virtio_broken(&con->dev, CONTROL_RX);
	return empty;
}

/* Not called by a kick: all that is owed, and the interrupt. */
static void pump_control_now(struct virtio_console *con)
{
	while (pump_control(con) && virtio_kicks_on(&con->dev, CONTROL_RX))
		;
	virtio_signal(&con->dev);
}

static void owe(struct port *port, unsigned owed)
{
	if (port->ready)
		port->owed |= owed;
}

/* ---- to the guest ---------------------------------------------------------------------------------- */

static bool may_receive(struct port *port)
{
	return atomic_load(&port->guest_open) || (is_console(port) && !is_multiport(port->console));
}

/* Reads on from where the host's bytes come from, if there is room. */
static void refill(struct port *port)
{
	struct virtio_console *con = port->console;

	if (port->in_at < port->in_end)
		return;
	port->in_at = port->in_end = 0;
	if (!is_console(port)) {
		if (port->readable && atomic_load(&port->guest_open))
			event_add(port->readable, NULL);
		return;
	}
	pthread_mutex_lock(&con->lock);
	memcpy(port->in, con->typed, con->typed_bytes);
	port->in_end = con->typed_bytes;
	con->typed_bytes = 0;
	pthread_mutex_unlock(&con->lock);
}

static bool is_empty(struct virtio_console *con, unsigned queue)
{
	bool empty;

	pthread_mutex_lock(&con->dev.lock);
	empty = !virtq_pending(&con->dev.queue[queue]);
	pthread_mutex_unlock(&con->dev.lock);
	return empty;
}

/* Moves what there is into the driver's buffers. True: those have run out. */
static bool pump_rx(struct port *port)
{
	struct virtio_console *con = port->console;
	struct virtq *q = &con->dev.queue[rx_queue(port->id)];
	enum virtq_result result = VIRTQ_CHAIN;
	unsigned pieces = 0;

	if (may_receive(port))
		refill(port);
	while (may_receive(port) && port->in_at < port->in_end && result == VIRTQ_CHAIN) {
		if (++pieces > ROUND) {
			worker_ring(&con->dev.worker);
			break;
		}
		pthread_mutex_lock(&con->dev.lock);
		result = virtio_may_work(&con->dev) ? virtq_pop(q, &con->chain) : VIRTQ_EMPTY;
		if (result == VIRTQ_CHAIN) {
			size_t n = virtq_chain_write(con->dev.machine, &con->chain, 0, port->in + port->in_at, port->in_end - port->in_at);

			virtq_push(q, con->chain.head, (uint32_t)n);
			con->dev.to_signal |= 1u << rx_queue(port->id);
			port->in_at += n;
			con->rx_bytes += n;
		}
		pthread_mutex_unlock(&con->dev.lock);
		if (result == VIRTQ_BROKEN)
			virtio_broken(&con->dev, rx_queue(port->id));
		if (result == VIRTQ_CHAIN)
			refill(port);
	}
	return is_empty(con, rx_queue(port->id));
}

/* Not called by a kick: everything for one port, and the interrupt. */
static void pump_rx_now(struct port *port)
{
	while (pump_rx(port) && virtio_kicks_on(&port->console->dev, rx_queue(port->id)))
		;
	virtio_signal(&port->console->dev);
}

/* ---- to the host ------------------------------------------------------------------------------------- */

static void disconnect(struct port *port);

/* False: the socket is full; on_writable goes on. */
static bool flush_out(struct port *port)
{
	while (port->out_at < port->out_end) {
		ssize_t r;

		if (is_console(port)) {
			port->console->dev.machine->config.on_output(port->console->dev.machine->config.opaque, MACHINE_OUTPUT_VIRTIO,
								     port->out + port->out_at, port->out_end - port->out_at);
			break;
		}
		/* Without a client it goes nowhere; drivers know, and wait. */
		if (port->fd < 0)
			break;
		r = send(port->fd, port->out + port->out_at, port->out_end - port->out_at, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 && errno == EAGAIN) {
			event_add(port->writable, NULL);
			return false;
		}
		if (r < 0) {
			disconnect(port);
			break;
		}
		port->out_at += (size_t)r;
	}
	port->out_at = port->out_end = 0;
	return true;
}

/* Takes a piece of the first chain. What is left of a chain stays in the ring: nothing is under way while a host is slow. */
static enum virtq_result take_piece(struct port *port)
{
	struct virtio_console *con = port->console;
	unsigned queue = rx_queue(port->id) + 1;
	struct virtq *q = &con->dev.queue[queue];
	enum virtq_result result;

	pthread_mutex_lock(&con->dev.lock);
	result = virtio_may_work(&con->dev) ? virtq_pop(q, &con->chain) : VIRTQ_EMPTY;
	if (result == VIRTQ_CHAIN) {
		uint64_t left = port->tx_offset < con->chain.readable_bytes ? con->chain.readable_bytes - port->tx_offset : 0;

		port->out_at = 0;
		port->out_end = virtq_chain_read(&con->chain, port->tx_offset, port->out, left < OUT_BYTES ? (size_t)left : OUT_BYTES);
		port->tx_offset += port->out_end;
		if (left > port->out_end) {
			virtq_unpop(q, 1);
		} else {
			virtq_push(q, con->chain.head, 0);
			con->dev.to_signal |= 1u << queue;
			port->tx_offset = 0;
		}
		con->tx_bytes += port->out_end;
	}
	pthread_mutex_unlock(&con->dev.lock);
	if (result == VIRTQ_BROKEN)
		virtio_broken(&con->dev, queue);
	return result;
}

/* True: the ring is empty. */
static bool pump_tx(struct port *port)
{
	for (unsigned i = 0; i < ROUND; i++) {
		if (!flush_out(port))
			return false;
		if (take_piece(port) != VIRTQ_CHAIN)
			return true;
	}
	/* A ring that is empty by now is not looked at again without a kick. */
	worker_ring(&port->console->dev.worker);
	return is_empty(port->console, rx_queue(port->id) + 1);
}

static void on_writable(evutil_socket_t fd, short what, void *opaque)
{
	struct port *port = opaque;

	while (pump_tx(port) && virtio_kicks_on(&port->console->dev, rx_queue(port->id) + 1))
		;
	virtio_signal(&port->console->dev);
}

/* ---- the host's end ------------------------------------------------------------------------------------ */

static void connection_changed(struct port *port)
{
	owe(port, OWE_OPEN);
	pump_control_now(port->console);
}

static void free_event(struct event **event)
{
	if (*event)
		event_free(*event);
	*event = NULL;
}

static void hang_up(struct port *port)
{
	free_event(&port->readable);
	free_event(&port->writable);
	free_event(&port->closed);
	if (port->fd >= 0)
		close(port->fd);
	port->fd = -1;
	port->out_at = port->out_end = 0;
}

static void disconnect(struct port *port)
{
	hang_up(port);
	if (port->acceptable)
		event_add(port->acceptable, NULL);
	connection_changed(port);
}

static void on_readable(evutil_socket_t fd, short what, void *opaque)
{
	struct port *port = opaque;
	ssize_t r = recv(port->fd, port->in, sizeof(port->in), MSG_DONTWAIT);

	if (r < 0 && (errno == EAGAIN || errno == EINTR)) {
		event_add(port->readable, NULL);
		return;
	}
	if (r <= 0) {
		disconnect(port);
		return;
	}
	port->in_at = 0;
	port->in_end = (size_t)r;
	pump_rx_now(port);
}

/* A client that goes while nobody in the guest reads makes room for the next one. Else reading finds its end. */
static void on_closed(evutil_socket_t fd, short what, void *opaque)
{
	struct port *port = opaque;

	if (!atomic_load(&port->guest_open))
		disconnect(port);
}

/* 0 or -ENOMEM. */
static int watch(struct port *port)
{
	struct event_base *base = port->console->dev.worker.base;

	port->readable = event_new(base, port->fd, EV_READ, on_readable, port);
	port->writable = event_new(base, port->fd, EV_WRITE, on_writable, port);
	port->closed = event_new(base, port->fd, EV_CLOSED, on_closed, port);
	return port->readable && port->writable && port->closed && event_add(port->closed, NULL) == 0 ? 0 : -ENOMEM;
}

static void on_acceptable(evutil_socket_t fd, short what, void *opaque)
{
	struct port *port = opaque;

	port->fd = accept4(port->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (port->fd < 0 || watch(port) < 0) {
		hang_up(port);
		event_add(port->acceptable, NULL);
		return;
	}
	connection_changed(port);
	/* One at a time; the next one waits. */
	pump_rx_now(port);
}

/* ---- what the driver says --------------------------------------------------------------------------------- */

static void serve_control(struct virtio_console *con, const struct virtio_console_control *message)
{
	struct port *port = message->id < con->ids ? con->port[message->id] : NULL;

	switch (message->event) {
	case VIRTIO_CONSOLE_DEVICE_READY:
		for (unsigned id = 0; id < con->ids; id++) {
			if (!con->port[id])
				continue;
			con->port[id]->ready = false;
			con->port[id]->owed = message->value == 1 ? OWE_ADD : 0;
			set_guest_open(con->port[id], false);
			forget_input(con->port[id]);
		}
		break;
	case VIRTIO_CONSOLE_PORT_READY:
		if (!port)
			break;
		port->ready = message->value == 1;
		port->owed &= ~(unsigned)(OWE_CONSOLE | OWE_NAME | OWE_RESIZE | OWE_OPEN);
		if (!port->ready)
			break;
		if (is_console(port))
			owe(port, OWE_CONSOLE | (con->rows ? OWE_RESIZE : 0));
		if (port->name[0])
			owe(port, OWE_NAME);
		if (is_connected(port))
			owe(port, OWE_OPEN);
		break;
	case VIRTIO_CONSOLE_PORT_OPEN:
		if (port)
			set_guest_open(port, message->value == 1);
		if (port && message->value == 1)
			pump_rx_now(port);
		break;
	default: break; /* nothing else is a driver's to say */
	}
}

static void pump_control_tx(struct virtio_device *dev)
{
	struct virtio_console *con = CONTAINER_OF(dev, struct virtio_console, dev);
	struct virtio_request *request;

	while ((request = virtio_take(dev, CONTROL_TX))) {
		struct virtio_console_control message = {0};
		bool whole = virtq_chain_read(&request->chain, 0, &message, sizeof(message)) == sizeof(message);

		virtio_complete(request, 0);
		if (whole && is_multiport(con))
			serve_control(con, &message);
	}
	pump_control_now(con);
}

static void take_resize(struct virtio_console *con)
{
	bool resized;

	pthread_mutex_lock(&con->lock);
	resized = con->resized;
	con->resized = false;
	pthread_mutex_unlock(&con->lock);
	if (!resized || !con->has_console)
		return;
	virtio_config_changed(&con->dev);
	owe(con->port[0], OWE_RESIZE);
	pump_control_now(con);
}

static bool work(struct virtio_device *dev, unsigned queue)
{
	struct virtio_console *con = CONTAINER_OF(dev, struct virtio_console, dev);
	unsigned id = queue < CONTROL_RX ? 0 : queue / 2 - 1;
	struct port *port = con->port[id];

	take_resize(con);
	if (queue == CONTROL_TX) {
		pump_control_tx(dev);
		return true;
	}
	if (queue == CONTROL_RX)
		return pump_control(con);
	if (!port)
		return false;
	return queue % 2 ? pump_tx(port) : pump_rx(port);
}

/* ---- life ------------------------------------------------------------------------------------------------- */

static int prepare(struct virtio_device *dev)
{
	struct virtio_console *con = CONTAINER_OF(dev, struct virtio_console, dev);

	for (unsigned id = 1; id < con->ids; id++) {
		struct port *port = con->port[id];

		if (!port)
			continue;
		if (port->fd >= 0 && watch(port) < 0)
			return -ENOMEM;
		if (port->listener < 0)
			continue;
		port->acceptable = event_new(dev->worker.base, port->listener, EV_READ, on_acceptable, port);
		if (!port->acceptable || event_add(port->acceptable, NULL) < 0)
			return -ENOMEM;
	}
	return 0;
}

static void retire(struct virtio_device *dev)
{
	struct virtio_console *con = CONTAINER_OF(dev, struct virtio_console, dev);

	for (unsigned id = 0; id < con->ids; id++)
		if (con->port[id]) {
			free_event(&con->port[id]->acceptable);
			hang_up(con->port[id]);
		}
}

/* Under dev.lock. */
static void reset(struct virtio_device *dev)
{
	struct virtio_console *con = CONTAINER_OF(dev, struct virtio_console, dev);

	for (unsigned id = 0; id < con->ids; id++) {
		struct port *port = con->port[id];

		if (!port)
			continue;
		port->ready = false;
		port->owed = 0;
		port->tx_offset = 0;
		atomic_store(&port->guest_open, false);
	}
}

static void free_ports(struct virtio_console *con)
{
	for (unsigned id = 0; id < con->ids; id++) {
		if (con->port[id] && con->port[id]->listener >= 0)
			close(con->port[id]->listener);
		free(con->port[id]);
	}
	pthread_mutex_destroy(&con->lock);
	free(con);
}

static void destroy(struct virtio_device *dev) { free_ports(CONTAINER_OF(dev, struct virtio_console, dev)); }

/* A kernel that has no driver yet writes here, a character at a time. */
static void config_write(struct virtio_device *dev, uint64_t at, uint64_t value, unsigned size)
{
	struct virtio_console *con = CONTAINER_OF(dev, struct virtio_console, dev);
	const uint8_t byte = (uint8_t)value;

	if (at == offsetof(struct virtio_console_config, emerg_wr) && con->has_console)
		dev->machine->config.on_output(dev->machine->config.opaque, MACHINE_OUTPUT_VIRTIO, &byte, 1);
}

static size_t stats(struct virtio_device *dev, struct machine_stat *ret_rows, size_t max)
{
	struct virtio_console *con = CONTAINER_OF(dev, struct virtio_console, dev);

	if (max < 2)
		return 0;
	ret_rows[0] = (struct machine_stat){"virtio_console_rx_bytes", con->rx_bytes};
	ret_rows[1] = (struct machine_stat){"virtio_console_tx_bytes", con->tx_bytes};
	return 2;
}

static const struct virtio_ops console_ops = {
	.name = "virtio-console",
	.id = 3,
	.pci_class = 0x0780, /* communication controller */
	.work = work,
	.prepare = prepare,
	.retire = retire,
	.reset = reset,
	.config_write = config_write,
	.destroy = destroy,
	.stats = stats,
};

static struct virtio_console *find_console(struct machine *machine)
{
	for (struct machine_device *node = machine->devices; node; node = node->next)
		if (strcmp(node->name, console_ops.name) == 0)
			return CONTAINER_OF((struct virtio_device *)node->opaque, struct virtio_console, dev);
	return NULL;
}

static int add_port(struct virtio_console *con, unsigned id, const struct machine_port *from)
{
	struct port *port = calloc(1, sizeof(*port));

	if (!port)
		return -ENOMEM;
	port->console = con;
	port->id = id;
	port->listener = port->fd = -1;
	if (from) {
		snprintf(port->name, sizeof(port->name), "%s", from->name);
		port->listener = from->listener;
		port->fd = from->fd;
		port->fixed = from->fd >= 0;
	}
	con->port[id] = port;
	con->ids = id + 1;
	return 0;
}

int machine_add_console(struct machine *machine, bool console, const struct machine_port *ports, unsigned count, const char **ret_error)
{
	struct virtio_console *con = calloc(1, sizeof(*con));
	int rc = con && count <= MACHINE_PORTS_MAX ? 0 : -ENOMEM;

	if (con) {
		pthread_mutex_init(&con->lock, NULL);
		con->ids = 1;
		con->has_console = console;
	}
	if (rc == 0 && console)
		rc = add_port(con, 0, NULL);
	for (unsigned i = 0; rc == 0 && i < count; i++)
		rc = add_port(con, i + 1, &ports[i]);
	if (rc == 0) {
		con->dev.ops = &console_ops;
		con->dev.queues = QUEUES(con->ids);
		con->config.max_nr_ports = con->ids;
		con->dev.config = (const uint8_t *)&con->config;
		con->dev.config_bytes = sizeof(con->config);
		con->dev.features = 1ull << VIRTIO_CONSOLE_F_MULTIPORT;
		if (console)
			con->dev.features |= 1ull << VIRTIO_CONSOLE_F_SIZE | 1ull << VIRTIO_CONSOLE_F_EMERG_WRITE;
		rc = virtio_device_init(&con->dev, machine);
	}
	if (rc < 0) {
		*ret_error = rc == -ENOMEM ? "no memory for the console's ports" : "the console finds no place on the PCI bus";
		if (con)
			free_ports(con);
	}
	return rc;
}

size_t machine_console_input(struct machine *machine, const void *bytes, size_t n)
{
	struct virtio_console *con = find_console(machine);

	if (!con || !con->has_console)
		return n;
	pthread_mutex_lock(&con->lock);
	if (n > IN_BYTES - con->typed_bytes)
		n = IN_BYTES - con->typed_bytes;
	memcpy(con->typed + con->typed_bytes, bytes, n);
	con->typed_bytes += n;
	pthread_mutex_unlock(&con->lock);
	worker_ring(&con->dev.worker);
	return n;
}

void machine_console_resize(struct machine *machine, unsigned columns, unsigned rows)
{
	struct virtio_console *con = find_console(machine);

	if (!con || !con->has_console)
		return;
	machine_lock(machine);
	pthread_mutex_lock(&con->lock);
	con->config.cols = con->columns = (uint16_t)columns;
	con->config.rows = con->rows = (uint16_t)rows;
	con->resized = true;
	pthread_mutex_unlock(&con->lock);
	machine_unlock(machine);
	worker_ring(&con->dev.worker);
}

bool machine_port_is_open(struct machine *machine, unsigned number)
{
	struct virtio_console *con = find_console(machine);

	return con && number + 1 < con->ids && con->port[number + 1] && atomic_load(&con->port[number + 1]->guest_open);
}

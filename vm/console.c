/* The guest's first serial port as a byte stream: a bounded scrollback, any number of readers, nobody blocks a vCPU. */
#include "vm/private.h"

#include "proto/sock.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#define RING_BYTES CONTROL_SCROLLBACK_BYTES
_Static_assert((RING_BYTES & (RING_BYTES - 1)) == 0, "positions are reduced by masking");

#define CLIENTS_MAX 32
#define INPUT_BYTES 4096
#define INPUT_RETRY_MS 5
/* After a flush, output is gathered for this long before the loop is woken again: a guest writes byte by byte. */
#define GATHER_MS 2

struct console_client {
	LIST_ENTRY(console_client) link;
	struct vm_console *console;
	int fd;
	uint64_t position; /* of the next byte to send, counted since the VM's start */
	uint64_t lost;     /* bytes that were overwritten before it took them, to be told */
	struct event *readable, *writable, *retry;
	char input[INPUT_BYTES];
	size_t input_used;
};

struct vm_console {
	struct vm *vm;
	int listener;
	struct event *acceptable, *gather;
	LIST_HEAD(, console_client) clients;
	unsigned client_count;
	bool gathering;

	pthread_mutex_t lock;
	/* Under lock: the last RING_BYTES of all output. `written` counts bytes since the start. */
	uint64_t written;
	bool wake_due; /* the loop was woken and has not flushed yet */
	uint8_t ring[RING_BYTES];
};

void vm_console_output(struct vm *vm, const void *bytes, size_t n)
{
	struct vm_console *c = vm->console;
	const uint8_t *from = bytes;
	pthread_mutex_lock(&c->lock);
	if (n > RING_BYTES) {
		c->written += n - RING_BYTES;
		from += n - RING_BYTES;
		n = RING_BYTES;
	}
	size_t at = c->written & (RING_BYTES - 1), first = RING_BYTES - at < n ? RING_BYTES - at : n;
	memcpy(c->ring + at, from, first);
	memcpy(c->ring, from + first, n - first);
	c->written += n;
	bool wake = !c->wake_due;
	c->wake_due = true;
	pthread_mutex_unlock(&c->lock);
	if (wake)
		vm_wake(vm);
}

static void client_free(struct console_client *client)
{
	LIST_REMOVE(client, link);
	client->console->client_count--;
	if (client->readable)
		event_free(client->readable);
	if (client->writable)
		event_free(client->writable);
	if (client->retry)
		event_free(client->retry);
	close(client->fd);
	free(client);
}

/* ---- output ---- */

/* Copies what comes next for a client out of the ring. Returns how much; adds to *lost what is gone. */
static size_t ring_copy(struct vm_console *c, uint64_t *position, uint64_t *lost, uint8_t *buf, size_t max)
{
	pthread_mutex_lock(&c->lock);
	uint64_t oldest = c->written > RING_BYTES ? c->written - RING_BYTES : 0;
	if (*position < oldest) {
		*lost += oldest - *position;
		*position = oldest;
	}
	size_t n = c->written - *position < max ? (size_t)(c->written - *position) : max;
	size_t at = *position & (RING_BYTES - 1), first = RING_BYTES - at < n ? RING_BYTES - at : n;
	memcpy(buf, c->ring + at, first);
	memcpy(buf + first, c->ring, n - first);
	pthread_mutex_unlock(&c->lock);
	return n;
}

/* Sends what the socket takes. Returns bytes still owed; frees the client on an error and then returns 0. */
static size_t client_send(struct console_client *client)
{
	uint8_t buf[16384];
	for (;;) {
		if (client->lost) {
			int n = snprintf((char *)buf, sizeof(buf),
					 "\r\n[trivisor: %llu bytes of output skipped, this reader was too slow]\r\n",
					 (unsigned long long)client->lost);
			ssize_t r = send(client->fd, buf, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
			if (r >= 0)
				client->lost = 0;
			else if (errno == EAGAIN)
				return 1;
		}
		size_t n = ring_copy(client->console, &client->position, &client->lost, buf, sizeof(buf));
		if (!n)
			return 0;
		if (client->lost)
			continue;
		ssize_t r = send(client->fd, buf, n, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 && errno == EAGAIN)
			return n;
		if (r < 0) {
			client_free(client);
			return 0;
		}
		client->position += (uint64_t)r;
	}
}

static size_t client_flush(struct console_client *client)
{
	size_t owed = client_send(client);
	if (owed)
		event_add(client->writable, NULL);
	return owed;
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
	client_flush(arg);
}

static size_t flush_all(struct vm_console *c)
{
	size_t owed = 0;
	struct console_client *client = LIST_FIRST(&c->clients);
	while (client) {
		struct console_client *next = LIST_NEXT(client, link);
		owed += client_flush(client);
		client = next;
	}
	return owed;
}

static void on_gathered(evutil_socket_t fd, short what, void *arg)
{
	struct vm_console *c = arg;
	c->gathering = false;
	pthread_mutex_lock(&c->lock);
	c->wake_due = false;
	pthread_mutex_unlock(&c->lock);
	flush_all(c);
}

size_t vm_console_flush(struct vm *vm)
{
	struct vm_console *c = vm->console;
	pthread_mutex_lock(&c->lock);
	bool due = c->wake_due;
	pthread_mutex_unlock(&c->lock);
	size_t owed = flush_all(c);
	if (due && !c->gathering) {
		c->gathering = true;
		struct timeval tv = {0, GATHER_MS * 1000};
		event_add(c->gather, &tv);
	}
	return owed;
}

/* ---- input ---- */

/* Gives the guest what it takes; the rest waits, and nothing more is read from this client meanwhile. */
static void client_type(struct console_client *client)
{
	struct vm *vm = client->console->vm;
	size_t taken = client->input_used;
	if (vm->machine && !vm_state_is_final(vm->state))
		taken = machine_serial_input(vm->machine, 0, client->input, client->input_used);
	memmove(client->input, client->input + taken, client->input_used - taken);
	client->input_used -= taken;
	if (client->input_used) {
		struct timeval tv = {0, INPUT_RETRY_MS * 1000};
		event_add(client->retry, &tv);
	} else {
		event_add(client->readable, NULL);
	}
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
	client_type(arg);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct console_client *client = arg;
	ssize_t r = recv(client->fd, client->input, sizeof(client->input), MSG_DONTWAIT);
	if (r < 0 && (errno == EAGAIN || errno == EINTR)) {
		event_add(client->readable, NULL);
		return;
	}
	if (r < 0) {
		client_free(client);
		return;
	}
	if (!r) /* it will type no more, but may still read: the next failing send ends it */
		return;
	client->input_used = (size_t)r;
	client_type(client);
}

static void on_acceptable(evutil_socket_t fd, short what, void *arg)
{
	struct vm_console *c = arg;
	int sock = accept4(c->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (sock < 0)
		return;
	struct console_client *client = c->client_count < CLIENTS_MAX ? calloc(1, sizeof(*client)) : NULL;
	if (!client) {
		close(sock);
		return;
	}
	client->console = c;
	client->fd = sock;
	LIST_INSERT_HEAD(&c->clients, client, link);
	c->client_count++;
	pthread_mutex_lock(&c->lock);
	client->position = c->written > RING_BYTES ? c->written - RING_BYTES : 0;
	pthread_mutex_unlock(&c->lock);
	client->readable = event_new(c->vm->base, sock, EV_READ, on_readable, client);
	client->writable = event_new(c->vm->base, sock, EV_WRITE, on_writable, client);
	client->retry = event_new(c->vm->base, -1, 0, on_retry, client);
	if (!client->readable || !client->writable || !client->retry) {
		client_free(client);
		return;
	}
	event_add(client->readable, NULL);
	client_flush(client);
}

/* ---- life ---- */

int vm_console_open(struct vm *vm)
{
	struct vm_console *c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->vm = vm;
	c->listener = -1;
	LIST_INIT(&c->clients);
	pthread_mutex_init(&c->lock, NULL);
	vm->console = c;
	char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s/" CONTROL_FILE_CONSOLE, vm->options.dir);
	int fd = sock_listen(path, 0600);
	if (fd < 0)
		return fd;
	c->listener = fd;
	c->acceptable = event_new(vm->base, fd, EV_READ | EV_PERSIST, on_acceptable, c);
	c->gather = event_new(vm->base, -1, 0, on_gathered, c);
	if (!c->acceptable || !c->gather || event_add(c->acceptable, NULL) < 0)
		return -ENOMEM;
	return 0;
}

void vm_console_stop(struct vm *vm)
{
	struct vm_console *c = vm->console;
	if (!c)
		return;
	while (!LIST_EMPTY(&c->clients))
		client_free(LIST_FIRST(&c->clients));
	if (c->acceptable)
		event_free(c->acceptable);
	if (c->gather)
		event_free(c->gather);
	c->acceptable = c->gather = NULL;
	if (c->listener >= 0) {
		char path[PATH_MAX];
		close(c->listener);
		snprintf(path, sizeof(path), "%s/" CONTROL_FILE_CONSOLE, vm->options.dir);
		unlink(path);
	}
	c->listener = -1;
}

void vm_console_free(struct vm *vm)
{
	if (!vm->console)
		return;
	vm_console_stop(vm);
	pthread_mutex_destroy(&vm->console->lock);
	free(vm->console);
	vm->console = NULL;
}

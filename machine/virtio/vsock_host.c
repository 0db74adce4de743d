/*
 * The host's side of virtio-vsock, as Firecracker's users know it: a program of the host connects to a UNIX socket and sends
 * "CONNECT PORT\n", to which the answer is "OK PORT\n" once the guest has accepted; a program of the guest that connects to a
 * port of the host reaches who listens at that socket's path with "_PORT" behind it. The latter is another process's to connect
 * to (vm/vsock.c): this one may open no sockets.
 */
#include "machine/virtio/vsock.h"

#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HANDSHAKE_BYTES 32u
/* Ports that we give programs of the host which connect: above those that anybody would listen on. */
#define FIRST_PORT 0x40000000u
/* Out of descriptors: some stream will end. */
#define ACCEPT_RETRY_MS 200

/* A program of the host that has not said yet what it wants. */
struct vsock_client {
	struct vsock *vsock;
	LIST_ENTRY(vsock_client) link;
	int fd;
	struct event *event;
	char line[HANDSHAKE_BYTES + 1]; /* what it has said so far */
	size_t length;
};

/* ---- programs of the host that connect ------------------------------------------------------------------ */

/* Leaves the descriptor to the caller. */
static int client_free(struct vsock_client *client)
{
	int fd = client->fd;

	LIST_REMOVE(client, link);
	client->vsock->client_count--;
	if (client->event)
		event_free(client->event);
	free(client);
	return fd;
}

static void on_guest_silent(evutil_socket_t fd, short what, void *opaque)
{
	struct vsock_stream *stream = opaque;

	stream->due = DUE_RESET;
	vsock_ready(stream);
}

/* A port of ours that is free towards this one of the guest. */
static uint32_t choose_port(struct vsock *vsock, uint32_t guest_port)
{
	do {
		if (vsock->next_port < FIRST_PORT || vsock->next_port == UINT32_MAX)
			vsock->next_port = FIRST_PORT;
		vsock->next_port++;
	} while (vsock_find(vsock, vsock->next_port, guest_port));
	return vsock->next_port;
}

static void connect_guest(struct vsock *vsock, int fd, uint32_t guest_port)
{
	static const struct timeval timeout = {VSOCK_CONNECT_SECONDS, 0};
	struct vsock_stream *stream = NULL;
	bool driver;

	pthread_mutex_lock(&vsock->dev.lock);
	driver = vsock->dev.status & VIRTIO_DRIVER_OK;
	pthread_mutex_unlock(&vsock->dev.lock);
	if (driver)
		stream = vsock_stream_new(vsock, choose_port(vsock, guest_port), guest_port, VSOCK_ASKED_GUEST);
	if (!stream) {
		close(fd);
		return;
	}
	if (!vsock_stream_attach(stream, fd) ||
	    !(stream->timer = evtimer_new(vsock->dev.worker.base, on_guest_silent, stream)) ||
	    event_add(stream->timer, &timeout) < 0) {
		vsock_stream_free(stream);
		return;
	}
	stream->due = DUE_REQUEST;
	vsock_ready(stream);
}

void vsock_host_welcome(struct vsock_stream *stream)
{
	char text[24];
	int n = snprintf(text, sizeof(text), "OK %u\n", stream->host_port);

	/* The first bytes of a new socket: they find room. */
	if (send(stream->fd, text, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) != n)
		stream->due = DUE_RESET;
	vsock_stream_opened(stream);
}

/* "CONNECT 1024\n" as a number. False: it is something else. */
static bool parse_handshake(const char *text, uint32_t *ret_port)
{
	static const char word[] = "CONNECT ";
	const char *digits = text + strlen(word);
	uint64_t port = 0;

	if (strncmp(text, word, strlen(word)) || *digits == '\n')
		return false;
	for (; *digits >= '0' && *digits <= '9' && port <= UINT32_MAX; digits++)
		port = port * 10 + (uint64_t)(*digits - '0');
	*ret_port = (uint32_t)port;
	return *digits == '\n' && port < UINT32_MAX; /* which means any port */
}

/*
 * Only the line is taken from the socket: what follows is the guest's. It is taken as it comes: behind a part of a line that
 * were only looked at, nobody would see that its sender has hung up, and it would hold its place until the time runs out.
 */
static void on_handshake(evutil_socket_t fd, short what, void *opaque)
{
	struct vsock_client *client = opaque;
	struct vsock *vsock = client->vsock;
	ssize_t n = what & EV_READ ? 1 : 0;
	bool whole = false, asked;
	uint32_t port;

	while (n > 0 && !whole && client->length < HANDSHAKE_BYTES) {
		n = recv(fd, client->line + client->length, 1, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return; /* the rest comes, or the time runs out */
		if (n > 0)
			whole = client->line[client->length++] == '\n';
	}
	asked = whole && parse_handshake(client->line, &port);
	client_free(client);
	if (asked)
		connect_guest(vsock, fd, port);
	else
		close(fd);
}

static void on_acceptable(evutil_socket_t unused, short what, void *opaque)
{
	static const struct timeval timeout = {VSOCK_CONNECT_SECONDS, 0}, later = {0, ACCEPT_RETRY_MS * 1000};
	struct vsock *vsock = opaque;
	struct vsock_client *client;
	int fd = accept4(vsock->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)) {
		/* The event is for once: it comes by time now, and then waits for connections again. */
		event_base_once(vsock->dev.worker.base, -1, EV_TIMEOUT, on_acceptable, vsock, &later);
		return;
	}
	event_add(vsock->acceptable, NULL);
	if (fd < 0)
		return;
	client = vsock->client_count < VSOCK_CLIENTS_MAX ? calloc(1, sizeof(*client)) : NULL;
	if (!client) {
		close(fd);
		return;
	}
	client->vsock = vsock;
	client->fd = fd;
	LIST_INSERT_HEAD(&vsock->clients, client, link);
	vsock->client_count++;
	client->event = event_new(vsock->dev.worker.base, fd, EV_READ | EV_PERSIST | EV_ET, on_handshake, client);
	if (!client->event || event_add(client->event, &timeout) < 0)
		close(client_free(client));
}

/* ---- programs of the guest that connect --------------------------------------------------------------------- */

bool vsock_host_ask(struct vsock_stream *stream)
{
	struct vsock *vsock = stream->vsock;
	const struct machine_vsock_question question = {.id = vsock->next_id++, .port = stream->host_port};

	stream->id = question.id;
	return send(vsock->connector, &question, sizeof(question), MSG_NOSIGNAL | MSG_DONTWAIT) == sizeof(question);
}

static struct vsock_stream *who_asked(struct vsock *vsock, uint32_t id)
{
	struct vsock_stream *stream;

	LIST_FOREACH(stream, &vsock->streams, link)
		if (stream->state == VSOCK_ASKED_HOST && stream->id == id)
			return stream;
	return NULL;
}

static void connected(struct vsock *vsock, uint32_t id, int fd)
{
	struct vsock_stream *stream = who_asked(vsock, id);

	if (!stream || stream->due & DUE_RESET) {
		if (fd >= 0)
			close(fd);
		return;
	}
	stream->due = DUE_RESPONSE;
	if (fd < 0 || !vsock_stream_attach(stream, fd)) {
		stream->due = DUE_RESET;
		vsock_ready(stream);
		return;
	}
	vsock_stream_opened(stream);
}

static void on_answered(evutil_socket_t connector, short what, void *opaque)
{
	struct vsock *vsock = opaque;
	struct machine_vsock_answer answer;
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = {&answer, sizeof(answer)};
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(connector, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&message) : NULL;
	int fd = -1;

	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	if (n == (ssize_t)sizeof(answer)) {
		connected(vsock, answer.id, fd);
	} else if (n >= 0 || (errno != EAGAIN && errno != EINTR)) {
		/* It has gone; from here on every request of the guest is refused. */
		event_del(vsock->answered);
		if (n >= 0)
			fprintf(stderr, "vsock: the process that connects to the host's sockets has ended; the guest reaches none any more\n");
	}
}

/* ---- life ------------------------------------------------------------------------------------------------------ */

int vsock_host_prepare(struct vsock *vsock)
{
	struct event_base *base = vsock->dev.worker.base;

	vsock->acceptable = event_new(base, vsock->listener, EV_READ, on_acceptable, vsock);
	vsock->answered = event_new(base, vsock->connector, EV_READ | EV_PERSIST, on_answered, vsock);
	if (vsock->acceptable && vsock->answered && event_add(vsock->acceptable, NULL) == 0 && event_add(vsock->answered, NULL) == 0)
		return 0;
	return -ENOMEM;
}

void vsock_host_retire(struct vsock *vsock)
{
	while (!LIST_EMPTY(&vsock->clients))
		close(client_free(LIST_FIRST(&vsock->clients)));
	if (vsock->acceptable)
		event_free(vsock->acceptable);
	if (vsock->answered)
		event_free(vsock->answered);
}

/* Newline-delimited messages: over a libevent bufferevent for servers, over a blocking descriptor for clients. */
#include "proto/line.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/util.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct line_peer {
	struct bufferevent *bev;
	struct event *closer; /* reports a close from the loop, never from inside a send */
	struct line_ops ops;
	void *opaque;
	size_t scanned; /* bytes of the input known to hold no newline */
	int error;
	bool closed;    /* on_close is due or was called */
	bool finishing;
	unsigned depth; /* callbacks on the stack: freeing waits for them */
	bool destroyed;
};

static void peer_free(struct line_peer *peer)
{
	if (peer->bev)
		bufferevent_free(peer->bev);
	if (peer->closer)
		event_free(peer->closer);
	free(peer);
}

static void leave(struct line_peer *peer)
{
	if (!--peer->depth && peer->destroyed)
		peer_free(peer);
}

static void schedule_close(struct line_peer *peer, int error)
{
	if (peer->closed)
		return;
	peer->closed = true;
	peer->error = error;
	bufferevent_disable(peer->bev, EV_READ | EV_WRITE);
	event_active(peer->closer, 0, 0);
}

static void on_closer(evutil_socket_t fd, short what, void *arg)
{
	struct line_peer *peer = arg;
	peer->depth++;
	if (!peer->destroyed)
		peer->ops.on_close(peer->opaque, peer->error);
	leave(peer);
}

static bool wants_input(const struct line_peer *peer)
{
	return !peer->destroyed && !peer->closed && !peer->finishing;
}

/* Takes one line off the input. False when there is no whole line yet. */
static bool next_line(struct line_peer *peer, char **ret_text, size_t *ret_bytes)
{
	struct evbuffer *in = bufferevent_get_input(peer->bev);
	size_t have = evbuffer_get_length(in);
	struct evbuffer_ptr from;
	if (evbuffer_ptr_set(in, &from, peer->scanned, EVBUFFER_PTR_SET) < 0)
		return false;
	struct evbuffer_ptr found = evbuffer_search(in, "\n", 1, &from);
	size_t bytes = found.pos < 0 ? have : (size_t)found.pos;
	if (bytes > LINE_MAX_BYTES) {
		if (peer->ops.on_too_long)
			peer->ops.on_too_long(peer->opaque);
		else
			schedule_close(peer, EMSGSIZE);
		return false;
	}
	if (found.pos < 0) {
		peer->scanned = have;
		return false;
	}
	char *text = malloc(bytes + 1);
	if (!text) {
		schedule_close(peer, ENOMEM);
		return false;
	}
	evbuffer_remove(in, text, bytes + 1);
	peer->scanned = 0;
	if (bytes && text[bytes - 1] == '\r')
		bytes--;
	text[bytes] = '\0';
	*ret_text = text;
	*ret_bytes = bytes;
	return true;
}

static void on_read(struct bufferevent *bev, void *arg)
{
	struct line_peer *peer = arg;
	char *text = NULL;
	size_t bytes;
	peer->depth++;
	while (wants_input(peer)) {
		if (line_peer_unsent(peer) > LINE_OUTPUT_PAUSE_BYTES) {
			/* It asks faster than it reads: on_write continues here. */
			bufferevent_disable(bev, EV_READ);
			break;
		}
		if (!next_line(peer, &text, &bytes))
			break;
		peer->ops.on_line(peer->opaque, text, bytes);
		free(text);
	}
	leave(peer);
}

static void on_write(struct bufferevent *bev, void *arg)
{
	struct line_peer *peer = arg;
	if (peer->finishing && !line_peer_unsent(peer)) {
		schedule_close(peer, 0);
		return;
	}
	if (wants_input(peer) && !(bufferevent_get_enabled(bev) & EV_READ)) {
		bufferevent_enable(bev, EV_READ);
		on_read(bev, peer);
	}
}

/* What the peer sent behind its last newline, once nothing can follow. Whole lines are gone: reading stops while they
   wait. */
static void take_rest(struct line_peer *peer)
{
	struct evbuffer *in = bufferevent_get_input(peer->bev);
	size_t bytes = evbuffer_get_length(in);
	if (!bytes)
		return;
	char *text = malloc(bytes + 1);
	if (!text) {
		schedule_close(peer, ENOMEM);
		return;
	}
	evbuffer_remove(in, text, bytes);
	peer->scanned = 0;
	if (text[bytes - 1] == '\r')
		bytes--;
	text[bytes] = '\0';
	peer->ops.on_line(peer->opaque, text, bytes);
	free(text);
}

static void on_event(struct bufferevent *bev, short what, void *arg)
{
	struct line_peer *peer = arg;
	if (what & BEV_EVENT_ERROR) {
		int error = EVUTIL_SOCKET_ERROR();
		schedule_close(peer, error ? error : EIO);
	} else if (peer->ops.on_eof && wants_input(peer)) {
		peer->depth++;
		take_rest(peer);
		if (wants_input(peer))
			peer->ops.on_eof(peer->opaque);
		leave(peer);
	} else {
		line_peer_finish(peer);
	}
}

struct line_peer *line_peer_create(struct event_base *base, int fd, const struct line_ops *ops, void *opaque)
{
	struct line_peer *peer = calloc(1, sizeof(*peer));
	if (!peer) {
		close(fd);
		return NULL;
	}
	peer->ops = *ops;
	peer->opaque = opaque;
	evutil_make_socket_nonblocking(fd);
	peer->bev = bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE);
	if (!peer->bev)
		close(fd);
	else
		peer->closer = event_new(base, -1, 0, on_closer, peer);
	if (!peer->closer) {
		peer_free(peer);
		return NULL;
	}
	bufferevent_setcb(peer->bev, on_read, on_write, on_event, peer);
	bufferevent_setwatermark(peer->bev, EV_READ, 0, LINE_MAX_BYTES + 2);
	bufferevent_setwatermark(peer->bev, EV_WRITE, LINE_OUTPUT_PAUSE_BYTES / 2, 0);
	bufferevent_enable(peer->bev, EV_READ | EV_WRITE);
	return peer;
}

void line_peer_destroy(struct line_peer *peer)
{
	if (!peer || peer->destroyed)
		return;
	peer->destroyed = true;
	if (!peer->depth)
		peer_free(peer);
}

int line_peer_send(struct line_peer *peer, const char *text, size_t bytes)
{
	if (peer->closed || peer->destroyed)
		return -EPIPE;
	struct evbuffer *out = bufferevent_get_output(peer->bev);
	/* The first message always goes in, however large; what piles up behind it does not. */
	if (evbuffer_get_length(out) && evbuffer_get_length(out) + bytes > LINE_OUTPUT_MAX_BYTES) {
		schedule_close(peer, ENOBUFS);
		return -ENOBUFS;
	}
	if (evbuffer_add(out, text, bytes) < 0 || evbuffer_add(out, "\n", 1) < 0) {
		schedule_close(peer, ENOMEM);
		return -ENOMEM;
	}
	return 0;
}

int line_peer_send_json(struct line_peer *peer, struct json_object *json)
{
	size_t bytes;
	const char *text =
		json_object_to_json_string_length(json, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &bytes);
	return text ? line_peer_send(peer, text, bytes) : -ENOMEM;
}

void line_peer_finish(struct line_peer *peer)
{
	if (peer->closed || peer->finishing)
		return;
	peer->finishing = true;
	bufferevent_disable(peer->bev, EV_READ);
	if (!line_peer_unsent(peer)) {
		schedule_close(peer, 0);
		return;
	}
	bufferevent_setwatermark(peer->bev, EV_WRITE, 0, 0);
}

size_t line_peer_unsent(const struct line_peer *peer)
{
	return evbuffer_get_length(bufferevent_get_output(peer->bev));
}

int line_peer_fd(const struct line_peer *peer)
{
	return bufferevent_getfd(peer->bev);
}

/* ---- clients ---- */

void line_client_init(struct line_client *client, int fd)
{
	*client = (struct line_client){.fd = fd};
}

void line_client_finish(struct line_client *client)
{
	free(client->buf);
	if (client->fd >= 0)
		close(client->fd);
	*client = (struct line_client){.fd = -1};
}

static int send_all(int fd, const char *text, size_t bytes)
{
	while (bytes) {
		ssize_t r = send(fd, text, bytes, MSG_NOSIGNAL);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		text += r;
		bytes -= (size_t)r;
	}
	return 0;
}

int line_client_send(struct line_client *client, const char *text, size_t bytes)
{
	int rc = send_all(client->fd, text, bytes);
	return rc ? rc : send_all(client->fd, "\n", 1);
}

int line_client_send_json(struct line_client *client, struct json_object *json)
{
	size_t bytes;
	const char *text =
		json_object_to_json_string_length(json, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &bytes);
	return text ? line_client_send(client, text, bytes) : -ENOMEM;
}

static int64_t now_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int wait_readable(int fd, int timeout_ms, int64_t deadline)
{
	for (;;) {
		int left = -1;
		if (timeout_ms >= 0) {
			int64_t ms = deadline - now_ms();
			left = ms > 0 ? (int)ms : 0;
		}
		int r = poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, left);
		if (r > 0)
			return 0;
		if (!r)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

static int client_fill(struct line_client *client)
{
	if (client->size - client->used < 4096) {
		size_t size = client->size ? client->size * 2 : 16384;
		char *buf = realloc(client->buf, size);
		if (!buf)
			return -ENOMEM;
		client->buf = buf;
		client->size = size;
	}
	ssize_t r = read(client->fd, client->buf + client->used, client->size - client->used);
	if (r < 0)
		return errno == EINTR || errno == EAGAIN ? 0 : -errno;
	if (!r)
		return -EPIPE;
	client->used += (size_t)r;
	return 0;
}

int line_client_receive(struct line_client *client, int timeout_ms, char **ret_text, size_t *ret_bytes)
{
	int64_t deadline = now_ms() + timeout_ms;
	for (;;) {
		char *newline = client->used > client->scanned
					? memchr(client->buf + client->scanned, '\n', client->used - client->scanned)
					: NULL;
		if (newline) {
			size_t bytes = (size_t)(newline - client->buf), rest = client->used - bytes - 1;
			char *text = malloc(bytes + 1);
			if (!text)
				return -ENOMEM;
			memcpy(text, client->buf, bytes);
			text[bytes] = '\0';
			memmove(client->buf, newline + 1, rest);
			client->used = rest;
			client->scanned = 0;
			*ret_text = text;
			*ret_bytes = bytes;
			return 0;
		}
		client->scanned = client->used;
		if (client->used > LINE_MAX_BYTES)
			return -EMSGSIZE;
		int rc = wait_readable(client->fd, timeout_ms, deadline);
		if (!rc)
			rc = client_fill(client);
		if (rc)
			return rc;
	}
}

int line_client_receive_json(struct line_client *client, int timeout_ms, struct json_object **ret_json)
{
	char *text = NULL;
	size_t bytes;
	int rc = line_client_receive(client, timeout_ms, &text, &bytes);
	if (rc)
		return rc;
	const char *why;
	rc = line_parse_json(text, bytes, ret_json, &why);
	free(text);
	return rc;
}

/* ---- both ---- */

/* What json-c takes even when strict, though RFC 8259 does not. NULL, or what is wrong. */
static const char *find_laxity(const char *text, size_t bytes)
{
	bool in_string = false;
	for (size_t i = 0; i < bytes; i++) {
		unsigned char c = (unsigned char)text[i];
		if (in_string) {
			if (c < 0x20)
				return "a control character in a string";
			if (c == '\\')
				i++;
			else if (c == '"')
				in_string = false;
		} else if (c == '"') {
			in_string = true;
		} else if (c == '\'') {
			return "a string in single quotes";
		} else if (c == 'N' || c == 'I') {
			return "a number that JSON does not have";
		} else if (c == '.' && !(i + 1 < bytes && text[i + 1] >= '0' && text[i + 1] <= '9')) {
			return "no digit behind the decimal point";
		}
	}
	return NULL;
}

int line_parse_json(const char *text, size_t bytes, struct json_object **ret_json, const char **ret_why)
{
	const char *laxity = find_laxity(text, bytes);
	if (laxity) {
		*ret_why = laxity;
		return -EBADMSG;
	}
	if (memchr(text, 0, bytes)) {
		*ret_why = "a NUL byte in the message";
		return -EBADMSG;
	}
	struct json_tokener *tok = json_tokener_new_ex(64);
	if (!tok) {
		*ret_why = "out of memory";
		return -EBADMSG;
	}
	json_tokener_set_flags(tok, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
	/* The NUL after the text is given to the parser too: a bare number ends only there. */
	struct json_object *json = json_tokener_parse_ex(tok, text, (int)bytes + 1);
	enum json_tokener_error error = json_tokener_get_error(tok);
	json_tokener_free(tok);
	if (error != json_tokener_success) {
		json_object_put(json);
		*ret_why = error == json_tokener_continue ? "unexpected end of message" : json_tokener_error_desc(error);
		return -EBADMSG;
	}
	*ret_json = json;
	return 0;
}

/* Newline-delimited messages: over a libevent bufferevent for servers, over a blocking descriptor for clients. */
#ifndef PROTO_LINE_H
#define PROTO_LINE_H

#include <stddef.h>

struct bufferevent;
struct event_base;
struct json_object;

#define LINE_MAX_BYTES ((size_t)16 << 20) /* one message, its newline not counted */
/* Unsent bytes at which a peer that does not read is given up. Answers to one large request must fit. */
#define LINE_OUTPUT_MAX_BYTES ((size_t)32 << 20)
/* Unsent bytes at which we stop reading further requests from that peer. */
#define LINE_OUTPUT_PAUSE_BYTES ((size_t)1 << 20)

/* ---- servers: one peer on an event loop. All calls on the loop's thread. ---- */

struct line_peer;

struct line_ops {
	/* One line without its newline (and without a carriage return before it), NUL-terminated, valid during the
	   call. It may hold NULs. The callback may send on, close or destroy the peer. */
	void (*on_line)(void *opaque, char *text, size_t bytes);
	/* The connection has ended (`error`: 0 at end of file, else errno: EMSGSIZE when a line was too long, ENOBUFS
	   when the peer did not read). Called once, never after line_peer_destroy; destroy it from here or later. */
	void (*on_close)(void *opaque, int error);
	/* Optional: the peer will send no more (it may still read, as `socat` does). Whoever sets it calls
	   line_peer_finish once all it owes is sent; without it that happens at once. What stood behind the last
	   newline comes as a line before; without on_eof it is dropped, a peer that died in mid-line. */
	void (*on_eof)(void *opaque);
	/* Optional: a line is longer than LINE_MAX_BYTES. Whoever sets it sends an error and calls line_peer_finish;
	   without it on_close(EMSGSIZE) follows. */
	void (*on_too_long)(void *opaque);
};

/* Takes over `fd` (closed in every case). NULL: out of memory. */
struct line_peer *line_peer_create(struct event_base *base, int fd, const struct line_ops *ops, void *opaque);
/* Closes at once. Accepts NULL; allowed in a callback. */
void line_peer_destroy(struct line_peer *peer);
/* Queues `bytes` of `text` and a newline. 0; -EPIPE when it is closed; -ENOBUFS when the peer is too far behind (then
   on_close(ENOBUFS) follows from the loop). Never calls back. */
int line_peer_send(struct line_peer *peer, const char *text, size_t bytes);
/* The same for one JSON value, which the caller keeps. */
int line_peer_send_json(struct line_peer *peer, struct json_object *json);
/* No more lines are taken; what is queued is sent, then on_close(0) follows. */
void line_peer_finish(struct line_peer *peer);
size_t line_peer_unsent(const struct line_peer *peer);
/* The descriptor, for SO_PEERCRED. Not the caller's. */
int line_peer_fd(const struct line_peer *peer);

/* ---- clients: a blocking descriptor ---- */

struct line_client {
	int fd;
	char *buf;
	size_t used, size, scanned;
};

void line_client_init(struct line_client *client, int fd);
/* Frees the buffer and closes the descriptor. */
void line_client_finish(struct line_client *client);
/* 0 or -errno. */
int line_client_send(struct line_client *client, const char *text, size_t bytes);
int line_client_send_json(struct line_client *client, struct json_object *json);
/*
 * The next line, malloced and NUL-terminated, for the caller to free. timeout_ms < 0 waits for ever, 0 polls.
 * -ETIMEDOUT; -EPIPE at end of file; -EMSGSIZE; else -errno.
 */
int line_client_receive(struct line_client *client, int timeout_ms, char **ret_text, size_t *ret_bytes);
/* The same, parsed: -EBADMSG when it is no JSON. The caller puts *ret_json. */
int line_client_receive_json(struct line_client *client, int timeout_ms, struct json_object **ret_json);

/* ---- both ---- */

/*
 * Strict JSON: one value, nothing after it but white space, valid UTF-8, at most 64 deep, no NUL. 0 and a value to put,
 * or -EBADMSG with *ret_why set to static text. JSON null is 0 with *ret_json NULL.
 */
int line_parse_json(const char *text, size_t bytes, struct json_object **ret_json, const char **ret_why);

#endif

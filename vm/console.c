/* The guest's first serial port as a byte stream: a bounded scrollback in a file, one writer, any number of readers; nobody blocks a vCPU. */
#include "vm/private.h"

#include "proto/line.h"
#include "proto/ring.h"
#include "proto/sock.h"

#include <ctype.h>
#include <errno.h>
#include <event2/event.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#define CLIENTS_MAX 32
#define ASKING_MAX 8 /* beside those */
#define INPUT_BYTES 4096
#define INPUT_RETRY_MS 5
#define HANGUP_CHECK_MS 1000 /* of a client that types no more, which no event tells about */
#define ASKING_MS 10000
/* After a flush, output is gathered for this long before the loop is woken again: a guest writes byte by byte. */
#define GATHER_MS 2

enum console_role {
	ROLE_ASKING,  /* on attach.sock; its request has not come yet */
	ROLE_READER,  /* what it types is dropped */
	ROLE_WAITING, /* becomes the writer when it types while there is none */
	ROLE_WRITER,
	ROLE_PARTING, /* the writer that has closed its end; what it typed before still goes to the guest */
};

struct console_client {
	LIST_ENTRY(console_client) link;
	struct vm_console *console;
	int fd;
	enum console_role role;
	bool leave;        /* its connection ends when it loses the writer's place */
	bool leaving;      /* ends once the notice is out */
	bool told;         /* that what it types is dropped */
	bool eof;          /* it types no more */
	char who[CONTROL_ATTACH_WHO_BYTES];
	uint64_t since_ns; /* it is the writer */
	uint64_t position; /* of the next byte to send, counted since the VM's start */
	uint64_t lost;     /* bytes that were overwritten before it took them, to be told */
	char notice[256];  /* goes out before more output */
	size_t notice_bytes;
	struct event *readable, *writable, *retry;
	char input[INPUT_BYTES];
	size_t input_used;
};

struct vm_console {
	struct vm *vm;
	int listener, attach_listener;
	struct event *acceptable, *attachable, *gather;
	LIST_HEAD(, console_client) clients;
	unsigned client_count;
	struct console_client *writer; /* or NULL */
	struct console_log *log; /* or NULL */
	uint64_t logged;
	unsigned columns, rows; /* of the writer's window; 0: never told */
	bool gathering;

	pthread_mutex_t lock;
	/* Under lock. */
	struct ring ring; /* of all output */
	bool wake_due; /* the loop was woken and has not flushed yet */
};

void vm_console_output(struct vm *vm, const void *bytes, size_t n)
{
	struct vm_console *c = vm->console;
	pthread_mutex_lock(&c->lock);
	ring_write(&c->ring, bytes, n);
	bool wake = !c->wake_due;
	c->wake_due = true;
	pthread_mutex_unlock(&c->lock);
	if (wake)
		vm_wake(vm);
}

/* ---- roles ---- */

/* It has closed both directions: nothing can be sent to it, and all it sent is there. */
static bool hung_up(const struct console_client *client)
{
	struct pollfd fd = {.fd = client->fd};
	return poll(&fd, 1, 0) > 0 && fd.revents & (POLLHUP | POLLERR);
}

static void release(struct console_client *client, enum console_role role)
{
	if (client->console->writer == client)
		client->console->writer = NULL;
	client->role = role;
}

static void client_free(struct console_client *client)
{
	release(client, ROLE_READER);
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

__attribute__((format(printf, 2, 3))) static void give_notice(struct console_client *client, const char *format, ...)
{
	char text[200];
	va_list ap;
	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	/* One that is on its way already must not be cut. */
	size_t room = sizeof(client->notice) - client->notice_bytes;
	int n = snprintf(client->notice + client->notice_bytes, room, "\r\n[trivisor: %s]\r\n", text);
	if (n > 0 && (size_t)n < room)
		client->notice_bytes += (size_t)n;
	event_add(client->writable, NULL);
}

/* The present writer, but not one that is gone without our having heard of it. */
static struct console_client *present_writer(struct vm_console *c)
{
	if (c->writer && hung_up(c->writer))
		release(c->writer, ROLE_PARTING);
	return c->writer;
}

static void become_writer(struct console_client *client)
{
	struct console_client *old = client->console->writer;
	client->role = ROLE_WRITER;
	client->since_ns = vm_now_ns();
	client->console->writer = client;
	if (!old)
		return;
	old->role = ROLE_WAITING;
	old->leaving = old->leave;
	old->told = false;
	give_notice(old, "%.80s has taken this console's keyboard; %s", client->who,
		    old->leave ? "this connection ends" : "you read on");
}

/* ---- output ---- */

static ssize_t send_some(struct console_client *client, const void *bytes, size_t n)
{
	ssize_t r;
	do
		r = send(client->fd, bytes, n, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (r < 0 && errno == EINTR);
	return r;
}

static size_t next_output(struct console_client *client, uint8_t *buf, size_t max)
{
	struct vm_console *c = client->console;
	pthread_mutex_lock(&c->lock);
	size_t n = ring_copy(&c->ring, &client->position, &client->lost, buf, max);
	pthread_mutex_unlock(&c->lock);
	if (client->lost) {
		give_notice(client, "%llu bytes of output skipped, this reader was too slow", (unsigned long long)client->lost);
		client->lost = 0;
	}
	return n;
}

/* Sends what the socket takes. Returns bytes still owed; frees the client on an error, or when it is to go, and then returns 0. */
static size_t client_send(struct console_client *client)
{
	uint8_t buf[16384];
	if (client->role == ROLE_ASKING)
		return 0;
	for (;;) {
		size_t n = client->notice_bytes || client->leaving ? 0 : next_output(client, buf, sizeof(buf));
		bool notice = client->notice_bytes > 0;
		if (notice)
			n = client->notice_bytes;
		else if (!n && !client->leaving)
			return 0;
		ssize_t r = n ? send_some(client, notice ? (void *)client->notice : buf, n) : -1;
		if (r < 0 && n && errno == EAGAIN)
			return n;
		if (r < 0) {
			client_free(client);
			return 0;
		}
		if (notice) {
			client->notice_bytes -= (size_t)r;
			memmove(client->notice, client->notice + r, client->notice_bytes);
		} else {
			client->position += (uint64_t)r;
		}
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

static void write_log(struct vm_console *c)
{
	uint8_t buf[2048];
	uint64_t lost = 0;
	size_t n;
	if (!c->log)
		return;
	do {
		pthread_mutex_lock(&c->lock);
		n = ring_copy(&c->ring, &c->logged, &lost, buf, sizeof(buf));
		pthread_mutex_unlock(&c->lock);
		if (n)
			console_log_write(c->log, buf, n);
		c->logged += n;
	} while (n);
	if (lost)
		vm_log("the console's log lacks %llu bytes: they came too fast", (unsigned long long)lost);
}

static size_t flush_all(struct vm_console *c)
{
	size_t owed = 0;
	write_log(c);
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

static void wait_for(struct event *event, unsigned ms)
{
	struct timeval tv = {ms / 1000, (ms % 1000) * 1000};
	event_add(event, &tv);
}

/* To the serial port, while that is the console; else to hvc0. How much it takes. */
static size_t guest_input(struct vm *vm, const void *bytes, size_t n)
{
	if (vm->def->virtio_console && vm->def->serial == VMDEF_SERIAL_NONE)
		return machine_console_input(vm->machine, bytes, n);
	return machine_serial_input(vm->machine, 0, bytes, n);
}

/* Gives the guest what it takes; the rest waits, and nothing more is read from this client meanwhile. */
static void client_type(struct console_client *client)
{
	struct vm_console *c = client->console;
	struct vm *vm = c->vm;
	size_t taken = client->input_used;
	if (client->role == ROLE_WAITING && taken && !present_writer(c))
		become_writer(client);
	bool types = client->role == ROLE_WRITER || client->role == ROLE_PARTING;
	if (types && vm->machine && !vm_state_is_final(vm->state))
		taken = guest_input(vm, client->input, client->input_used);
	if (!types && taken && !client->told) {
		client->told = true;
		if (c->writer)
			give_notice(client, "what you type is dropped: %.80s has this console's keyboard", c->writer->who);
		else
			give_notice(client, "what you type is dropped: you read only");
	}
	memmove(client->input, client->input + taken, client->input_used - taken);
	client->input_used -= taken;
	if (client->input_used)
		wait_for(client->retry, INPUT_RETRY_MS);
	else
		event_add(client->readable, NULL);
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
	struct console_client *client = arg;
	if (client->role == ROLE_ASKING || (client->eof && hung_up(client)))
		client_free(client);
	else if (client->eof)
		wait_for(client->retry, HANGUP_CHECK_MS);
	else
		client_type(client);
}

static void client_asks(struct console_client *client);

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct console_client *client = arg;
	ssize_t r = recv(client->fd, client->input + client->input_used, sizeof(client->input) - client->input_used, MSG_DONTWAIT);
	if (r < 0 && (errno == EAGAIN || errno == EINTR)) {
		event_add(client->readable, NULL);
		return;
	}
	if (r < 0 || (!r && (client->role == ROLE_ASKING || hung_up(client)))) {
		client_free(client);
		return;
	}
	if (!r) { /* it will type no more, but may still read */
		release(client, ROLE_READER);
		client->eof = true;
		wait_for(client->retry, HANGUP_CHECK_MS);
		return;
	}
	client->input_used += (size_t)r;
	if (client->role == ROLE_ASKING)
		client_asks(client);
	else
		client_type(client);
}

/* ---- attaching ---- */

struct attach_request {
	struct json_object *id;
	bool read_only, force, read_if_taken, leave;
	int64_t scrollback; /* bytes; negative: all */
};

static void put_text(struct json_object *to, const char *key, const char *text)
{
	json_object_object_add(to, key, json_object_new_string(text));
}

static bool send_line(struct console_client *client, struct json_object *line)
{
	size_t bytes;
	const char *text = json_object_to_json_string_length(line, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &bytes);
	/* The first that goes into this socket, and short: it fits. */
	bool sent = text && send_some(client, text, bytes) == (ssize_t)bytes && send_some(client, "\n", 1) == 1;
	json_object_put(line);
	return sent;
}

static struct json_object *answer_to(struct json_object *id)
{
	struct json_object *line = json_object_new_object();
	put_text(line, "jsonrpc", "2.0");
	json_object_object_add(line, "id", json_object_get(id));
	return line;
}

__attribute__((format(printf, 4, 5))) static void refuse(struct console_client *client, struct json_object *id, int code,
							  const char *format, ...)
{
	char text[400];
	va_list ap;
	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	struct json_object *line = answer_to(id), *e = json_object_new_object();
	json_object_object_add(e, "code", json_object_new_int(code));
	put_text(e, "message", text);
	json_object_object_add(line, "error", e);
	send_line(client, line);
	client_free(client);
}

static bool is_method(struct json_object *request, const char *name)
{
	struct json_object *method = NULL;
	return json_object_is_type(request, json_type_object) && json_object_object_get_ex(request, "method", &method) &&
	       json_object_is_type(method, json_type_string) && !strcmp(json_object_get_string(method), name);
}

/* What others are told of it; only what cannot upset their terminals. */
static void set_who(struct console_client *client, const char *text)
{
	snprintf(client->who, sizeof(client->who), "%s", text);
	for (char *at = client->who; *at; at++)
		if (!isprint((unsigned char)*at))
			*at = '?';
}

/* False: it is no such request, and the client is gone. */
static bool read_request(struct console_client *client, struct json_object *json, struct attach_request *ret)
{
	*ret = (struct attach_request){.scrollback = -1};
	const struct {
		const char *key;
		bool *value;
	} flags[] = {{"read_only", &ret->read_only}, {"force", &ret->force}, {"read_if_taken", &ret->read_if_taken}, {"leave", &ret->leave}};
	struct json_object *params = NULL;
	if (!is_method(json, CONTROL_ATTACH)) {
		refuse(client, NULL, CONTROL_INVALID_REQUEST, "a request of method " CONTROL_ATTACH " is wanted");
		return false;
	}
	json_object_object_get_ex(json, "id", &ret->id);
	if (json_object_object_get_ex(json, "params", &params) && !json_object_is_type(params, json_type_object)) {
		refuse(client, ret->id, CONTROL_INVALID_PARAMS, "params: an object is wanted");
		return false;
	}
	if (!params)
		return true;
	json_object_object_foreach(params, key, value) {
		bool ok = false;
		for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
			if (!strcmp(key, flags[i].key) && json_object_is_type(value, json_type_boolean)) {
				*flags[i].value = json_object_get_boolean(value);
				ok = true;
			}
		if (!strcmp(key, "scrollback") && json_object_is_type(value, json_type_int)) {
			ret->scrollback = json_object_get_int64(value);
			ok = true;
		}
		if (!strcmp(key, "client") && json_object_is_type(value, json_type_string)) {
			set_who(client, json_object_get_string(value));
			ok = true;
		}
		if (!ok) {
			refuse(client, ret->id, CONTROL_INVALID_PARAMS,
			       "%.60s: the parameters are read_only, force, read_if_taken, leave (each true or false), scrollback (bytes) and client", key);
			return false;
		}
	}
	return true;
}

/* Where a new reader that wants the last `bytes` begins: at a line's start. */
static uint64_t start_position(struct vm_console *c, int64_t bytes)
{
	pthread_mutex_lock(&c->lock);
	uint64_t written = ring_written(&c->ring), kept = written < c->ring.size ? written : c->ring.size;
	uint64_t position = written - (bytes < 0 || (uint64_t)bytes > kept ? kept : (uint64_t)bytes);
	uint8_t chunk[256];
	uint64_t lost = 0;
	bool whole = position == 0 || bytes == 0;
	while (!whole) {
		uint64_t at = position;
		size_t n = ring_copy(&c->ring, &at, &lost, chunk, sizeof(chunk));
		uint8_t *end = n ? memchr(chunk, '\n', n) : NULL;
		position += end ? (size_t)(end - chunk) + 1 : n;
		whole = end || !n;
	}
	/* One line without an end: better half of it than nothing. */
	if (position == written && bytes)
		position = written - (bytes < 0 || (uint64_t)bytes > kept ? kept : (uint64_t)bytes);
	pthread_mutex_unlock(&c->lock);
	return position;
}

/* Those who ask first are not counted: they are told at the end of their question. */
static unsigned attached(const struct vm_console *c)
{
	const struct console_client *client;
	unsigned n = 0;
	LIST_FOREACH(client, &c->clients, link)
		n += client->role != ROLE_ASKING;
	return n;
}

static void attach(struct console_client *client, const struct attach_request *request)
{
	struct vm_console *c = client->console;
	struct console_client *writer = present_writer(c);
	bool write = !request->read_only && (request->force || !writer || !request->read_if_taken);
	if (write && writer && !request->force) {
		refuse(client, request->id, CONTROL_ERROR_STATE,
		       "%.80s has had this console's keyboard for %llu s: attach read-only, or take its place by force", writer->who,
		       (unsigned long long)((vm_now_ns() - writer->since_ns) / 1000000000u));
		return;
	}
	if (attached(c) >= CLIENTS_MAX) {
		refuse(client, request->id, CONTROL_ERROR_STATE, "%u clients read this console already, which is the most it serves", CLIENTS_MAX);
		return;
	}
	struct json_object *line = answer_to(request->id), *result = json_object_new_object();
	client->position = start_position(c, request->scrollback);
	json_object_object_add(result, "writer", json_object_new_boolean(write));
	json_object_object_add(result, "position", json_object_new_int64((int64_t)client->position));
	json_object_object_add(line, "result", result);
	if (!send_line(client, line)) {
		client_free(client);
		return;
	}
	client->leave = request->leave;
	client->role = request->read_only ? ROLE_READER : ROLE_WAITING;
	event_del(client->retry);
	if (write) {
		become_writer(client);
	} else if (!request->read_only) {
		client->told = true;
		give_notice(client, "you read only: %.80s has this console's keyboard", writer->who);
	}
	client_type(client);
	client_flush(client);
}

/* The request's line has come, or a part of it. What stands behind it was typed. */
static void client_asks(struct console_client *client)
{
	char *end = memchr(client->input, '\n', client->input_used);
	if (!end && client->input_used < sizeof(client->input)) {
		event_add(client->readable, NULL);
		return;
	}
	struct json_object *json = NULL;
	struct attach_request request;
	const char *why = "too long";
	if (!end || line_parse_json(client->input, (size_t)(end - client->input), &json, &why)) {
		refuse(client, NULL, CONTROL_PARSE_ERROR, "this is no JSON: %s", why);
		return;
	}
	client->input_used -= (size_t)(end + 1 - client->input);
	if (read_request(client, json, &request)) {
		memmove(client->input, end + 1, client->input_used);
		attach(client, &request);
	}
	json_object_put(json);
}

/* ---- new clients ---- */

static struct console_client *client_create(struct vm_console *c, int sock, enum console_role role)
{
	struct console_client *client = calloc(1, sizeof(*client));
	struct ucred peer = {0};
	char who[32];
	if (!client) {
		close(sock);
		return NULL;
	}
	client->console = c;
	client->fd = sock;
	client->role = role;
	getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &(socklen_t){sizeof(peer)});
	snprintf(who, sizeof(who), "process %d", (int)peer.pid);
	set_who(client, who);
	LIST_INSERT_HEAD(&c->clients, client, link);
	c->client_count++;
	client->readable = event_new(c->vm->base, sock, EV_READ, on_readable, client);
	client->writable = event_new(c->vm->base, sock, EV_WRITE, on_writable, client);
	client->retry = event_new(c->vm->base, -1, 0, on_retry, client);
	if (!client->readable || !client->writable || !client->retry) {
		client_free(client);
		return NULL;
	}
	return client;
}

static void on_acceptable(evutil_socket_t fd, short what, void *arg)
{
	static const char full[] = "\r\n[trivisor: too many clients read this console]\r\n";
	struct vm_console *c = arg;
	int sock = accept4(c->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (sock < 0)
		return;
	if (attached(c) >= CLIENTS_MAX) {
		if (send(sock, full, sizeof(full) - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
			vm_log("a client of the console was turned away: there are %u", CLIENTS_MAX);
		close(sock);
		return;
	}
	struct console_client *client = client_create(c, sock, ROLE_WAITING);
	if (!client)
		return;
	client->position = 0;
	event_add(client->readable, NULL);
	/* From the oldest byte there is, without a word about those before. */
	client->position = start_position(c, -1);
	client_flush(client);
}

static void on_attachable(evutil_socket_t fd, short what, void *arg)
{
	struct vm_console *c = arg;
	int sock = accept4(c->attach_listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (sock < 0)
		return;
	if (c->client_count - attached(c) >= ASKING_MAX) {
		close(sock);
		return;
	}
	struct console_client *client = client_create(c, sock, ROLE_ASKING);
	if (client) {
		event_add(client->readable, NULL);
		wait_for(client->retry, ASKING_MS);
	}
}

void vm_console_set_size(struct vm *vm, unsigned columns, unsigned rows)
{
	vm->console->columns = columns;
	vm->console->rows = rows;
	if (vm->machine)
		machine_console_resize(vm->machine, columns, rows); /* a serial port has no place for it */
}

struct json_object *vm_console_json(struct vm *vm)
{
	struct vm_console *c = vm->console;
	const struct {
		const char *key;
		uint64_t value;
	} rows[] = {{"output_bytes", c->ring.header ? ring_written(&c->ring) : 0},
		    {"scrollback_bytes", c->ring.size},
		    {"clients", c->client_count},
		    {"columns", c->columns},
		    {"rows", c->rows}};
	struct json_object *json = json_object_new_object();
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		json_object_object_add(json, rows[i].key, json_object_new_int64((int64_t)rows[i].value));
	put_text(json, "writer", c->writer ? c->writer->who : "");
	return json;
}

/* ---- life ---- */

static int open_files(struct vm *vm)
{
	struct vm_console *c = vm->console;
	const struct vmdef *def = vm->def;
	char path[PATH_MAX];
	unsigned kib = def->console.scrollback_kib ? def->console.scrollback_kib : VMDEF_SCROLLBACK_KIB;
	snprintf(path, sizeof(path), "%s/" CONTROL_FILE_RING, vm->options.dir);
	int rc = ring_create(path, (size_t)kib << 10, &c->ring);
	if (rc) {
		snprintf(vm->reason, sizeof(vm->reason), "%.400s: no room for %u KiB of scrollback: %s", path, kib, strerror(-rc));
		return rc;
	}
	if (!def->console.log)
		return 0;
	kib = def->console.log_kib ? def->console.log_kib : VMDEF_CONSOLE_LOG_KIB;
	rc = console_log_open(def->console.log, (uint64_t)kib << 10, def->console.log_append, &c->log);
	if (rc)
		snprintf(vm->reason, sizeof(vm->reason), "console.log: %.400s: %s", def->console.log,
			 rc == -EINVAL ? "no regular file" : strerror(-rc));
	return rc;
}

static int listen_at(struct vm *vm, const char *name, int *ret_fd)
{
	char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s/%s", vm->options.dir, name);
	int fd = sock_listen(path, 0600);
	if (fd < 0) {
		snprintf(vm->reason, sizeof(vm->reason), "%s: %s", name, strerror(-fd));
		return fd;
	}
	*ret_fd = fd;
	return 0;
}

int vm_console_open(struct vm *vm)
{
	struct vm_console *c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->vm = vm;
	c->listener = c->attach_listener = -1;
	LIST_INIT(&c->clients);
	pthread_mutex_init(&c->lock, NULL);
	vm->console = c;
	int rc = open_files(vm);
	if (!rc)
		rc = listen_at(vm, CONTROL_FILE_CONSOLE, &c->listener);
	if (!rc)
		rc = listen_at(vm, CONTROL_FILE_ATTACH, &c->attach_listener);
	if (rc)
		return rc;
	c->acceptable = event_new(vm->base, c->listener, EV_READ | EV_PERSIST, on_acceptable, c);
	c->attachable = event_new(vm->base, c->attach_listener, EV_READ | EV_PERSIST, on_attachable, c);
	c->gather = event_new(vm->base, -1, 0, on_gathered, c);
	if (!c->acceptable || !c->attachable || !c->gather || event_add(c->acceptable, NULL) < 0 || event_add(c->attachable, NULL) < 0)
		return -ENOMEM;
	return 0;
}

static void stop_listening(struct vm *vm, const char *name, int *fd)
{
	char path[PATH_MAX];
	if (*fd < 0)
		return;
	close(*fd);
	snprintf(path, sizeof(path), "%s/%s", vm->options.dir, name);
	unlink(path);
	*fd = -1;
}

void vm_console_stop(struct vm *vm)
{
	struct vm_console *c = vm->console;
	if (!c)
		return;
	write_log(c);
	while (!LIST_EMPTY(&c->clients))
		client_free(LIST_FIRST(&c->clients));
	struct event **const events[] = {&c->acceptable, &c->attachable, &c->gather};
	for (size_t i = 0; i < ARRAY_SIZE(events); i++) {
		if (*events[i])
			event_free(*events[i]);
		*events[i] = NULL;
	}
	stop_listening(vm, CONTROL_FILE_CONSOLE, &c->listener);
	stop_listening(vm, CONTROL_FILE_ATTACH, &c->attach_listener);
}

void vm_console_free(struct vm *vm)
{
	if (!vm->console)
		return;
	vm_console_stop(vm);
	console_log_close(vm->console->log);
	ring_close(&vm->console->ring);
	pthread_mutex_destroy(&vm->console->lock);
	free(vm->console);
	vm->console = NULL;
}

/*
 * The QEMU guest agent, over its channel: one command at a time, each with a limit to its time.
 *
 * Whoever answers there is the guest's, so anything: nothing is read while nothing was asked, an answer is bounded in bytes
 * and in values, and after a silence or nonsense the next command begins by finding the stream's place again
 * (guest-sync-delimited: everything up to a byte 0xff is waste; QEMU's docs/interop/qemu-ga-ref).
 */
#include "vm/private.h"

#include "proto/line.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <json-c/json.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#define SYNC_S 5.0
/* Commands that succeed without a word: so long an error may take to come. */
#define SILENT_S 3.0
#define QUEUE_MAX 64u
#define ANSWER_MAX (6u << 20)
/* Values and depth: what is parsed here is parsed again by the daemon, inside of other objects. */
#define VALUES_MAX 200000u
#define DEPTH_MAX 32
#define DELIMITER 0xff

struct call {
	STAILQ_ENTRY(call) link;
	char *text; /* the command as a line */
	double timeout;
	bool silent;
	vm_agent_done done;
	void *opaque;
};

enum stage { IDLE, SYNCING, WAITING };

struct vm_agent {
	struct vm *vm;
	int fd;	     /* our end; -1: this VM has no such channel */
	bool open;   /* a program in the guest has the other one */
	bool synced;
	enum stage stage;
	bool delimited; /* while syncing: the delimiter has come */
	uint32_t sync_id;
	struct event *readable, *writable, *timer;
	struct evbuffer *in, *out;
	size_t scanned; /* of `in`: there is no line's end in these bytes */
	STAILQ_HEAD(, call) calls; /* the first is under way unless idle */
	unsigned call_count;
};

static void next_call(struct vm_agent *a);

static void set_timer(struct vm_agent *a, double seconds)
{
	struct timeval tv = {(time_t)seconds, (suseconds_t)((seconds - (double)(time_t)seconds) * 1e6)};

	event_add(a->timer, &tv);
}

/* Ends the call under way. Takes no reference to result. */
static void finish(struct vm_agent *a, int code, const char *message, struct json_object *result)
{
	struct call *call = STAILQ_FIRST(&a->calls);

	STAILQ_REMOVE_HEAD(&a->calls, link);
	a->call_count--;
	a->stage = IDLE;
	event_del(a->timer);
	event_del(a->readable);
	event_del(a->writable);
	evbuffer_drain(a->out, evbuffer_get_length(a->out));
	/* Its answer, should one come, is waste; so is what stands behind this one. */
	if (code != 0 && code != CONTROL_ERROR_AGENT)
		a->synced = false;
	if (evbuffer_get_length(a->in))
		a->synced = false;
	call->done(call->opaque, code, message, result);
	free(call->text);
	free(call);
	next_call(a);
}

static void flush_out(struct vm_agent *a)
{
	while (evbuffer_get_length(a->out) > 0) {
		int n = evbuffer_write(a->out, a->fd);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			event_add(a->writable, NULL);
			return;
		}
	}
}

static void begin_sync(struct vm_agent *a)
{
	const uint8_t delimiter = DELIMITER;

	if (getrandom(&a->sync_id, sizeof(a->sync_id), 0) < 0)
		a->sync_id++;
	a->sync_id &= 0x7fffffff;
	a->stage = SYNCING;
	a->delimited = false;
	evbuffer_drain(a->in, evbuffer_get_length(a->in));
	a->scanned = 0;
	evbuffer_add(a->out, &delimiter, 1);
	evbuffer_add_printf(a->out, "{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":%u}}\n", a->sync_id);
	set_timer(a, STAILQ_FIRST(&a->calls)->timeout < SYNC_S ? STAILQ_FIRST(&a->calls)->timeout : SYNC_S);
}

static void begin_command(struct vm_agent *a)
{
	struct call *call = STAILQ_FIRST(&a->calls);

	a->synced = true;
	a->stage = WAITING;
	evbuffer_add(a->out, call->text, strlen(call->text));
	set_timer(a, call->silent && call->timeout > SILENT_S ? SILENT_S : call->timeout);
}

static void next_call(struct vm_agent *a)
{
	if (a->stage != IDLE || STAILQ_EMPTY(&a->calls))
		return;
	if (!a->open) {
		finish(a, CONTROL_ERROR_AGENT_GONE, "the guest's agent has gone", NULL);
		return;
	}
	if (a->synced)
		begin_command(a);
	else
		begin_sync(a);
	event_add(a->readable, NULL);
	flush_out(a);
}

/* ---- answers ------------------------------------------------------------------------------------- */

/* Text of the guest's, for a message: what is not plain ASCII would make trouble further on. */
static void plain(char *ret, size_t bytes, const char *text)
{
	size_t n = 0;

	for (; text[n] && n + 1 < bytes; n++)
		ret[n] = text[n] >= ' ' && text[n] <= '~' ? text[n] : '?';
	ret[n] = '\0';
}

static bool is_too_much(const char *text, size_t n)
{
	unsigned values = 0;
	int depth = 0;

	/* Strings may hold such characters too: that errs on the safe side. */
	for (size_t i = 0; i < n; i++) {
		values += text[i] == ',' || text[i] == ':' || text[i] == '[' || text[i] == '{';
		if (text[i] == '[' || text[i] == '{')
			depth++;
		if (text[i] == ']' || text[i] == '}')
			depth--;
		if (depth > DEPTH_MAX)
			return true;
	}
	return values > VALUES_MAX;
}

static void take_error(struct vm_agent *a, struct json_object *error)
{
	struct json_object *class = NULL, *desc = NULL;
	char text[160], what[48];

	json_object_object_get_ex(error, "desc", &desc);
	json_object_object_get_ex(error, "class", &class);
	plain(text, sizeof(text), json_object_is_type(desc, json_type_string) ? json_object_get_string(desc) : "without a word");
	plain(what, sizeof(what), json_object_is_type(class, json_type_string) ? json_object_get_string(class) : "");
	if (!strcmp(what, "CommandNotFound"))
		finish(a, CONTROL_ERROR_AGENT_LACKS, text, NULL);
	else
		finish(a, CONTROL_ERROR_AGENT, text, NULL);
}

static void take_answer(struct vm_agent *a, const char *line, size_t n)
{
	struct json_object *answer = NULL, *value = NULL;
	const char *why;

	if (n > 0 && (uint8_t)line[0] == DELIMITER) {
		line++;
		n--;
	}
	if (is_too_much(line, n)) {
		finish(a, CONTROL_ERROR_AGENT_NONSENSE, "the guest's agent answers with too much: its answer is not taken", NULL);
		return;
	}
	if (line_parse_json(line, n, &answer, &why) || !json_object_is_type(answer, json_type_object)) {
		finish(a, CONTROL_ERROR_AGENT_NONSENSE, "the guest's agent answers with what is no JSON object", NULL);
	} else if (json_object_object_get_ex(answer, "error", &value)) {
		take_error(a, value);
	} else if (json_object_object_get_ex(answer, "return", &value)) {
		finish(a, 0, NULL, value);
	} else {
		finish(a, CONTROL_ERROR_AGENT_NONSENSE, "the guest's agent answers with neither a result nor an error", NULL);
	}
	json_object_put(answer);
}

static void take_sync(struct vm_agent *a, const char *line, size_t n)
{
	struct json_object *answer = NULL, *value = NULL;
	const char *why, *last = memrchr(line, DELIMITER, n);
	bool ours;

	/* Waste may hold the delimiter too. */
	n -= last ? (size_t)(last + 1 - line) : 0;
	line = last ? last + 1 : line;
	ours = n < 200 && line_parse_json(line, n, &answer, &why) == 0 && json_object_object_get_ex(answer, "return", &value) &&
	       json_object_is_type(value, json_type_int) && json_object_get_int64(value) == a->sync_id;

	json_object_put(answer);
	if (!ours) {
		a->delimited = false; /* an older one's: ours is behind it */
		return;
	}
	begin_command(a);
	flush_out(a);
}

/* While syncing: throws away what stands before the delimiter. */
static void skip_waste(struct vm_agent *a)
{
	const char delimiter = (char)DELIMITER;
	struct evbuffer_ptr at;

	if (a->delimited)
		return;
	at = evbuffer_search(a->in, &delimiter, 1, NULL);
	if (at.pos < 0) {
		evbuffer_drain(a->in, evbuffer_get_length(a->in));
		return;
	}
	evbuffer_drain(a->in, (size_t)at.pos + 1);
	a->delimited = true;
	a->scanned = 0;
}

/* One line, or NULL. The caller frees it. */
static char *take_line(struct vm_agent *a, size_t *ret_n)
{
	struct evbuffer_ptr from;
	char *line;

	if (evbuffer_ptr_set(a->in, &from, a->scanned, EVBUFFER_PTR_SET) < 0 ||
	    evbuffer_search(a->in, "\n", 1, &from).pos < 0) {
		a->scanned = evbuffer_get_length(a->in);
		return NULL;
	}
	line = evbuffer_readln(a->in, ret_n, EVBUFFER_EOL_LF);
	a->scanned = 0;
	return line;
}

static void take_bytes(struct vm_agent *a)
{
	for (;;) {
		size_t n = 0;
		char *line;

		if (a->stage == IDLE)
			return;
		if (a->stage == SYNCING)
			skip_waste(a);
		if (a->stage == SYNCING && !a->delimited)
			return;
		line = take_line(a, &n);
		if (!line)
			return;
		/* finish() may begin the next call, whose sync throws the rest away. */
		if (a->stage == SYNCING)
			take_sync(a, line, n);
		else
			take_answer(a, line, n);
		free(line);
	}
}

static void on_readable(evutil_socket_t fd, short what, void *opaque)
{
	struct vm_agent *a = opaque;
	int n = evbuffer_read(a->in, a->fd, 65536);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		event_del(a->readable); /* the machine is gone */
		return;
	}
	take_bytes(a);
	if (a->stage != IDLE && evbuffer_get_length(a->in) > ANSWER_MAX)
		finish(a, CONTROL_ERROR_AGENT_NONSENSE, "the guest's agent answers with too much: its answer is not taken", NULL);
}

static void on_writable(evutil_socket_t fd, short what, void *opaque) { flush_out(opaque); }

static void on_timeout(evutil_socket_t fd, short what, void *opaque)
{
	struct vm_agent *a = opaque;
	struct call *call = STAILQ_FIRST(&a->calls);
	struct json_object *nothing;

	if (a->stage == WAITING && call->silent) {
		a->synced = false;
		nothing = json_object_new_object();
		finish(a, 0, NULL, nothing);
		json_object_put(nothing);
		return;
	}
	finish(a, CONTROL_ERROR_AGENT_SILENT,
	       a->stage == SYNCING ? "the guest's agent does not answer" : "the guest's agent has not answered in time", NULL);
}

/* ---- calls ----------------------------------------------------------------------------------------- */

static bool is_silent(const char *command)
{
	return !strcmp(command, "guest-shutdown") || !strncmp(command, "guest-suspend-", 14);
}

void vm_agent_call(struct vm *vm, const char *command, struct json_object *arguments, double timeout, vm_agent_done done,
		   void *opaque)
{
	struct vm_agent *a = vm->agent;
	struct json_object *message;
	struct call *call;

	if (!vm->def->guest_agent) {
		done(opaque, CONTROL_ERROR_AGENT_ABSENT, "this VM has no channel for a guest agent: set guest_agent to true in its definition, "
							 "and start it again", NULL);
		return;
	}
	if (vm->state != VM_RUNNING) {
		done(opaque, CONTROL_ERROR_STATE, "a guest that does not run answers nothing", NULL);
		return;
	}
	if (!a->open) {
		done(opaque, CONTROL_ERROR_AGENT_GONE, "no agent runs in the guest: install qemu-guest-agent there, or wait until it has started",
		     NULL);
		return;
	}
	call = a->call_count < QUEUE_MAX ? calloc(1, sizeof(*call)) : NULL;
	if (!call) {
		done(opaque, CONTROL_ERROR_STATE, "too many calls wait for the guest's agent", NULL);
		return;
	}
	message = json_object_new_object();
	json_object_object_add(message, "execute", json_object_new_string(command));
	if (arguments)
		json_object_object_add(message, "arguments", json_object_get(arguments));
	BUG_ON(asprintf(&call->text, "%s\n", json_object_to_json_string_ext(message, JSON_C_TO_STRING_PLAIN)) < 0);
	json_object_put(message);
	call->timeout = timeout;
	call->silent = is_silent(command);
	call->done = done;
	call->opaque = opaque;
	STAILQ_INSERT_TAIL(&a->calls, call, link);
	a->call_count++;
	next_call(a);
}

bool vm_agent_is_open(const struct vm *vm) { return vm->agent && vm->agent->open; }

void vm_agent_look(struct vm *vm)
{
	struct vm_agent *a = vm->agent;
	bool open;
	struct json_object *params;

	if (!a || a->fd < 0 || !vm->machine)
		return;
	open = machine_port_is_open(vm->machine, VM_AGENT_PORT);
	if (open == a->open)
		return;
	a->open = open;
	a->synced = false;
	params = json_object_new_object();
	json_object_object_add(params, "connected", json_object_new_boolean(open));
	vm_control_notify(vm, CONTROL_EVENT_AGENT, params);
	if (open || a->stage == IDLE)
		return;
	/* One that was told to shut down has done as it was told. */
	if (a->stage == WAITING && STAILQ_FIRST(&a->calls)->silent)
		on_timeout(-1, 0, a);
	else
		finish(a, CONTROL_ERROR_AGENT_GONE, "the guest's agent has gone", NULL);
}

int vm_agent_open(struct vm *vm, int *ret_fd)
{
	struct vm_agent *a = calloc(1, sizeof(*a));
	int pair[2];

	if (!a)
		return -ENOMEM;
	a->vm = vm;
	a->fd = -1;
	STAILQ_INIT(&a->calls);
	vm->agent = a;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	a->fd = pair[0];
	a->readable = event_new(vm->base, a->fd, EV_READ | EV_PERSIST, on_readable, a);
	a->writable = event_new(vm->base, a->fd, EV_WRITE, on_writable, a);
	a->timer = event_new(vm->base, -1, 0, on_timeout, a);
	a->in = evbuffer_new();
	a->out = evbuffer_new();
	if (!a->readable || !a->writable || !a->timer || !a->in || !a->out) {
		close(pair[1]);
		return -ENOMEM;
	}
	*ret_fd = pair[1];
	return 0;
}

void vm_agent_stop(struct vm *vm)
{
	struct vm_agent *a = vm->agent;

	if (!a)
		return;
	a->open = false;
	if (a->stage == WAITING && STAILQ_FIRST(&a->calls)->silent)
		on_timeout(-1, 0, a);
	while (!STAILQ_EMPTY(&a->calls))
		finish(a, CONTROL_ERROR_AGENT_GONE, "the VM has ended", NULL);
}

void vm_agent_close(struct vm *vm)
{
	struct vm_agent *a = vm->agent;

	if (!a)
		return;
	vm_agent_stop(vm);
	if (a->readable)
		event_free(a->readable);
	if (a->writable)
		event_free(a->writable);
	if (a->timer)
		event_free(a->timer);
	if (a->in)
		evbuffer_free(a->in);
	if (a->out)
		evbuffer_free(a->out);
	if (a->fd >= 0)
		close(a->fd);
	free(a);
	vm->agent = NULL;
}

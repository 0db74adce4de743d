/* Connections to a running VM's console, and what is kept of it. */
#include "daemon/private.h"

#include "proto/line.h"
#include "proto/paths.h"
#include "proto/ring.h"
#include "proto/sock.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <stdlib.h>
#include <string.h>

#define ATTACH_TIMEOUT_S 10
#define ANSWER_MAX 4096

struct attaching {
	char name[VMDEF_NAME_MAX + 1];
	struct bufferevent *bev;
	daemon_console_fn done;
	void *opaque;
};

static void finish(struct attaching *a, const struct daemon_error *error, bool writer)
{
	struct bufferevent *bev = a->bev;

	if (bev) {
		bufferevent_setcb(bev, NULL, NULL, NULL, NULL);
		bufferevent_set_timeouts(bev, NULL, NULL);
		bufferevent_setwatermark(bev, EV_READ, 0, 0);
		bufferevent_disable(bev, EV_READ);
	}
	if (error && bev) {
		bufferevent_free(bev);
		bev = NULL;
	}
	a->done(a->opaque, error, bev, writer);
	free(a);
}

__attribute__((format(printf, 3, 4))) static void fail(struct attaching *a, enum daemon_error_code code, const char *format, ...)
{
	struct daemon_error error = {.code = code};
	va_list ap;

	va_start(ap, format);
	vsnprintf(error.message, sizeof(error.message), format, ap);
	va_end(ap);
	finish(a, &error, false);
}

/* A process that its guest has taken over says anything: strict JSON of the right shape, or nothing. */
static void take_answer(struct attaching *a, const char *text, size_t bytes)
{
	json_object *answer = NULL, *result = NULL, *error = NULL, *member = NULL, *code = NULL;
	const char *why;

	if (line_parse_json(text, bytes, &answer, &why) || !json_object_is_type(answer, json_type_object)) {
		fail(a, DAEMON_VM, "VM \"%s\": its process did not answer in JSON", a->name);
	} else if (json_object_object_get_ex(answer, "error", &error) && json_object_is_type(error, json_type_object) &&
		   json_object_object_get_ex(error, "message", &member) && json_object_is_type(member, json_type_string)) {
		json_object_object_get_ex(error, "code", &code);
		fail(a, json_object_get_int(code) == CONTROL_ERROR_STATE ? DAEMON_WRONG_STATE : DAEMON_VM, "VM \"%s\": %.600s", a->name,
		     json_object_get_string(member));
	} else if (json_object_object_get_ex(answer, "result", &result) && json_object_is_type(result, json_type_object)) {
		json_object_object_get_ex(result, "writer", &member);
		finish(a, NULL, json_object_get_boolean(member));
	} else {
		fail(a, DAEMON_VM, "VM \"%s\": its process answered neither a result nor an error", a->name);
	}
	json_object_put(answer);
}

static void on_read(struct bufferevent *bev, void *opaque)
{
	struct attaching *a = opaque;
	struct evbuffer *input = bufferevent_get_input(bev);
	struct evbuffer_ptr end = evbuffer_search(input, "\n", 1, NULL);
	char text[ANSWER_MAX];

	if (end.pos < 0 && evbuffer_get_length(input) < sizeof(text))
		return;
	if (end.pos < 0 || (size_t)end.pos >= sizeof(text)) {
		fail(a, DAEMON_VM, "VM \"%s\": its process answered at too great a length", a->name);
		return;
	}
	evbuffer_remove(input, text, (size_t)end.pos + 1);
	text[end.pos] = '\0';
	take_answer(a, text, (size_t)end.pos);
}

static void on_event(struct bufferevent *bev, short what, void *opaque)
{
	struct attaching *a = opaque;

	if (what & BEV_EVENT_TIMEOUT)
		fail(a, DAEMON_VM, "VM \"%s\": its process does not answer", a->name);
	else if (what & (BEV_EVENT_EOF | BEV_EVENT_ERROR))
		fail(a, DAEMON_VM, "VM \"%s\": its process closed the connection", a->name);
}

static json_object *request_of(const struct daemon_console *wish)
{
	json_object *request = json_object_new_object(), *params = json_object_new_object();

	json_object_object_add(params, "read_only", json_object_new_boolean(wish->read_only));
	json_object_object_add(params, "force", json_object_new_boolean(wish->force));
	json_object_object_add(params, "read_if_taken", json_object_new_boolean(wish->read_if_taken));
	json_object_object_add(params, "leave", json_object_new_boolean(wish->leave));
	json_object_object_add(params, "scrollback", json_object_new_int64(wish->scrollback));
	put_text(params, "client", wish->client);
	put_text(request, "jsonrpc", "2.0");
	json_object_object_add(request, "id", json_object_new_int(1));
	put_text(request, "method", CONTROL_ATTACH);
	json_object_object_add(request, "params", params);
	return request;
}

/* 0 or -errno. */
static int begin(struct attaching *a, struct vm *vm, const struct daemon_console *wish)
{
	static const struct timeval patience = {.tv_sec = ATTACH_TIMEOUT_S};
	char path[PATH_MAX];
	int rc = paths_join(path, sizeof(path), vm->process->dir, CONTROL_FILE_ATTACH);
	int fd = rc ? rc : sock_connect_nonblock(path);
	json_object *request;

	if (fd < 0)
		return fd;
	a->bev = bufferevent_socket_new(vm->daemon->base, fd, BEV_OPT_CLOSE_ON_FREE);
	if (!a->bev) {
		evutil_closesocket(fd);
		return -ENOMEM;
	}
	request = request_of(wish);
	evbuffer_add_printf(bufferevent_get_output(a->bev), "%s\n",
			    json_object_to_json_string_ext(request, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(request);
	bufferevent_setcb(a->bev, on_read, NULL, on_event, a);
	/* What comes behind the answer is the console's, and not to be gathered here without a bound. */
	bufferevent_setwatermark(a->bev, EV_READ, 0, 2 * ANSWER_MAX);
	bufferevent_set_timeouts(a->bev, &patience, &patience);
	bufferevent_enable(a->bev, EV_READ | EV_WRITE);
	return 0;
}

void daemon_console_attach(struct vm *vm, const struct daemon_console *wish, daemon_console_fn done, void *opaque)
{
	struct attaching *a = calloc(1, sizeof(*a));
	int rc;

	if (!a) {
		done(opaque, &(struct daemon_error){DAEMON_INTERNAL, "out of memory"}, NULL, false);
		return;
	}
	snprintf(a->name, sizeof(a->name), "%s", vm->name);
	a->done = done;
	a->opaque = opaque;
	if (!daemon_console_path(vm)) {
		fail(a, DAEMON_WRONG_STATE, "VM \"%s\" does not run; start it with vm.start", vm->name);
		return;
	}
	rc = begin(a, vm, wish);
	if (rc)
		fail(a, DAEMON_VM, "VM \"%s\": " CONTROL_FILE_ATTACH ": %s%s", vm->name, strerror(-rc),
		     rc == -ENOENT ? "; its process is of a version that had none" : "");
}

int daemon_console_read(struct vm *vm, size_t max, unsigned char **ret_bytes, size_t *ret_count, uint64_t *ret_before)
{
	char path[PATH_MAX], dir[PATH_MAX];
	int rc = paths_join(dir, sizeof(dir), vm->daemon->vms_dir, vm->uuid);

	if (!rc)
		rc = paths_join(path, sizeof(path), dir, CONTROL_FILE_RING);
	return rc ? rc : ring_read_file(path, max, ret_bytes, ret_count, ret_before);
}

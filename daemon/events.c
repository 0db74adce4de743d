/* Events: kept in the store, told to whoever listens. */
#include "daemon/private.h"

#include "daemon/log.h"

#include <stdio.h>
#include <stdlib.h>

struct daemon_listener *daemon_listen(struct daemon *daemon, daemon_event_fn fn, void *opaque)
{
	struct daemon_listener *listener = calloc(1, sizeof(*listener));

	if (!listener)
		return NULL;
	listener->daemon = daemon;
	listener->fn = fn;
	listener->opaque = opaque;
	listener->next = daemon->listeners;
	daemon->listeners = listener;
	return listener;
}

static void sweep(struct daemon *daemon)
{
	struct daemon_listener **at = &daemon->listeners;

	if (daemon->telling)
		return;
	while (*at) {
		struct daemon_listener *listener = *at;

		if (listener->fn) {
			at = &listener->next;
			continue;
		}
		*at = listener->next;
		free(listener);
	}
}

void daemon_unlisten(struct daemon_listener *listener)
{
	if (!listener)
		return;
	listener->fn = NULL;
	sweep(listener->daemon);
}

static const char *text_of(json_object *object, const char *key)
{
	json_object *value = NULL;

	return json_object_object_get_ex(object, key, &value) && value ? json_object_get_string(value) : NULL;
}

static void log_event(const struct vm *vm, const char *event, json_object *message)
{
	static const char *const keys[] = {"state", "pid", "reason", "boot_seconds"};
	char text[700];
	size_t used = (size_t)snprintf(text, sizeof(text), "VM %s: %.40s", vm->name, event);

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (text_of(message, keys[i]) && used < sizeof(text))
			used += (size_t)snprintf(text + used, sizeof(text) - used, ", %s %.400s", keys[i],
						 text_of(message, keys[i]));
	log_info("%s", text);
}

/* Takes params. The message, for the caller to put. */
static json_object *tell_all(struct daemon *daemon, const char *event, const char *uuid, const char *name, json_object *params)
{
	json_object *message = json_object_new_object();
	double now = epoch_seconds();

	json_object_object_add(message, "time", json_object_new_double(now));
	put_text(message, "event", event);
	put_text(message, "uuid", uuid);
	put_text(message, "name", name);
	if (params) {
		json_object_object_foreach(params, key, value) if (!json_object_object_get_ex(message, key, NULL))
			json_object_object_add(message, key, json_object_get(value));
		json_object_put(params);
	}
	store_add(daemon->store, STORE_EVENT, uuid, name, now, json_object_to_json_string_ext(message, JSON_C_TO_STRING_PLAIN), NULL,
		  NULL);
	daemon->telling++;
	for (struct daemon_listener *listener = daemon->listeners; listener; listener = listener->next)
		if (listener->fn)
			listener->fn(listener->opaque, message);
	daemon->telling--;
	sweep(daemon);
	return message;
}

void event_emit(struct vm *vm, const char *event, json_object *params)
{
	json_object *message = tell_all(vm->daemon, event, vm->uuid, vm->name, params);

	log_event(vm, event, message);
	json_object_put(message);
}

void event_tell(struct daemon *daemon, const char *event, const char *uuid, const char *name, json_object *params)
{
	json_object_put(tell_all(daemon, event, uuid, name, params));
}

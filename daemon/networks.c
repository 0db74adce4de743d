/* Networks between VMs: their processes' lives, and what is kept of them. */
#include "daemon/networks.h"

#include "daemon/log.h"
#include "daemon/private.h"
#include "proto/file.h"
#include "proto/paths.h"
#include "proto/sock.h"
#include "proto/switch.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOTE "networks"
#define NETWORKS_MAX 256
#define CALL_TIMEOUT_S 10
#define TICK_MS 20
#define RESTART_MS 1000	 /* after a process that ended: one that cannot live must not be started without pause */
#define START_TICKS 500	 /* of TICK_MS: then its creator is told that it does not come */

struct network {
	struct network *next;
	struct networks *networks;
	char name[VMDEF_NAME_MAX + 1];
	char uuid[VMDEF_UUID_BYTES];
	double created;
	bool autostart, transient;
	bool wanted;	   /* it is to have a process */
	char *libvirt_xml; /* what it was defined with; NULL */
	char dir[PATH_MAX];
	struct vmlink *link; /* NULL: its process is not there, or not yet */
	struct event *timer;
	pid_t pid; /* of one that we started; 0 */
	unsigned ticks;
	bool deleting;
	/* Who makes or deletes it and waits; NULL. */
	daemon_done_fn made;
	void *made_opaque;
};

struct networks {
	struct daemon *daemon;
	struct network *first;
	unsigned count;
	char dir[PATH_MAX];
};

static void tick_in(struct network *net, unsigned ms)
{
	struct timeval tv = milliseconds(ms);

	event_add(net->timer, &tv);
}

static void network_free(struct network *net)
{
	if (net->link)
		vmlink_destroy(net->link);
	if (net->timer)
		event_free(net->timer);
	free(net->libvirt_xml);
	free(net);
}

static json_object *network_json(const struct network *net)
{
	json_object *row = json_object_new_object();

	put_text(row, "name", net->name);
	put_text(row, "uuid", net->uuid);
	json_object_object_add(row, "active", json_object_new_boolean(net->link != NULL && net->wanted));
	json_object_object_add(row, "autostart", json_object_new_boolean(net->autostart));
	json_object_object_add(row, "transient", json_object_new_boolean(net->transient));
	json_object_object_add(row, "created", json_object_new_double(net->created));
	return row;
}

static struct network *find(const struct networks *networks, const char *name)
{
	struct network *net = networks->first;

	while (net && (net->deleting || strcmp(net->name, name)))
		net = net->next;
	return net;
}

static void tell(struct network *net, const char *change)
{
	json_object *params = json_object_new_object();

	put_text(params, "change", change);
	event_tell(net->networks->daemon, "network", net->uuid, net->name, params);
}

static void unlink_network(struct network *net)
{
	struct network **at = &net->networks->first;

	while (*at != net)
		at = &(*at)->next;
	*at = net->next;
	net->networks->count--;
}

/* ---- processes --------------------------------------------------------------------- */

static void answer_made(struct network *net, const char *why_not)
{
	daemon_done_fn made = net->made;
	json_object *row;

	net->made = NULL;
	if (!made)
		return;
	if (why_not) {
		answer_error(made, net->made_opaque, DAEMON_START, "network \"%s\": %s", net->name, why_not);
		return;
	}
	row = network_json(net);
	made(net->made_opaque, NULL, row);
	json_object_put(row);
}

static void on_link_event(void *opaque, json_object *params) {}

static void on_link_close(void *opaque)
{
	struct network *net = opaque;

	vmlink_destroy(net->link);
	net->link = NULL;
	if (net->deleting || !net->wanted)
		return;
	if (net->made) {
		/* It was stopped, and is to start again. */
		tick_in(net, net->pid > 0 ? TICK_MS : RESTART_MS);
		return;
	}
	log_warning("network %s: its process has ended; another is started, and VMs get a port when they are started again", net->name);
	tick_in(net, RESTART_MS);
}

static const struct vmlink_ops link_ops = {.on_event = on_link_event, .on_close = on_link_close};

/* Beside trivisor-vm. */
static int start_process(struct network *net)
{
	const char *vm = net->networks->daemon->settings->vm_program, *slash = strrchr(vm, '/');
	char program[PATH_MAX], log_path[PATH_MAX];
	char *const argv[] = {program, (char *)"--dir", net->dir, NULL};
	int rc = paths_join(log_path, sizeof(log_path), net->dir, SWITCH_FILE_LOG);

	if (rc)
		return rc;
	if (snprintf(program, sizeof(program), "%.*strivisor-switch", slash ? (int)(slash - vm + 1) : 0, vm) >= (int)sizeof(program))
		return -ENAMETOOLONG;
	rc = supervisor_spawn(argv, log_path, -1, &net->pid);
	if (rc)
		log_error("network %s: cannot start %s: %s", net->name, program, strerror(-rc));
	return rc;
}

/* Connects to the process that is there; starts one when there is none. */
static void on_tick(evutil_socket_t fd, short what, void *opaque)
{
	struct network *net = opaque;
	char path[PATH_MAX];
	int sock;

	if (net->pid > 0 && waitpid(net->pid, NULL, WNOHANG) != 0)
		net->pid = 0;
	if (net->deleting) {
		/* Nothing is left of it but a process that is about to end. */
		if (net->pid > 0) {
			tick_in(net, TICK_MS);
		} else {
			unlink_network(net);
			network_free(net);
		}
		return;
	}
	if (!net->wanted)
		return;
	sock = paths_join(path, sizeof(path), net->dir, SWITCH_FILE_CONTROL) ? -ENAMETOOLONG : sock_connect_nonblock(path);
	if (sock >= 0) {
		net->ticks = 0;
		net->link = vmlink_create(net->networks->daemon->base, sock, &link_ops, net);
		if (net->made)
			tell(net, "started");
		answer_made(net, net->link ? NULL : "out of memory");
		return;
	}
	if (net->pid == 0 && (net->ticks == 0 || net->ticks > START_TICKS)) {
		net->ticks = 0;
		if (start_process(net)) {
			answer_made(net, "its process (trivisor-switch) cannot be started; see the daemon's log");
			tick_in(net, RESTART_MS);
			return;
		}
	}
	if (net->ticks++ == START_TICKS || (net->pid == 0 && net->ticks > 1)) {
		answer_made(net, "its process (trivisor-switch) does not come up; see the log in its directory");
		net->ticks = START_TICKS + 1;
		tick_in(net, RESTART_MS);
		return;
	}
	tick_in(net, TICK_MS);
}

/* NULL: out of memory, or no directory. */
static struct network *add(struct networks *networks, const char *name, const char *uuid, double created)
{
	struct network *net = calloc(1, sizeof(*net)), **at = &networks->first;

	if (!net)
		return NULL;
	net->networks = networks;
	net->created = created;
	snprintf(net->name, sizeof(net->name), "%s", name);
	snprintf(net->uuid, sizeof(net->uuid), "%s", uuid);
	net->autostart = true;
	if (!net->uuid[0] && vmdef_uuid_generate(net->uuid)) {
		network_free(net);
		return NULL;
	}
	net->timer = event_new(networks->daemon->base, -1, 0, on_tick, net);
	if (!net->timer || paths_join(net->dir, sizeof(net->dir), networks->dir, name) || file_make_dirs(net->dir, 0700)) {
		network_free(net);
		return NULL;
	}
	while (*at)
		at = &(*at)->next;
	*at = net;
	networks->count++;
	return net;
}

/* ---- the store ------------------------------------------------------------------------ */

static void save(struct networks *networks, store_done_fn done, void *opaque)
{
	json_object *rows = json_object_new_array();

	for (const struct network *net = networks->first; net; net = net->next) {
		json_object *row = json_object_new_object();

		if (net->deleting) {
			json_object_put(row);
			continue;
		}
		put_text(row, "name", net->name);
		put_text(row, "uuid", net->uuid);
		json_object_object_add(row, "created", json_object_new_double(net->created));
		json_object_object_add(row, "autostart", json_object_new_boolean(net->autostart));
		json_object_object_add(row, "transient", json_object_new_boolean(net->transient));
		put_text(row, "libvirt_xml", net->libvirt_xml);
		json_object_array_add(rows, row);
	}
	store_put_note(networks->daemon->store, NOTE, json_object_to_json_string(rows), done, opaque);
	json_object_put(rows);
}

static const char *text_of(json_object *row, const char *key)
{
	json_object *value = NULL;

	return json_object_object_get_ex(row, key, &value) && value ? json_object_get_string(value) : "";
}

/* One that was stored: its process may run; it may be to start with the host; or it waits until somebody starts it. */
static void take_up(struct networks *networks, json_object *row)
{
	const char *name = text_of(row, "name"), *uuid = text_of(row, "uuid"), *xml = text_of(row, "libvirt_xml");
	json_object *autostart = NULL, *created = NULL;
	char why[VMDEF_ERROR_BYTES], path[PATH_MAX];
	struct network *net;
	bool there;

	if (!vmdef_name_valid(name, why) || (uuid[0] && !vmdef_uuid_valid(uuid)))
		return;
	json_object_object_get_ex(row, "created", &created);
	net = add(networks, name, uuid, json_object_get_double(created));
	if (!net) {
		log_error("network %s: its directory below %s cannot be made", name, networks->dir);
		return;
	}
	/* Earlier versions stored no such key: all networks started. */
	if (json_object_object_get_ex(row, "autostart", &autostart))
		net->autostart = json_object_get_boolean(autostart);
	net->transient = json_object_get_boolean(json_object_object_get(row, "transient"));
	net->libvirt_xml = xml[0] ? strdup(xml) : NULL;
	there = !paths_join(path, sizeof(path), net->dir, SWITCH_FILE_CONTROL) && access(path, F_OK) == 0;
	net->wanted = there || net->autostart;
	if (net->transient && !there) {
		unlink_network(net);
		rmdir(net->dir);
		network_free(net);
	} else {
		on_tick(-1, 0, net);
	}
}

int networks_open(struct daemon *daemon, struct networks **ret_networks)
{
	struct networks *networks = calloc(1, sizeof(*networks));
	char *text = store_load_note(daemon->store, NOTE);
	json_object *rows = text ? json_tokener_parse(text) : NULL;
	int rc = networks ? 0 : -ENOMEM;

	if (!rc) {
		networks->daemon = daemon;
		rc = paths_join(networks->dir, sizeof(networks->dir), daemon->settings->runtime_dir, SWITCH_NETS_DIR);
	}
	for (size_t i = 0; !rc && json_object_is_type(rows, json_type_array) && i < json_object_array_length(rows); i++)
		take_up(networks, json_object_array_get_idx(rows, i));
	json_object_put(rows);
	free(text);
	if (rc) {
		free(networks);
		return rc;
	}
	*ret_networks = networks;
	return 0;
}

void networks_close(struct networks *networks)
{
	while (networks && networks->first) {
		struct network *net = networks->first;

		networks->first = net->next;
		net->deleting = true;
		network_free(net);
	}
	free(networks);
}

/* ---- operations ------------------------------------------------------------------------ */

/* Nothing is left of it but, perhaps, a process that is about to end. */
static void discard(struct network *net)
{
	unlink_network(net);
	rmdir(net->dir);
	network_free(net);
}

static void on_created(void *opaque, int error, const char *message, json_object *rows)
{
	struct network *net = opaque;

	if (error) {
		answer_error(net->made, net->made_opaque, DAEMON_STORAGE, "%s", message);
		discard(net);
		return;
	}
	tell(net, "defined");
	if (net->wanted)
		on_tick(-1, 0, net);
	else
		answer_made(net, NULL);
}

/* Whoever waits for a change that has been stored. */
struct question {
	struct daemon *daemon;
	char name[VMDEF_NAME_MAX + 1];
	daemon_done_fn done;
	void *opaque;
};

static void on_changed(void *opaque, int error, const char *message, json_object *rows)
{
	struct question *q = opaque;
	struct network *net = find(q->daemon->networks, q->name);
	json_object *row;

	if (error || !net) {
		answer_error(q->done, q->opaque, error ? DAEMON_STORAGE : DAEMON_NOT_FOUND, "%s", error ? message : "it is gone");
	} else {
		row = network_json(net);
		q->done(q->opaque, NULL, row);
		json_object_put(row);
	}
	free(q);
}

static void save_change(struct network *net, daemon_done_fn done, void *opaque)
{
	struct question *q = calloc(1, sizeof(*q));

	if (!q) {
		answer_error(done, opaque, DAEMON_INTERNAL, "out of memory");
		return;
	}
	*q = (struct question){.daemon = net->networks->daemon, .done = done, .opaque = opaque};
	snprintf(q->name, sizeof(q->name), "%s", net->name);
	save(net->networks, on_changed, q);
}

static struct network *find_uuid(const struct networks *networks, const char *uuid)
{
	struct network *net = networks->first;

	while (net && (net->deleting || strcasecmp(net->uuid, uuid)))
		net = net->next;
	return net;
}

/* Whether there may be one of that name and UUID; *ret_same is the one that has both. Else the error was answered. */
static bool may_define(struct networks *networks, const struct net_definition *def, struct network **ret_same, daemon_done_fn done,
		       void *opaque)
{
	struct network *named = find(networks, def->name), *same = def->uuid[0] ? find_uuid(networks, def->uuid) : NULL;
	char why[VMDEF_ERROR_BYTES];

	if (!vmdef_name_valid(def->name, why))
		answer_error(done, opaque, DAEMON_INVALID, "name: %s", why);
	else if (!strcmp(def->name, NET_BUILTIN))
		answer_error(done, opaque, DAEMON_EXISTS, "the network \"" NET_BUILTIN "\" is built in: NICs of type user; choose another name");
	else if (def->uuid[0] && !vmdef_uuid_valid(def->uuid))
		answer_error(done, opaque, DAEMON_INVALID, "\"%.60s\" is no UUID", def->uuid);
	else if (named && named != same)
		answer_error(done, opaque, DAEMON_EXISTS, "there is a network \"%s\" already%s%s", def->name,
			     def->uuid[0] ? ", with the UUID " : "", def->uuid[0] ? named->uuid : "");
	else if (same && same != named)
		answer_error(done, opaque, DAEMON_EXISTS, "the network \"%s\" has that UUID", same->name);
	else if (!same && networks->count >= NETWORKS_MAX)
		answer_error(done, opaque, DAEMON_LIMIT, "%d networks are there; delete one first", NETWORKS_MAX);
	else {
		*ret_same = same;
		return true;
	}
	return false;
}

void daemon_net_define(struct daemon *daemon, const struct net_definition *def, daemon_done_fn done, void *opaque)
{
	struct networks *networks = daemon->networks;
	struct network *net = NULL;

	if (!may_define(networks, def, &net, done, opaque))
		return;
	if (net) {
		if (def->start && net->wanted) {
			answer_error(done, opaque, DAEMON_WRONG_STATE, "network \"%s\" is active already", net->name);
			return;
		}
		free(net->libvirt_xml);
		net->libvirt_xml = def->libvirt_xml ? strdup(def->libvirt_xml) : NULL;
		net->transient = net->transient && def->transient;
		tell(net, "defined");
		save_change(net, done, opaque);
		return;
	}
	net = add(networks, def->name, def->uuid, epoch_seconds());
	if (!net) {
		answer_error(done, opaque, DAEMON_STORAGE, "a directory for it below %s cannot be made", networks->dir);
		return;
	}
	net->autostart = def->autostart;
	net->transient = def->transient;
	net->wanted = def->start;
	net->libvirt_xml = def->libvirt_xml ? strdup(def->libvirt_xml) : NULL;
	net->made = done;
	net->made_opaque = opaque;
	save(networks, on_created, net);
}

/* NULL: the error was answered. */
static struct network *find_or_answer(struct daemon *daemon, const char *name, daemon_done_fn done, void *opaque)
{
	struct network *net = find(daemon->networks, name);

	if (!net)
		answer_error(done, opaque, DAEMON_NOT_FOUND, "there is no network \"%s\"", name);
	return net;
}

void daemon_net_start(struct daemon *daemon, const char *name, daemon_done_fn done, void *opaque)
{
	struct network *net = find_or_answer(daemon, name, done, opaque);

	if (net && (net->wanted || net->made)) {
		answer_error(done, opaque, DAEMON_WRONG_STATE, "network \"%s\" is active already", name);
	} else if (net && net->transient) {
		answer_error(done, opaque, DAEMON_WRONG_STATE, "network \"%s\" is transient, and about to go", name);
	} else if (net) {
		net->wanted = true;
		net->ticks = 0;
		net->made = done;
		net->made_opaque = opaque;
		if (!net->link)
			on_tick(-1, 0, net);
	}
}

void daemon_net_set_autostart(struct daemon *daemon, const char *name, bool on, daemon_done_fn done, void *opaque)
{
	struct network *net = find_or_answer(daemon, name, done, opaque);

	if (net && net->transient && on) {
		answer_error(done, opaque, DAEMON_WRONG_STATE, "network \"%s\" is transient: it does not last till the next start", name);
	} else if (net) {
		net->autostart = on;
		save_change(net, done, opaque);
	}
}

json_object *daemon_net_list(struct daemon *daemon)
{
	json_object *rows = json_object_new_array();

	for (const struct network *net = daemon->networks->first; net; net = net->next)
		if (!net->deleting)
			json_object_array_add(rows, network_json(net));
	return rows;
}

json_object *daemon_net_get(struct daemon *daemon, const char *name)
{
	struct network *net = find(daemon->networks, name);

	return net ? network_json(net) : NULL;
}

/* NULL: answered. */
static struct question *ask(struct daemon *daemon, const char *name, struct network **ret_net, daemon_done_fn done, void *opaque)
{
	struct network *net = find_or_answer(daemon, name, done, opaque);
	struct question *q;

	if (!net)
		return NULL;
	if (!net->link || !net->wanted) {
		answer_error(done, opaque, DAEMON_WRONG_STATE, "network \"%s\" %s", name,
			     net->wanted ? "is being started: its process is not there yet" : "is not active; trictl net start starts it");
		return NULL;
	}
	q = calloc(1, sizeof(*q));
	if (!q) {
		answer_error(done, opaque, DAEMON_INTERNAL, "out of memory");
		return NULL;
	}
	*q = (struct question){.daemon = daemon, .done = done, .opaque = opaque};
	snprintf(q->name, sizeof(q->name), "%s", name);
	*ret_net = net;
	return q;
}

static void on_told(void *opaque, int code, const char *message, json_object *result)
{
	struct question *q = opaque;

	if (code)
		answer_error(q->done, q->opaque, DAEMON_VM, "network \"%s\": its process does not answer: %s", q->name, message);
	else
		q->done(q->opaque, NULL, result);
	free(q);
}

void daemon_net_ask(struct daemon *daemon, const char *name, const char *method, daemon_done_fn done, void *opaque)
{
	struct network *net;
	struct question *q = ask(daemon, name, &net, done, opaque);

	if (q)
		vmlink_call(net->link, method, NULL, CALL_TIMEOUT_S, on_told, q);
}

static void remove_files(const struct network *net)
{
	static const char *const files[] = {SWITCH_FILE_PORTS, SWITCH_FILE_CONTROL, SWITCH_FILE_LOG};
	char path[PATH_MAX];

	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		if (!paths_join(path, sizeof(path), net->dir, files[i]))
			unlink(path);
}

/* Its process has heard that it is to end, or is gone. */
static void on_ended(void *opaque, int code, const char *message, json_object *result)
{
	struct network *net = opaque;
	json_object *nothing = json_object_new_object();
	daemon_done_fn made = net->made;

	remove_files(net);
	rmdir(net->dir);
	tell(net, "undefined");
	net->made = NULL;
	made(net->made_opaque, NULL, nothing);
	json_object_put(nothing);
	tick_in(net, TICK_MS);
}

static void on_deleted(void *opaque, int error, const char *message, json_object *rows)
{
	struct network *net = opaque;

	if (error) {
		net->deleting = false;
		answer_error(net->made, net->made_opaque, DAEMON_STORAGE, "%s", message);
		net->made = NULL;
		if (!net->link)
			tick_in(net, RESTART_MS);
	} else if (net->link) {
		vmlink_call(net->link, SWITCH_END, NULL, CALL_TIMEOUT_S, on_ended, net);
	} else {
		on_ended(net, 0, NULL, NULL);
	}
}

static void delete_now(struct network *net, daemon_done_fn done, void *opaque)
{
	net->deleting = true;
	net->made = done;
	net->made_opaque = opaque;
	save(net->networks, on_deleted, net);
}

/* Its ports are known: none may be in use. */
static void on_ports(void *opaque, int code, const char *message, json_object *result)
{
	struct question *q = opaque;
	json_object *ports = NULL, *vm = NULL;
	struct network *net = find(q->daemon->networks, q->name);

	if (code || !net) {
		on_told(q, code ? code : VMLINK_LOST, code ? message : "it is gone", NULL);
		return;
	}
	if (json_object_object_get_ex(result, "ports", &ports) && json_object_array_length(ports) > 0) {
		json_object_object_get_ex(json_object_array_get_idx(ports, 0), "vm", &vm);
		answer_error(q->done, q->opaque, DAEMON_WRONG_STATE, "network \"%s\" is in use by VM \"%s\"; end it first", q->name,
			     json_object_get_string(vm));
	} else {
		delete_now(net, q->done, q->opaque);
	}
	free(q);
}

void daemon_net_delete(struct daemon *daemon, const char *name, daemon_done_fn done, void *opaque)
{
	struct network *net = find(daemon->networks, name);
	struct question *q;

	if (net && !net->wanted && !net->made) {
		delete_now(net, done, opaque);
		return;
	}
	q = ask(daemon, name, &net, done, opaque);
	if (q)
		vmlink_call(net->link, SWITCH_PORTS, NULL, CALL_TIMEOUT_S, on_ports, q);
}

void daemon_net_undefine(struct daemon *daemon, const char *name, daemon_done_fn done, void *opaque)
{
	struct network *net = find(daemon->networks, name);

	if (!net || !net->wanted) {
		daemon_net_delete(daemon, name, done, opaque);
		return;
	}
	net->transient = true;
	net->autostart = false;
	tell(net, "undefined");
	save_change(net, done, opaque);
}

/* Its process is about to end, or has ended. */
static void on_stopped(void *opaque, int code, const char *message, json_object *result)
{
	struct question *q = opaque;
	struct network *net = find(q->daemon->networks, q->name);

	if (!net) {
		answer_error(q->done, q->opaque, DAEMON_NOT_FOUND, "network \"%s\" is gone", q->name);
	} else {
		/* The connection goes with the process, which answers first. */
		remove_files(net);
		tell(net, "stopped");
		if (net->transient) {
			delete_now(net, q->done, q->opaque);
		} else {
			json_object *row = network_json(net);

			q->done(q->opaque, NULL, row);
			json_object_put(row);
		}
	}
	free(q);
}

void daemon_net_stop(struct daemon *daemon, const char *name, daemon_done_fn done, void *opaque)
{
	struct network *net = find(daemon->networks, name);
	struct question *q;

	if (net && !net->wanted) {
		answer_error(done, opaque, DAEMON_WRONG_STATE, "network \"%s\" is not active", name);
		return;
	}
	q = ask(daemon, name, &net, done, opaque);
	if (!q)
		return;
	net->wanted = false;
	vmlink_call(net->link, SWITCH_END, NULL, CALL_TIMEOUT_S, on_stopped, q);
}

char *daemon_net_xml(struct daemon *daemon, const char *name)
{
	struct network *net = find(daemon->networks, name);

	return net && net->libvirt_xml ? strdup(net->libvirt_xml) : NULL;
}

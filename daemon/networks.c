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
	double created;
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
	free(net);
}

static json_object *network_json(const struct network *net)
{
	json_object *row = json_object_new_object();

	put_text(row, "name", net->name);
	json_object_object_add(row, "active", json_object_new_boolean(net->link != NULL));
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
	if (net->deleting)
		return;
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
	sock = paths_join(path, sizeof(path), net->dir, SWITCH_FILE_CONTROL) ? -ENAMETOOLONG : sock_connect_nonblock(path);
	if (sock >= 0) {
		net->ticks = 0;
		net->link = vmlink_create(net->networks->daemon->base, sock, &link_ops, net);
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
static struct network *add(struct networks *networks, const char *name, double created)
{
	struct network *net = calloc(1, sizeof(*net)), **at = &networks->first;

	if (!net)
		return NULL;
	net->networks = networks;
	net->created = created;
	snprintf(net->name, sizeof(net->name), "%s", name);
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
		json_object_object_add(row, "created", json_object_new_double(net->created));
		json_object_array_add(rows, row);
	}
	store_put_note(networks->daemon->store, NOTE, json_object_to_json_string(rows), done, opaque);
	json_object_put(rows);
}

int networks_open(struct daemon *daemon, struct networks **ret_networks)
{
	struct networks *networks = calloc(1, sizeof(*networks));
	char *text = store_load_note(daemon->store, NOTE), why[VMDEF_ERROR_BYTES];
	json_object *rows = text ? json_tokener_parse(text) : NULL, *name = NULL, *created = NULL;
	int rc = networks ? 0 : -ENOMEM;

	if (!rc) {
		networks->daemon = daemon;
		rc = paths_join(networks->dir, sizeof(networks->dir), daemon->settings->runtime_dir, SWITCH_NETS_DIR);
	}
	for (size_t i = 0; !rc && json_object_is_type(rows, json_type_array) && i < json_object_array_length(rows); i++) {
		json_object *row = json_object_array_get_idx(rows, i);
		struct network *net;

		if (!json_object_object_get_ex(row, "name", &name) || !vmdef_name_valid(json_object_get_string(name), why))
			continue;
		json_object_object_get_ex(row, "created", &created);
		net = add(networks, json_object_get_string(name), json_object_get_double(created));
		if (net)
			on_tick(-1, 0, net);
		else
			log_error("network %s: its directory below %s cannot be made", json_object_get_string(name), networks->dir);
	}
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

static void on_created(void *opaque, int error, const char *message, json_object *rows)
{
	struct network *net = opaque;

	if (error) {
		answer_error(net->made, net->made_opaque, DAEMON_STORAGE, "%s", message);
		unlink_network(net);
		rmdir(net->dir);
		network_free(net);
		return;
	}
	on_tick(-1, 0, net);
}

void daemon_net_create(struct daemon *daemon, const char *name, daemon_done_fn done, void *opaque)
{
	struct networks *networks = daemon->networks;
	char why[VMDEF_ERROR_BYTES];
	struct network *net;

	if (!vmdef_name_valid(name, why)) {
		answer_error(done, opaque, DAEMON_INVALID, "name: %s", why);
		return;
	}
	if (find(networks, name)) {
		answer_error(done, opaque, DAEMON_EXISTS, "there is a network \"%s\" already", name);
		return;
	}
	if (networks->count >= NETWORKS_MAX) {
		answer_error(done, opaque, DAEMON_LIMIT, "%d networks are there; delete one first", NETWORKS_MAX);
		return;
	}
	net = add(networks, name, epoch_seconds());
	if (!net) {
		answer_error(done, opaque, DAEMON_STORAGE, "a directory for it below %s cannot be made", networks->dir);
		return;
	}
	net->made = done;
	net->made_opaque = opaque;
	save(networks, on_created, net);
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

/* Somebody who waits for what a process says, or for its end. */
struct question {
	struct daemon *daemon;
	char name[VMDEF_NAME_MAX + 1];
	daemon_done_fn done;
	void *opaque;
};

/* NULL: answered. */
static struct question *ask(struct daemon *daemon, const char *name, struct network **ret_net, daemon_done_fn done, void *opaque)
{
	struct network *net = find(daemon->networks, name);
	struct question *q;

	if (!net) {
		answer_error(done, opaque, DAEMON_NOT_FOUND, "there is no network \"%s\"", name);
		return NULL;
	}
	if (!net->link) {
		answer_error(done, opaque, DAEMON_WRONG_STATE, "network \"%s\": its process is being started", name);
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

/* Its process has heard that it is to end, or is gone. */
static void on_ended(void *opaque, int code, const char *message, json_object *result)
{
	static const char *const files[] = {SWITCH_FILE_PORTS, SWITCH_FILE_CONTROL, SWITCH_FILE_LOG};
	struct network *net = opaque;
	char path[PATH_MAX];

	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		if (!paths_join(path, sizeof(path), net->dir, files[i]))
			unlink(path);
	rmdir(net->dir);
	json_object *nothing = json_object_new_object();
	net->made(net->made_opaque, NULL, nothing);
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
		free(q);
		return;
	}
	net->deleting = true;
	net->made = q->done;
	net->made_opaque = q->opaque;
	free(q);
	save(net->networks, on_deleted, net);
}

void daemon_net_delete(struct daemon *daemon, const char *name, daemon_done_fn done, void *opaque)
{
	struct network *net;
	struct question *q = ask(daemon, name, &net, done, opaque);

	if (q)
		vmlink_call(net->link, SWITCH_PORTS, NULL, CALL_TIMEOUT_S, on_ports, q);
}

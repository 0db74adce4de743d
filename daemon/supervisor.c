/* Starting trivisor-vm processes, watching them, and recording how they ended. */
#include "daemon/private.h"

#include "daemon/log.h"
#include "proto/paths.h"
#include "proto/sock.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CONNECT_FIRST_MS 1
#define CONNECT_LAST_MS 200
#define KILL_AFTER_MS 5000 /* a VM that was told to end */
#define LINGER_MS 1000     /* for the last messages of a process that has ended */
#define CALL_TIMEOUT_S 10
/* Of events a VM's process may send. */
#define EVENT_RATE 20.0
#define EVENT_BURST 100.0
#define EVENT_TEXT_MAX 1024

extern char **environ;

static void connect_soon(struct vm_process *process);

/* ---- the end -------------------------------------------------------------------- */

void supervisor_release(struct vm_process *process)
{
	struct event **events[4];
	struct pending *p;

	if (!process)
		return;
	vmlink_destroy(process->vmlink);
	events[0] = &process->exit_event;
	events[1] = &process->connect_timer;
	events[2] = &process->kill_timer;
	events[3] = &process->linger_timer;
	for (size_t i = 0; i < 4; i++)
		if (*events[i])
			event_free(*events[i]);
	while ((p = STAILQ_FIRST(&process->starts))) {
		STAILQ_REMOVE_HEAD(&process->starts, link);
		free(p);
	}
	while ((p = STAILQ_FIRST(&process->destroys))) {
		STAILQ_REMOVE_HEAD(&process->destroys, link);
		free(p);
	}
	if (process->pidfd >= 0)
		close(process->pidfd);
	vmdef_free(process->def);
	free(process->mode_reason);
	json_object_put(process->cpu);
	free(process);
}

static void answer_list(struct pending_list *list, const struct daemon_error *error, json_object *result)
{
	struct pending *p;

	while ((p = STAILQ_FIRST(list))) {
		STAILQ_REMOVE_HEAD(list, link);
		p->done(p->opaque, error, result);
		free(p);
	}
}

static int push_pending(struct pending_list *list, daemon_done_fn done, void *opaque)
{
	struct pending *p;

	if (!done)
		return 0;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->done = done;
	p->opaque = opaque;
	STAILQ_INSERT_TAIL(list, p, link);
	return 0;
}

/* It said how it ends, and then did end: only its result is missing, as when the runtime directory is full. */
static bool told_its_end(const struct vm_process *process)
{
	return process->told_reason[0] && (!process->exit_known || process->exit_code_kind == CLD_EXITED);
}

static void describe_death(const struct vm_process *process, char *why, size_t size)
{
	if (process->failure[0])
		snprintf(why, size, "%s", process->failure);
	else if (told_its_end(process))
		snprintf(why, size, "%s; trivisor-vm left no result: see whether the runtime directory is full",
			 process->told_reason);
	else if (!process->exit_known)
		snprintf(why, size, "trivisor-vm died (how is not known: it was adopted) and left no result");
	else if (process->exit_code_kind == CLD_EXITED)
		snprintf(why, size, "trivisor-vm died: exit status %d, and left no result", process->exit_status);
	else
		snprintf(why, size, "trivisor-vm died: signal %d (%s)", process->exit_status,
			 sigabbrev_np(process->exit_status) ? sigabbrev_np(process->exit_status) : "?");
}

/* How a process that left no result ended. One that we ended because that was asked for did not crash. */
static enum vm_state state_of_death(const struct vm_process *process)
{
	bool by_signal = process->exit_known && process->exit_code_kind != CLD_EXITED;

	if (process->killed && (!process->exit_known || (by_signal && process->exit_status == SIGKILL)))
		return VM_DESTROYED;
	if (process->terminated && by_signal && process->exit_status == SIGTERM)
		return VM_DESTROYED;
	if (told_its_end(process) && !process->failure[0])
		return process->told_state;
	return process->ready ? VM_CRASHED : VM_FAILED;
}

static unsigned transient_running(struct daemon *daemon)
{
	struct vm *vm;
	unsigned n = 0;

	TAILQ_FOREACH(vm, &daemon->vms, link)
	n += vm->transient && vm->process;
	return n;
}

/* The process is gone and has said all it had to say. */
static void finalise(struct vm_process *process)
{
	struct vm *vm = process->vm;
	struct daemon *daemon = vm->daemon;
	struct pending_list starts = STAILQ_HEAD_INITIALIZER(starts), destroys = STAILQ_HEAD_INITIALIZER(destroys);
	struct daemon_error error = {.code = DAEMON_START};
	json_object *reason = NULL, *answer;
	bool was_ready = process->ready;
	char why[800];

	describe_death(process, why, sizeof(why));
	vmdir_record(vm, process->dir, process->started, state_of_death(process), why);
	STAILQ_CONCAT(&starts, &process->starts);
	STAILQ_CONCAT(&destroys, &process->destroys);
	vm->process = NULL;
	supervisor_release(process);

	json_object_object_get_ex(vm->result, "reason", &reason);
	snprintf(error.message, sizeof(error.message), "VM \"%s\" did not start: %s", vm->name,
		 reason ? json_object_get_string(reason) : "it ended at once");
	answer_list(&starts, &error, NULL);
	answer = json_object_new_object();
	put_text(answer, "uuid", vm->uuid);
	put_text(answer, "state", vm_state_text(vm));
	answer_list(&destroys, NULL, answer);
	json_object_put(answer);
	registry_answer_waits(vm);
	/* An owned one that ran stays readable until its client goes. */
	if (vm->transient && !vm->keeping && (!vm->owner || !was_ready))
		registry_remove(vm);
	if (daemon->ending && !transient_running(daemon) && daemon->transient_done) {
		void (*done)(void *opaque) = daemon->transient_done;

		daemon->transient_done = NULL;
		done(daemon->transient_opaque);
	}
}

static void on_linger(evutil_socket_t fd, short what, void *opaque)
{
	finalise(opaque);
}

static void on_exit_event(evutil_socket_t fd, short what, void *opaque)
{
	struct vm_process *process = opaque;
	struct timeval linger = milliseconds(LINGER_MS), now = {0};
	siginfo_t info = {0};

	/* Not our child when it was adopted: then only the pidfd tells, and init reaps it. */
	if (waitid(P_PIDFD, (id_t)process->pidfd, &info, WEXITED | WNOHANG) == 0 && info.si_pid) {
		process->exit_known = true;
		process->exit_code_kind = info.si_code;
		process->exit_status = info.si_status;
	}
	event_del(process->exit_event);
	event_del(process->connect_timer);
	process->exited = true;
	/* Its last messages may still be in the socket: the link's end comes right behind them. */
	event_add(process->linger_timer, process->vmlink ? &linger : &now);
}

static void send_signal(struct vm_process *process, int signal)
{
	if (syscall(SYS_pidfd_send_signal, process->pidfd, signal, NULL, 0) < 0 && errno != ESRCH)
		log_error("VM %s: cannot signal process %d: %s", process->vm->name, (int)process->pid, strerror(errno));
}

static void on_kill(evutil_socket_t fd, short what, void *opaque)
{
	struct vm_process *process = opaque;

	log_warning("VM %s: process %d does not end when told to; killed", process->vm->name, (int)process->pid);
	if (!process->failure[0]) {
		process->killed = true;
		snprintf(process->failure, sizeof(process->failure),
			 "it did not end within %d s of being told to, and was killed", KILL_AFTER_MS / 1000);
	}
	send_signal(process, SIGKILL);
}

void supervisor_end(struct vm *vm, daemon_done_fn done, void *opaque)
{
	struct vm_process *process = vm->process;
	struct timeval delay = milliseconds(KILL_AFTER_MS);

	if (push_pending(&process->destroys, done, opaque)) {
		answer_error(done, opaque, DAEMON_INTERNAL, "out of memory");
		return;
	}
	if (process->exited)
		return;
	if (process->vmlink && process->ready) {
		vmlink_call(process->vmlink, CONTROL_DESTROY, NULL, CALL_TIMEOUT_S, NULL, NULL);
	} else {
		process->terminated = !process->failure[0];
		send_signal(process, SIGTERM);
	}
	if (!event_pending(process->kill_timer, EV_TIMEOUT, NULL))
		event_add(process->kill_timer, &delay);
}

/* ---- the control socket ------------------------------------------------------------- */

/* We give up on it: end it, and say why. */
static void fail_start(struct vm_process *process, const char *why)
{
	snprintf(process->failure, sizeof(process->failure), "%s", why);
	log_error("VM %s: %s", process->vm->name, why);
	event_del(process->connect_timer);
	send_signal(process, SIGKILL);
}

static void take_state(struct vm_process *process, json_object *from)
{
	json_object *value = NULL;
	enum vm_state state;

	if (!json_object_object_get_ex(from, "state", &value) || !json_object_is_type(value, json_type_string) ||
	    !vm_state_parse(json_object_get_string(value), &state))
		return;
	if (!vm_state_is_final(state)) {
		process->vm->ran = true;
		process->vm->state = state;
	} else if (json_object_object_get_ex(from, "reason", &value) && json_object_is_type(value, json_type_string)) {
		/* Final states are taken from the result, once the process is gone; from this only when there is none. */
		process->told_state = state;
		snprintf(process->told_reason, sizeof(process->told_reason), "%s", json_object_get_string(value));
	}
}

/* A token for each event, EVENT_RATE a second: a process that was taken over must not fill the store. */
static bool may_tell(struct vm_process *process)
{
	double now = monotonic_seconds();

	process->event_tokens += (now - process->event_time) * EVENT_RATE;
	process->event_time = now;
	if (process->event_tokens > EVENT_BURST)
		process->event_tokens = EVENT_BURST;
	if (process->event_tokens < 1) {
		if (!process->events_dropped++)
			log_warning("VM %s: sends too many events; some are dropped", process->vm->name);
		return false;
	}
	process->event_tokens--;
	return true;
}

static void copy_text(json_object *to, json_object *from, const char *key)
{
	json_object *value = NULL;

	if (json_object_object_get_ex(from, key, &value) && json_object_is_type(value, json_type_string))
		json_object_object_add(to, key,
				       json_object_new_string_len(json_object_get_string(value),
								  json_object_get_string_len(value) < EVENT_TEXT_MAX
									  ? json_object_get_string_len(value)
									  : 0));
}

/* Its agent, and its memory. */
static void take_guest(struct vm_process *process, json_object *params, const char *kind, json_object *told)
{
	json_object *value = NULL;

	if (!strcmp(kind, CONTROL_EVENT_AGENT) && json_object_object_get_ex(params, "connected", &value)) {
		process->agent = json_object_get_boolean(value);
		json_object_object_add(told, "connected", json_object_new_boolean(process->agent));
	}
	if (!strcmp(kind, CONTROL_EVENT_BALLOON) && json_object_object_get_ex(params, "memory_kib", &value) && json_object_get_int64(value) > 0) {
		process->memory_kib = (uint64_t)json_object_get_int64(value);
		json_object_object_add(told, "memory_kib", json_object_new_int64((int64_t)process->memory_kib));
	}
}

/* Known events with known members only. */
static void on_link_event(void *opaque, json_object *params)
{
	static const char *const kinds[] = {CONTROL_EVENT_STATE, CONTROL_EVENT_RESET, CONTROL_EVENT_PANIC,
					    CONTROL_EVENT_USER_SPACE, CONTROL_EVENT_AGENT, CONTROL_EVENT_BALLOON};
	struct vm_process *process = opaque;
	json_object *event = NULL, *value = NULL, *told;
	const char *kind = NULL;
	enum vm_state parsed, was = process->vm->state;

	if (!json_object_object_get_ex(params, "event", &event) || !json_object_is_type(event, json_type_string))
		return;
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (!strcmp(json_object_get_string(event), kinds[i]))
			kind = kinds[i];
	if (!kind || !may_tell(process))
		return;
	if (!strcmp(kind, CONTROL_EVENT_STATE)) {
		take_state(process, params);
		/* The end is told once the process is gone and its result was read. */
		if (!json_object_object_get_ex(params, "state", &value) ||
		    !json_object_is_type(value, json_type_string) ||
		    !vm_state_parse(json_object_get_string(value), &parsed) || vm_state_is_final(parsed))
			return;
	}
	told = json_object_new_object();
	copy_text(told, params, "state");
	put_text(told, "was", vm_state_name(was));
	copy_text(told, params, "reason");
	if (json_object_object_get_ex(params, "boot_seconds", &value) && json_object_is_type(value, json_type_double))
		json_object_object_add(told, "boot_seconds", json_object_get(value));
	take_guest(process, params, kind, told);
	event_emit(process->vm, kind, told);
}

static void on_link_close(void *opaque)
{
	struct vm_process *process = opaque;
	struct timeval now = {0};

	vmlink_destroy(process->vmlink);
	process->vmlink = NULL;
	if (process->exited)
		event_add(process->linger_timer, &now);
	else
		connect_soon(process);
}

static void now_ready(struct vm_process *process)
{
	struct vm *vm = process->vm;
	json_object *started;

	process->connect_deadline = 0;
	if (!process->ready) {
		process->ready = true;
		if (vm->state == VM_STARTING)
			vm->state = VM_RUNNING;
		if (!process->adopted) {
			json_object *params = json_object_new_object();

			put_text(params, "state", vm_state_text(vm));
			put_text(params, "mode", process->mode);
			put_text(params, "mode_reason", process->mode_reason);
			event_emit(vm, "started", params);
		}
	}
	started = registry_started_json(vm);
	answer_list(&process->starts, NULL, started);
	json_object_put(started);
}

static void on_status(void *opaque, int code, const char *message, json_object *result)
{
	struct vm_process *process = opaque;
	json_object *started = NULL;

	if (code == VMLINK_LOST)
		return; /* the link's end or the deadline deals with it */
	if (code) {
		fail_start(process, message);
		return;
	}
	take_state(process, result);
	if (json_object_object_get_ex(result, "started", &started))
		process->started = json_object_get_double(started);
	if (json_object_object_get_ex(result, "agent", &started))
		process->agent = json_object_get_boolean(started);
	if (json_object_object_get_ex(result, "memory_kib", &started) && json_object_get_int64(started) > 0)
		process->memory_kib = (uint64_t)json_object_get_int64(started);
	now_ready(process);
}

static const char *string_member(json_object *object, const char *key)
{
	json_object *value = NULL;

	return json_object_object_get_ex(object, key, &value) && json_object_is_type(value, json_type_string)
		       ? json_object_get_string(value)
		       : NULL;
}

/* NULL, or why this peer is not the process we take it for. */
static const char *hello_problem(struct vm_process *process, json_object *hello, char *why, size_t size)
{
	const char *uuid = string_member(hello, "uuid"), *mode = string_member(hello, "mode");
	json_object *protocol = NULL;
	enum policy_mode known;

	json_object_object_get_ex(hello, "protocol", &protocol);
	if (json_object_get_int(protocol) != CONTROL_VERSION)
		snprintf(why, size,
			 "trivisor-vm speaks control protocol %d, this daemon %d; install both from one version",
			 json_object_get_int(protocol), CONTROL_VERSION);
	else if (!uuid || strcmp(uuid, process->vm->uuid))
		snprintf(why, size, "its process says it is another VM (%.40s)", uuid ? uuid : "no uuid");
	else if (!mode || !policy_mode_parse(mode, &known))
		snprintf(why, size, "its process runs in no mode known here (%.40s)", mode ? mode : "none");
	else
		return NULL;
	return why;
}

/* The processor's model as the process describes it, to be shown; what has another shape is dropped. */
static void take_cpu(struct vm_process *process, json_object *hello)
{
	static const char *const texts[] = {"vendor", "name"}, *const numbers[] = {"family", "model", "stepping"};
	json_object *cpu = NULL, *value = NULL;

	if (!json_object_object_get_ex(hello, "cpu", &cpu) || !json_object_is_type(cpu, json_type_object))
		return;
	for (size_t i = 0; i < 2; i++)
		if (!string_member(cpu, texts[i]))
			return;
	for (size_t i = 0; i < 3; i++)
		if (!json_object_object_get_ex(cpu, numbers[i], &value) || !json_object_is_type(value, json_type_int))
			return;
	for (const char *const *list = (const char *const[]){"features", "masked", NULL}; *list; list++)
		if (!json_object_object_get_ex(cpu, *list, &value) || !json_object_is_type(value, json_type_array))
			return;
	json_object_put(process->cpu);
	process->cpu = json_object_get(cpu);
}

static void on_hello(void *opaque, int code, const char *message, json_object *result)
{
	struct vm_process *process = opaque;
	const char *problem = message, *reason;
	char why[200], *copy;

	if (code == VMLINK_LOST)
		return;
	if (!code)
		problem = hello_problem(process, result, why, sizeof(why));
	if (problem) {
		if (process->adopted)
			log_error("VM %s: %s; it is left alone", process->vm->name, problem);
		else
			fail_start(process, problem);
		return;
	}
	snprintf(process->mode, sizeof(process->mode), "%s", string_member(result, "mode"));
	reason = string_member(result, "mode_reason");
	copy = reason ? strdup(reason) : NULL;
	if (copy) {
		free(process->mode_reason);
		process->mode_reason = copy;
	}
	take_cpu(process, result);
	vmlink_call(process->vmlink, CONTROL_STATUS, NULL, CALL_TIMEOUT_S, on_status, process);
}

static void on_connect(evutil_socket_t timer, short what, void *opaque)
{
	static const struct vmlink_ops ops = {.on_event = on_link_event, .on_close = on_link_close};
	struct vm_process *process = opaque;
	struct daemon *daemon = process->vm->daemon;
	char path[PATH_MAX], why[200];
	int fd = paths_join(path, sizeof(path), process->dir, CONTROL_FILE_SOCKET);

	if (process->connect_deadline > 0 && monotonic_seconds() > process->connect_deadline) {
		snprintf(why, sizeof(why),
			 "trivisor-vm did not get ready within %u s (start_timeout in the configuration)",
			 daemon->settings->start_timeout_s);
		fail_start(process, why);
		return;
	}
	if (!process->vmlink) {
		fd = fd ? fd : sock_connect_nonblock(path);
		if (fd >= 0) {
			process->vmlink = vmlink_create(daemon->base, fd, &ops, process);
			process->connect_delay_ms = CONNECT_LAST_MS;
			if (process->vmlink)
				vmlink_call(process->vmlink, CONTROL_HELLO, NULL,
					    process->adopted ? CALL_TIMEOUT_S : daemon->settings->start_timeout_s,
					    on_hello, process);
		}
	}
	/* Until it is ready, also as the guard of the deadline. */
	if (!process->vmlink || process->connect_deadline > 0)
		connect_soon(process);
}

static void connect_soon(struct vm_process *process)
{
	struct timeval delay;

	if (!process->connect_delay_ms)
		process->connect_delay_ms = CONNECT_FIRST_MS;
	delay = milliseconds(process->connect_delay_ms);
	if (process->connect_delay_ms < CONNECT_LAST_MS)
		process->connect_delay_ms = process->connect_delay_ms * 3 / 2 + 1;
	event_add(process->connect_timer, &delay);
}

/* ---- the start ------------------------------------------------------------------------ */

static int process_create(struct vm *vm, const char *dir, struct vm_process **ret_process)
{
	struct event_base *base = vm->daemon->base;
	struct vm_process *process = calloc(1, sizeof(*process));

	if (!process)
		return -ENOMEM;
	process->vm = vm;
	process->pidfd = -1;
	process->event_tokens = EVENT_BURST;
	process->event_time = monotonic_seconds();
	STAILQ_INIT(&process->starts);
	STAILQ_INIT(&process->destroys);
	process->connect_timer = event_new(base, -1, 0, on_connect, process);
	process->kill_timer = event_new(base, -1, 0, on_kill, process);
	process->linger_timer = event_new(base, -1, 0, on_linger, process);
	if (!process->connect_timer || !process->kill_timer || !process->linger_timer ||
	    snprintf(process->dir, sizeof(process->dir), "%s", dir) >= (int)sizeof(process->dir) ||
	    paths_join(process->console, sizeof(process->console), dir, CONTROL_FILE_CONSOLE)) {
		supervisor_release(process);
		return -ENOMEM;
	}
	*ret_process = process;
	return 0;
}

static int watch(struct vm_process *process)
{
	process->exit_event =
		event_new(process->vm->daemon->base, process->pidfd, EV_READ | EV_PERSIST, on_exit_event, process);
	return process->exit_event && event_add(process->exit_event, NULL) == 0 ? 0 : -ENOMEM;
}

/* In a session of its own, so that no signal to ours reaches it; nothing inherited but its log. */
int supervisor_spawn(char *const argv[], const char *log_path, int stdout_fd, pid_t *ret_pid)
{
	static const int log_flags = O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW;
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none, all;
	int r;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &all);
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log_path, log_flags, 0600);
	posix_spawn_file_actions_adddup2(&actions, stdout_fd >= 0 ? stdout_fd : STDERR_FILENO, STDOUT_FILENO);
	r = posix_spawn(ret_pid, argv[0], &actions, &attributes, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	return -r;
}

static int spawn(const char *program, const char *dir, const char *mode, const char *reason, bool paused,
		 pid_t *ret_pid)
{
	char *const argv[] = {(char *)program, (char *)"--dir",         (char *)dir,    (char *)"--mode",
			      (char *)mode,    (char *)"--mode-reason", (char *)reason, paused ? (char *)"--paused" : NULL,
			      NULL};
	char log_path[PATH_MAX];
	int rc = paths_join(log_path, sizeof(log_path), dir, CONTROL_FILE_LOG);

	return rc ? rc : supervisor_spawn(argv, log_path, -1, ret_pid);
}

static int launch(struct vm_process *process, const char *mode, const char *reason, bool paused)
{
	struct daemon *daemon = process->vm->daemon;
	int rc = spawn(daemon->settings->vm_program, process->dir, mode, reason, paused, &process->pid);

	if (rc)
		return rc;
	process->pidfd = (int)syscall(SYS_pidfd_open, process->pid, 0);
	rc = process->pidfd < 0 ? -errno : watch(process);
	if (rc) {
		/* Nobody could watch it: it must not stay. It is our child, so its pid is still its own. */
		kill(process->pid, SIGKILL);
		waitpid(process->pid, NULL, 0);
	}
	return rc;
}

void supervisor_start(struct vm *vm, enum policy_mode mode, const char *mode_reason, const struct daemon_start *options,
		      daemon_done_fn done, void *opaque)
{
	struct daemon *daemon = vm->daemon;
	struct vm_process *process = NULL;
	json_object *params;
	char dir[PATH_MAX];
	int rc = paths_join(dir, sizeof(dir), daemon->vms_dir, vm->uuid), id = registry_take_id(daemon, 0);

	if (!rc)
		rc = vmdir_prepare(vm, dir, policy_mode_name(mode), options->no_reboot, id);
	if (rc) {
		answer_error(done, opaque, DAEMON_STORAGE, "runtime directory %s: %s", dir, strerror(-rc));
		return;
	}
	rc = process_create(vm, dir, &process);
	if (!rc) {
		process->id = id;
		process->mode_reason = strdup(mode_reason);
		process->def = vmdir_read_definition(dir);
		if (!process->mode_reason || !process->def)
			rc = -ENOMEM;
	}
	if (!rc)
		rc = push_pending(&process->starts, done, opaque);
	if (rc) {
		supervisor_release(process);
		answer_error(done, opaque, DAEMON_INTERNAL, "out of memory");
		return;
	}
	snprintf(process->mode, sizeof(process->mode), "%s", policy_mode_name(mode));
	rc = launch(process, process->mode, mode_reason, options->paused);
	if (rc) {
		supervisor_release(process);
		answer_error(done, opaque, DAEMON_START, "cannot start %s: %s", daemon->settings->vm_program,
			     strerror(-rc));
		return;
	}
	process->started = epoch_seconds();
	process->connect_deadline = monotonic_seconds() + daemon->settings->start_timeout_s;
	vm->process = process;
	vm->ran = true;
	vm->state = VM_STARTING;
	params = json_object_new_object();
	put_text(params, "state", vm_state_text(vm));
	put_text(params, "mode", process->mode);
	put_text(params, "mode_reason", process->mode_reason);
	put_text(params, "console", process->console);
	json_object_object_add(params, "pid", json_object_new_int(process->pid));
	event_emit(vm, "state", params);
	connect_soon(process);
}

int supervisor_adopt(struct vm *vm, pid_t pid, int pidfd, const char *dir, const char *mode, int id)
{
	struct vm_process *process = NULL;
	int rc = process_create(vm, dir, &process);

	if (rc) {
		close(pidfd);
		return rc;
	}
	process->pid = pid;
	process->pidfd = pidfd;
	process->adopted = true;
	process->started = epoch_seconds();
	process->mode_reason = strdup("");
	process->id = registry_take_id(vm->daemon, id);
	process->def = vmdir_read_definition(dir);
	snprintf(process->mode, sizeof(process->mode), "%.7s", mode);
	rc = process->mode_reason ? watch(process) : -ENOMEM;
	if (rc) {
		supervisor_release(process);
		return rc;
	}
	vm->process = process;
	vm->ran = true;
	vm->state = VM_RUNNING;
	connect_soon(process);
	return 0;
}

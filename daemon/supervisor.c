/* Starting trivisor-vm processes, watching them, and recording how they ended. */
#include "daemon/private.h"

#include "daemon/log.h"
#include "proto/file.h"
#include "proto/paths.h"
#include "proto/sock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CONNECT_FIRST_MS 1
#define CONNECT_LAST_MS 200
#define KILL_AFTER_MS 5000   /* a VM that was told to end */
#define LINGER_MS 1000       /* for the last messages of a process that has ended */
#define CALL_TIMEOUT_S 10
#define RESULT_MAX ((size_t)4 << 20)
#define LOG_TAIL 2000

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
	free(process->mode_reason);
	free(process);
}

static void remove_file(const char *dir, const char *name)
{
	char path[PATH_MAX];

	if (!paths_join(path, sizeof(path), dir, name) && unlink(path) < 0 && errno != ENOENT)
		log_warning("%s: %s", path, strerror(errno));
}

static void clear_directory(const char *dir)
{
	static const char *const names[] = {CONTROL_FILE_SOCKET, CONTROL_FILE_CONSOLE, CONTROL_FILE_PID, CONTROL_FILE_RESULT};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		remove_file(dir, names[i]);
}

/* Everything in it is a file or a socket; what a process that was killed had begun to write is there too. */
void supervisor_remove_directory(const char *dir)
{
	DIR *stream = opendir(dir);
	struct dirent *entry;

	if (!stream)
		return;
	while ((entry = readdir(stream)))
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			remove_file(dir, entry->d_name);
	closedir(stream);
	if (rmdir(dir) < 0 && errno != ENOENT)
		log_warning("%s: %s", dir, strerror(errno));
}

/* The end of the process's log, from a line's start. */
static void read_log_tail(const char *dir, char *tail, size_t size)
{
	char path[PATH_MAX], *line;
	ssize_t n = 0;
	struct stat st;
	int fd;

	tail[0] = '\0';
	if (paths_join(path, sizeof(path), dir, CONTROL_FILE_LOG))
		return;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
	if (fd < 0)
		return;
	if (fstat(fd, &st) == 0)
		n = pread(fd, tail, size - 1, st.st_size > (off_t)size - 1 ? st.st_size - (off_t)size + 1 : 0);
	close(fd);
	tail[n > 0 ? n : 0] = '\0';
	line = n == (ssize_t)size - 1 ? strchr(tail, '\n') : NULL;
	if (line)
		memmove(tail, line + 1, strlen(line + 1) + 1);
	for (char *c = tail; *c; c++)
		if ((unsigned char)*c >= 0x80)
			*c = '?'; /* cut or foreign: JSON wants valid UTF-8 */
}

static int write_json(const char *dir, const char *name, json_object *json)
{
	char path[PATH_MAX];
	size_t bytes;
	const char *text = json_object_to_json_string_length(json, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE, &bytes);
	int rc = paths_join(path, sizeof(path), dir, name);

	return rc ? rc : file_write_atomic(path, text, bytes, 0600);
}

static json_object *read_result(const char *dir)
{
	char path[PATH_MAX], *text = NULL;
	json_object *result = NULL, *state = NULL;
	enum vm_state parsed;
	size_t bytes;

	if (paths_join(path, sizeof(path), dir, CONTROL_FILE_RESULT) || file_read(path, RESULT_MAX, &text, &bytes))
		return NULL;
	result = json_tokener_parse(text);
	free(text);
	if (!json_object_is_type(result, json_type_object) || !json_object_object_get_ex(result, "state", &state) ||
	    !vm_state_parse(json_object_get_string(state), &parsed) || !vm_state_is_final(parsed)) {
		log_warning("%s: no usable result", path);
		json_object_put(result);
		return NULL;
	}
	return result;
}

static json_object *make_result(const char *dir, double started, enum vm_state state, const char *why)
{
	json_object *result = json_object_new_object();
	char tail[LOG_TAIL];

	read_log_tail(dir, tail, sizeof(tail));
	put_text(result, "state", vm_state_name(state));
	put_text(result, "reason", why);
	json_object_object_add(result, "exit_code", NULL);
	json_object_object_add(result, "started", json_object_new_double(started));
	json_object_object_add(result, "ended", json_object_new_double(epoch_seconds()));
	put_text(result, "log_tail", tail);
	return result;
}

void supervisor_record(struct vm *vm, const char *dir, double started, const char *why)
{
	json_object *result = read_result(dir), *params = json_object_new_object(), *reason = NULL;

	if (!result) {
		result = make_result(dir, started, vm->process && !vm->process->ready ? VM_FAILED : VM_CRASHED, why);
		/* In place of its own, so that a later daemon does not record this end again. */
		if (!vm->transient && write_json(dir, CONTROL_FILE_RESULT, result))
			log_warning("%s: cannot write " CONTROL_FILE_RESULT, dir);
	}
	put_text(result, "uuid", vm->uuid);
	put_text(result, "name", vm->name);
	registry_set_result(vm, result);
	store_add(vm->daemon->store, STORE_RESULT, vm->uuid, vm->name, epoch_seconds(),
		  json_object_to_json_string_ext(result, JSON_C_TO_STRING_PLAIN), NULL, NULL);
	if (vm->transient)
		supervisor_remove_directory(dir);
	put_text(params, "state", vm_state_text(vm));
	json_object_object_get_ex(result, "reason", &reason);
	json_object_object_add(params, "reason", json_object_get(reason));
	event_emit(vm, "ended", params);
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

static void describe_death(const struct vm_process *process, char *why, size_t size)
{
	if (process->failure[0])
		snprintf(why, size, "%s", process->failure);
	else if (!process->exit_known)
		snprintf(why, size, "trivisor-vm died (how is not known: it was adopted) and left no result");
	else if (process->exit_code_kind == CLD_EXITED)
		snprintf(why, size, "trivisor-vm died: exit status %d, and left no result", process->exit_status);
	else
		snprintf(why, size, "trivisor-vm died: signal %d (%s)", process->exit_status,
			 sigabbrev_np(process->exit_status) ? sigabbrev_np(process->exit_status) : "?");
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
	supervisor_record(vm, process->dir, process->started, why);
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
	if (vm->transient && (!vm->owner || !was_ready))
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
	if (!process->failure[0])
		snprintf(process->failure, sizeof(process->failure), "it did not end within %d s of being told to, and was killed",
			 KILL_AFTER_MS / 1000);
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
	if (process->vmlink && process->ready)
		vmlink_call(process->vmlink, CONTROL_DESTROY, NULL, CALL_TIMEOUT_S, NULL, NULL);
	else
		send_signal(process, SIGTERM);
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

	/* Final states are taken from the result, once the process is gone. */
	if (json_object_object_get_ex(from, "state", &value) && json_object_is_type(value, json_type_string) &&
	    vm_state_parse(json_object_get_string(value), &state) && !vm_state_is_final(state)) {
		process->vm->ran = true;
		process->vm->state = state;
	}
}

static void on_link_event(void *opaque, json_object *params)
{
	struct vm_process *process = opaque;
	json_object *event = NULL, *state = NULL;
	enum vm_state parsed;

	if (!json_object_object_get_ex(params, "event", &event) || !json_object_is_type(event, json_type_string))
		return;
	if (!strcmp(json_object_get_string(event), CONTROL_EVENT_STATE)) {
		take_state(process, params);
		if (!json_object_object_get_ex(params, "state", &state) || !vm_state_parse(json_object_get_string(state), &parsed) ||
		    vm_state_is_final(parsed))
			return;
	}
	event_emit(process->vm, json_object_get_string(event), json_object_get(params));
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
	now_ready(process);
}

static void on_hello(void *opaque, int code, const char *message, json_object *result)
{
	struct vm_process *process = opaque;
	json_object *protocol = NULL, *uuid = NULL, *mode = NULL, *reason = NULL;
	char why[200];

	if (code == VMLINK_LOST)
		return;
	json_object_object_get_ex(result, "protocol", &protocol);
	json_object_object_get_ex(result, "uuid", &uuid);
	if (code || !uuid || strcmp(json_object_get_string(uuid), process->vm->uuid) ||
	    json_object_get_int(protocol) != CONTROL_VERSION) {
		snprintf(why, sizeof(why), "trivisor-vm speaks control protocol %d, this daemon %d; install both from one version",
			 json_object_get_int(protocol), CONTROL_VERSION);
		if (process->adopted)
			log_error("VM %s: %s; it is left alone", process->vm->name, code ? message : why);
		else
			fail_start(process, code ? message : why);
		return;
	}
	if (json_object_object_get_ex(result, "mode", &mode))
		snprintf(process->mode, sizeof(process->mode), "%.7s", json_object_get_string(mode));
	if (json_object_object_get_ex(result, "mode_reason", &reason)) {
		char *copy = strdup(json_object_get_string(reason));

		if (copy) {
			free(process->mode_reason);
			process->mode_reason = copy;
		}
	}
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
		snprintf(why, sizeof(why), "trivisor-vm did not get ready within %u s (start_timeout in the configuration)",
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
					    process->adopted ? CALL_TIMEOUT_S : daemon->settings->start_timeout_s, on_hello,
					    process);
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
	process->exit_event = event_new(process->vm->daemon->base, process->pidfd, EV_READ | EV_PERSIST, on_exit_event, process);
	return process->exit_event && event_add(process->exit_event, NULL) == 0 ? 0 : -ENOMEM;
}

/* definition.json for the process, daemon.json for the next daemon that finds it. */
static int prepare_directory(struct vm *vm, const char *dir, const char *mode, bool no_reboot)
{
	json_object *definition = NULL, *note = json_object_new_object();
	int rc = file_make_dirs(dir, 0700);

	if (!rc) {
		clear_directory(dir);
		if (json_object_deep_copy(vm->definition, &definition, NULL) < 0)
			rc = -ENOMEM;
	}
	if (!rc && no_reboot)
		put_text(definition, "on_reboot", "shutdown");
	if (!rc)
		rc = write_json(dir, CONTROL_FILE_DEFINITION, definition);
	json_object_object_add(note, "transient", json_object_new_boolean(vm->transient));
	json_object_object_add(note, "ends_with_client", json_object_new_boolean(vm->owner != NULL));
	put_text(note, "mode", mode);
	json_object_object_add(note, "decision", json_object_get(vm->decision));
	if (!rc)
		rc = write_json(dir, "daemon.json", note);
	json_object_put(definition);
	json_object_put(note);
	return rc;
}

/* In a session of its own, so that no signal to ours reaches it; nothing inherited but its log. */
static int spawn(const char *program, const char *dir, const char *mode, const char *reason, pid_t *ret_pid)
{
	char *const argv[] = {(char *)program,       (char *)"--dir",  (char *)dir, (char *)"--mode", (char *)mode,
			      (char *)"--mode-reason", (char *)reason, NULL};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	char log_path[PATH_MAX];
	sigset_t none, all;
	int r = -paths_join(log_path, sizeof(log_path), dir, CONTROL_FILE_LOG);

	if (r)
		return -r;
	sigemptyset(&none);
	sigfillset(&all);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &all);
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, log_path, O_WRONLY | O_CREAT | O_APPEND, 0600);
	posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
	r = posix_spawn(ret_pid, program, &actions, &attributes, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	return -r;
}

static int launch(struct vm_process *process, const char *mode, const char *reason)
{
	struct daemon *daemon = process->vm->daemon;
	int rc = spawn(daemon->settings->vm_program, process->dir, mode, reason, &process->pid);

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

void supervisor_start(struct vm *vm, enum policy_mode mode, const char *mode_reason, bool no_reboot, daemon_done_fn done,
		      void *opaque)
{
	struct daemon *daemon = vm->daemon;
	struct vm_process *process = NULL;
	json_object *params;
	char dir[PATH_MAX];
	int rc = paths_join(dir, sizeof(dir), daemon->vms_dir, vm->uuid);

	if (!rc)
		rc = prepare_directory(vm, dir, policy_mode_name(mode), no_reboot);
	if (rc) {
		answer_error(done, opaque, DAEMON_STORAGE, "runtime directory %s: %s", dir, strerror(-rc));
		return;
	}
	rc = process_create(vm, dir, &process);
	if (!rc && !(process->mode_reason = strdup(mode_reason)))
		rc = -ENOMEM;
	if (!rc)
		rc = push_pending(&process->starts, done, opaque);
	if (rc) {
		supervisor_release(process);
		answer_error(done, opaque, DAEMON_INTERNAL, "out of memory");
		return;
	}
	snprintf(process->mode, sizeof(process->mode), "%s", policy_mode_name(mode));
	rc = launch(process, process->mode, mode_reason);
	if (rc) {
		supervisor_release(process);
		answer_error(done, opaque, DAEMON_START, "cannot start %s: %s", daemon->settings->vm_program, strerror(-rc));
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

int supervisor_adopt(struct vm *vm, pid_t pid, int pidfd, const char *dir, const char *mode)
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

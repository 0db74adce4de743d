/*
 * Measures this host: the calibration program natively, then as a guest in every mode that could run here, and all of
 * that again: what disturbs a host for a second does not disturb both. What it prints is taken line by line on the loop;
 * nothing waits. A guest that dies in one measure is started again for the rest: what killed it "cannot be executed" in
 * that mode.
 */
#include "daemon/private.h"

#include "config.h"
#include "daemon/log.h"
#include "proto/file.h"
#include "proto/paths.h"
#include "proto/process.h"
#include "proto/sock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NOTE_KEY "calibration"
#define DIR_NAME "calibrate"
#define BUDGET_MS 80     /* for one measure; some take up to four times as long */
#define PASSES 2
#define SILENCE_MS 5000  /* no line for so long: it hangs */
#define TOTAL_S 18.0     /* what was not begun by then is left out; the promise is 20 s */
#define GRACE_S 1.5      /* for what was */
#define LEAST_MS 250
#define AT_START_MS 200  /* clients that start the daemon come first */
#define CONNECT_MS 5
#define SILENT_MAX 2     /* runs that do not begin, of a mode that runs */
#define LEFT_TRIES 40 /* for what a killed daemon left behind */
#define LEFT_MS 50
#define GUEST_UUID "00000000-0000-4000-8000-0000000ca11b"
#define MEMORY_MIB 32
#define LINE_BYTES 512

struct calibration {
	struct daemon *daemon;
	struct policy_calibration now; /* as it grows */
	int pass, step;                /* step -1: natively; else the mode */
	unsigned todo;                 /* measures, a bit each, that this step has not dealt with */
	bool spoke;                    /* a run of this step has begun as it should */
	unsigned silent;               /* others that did not */
	unsigned hung;                 /* measures that stood still once */
	int current;                   /* the measure that was begun, -1 for none */
	double khz;                    /* of the TSC; every mode's guests see the host's rate */
	double began, run_began;       /* CLOCK_MONOTONIC */
	struct pending_list waiting;

	/* The process of this run. */
	pid_t pid;
	int pidfd, fd; /* its output: a pipe or the console's socket */
	bool is_guest, ready, ended, exited, silenced;
	char line[LINE_BYTES];
	size_t line_used;
	char cause[240]; /* why we ended it */
	char last[240];  /* its last line that was none of the protocol: a panic */
	struct event *readable, *gone, *timer, *connector;
};

static void begin_step(struct calibration *c);
static bool can_measure(const struct daemon *daemon, enum policy_mode mode, char *why, size_t size);

static struct policy_figures *figures_of(struct calibration *c)
{
	return c->step >= 0 ? &c->now.mode[c->step] : &c->now.native;
}

static int guest_dir(const struct daemon *daemon, char *dir, size_t size)
{
	return paths_join(dir, size, daemon->settings->runtime_dir, DIR_NAME);
}

/* ---- the end of it all ------------------------------------------------------------------ */

static void free_event(struct event **event)
{
	if (*event)
		event_free(*event);
	*event = NULL;
}

static void kill_run(struct calibration *c)
{
	if (c->pidfd >= 0 && !c->exited)
		syscall(SYS_pidfd_send_signal, c->pidfd, SIGKILL, NULL, 0);
}

static void close_run(struct calibration *c)
{
	char dir[PATH_MAX];

	free_event(&c->readable);
	free_event(&c->gone);
	free_event(&c->timer);
	free_event(&c->connector);
	if (c->pidfd >= 0)
		close(c->pidfd);
	if (c->fd >= 0)
		close(c->fd);
	c->pidfd = c->fd = -1;
	if (c->is_guest && !guest_dir(c->daemon, dir, sizeof(dir)))
		vmdir_remove(dir);
}

static void calibration_free(struct calibration *c)
{
	struct pending *p;

	close_run(c);
	while ((p = STAILQ_FIRST(&c->waiting))) {
		STAILQ_REMOVE_HEAD(&c->waiting, link);
		free(p);
	}
	c->daemon->calibrating = NULL;
	free(c);
}

static void answer_all(struct calibration *c, const struct daemon_error *error, json_object *result)
{
	struct pending_list list = STAILQ_HEAD_INITIALIZER(list);
	struct pending *p;

	STAILQ_CONCAT(&list, &c->waiting);
	while ((p = STAILQ_FIRST(&list))) {
		STAILQ_REMOVE_HEAD(&list, link);
		p->done(p->opaque, error, result);
		free(p);
	}
}

static void log_outcome(const struct policy_calibration *now)
{
	for (int m = 0; m < POLICY_MODE_COUNT; m++) {
		const struct policy_figures *f = &now->mode[m];

		if (f->tried && f->of[POLICY_integer].state == POLICY_FIGURE_NS)
			log_notice("calibration: %s runs integer code at %.2f times native's time",
				   policy_mode_name((enum policy_mode)m),
				   f->of[POLICY_integer].ns / now->native.of[POLICY_integer].ns);
		else if (f->tried)
			log_notice("calibration: %s: %s", policy_mode_name((enum policy_mode)m),
				   f->problem[0] ? f->problem : f->of[POLICY_integer].why);
	}
}

/* What this time was not reached keeps the figures that the same host had before, each mode with their date. */
static void keep_earlier(const struct policy_calibration *before, struct policy_calibration *now)
{
	if (!before->valid || !policy_calibration_same(&before->key, &now->key))
		return;
	for (int m = 0; m < POLICY_MODE_COUNT; m++) {
		const struct policy_figures *old = &before->mode[m];
		struct policy_figures *f = &now->mode[m];

		if (!f->tried && old->tried)
			*f = *old;
		for (int i = 0; i < POLICY_MEASURES && f->tried && !f->problem[0]; i++)
			if (f->of[i].state == POLICY_FIGURE_NONE)
				f->of[i] = old->of[i];
	}
}

static void finish(struct calibration *c)
{
	struct daemon *daemon = c->daemon;
	struct daemon_error error = {.code = DAEMON_START};
	json_object *json;
	char why[200];

	c->now.valid = c->now.native.of[POLICY_integer].state == POLICY_FIGURE_NS;
	c->now.time = epoch_seconds();
	c->now.seconds = monotonic_seconds() - c->began;
	if (!c->now.complete)
		keep_earlier(&daemon->calibration, &c->now);
	for (int m = 0; m < POLICY_MODE_COUNT; m++)
		if (!c->now.mode[m].tried && !c->now.mode[m].problem[0])
			snprintf(c->now.mode[m].problem, sizeof(c->now.mode[m].problem), "not measured: %s",
				 can_measure(daemon, (enum policy_mode)m, why, sizeof(why))
					 ? "no time was left for it on this busy host; the next start measures it"
					 : why);
	if (!c->now.valid) {
		snprintf(error.message, sizeof(error.message), "the host cannot be measured: %s",
			 c->now.native.problem[0] ? c->now.native.problem : "nothing could be measured natively");
		log_error("calibration: %s", error.message);
		answer_all(c, &error, NULL);
	} else {
		daemon->calibration = c->now;
		log_outcome(&c->now);
		json = policy_calibration_json(&c->now);
		store_put_note(daemon->store, NOTE_KEY, json_object_to_json_string_ext(json, JSON_C_TO_STRING_PLAIN), NULL,
			       NULL);
		answer_all(c, NULL, json);
		json_object_put(json);
	}
	calibration_free(c);
}

/* ---- one run ------------------------------------------------------------------------------ */

static double seconds_left(const struct calibration *c)
{
	return TOTAL_S - (monotonic_seconds() - c->began);
}

/* Everything that this step has not measured, for one reason. */
static void give_up(struct calibration *c, const char *why)
{
	struct policy_figures *figures = figures_of(c);

	for (int i = 0; i < POLICY_MEASURES; i++)
		if (c->todo >> i & 1)
			policy_figure_cannot(figures, (enum policy_measure)i, why);
	c->todo = 0;
}

static void next_step(struct calibration *c)
{
	figures_of(c)->time = epoch_seconds();
	c->step++;
	c->spoke = false;
	c->silent = c->hung = 0;
	begin_step(c);
}

/* What follows the words, or all of it: who stopped where is no part of why. */
static const char *after(const char *text, const char *words)
{
	const char *found = strstr(text, words);

	return found ? found + strlen(words) : text;
}

/* What its process left behind as the reason of its end. */
static void reason_of_end(struct calibration *c, char *why, size_t size)
{
	char dir[PATH_MAX];
	json_object *result = NULL, *reason = NULL;

	if (c->cause[0]) {
		snprintf(why, size, "%s", c->cause);
		return;
	}
	if (c->is_guest && !guest_dir(c->daemon, dir, sizeof(dir)))
		result = vmdir_read_json(dir, CONTROL_FILE_RESULT);
	if (c->last[0])
		snprintf(why, size, "%s", after(c->last, "panic "));
	else if (result && json_object_object_get_ex(result, "reason", &reason) &&
		 json_object_is_type(reason, json_type_string))
		snprintf(why, size, "%.*s", (int)size - 1, after(json_object_get_string(reason), "on vCPU 0: "));
	else
		snprintf(why, size, "its process died");
	json_object_put(result);
}

/* The run is over. What it was at is what ended it; what it had not begun gets another run. */
static void end_run(struct calibration *c)
{
	struct policy_figures *figures = figures_of(c);
	bool was_ready = c->ready, ended = c->ended, silenced = c->silenced;
	unsigned at = c->current >= 0 ? 1u << c->current : 0;
	char why[240];

	reason_of_end(c, why, sizeof(why));
	close_run(c);
	if (ended) {
		c->todo = 0;
	} else if (!was_ready && c->spoke) {
		/* It does run in this mode, and once did not begin: the host stood still. That is no "cannot". */
		if (++c->silent >= SILENT_MAX) {
			c->now.complete &= c->pass > 0;
			c->todo = 0;
		}
	} else if (!was_ready && silenced && ++c->silent < SILENT_MAX) {
		/* The same before it first spoke: once more. */
	} else if (!was_ready) {
		if (!c->pass)
			snprintf(figures->problem, sizeof(figures->problem), "%s", why);
		give_up(c, why);
	} else if (at && silenced && !(c->hung & at)) {
		/* A host that stood still looks like a guest that hangs: what happens once proves nothing. */
		c->hung |= at;
	} else if (at) {
		policy_figure_cannot(figures, (enum policy_measure)c->current, why);
		c->todo &= ~at;
	} else {
		give_up(c, why);
	}
	if (c->todo && seconds_left(c) <= 0) {
		c->now.complete &= c->pass > 0;
		c->todo = 0;
	}
	if (c->todo)
		begin_step(c);
	else
		next_step(c);
}

static void end_soon(struct calibration *c, const char *cause)
{
	if (!c->cause[0])
		snprintf(c->cause, sizeof(c->cause), "%s", cause);
	kill_run(c);
}

static void rearm(struct calibration *c)
{
	double left = (seconds_left(c) + GRACE_S) * 1000;
	struct timeval silence = milliseconds(left > SILENCE_MS ? SILENCE_MS : left > LEAST_MS ? (unsigned)left : LEAST_MS);

	event_add(c->timer, &silence);
}

static void on_silence(evutil_socket_t fd, short what, void *opaque)
{
	struct calibration *c = opaque;
	char cause[64];

	if (seconds_left(c) <= 0) {
		/* Not that it could not: the time for everything is over. */
		c->now.complete &= c->pass > 0;
		c->ended = true;
		kill_run(c);
		rearm(c);
		return;
	}
	snprintf(cause, sizeof(cause), "it did not finish within %d s", SILENCE_MS / 1000);
	c->silenced = true;
	end_soon(c, cause);
	/* Should even that not end it, the timer comes again. */
	rearm(c);
}

/* A guest has a word to read first: what to do. */
static void tell_guest(struct calibration *c)
{
	char text[LINE_BYTES];
	size_t n = (size_t)snprintf(text, sizeof(text), "run %.0f", c->khz * BUDGET_MS);

	for (int i = 0; i < POLICY_MEASURES; i++)
		if (c->todo >> i & 1)
			n += (size_t)snprintf(text + n, sizeof(text) - n, " %s",
					      policy_measure_name((enum policy_measure)i));
	n += (size_t)snprintf(text + n, sizeof(text) - n, "\n");
	if (write(c->fd, text, n) != (ssize_t)n)
		end_soon(c, "its console takes no input");
}

static void take_line(struct calibration *c)
{
	struct policy_figures *figures = figures_of(c);
	enum policy_measure measure = 0;

	rearm(c);
	log_debug("calibration: %s", c->line);
	switch (policy_calibration_line(figures, c->line, c->khz, c->is_guest ? NULL : &c->khz, &measure)) {
	case POLICY_LINE_READY:
		if (c->ready)
			break;
		c->ready = true;
		c->spoke = true;
		if (c->is_guest) {
			if (figures->start_ms <= 0)
				figures->start_ms = (monotonic_seconds() - c->run_began) * 1e3;
			tell_guest(c);
		}
		break;
	case POLICY_LINE_BEGIN: c->current = measure; break;
	case POLICY_LINE_FIGURE:
		c->todo &= ~(1u << measure);
		c->current = -1;
		if (c->todo && seconds_left(c) <= 0) {
			c->now.complete &= c->pass > 0;
			c->ended = true;
			kill_run(c);
		}
		break;
	case POLICY_LINE_END: c->ended = true; break;
	case POLICY_LINE_OTHER:
		if (c->line[0])
			snprintf(c->last, sizeof(c->last), "%.*s", (int)sizeof(c->last) - 1, c->line);
		break;
	}
}

static void maybe_end(struct calibration *c)
{
	if (c->exited && c->fd < 0)
		end_run(c);
}

static void on_readable(evutil_socket_t fd, short what, void *opaque)
{
	struct calibration *c = opaque;
	char buffer[4096];
	ssize_t n = read(c->fd, buffer, sizeof(buffer));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		free_event(&c->readable);
		close(c->fd);
		c->fd = -1;
		maybe_end(c);
		return;
	}
	for (ssize_t i = 0; i < n; i++) {
		if (buffer[i] == '\n' || c->line_used == sizeof(c->line) - 1) {
			c->line[c->line_used] = '\0';
			c->line_used = 0;
			take_line(c);
		}
		/* A guest may say anything; what it says ends up in messages. */
		if (buffer[i] != '\n' && buffer[i] != '\r')
			c->line[c->line_used++] = buffer[i] >= ' ' && buffer[i] <= '~' ? buffer[i] : '?';
	}
}

static void on_gone(evutil_socket_t fd, short what, void *opaque)
{
	struct calibration *c = opaque;
	siginfo_t info = {0};

	waitid(P_PIDFD, (id_t)c->pidfd, &info, WEXITED | WNOHANG);
	free_event(&c->gone);
	free_event(&c->connector);
	c->exited = true;
	maybe_end(c);
}

static int listen_to(struct calibration *c, int fd)
{
	c->fd = fd;
	c->readable = event_new(c->daemon->base, fd, EV_READ | EV_PERSIST, on_readable, c);
	return c->readable && !event_add(c->readable, NULL) ? 0 : -ENOMEM;
}

static void on_connect(evutil_socket_t timer, short what, void *opaque)
{
	struct calibration *c = opaque;
	struct timeval again = milliseconds(CONNECT_MS);
	char dir[PATH_MAX], path[PATH_MAX];
	int fd = -ENOENT;

	if (!guest_dir(c->daemon, dir, sizeof(dir)) && !paths_join(path, sizeof(path), dir, CONTROL_FILE_CONSOLE))
		fd = sock_connect_nonblock(path);
	if (fd < 0) {
		event_add(c->connector, &again);
		return;
	}
	evutil_make_socket_nonblocking(fd);
	if (listen_to(c, fd))
		end_soon(c, "out of memory");
}

/* definition.json: one processor, no name that a user could meet. */
static int prepare_guest(struct calibration *c, const char *dir, const char *mode)
{
	json_object *definition = json_object_new_object(), *boot = json_object_new_object(),
		    *disks = json_object_new_array(), *disk = json_object_new_object();
	const char *text, *guest = c->daemon->settings->calibrate_guest;
	char path[PATH_MAX];
	size_t bytes;
	int rc;

	put_text(definition, "name", "calibration");
	put_text(definition, "uuid", GUEST_UUID);
	put_text(definition, "mode", mode);
	json_object_object_add(definition, "memory_mib", json_object_new_int(MEMORY_MIB));
	put_text(boot, "kernel", guest);
	json_object_object_add(definition, "boot", boot);
	put_text(disk, "path", guest);
	json_object_object_add(disk, "readonly", json_object_new_boolean(1));
	json_object_array_add(disks, disk);
	json_object_object_add(definition, "disks", disks);
	json_object_object_add(definition, "debug_exit", json_object_new_boolean(1));
	vmdir_remove(dir);
	rc = file_make_dirs(dir, 0700);
	text = json_object_to_json_string_length(definition, JSON_C_TO_STRING_NOSLASHESCAPE, &bytes);
	if (!rc)
		rc = paths_join(path, sizeof(path), dir, CONTROL_FILE_DEFINITION);
	if (!rc)
		rc = file_write_atomic(path, text, bytes, 0600);
	json_object_put(definition);
	return rc;
}

static int spawn_guest(struct calibration *c, const char *mode)
{
	const char *program = c->daemon->settings->vm_program;
	char dir[PATH_MAX], log[PATH_MAX];
	char *const argv[] = {(char *)program,     (char *)"--dir",     dir,
			      (char *)"--mode",    (char *)mode,        (char *)"--mode-reason",
			      (char *)"calibration", NULL};
	int rc = guest_dir(c->daemon, dir, sizeof(dir));

	if (!rc)
		rc = paths_join(log, sizeof(log), dir, CONTROL_FILE_LOG);
	if (!rc)
		rc = prepare_guest(c, dir, mode);
	return rc ? rc : supervisor_spawn(argv, log, -1, &c->pid);
}

/* ret_fd: the end we read. */
static int spawn_native(struct calibration *c, int *ret_fd)
{
	const struct settings *s = c->daemon->settings;
	char budget[16];
	char *const argv[] = {s->calibrate_program, (char *)"--budget", budget, (char *)"--disk", s->calibrate_guest, NULL};
	int fds[2], rc;

	snprintf(budget, sizeof(budget), "%d", BUDGET_MS);
	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	rc = supervisor_spawn(argv, "/dev/null", fds[1], &c->pid);
	close(fds[1]);
	if (rc) {
		close(fds[0]);
		return rc;
	}
	evutil_make_socket_nonblocking(fds[0]);
	*ret_fd = fds[0];
	return 0;
}

static int watch_run(struct calibration *c)
{
	struct event_base *base = c->daemon->base;

	c->pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0);
	if (c->pidfd < 0)
		return -errno;
	c->gone = event_new(base, c->pidfd, EV_READ, on_gone, c);
	c->timer = event_new(base, -1, 0, on_silence, c);
	c->connector = event_new(base, -1, 0, on_connect, c);
	return c->gone && c->timer && c->connector && !event_add(c->gone, NULL) ? 0 : -ENOMEM;
}

/* One process for what is left to do in this step. 0 or -errno, with nothing running. */
static int start_run(struct calibration *c)
{
	int fd = -1, rc;

	c->is_guest = c->step >= 0;
	c->ready = c->ended = c->exited = c->silenced = false;
	c->current = -1;
	c->line_used = 0;
	c->cause[0] = c->last[0] = '\0';
	c->run_began = monotonic_seconds();
	rc = c->is_guest ? spawn_guest(c, policy_mode_name((enum policy_mode)c->step)) : spawn_native(c, &fd);
	if (rc)
		return rc;
	rc = watch_run(c);
	if (!rc && fd >= 0)
		rc = listen_to(c, fd);
	if (!rc) {
		rearm(c);
		if (c->is_guest)
			on_connect(-1, 0, c);
		return 0;
	}
	if (fd >= 0 && c->fd < 0)
		close(fd);
	/* Nobody could watch it: it must not stay. It is our child, so its pid is still its own. */
	kill(c->pid, SIGKILL);
	waitpid(c->pid, NULL, 0);
	close_run(c);
	return rc;
}

/* ---- the steps -------------------------------------------------------------------------------- */

/* Whether a mode can be measured here; if not, why not. */
static bool can_measure(const struct daemon *daemon, enum policy_mode mode, char *why, size_t size)
{
	struct vmdef guest = {.boot.kernel = daemon->settings->calibrate_guest};
	struct policy_mode_state state;
	struct policy_guest image;

	policy_mode_judge(mode, &daemon->host, &state);
	if (!policy_mode_can_try(mode, &daemon->host)) {
		snprintf(why, size, "%.*s", (int)size - 1, state.reason);
		return false;
	}
	if (mode != POLICY_PV)
		return true;
	/* The one mode that asks something of a kernel. */
	policy_guest_inspect(&guest, &image);
	snprintf(why, size, "the calibration guest has no Xen PV entry");
	return image.xen_pv == POLICY_YES;
}

static bool try_mode(struct calibration *c)
{
	struct policy_figures *figures = figures_of(c);
	char why[200];

	policy_probe_again(&c->daemon->host);
	if (can_measure(c->daemon, (enum policy_mode)c->step, why, sizeof(why)))
		return true;
	if (!figures->tried)
		snprintf(figures->problem, sizeof(figures->problem), "not measured: %s", why);
	return false;
}

/* Since it was measured the host has come to offer another mode: a module was loaded, a permission given. */
static bool offers_more(const struct daemon *daemon)
{
	char why[240];

	for (int m = 0; m < POLICY_MODE_COUNT; m++)
		if (!daemon->calibration.mode[m].tried && can_measure(daemon, (enum policy_mode)m, why, sizeof(why)))
			return true;
	return false;
}

/* A mode that takes so many times as long as native is not worth a second look: a software KVM. */
#define HOPELESS 20.0

/* What this step is to measure: all, but for what could not be executed before. */
static unsigned worth_measuring(struct calibration *c)
{
	const struct policy_figure *loop = &figures_of(c)->of[POLICY_integer];
	unsigned todo = 0;

	if (c->pass && loop->state == POLICY_FIGURE_NS && loop->ns > HOPELESS * c->now.native.of[POLICY_integer].ns)
		return 0;
	for (int i = 0; i < POLICY_MEASURES; i++)
		if (figures_of(c)->of[i].state != POLICY_FIGURE_CANNOT)
			todo |= 1u << i;
	return todo;
}

/* A full disk, or a program that is not there, says nothing about the mode: it is measured when that is mended. */
static void could_not_start(struct calibration *c, int rc)
{
	struct policy_figures *figures = figures_of(c);
	const struct settings *s = c->daemon->settings;
	char dir[PATH_MAX] = "";

	if (figures->tried)
		return; /* what the first pass measured stays */
	if (c->is_guest)
		guest_dir(c->daemon, dir, sizeof(dir));
	snprintf(figures->problem, sizeof(figures->problem), "%scannot start %.100s%s%.80s: %s", c->is_guest ? "not measured: " : "",
		 c->is_guest ? s->vm_program : s->calibrate_program, c->is_guest ? " in " : "", dir, strerror(-rc));
	c->now.complete = false;
}

static void begin_step(struct calibration *c)
{
	int rc;

	while (c->pass < PASSES) {
		if (c->step >= POLICY_MODE_COUNT) {
			c->step = -1;
			c->pass++;
			c->todo = 0;
		} else if (c->step >= 0 && !try_mode(c)) {
			c->step++;
		} else if (!c->todo && !(c->todo = worth_measuring(c))) {
			c->step++;
		} else {
			break;
		}
	}
	/* Without native figures nothing can be compared; what the clock cuts off in the second pass is no loss. */
	if (c->pass >= PASSES || ((c->step >= 0 || c->pass) && c->now.native.of[POLICY_integer].state != POLICY_FIGURE_NS) ||
	    seconds_left(c) <= 0) {
		c->now.complete &= c->pass > 0;
		finish(c);
		return;
	}
	rc = start_run(c);
	if (!rc) {
		if (!figures_of(c)->tried)
			figures_of(c)->problem[0] = '\0';
		figures_of(c)->tried = true;
		return;
	}
	could_not_start(c, rc);
	c->todo = 0;
	next_step(c);
}

/* ---- what the rest of the daemon calls ----------------------------------------------------------- */

/* Ours and trivisor-vm's version, and when that was built: a development build has no new number each time. */
static void version_text(const struct daemon *daemon, char *text, size_t size)
{
	struct stat st;
	struct tm tm;
	char when[32] = "not found";

	if (daemon->settings->vm_program && stat(daemon->settings->vm_program, &st) == 0 && gmtime_r(&st.st_mtime, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm);
	snprintf(text, size, PACKAGE_VERSION " (trivisor-vm %s)", when);
}

static void key_now(const struct daemon *daemon, struct policy_calibration_key *ret_key)
{
	char version[80];

	version_text(daemon, version, sizeof(version));
	policy_calibration_key(&daemon->host, version, ret_key);
}

static int push_waiting(struct calibration *c, daemon_done_fn done, void *opaque)
{
	struct pending *p;

	if (!done)
		return 0;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->done = done;
	p->opaque = opaque;
	STAILQ_INSERT_TAIL(&c->waiting, p, link);
	return 0;
}

void daemon_calibrate(struct daemon *daemon, daemon_done_fn done, void *opaque)
{
	struct calibration *c = daemon->calibrating;
	bool fresh = !c;

	if (fresh) {
		c = calloc(1, sizeof(*c));
		if (!c) {
			answer_error(done, opaque, DAEMON_INTERNAL, "out of memory");
			return;
		}
		c->daemon = daemon;
		c->pidfd = c->fd = -1;
		c->step = -1;
		c->now.complete = true;
		c->began = monotonic_seconds();
		STAILQ_INIT(&c->waiting);
		key_now(daemon, &c->now.key);
		daemon->calibrating = c;
	}
	/* A second caller gets what the first one's run finds. */
	if (push_waiting(c, done, opaque)) {
		answer_error(done, opaque, DAEMON_INTERNAL, "out of memory");
		if (fresh)
			calibration_free(c);
		return;
	}
	if (fresh) {
		log_info("calibration: measuring this host");
		begin_step(c);
	}
}

static void on_start(evutil_socket_t fd, short what, void *opaque)
{
	daemon_calibrate(opaque, NULL, NULL);
}

/* A guest that a daemon before us left behind when it was killed. */
static void clean_up(const struct daemon *daemon)
{
	char dir[PATH_MAX], path[PATH_MAX];
	struct process_id id;
	int pidfd;

	if (guest_dir(daemon, dir, sizeof(dir)) || paths_join(path, sizeof(path), dir, CONTROL_FILE_PID))
		return;
	/* One that was just being started has not written its number yet, and goes on making files. */
	for (unsigned i = 0; i < LEFT_TRIES && access(dir, F_OK) == 0; i++) {
		if (i)
			poll(NULL, 0, LEFT_MS);
		if (!process_id_read(path, &id) && (pidfd = process_id_open(&id)) >= 0) {
			struct pollfd end = {.fd = pidfd, .events = POLLIN};

			syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
			poll(&end, 1, LEFT_TRIES * LEFT_MS);
			close(pidfd);
		}
		vmdir_remove(dir);
	}
}

void calibrate_init(struct daemon *daemon)
{
	char *text = store_load_note(daemon->store, NOTE_KEY);
	json_object *json = text ? json_tokener_parse(text) : NULL;
	struct timeval soon = milliseconds(AT_START_MS);
	struct policy_calibration_key key;
	char why[160];
	bool fits;

	clean_up(daemon);
	if (text && !policy_calibration_parse(json, &daemon->calibration, why, sizeof(why)))
		log_warning("calibration: what is stored cannot be used (%s): the host is to be measured again", why);
	json_object_put(json);
	free(text);
	key_now(daemon, &key);
	fits = daemon->calibration.valid && policy_calibration_same(&key, &daemon->calibration.key);
	/* Figures of another processor, kernel or version are none. */
	if (!fits)
		memset(&daemon->calibration, 0, sizeof(daemon->calibration));
	/* A private daemon lives for one VM: it uses what there is. */
	if ((fits && daemon->calibration.complete && !offers_more(daemon)) || !daemon->settings->calibrate ||
	    daemon->settings->lifeline_fd >= 0)
		return;
	daemon->calibrate_timer = event_new(daemon->base, -1, 0, on_start, daemon);
	if (daemon->calibrate_timer)
		event_add(daemon->calibrate_timer, &soon);
}

void calibrate_finish(struct daemon *daemon)
{
	struct calibration *c = daemon->calibrating;

	free_event(&daemon->calibrate_timer);
	if (!c)
		return;
	kill_run(c);
	if (c->pid > 0 && !c->exited && c->pidfd >= 0)
		waitid(P_PIDFD, (id_t)c->pidfd, &(siginfo_t){0}, WEXITED);
	calibration_free(c);
}

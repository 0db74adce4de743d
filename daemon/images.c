/* Work on disk images by qemu-img, beside the loop: made, converted, checked, resized, described. */
#include "daemon/images.h"
#include "daemon/private.h"

#include "daemon/log.h"
#include "proto/line.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PROGRAM "qemu-img"
#define JOBS_MAX 16
#define TOLD_MS 250
#define REPORT_MAX ((size_t)1 << 20) /* of JSON */
#define WORDS_MAX 600
#define NOT_POSSIBLE 63 /* qemu-img check's status for formats without checks */

static const char *const work_names[] = {[IMAGE_CREATE] = "create", [IMAGE_CONVERT] = "convert", [IMAGE_CHECK] = "check",
					  [IMAGE_RESIZE] = "resize", [IMAGE_INFO] = "info"};

struct image_job {
	LIST_ENTRY(image_job) link;
	struct daemon *daemon;
	enum image_work work;
	unsigned number;
	char path[PATH_MAX];
	char named[PATH_MAX]; /* of the new image, until it is whole; "": it has no name */
	int image;	      /* the new image; -1: none */
	uint64_t preallocated; /* bytes that it will take; 0: not known */
	pid_t pid;
	int pidfd, out, err;
	struct event *ended, *readable, *said, *tick;
	char *report; /* what it wrote to standard output */
	size_t report_bytes;
	char words[WORDS_MAX]; /* the end of what it wrote to standard error */
	size_t words_bytes;
	double percent, started;
	image_progress_fn progress;
	daemon_done_fn done;
	void *opaque;
	bool cancelled; /* killed, and not yet gone */
};

static double monotonic(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void job_free(struct image_job *job)
{
	struct event *const events[] = {job->ended, job->readable, job->said, job->tick};
	const int fds[] = {job->pidfd, job->out, job->err, job->image};

	for (size_t i = 0; i < 4; i++)
		if (events[i])
			event_free(events[i]);
	for (size_t i = 0; i < 4; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	if (job->named[0])
		unlink(job->named);
	if (job->number)
		LIST_REMOVE(job, link);
	free(job->report);
	free(job);
}

/* It goes when the process has: one that waits for a disk may take its time, and nobody waits for it. */
void daemon_image_cancel(struct image_job *job)
{
	log_info("image %s: %s was cancelled", job->path, work_names[job->work]);
	kill(job->pid, SIGKILL);
	job->cancelled = true;
	event_del(job->tick);
}

void daemon_images_close(struct daemon *daemon)
{
	while (!LIST_EMPTY(&daemon->images)) {
		kill(LIST_FIRST(&daemon->images)->pid, SIGKILL);
		job_free(LIST_FIRST(&daemon->images));
	}
}

/* ---- progress ---------------------------------------------------------------------- */

static void tell(struct image_job *job)
{
	struct stat st;

	if (job->preallocated && fstat(job->image, &st) == 0) {
		job->percent = (double)st.st_blocks * 512 * 100 / (double)job->preallocated;
		if (job->percent > 100)
			job->percent = 100;
	}
	if (job->progress)
		job->progress(job->opaque, job->number, job->percent, monotonic() - job->started);
}

static void on_tick(evutil_socket_t fd, short what, void *opaque)
{
	tell(opaque);
}

/* "    (12.34/100%)\r", the last one. */
static void find_percent(struct image_job *job)
{
	for (size_t i = job->report_bytes; i-- > 0;) {
		double percent;
		char end;

		if (job->report[i] != '(')
			continue;
		if (sscanf(job->report + i, "(%lf/100%c", &percent, &end) == 2 && end == '%')
			job->percent = percent;
		return;
	}
}

/* False at its end. */
static bool read_report(struct image_job *job)
{
	char chunk[4096];
	ssize_t n = read(job->out, chunk, sizeof(chunk));
	bool prints_progress = job->work == IMAGE_CONVERT;
	char *more;

	if (n <= 0)
		return n < 0 && (errno == EAGAIN || errno == EINTR);
	/* Of a bar only the end counts. */
	if (prints_progress && job->report_bytes > sizeof(chunk))
		job->report_bytes = 0;
	if (job->report_bytes + (size_t)n > REPORT_MAX)
		return true;
	more = realloc(job->report, job->report_bytes + (size_t)n + 1);
	if (!more)
		return true;
	job->report = more;
	memcpy(job->report + job->report_bytes, chunk, (size_t)n);
	job->report_bytes += (size_t)n;
	job->report[job->report_bytes] = '\0';
	if (prints_progress)
		find_percent(job);
	return true;
}

static void on_report(evutil_socket_t fd, short what, void *opaque)
{
	struct image_job *job = opaque;

	if (!read_report(job))
		event_del(job->readable);
}

static bool read_words(struct image_job *job)
{
	char chunk[256];
	ssize_t n = read(job->err, chunk, sizeof(chunk));

	if (n <= 0)
		return n < 0 && (errno == EAGAIN || errno == EINTR);
	for (ssize_t i = 0; i < n; i++) {
		if (job->words_bytes == sizeof(job->words) - 1)
			memmove(job->words, job->words + 1, --job->words_bytes);
		job->words[job->words_bytes++] = isprint((unsigned char)chunk[i]) ? chunk[i] : ' ';
	}
	job->words[job->words_bytes] = '\0';
	return true;
}

static void on_words(evutil_socket_t fd, short what, void *opaque)
{
	struct image_job *job = opaque;

	if (!read_words(job))
		event_del(job->said);
}

/* ---- the end ------------------------------------------------------------------------- */

/* 0 or -errno: the new image is at its path. */
static int give_name(struct image_job *job)
{
	char self[64];

	if (job->named[0]) {
		if (syscall(SYS_renameat2, AT_FDCWD, job->named, AT_FDCWD, job->path, 1 /* RENAME_NOREPLACE */) < 0)
			return -errno;
		job->named[0] = '\0';
		return 0;
	}
	snprintf(self, sizeof(self), "/proc/self/fd/%d", job->image);
	return linkat(AT_FDCWD, self, AT_FDCWD, job->path, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

/* What it said, without its own name and the names that only we know. */
static const char *last_words(struct image_job *job)
{
	static const char name[] = PROGRAM ": ";
	char *text = job->words, *at;

	while (job->words_bytes && job->words[job->words_bytes - 1] == ' ')
		job->words[--job->words_bytes] = '\0';
	if (!strncmp(text, name, strlen(name)))
		text += strlen(name);
	while ((at = strstr(text, "/proc/self/fd/")) != NULL) {
		size_t n = strcspn(at + 14, " :'\"") + 14;

		memmove(at, "it", 2);
		memmove(at + 2, at + n, strlen(at + n) + 1);
	}
	return text[0] ? text : "it does not say why";
}

static json_object *result_of(struct image_job *job)
{
	json_object *result = json_object_new_object();
	struct stat st;

	json_object_object_add(result, "operation", json_object_new_int64(job->number));
	put_text(result, "path", job->path);
	json_object_object_add(result, "seconds", json_object_new_double(monotonic() - job->started));
	if (stat(job->path, &st) == 0) {
		json_object_object_add(result, "file_bytes", json_object_new_int64(st.st_size));
		json_object_object_add(result, "allocated_bytes", json_object_new_int64((int64_t)st.st_blocks * 512));
	}
	return result;
}

static void answer(struct image_job *job, json_object *result)
{
	daemon_done_fn done = job->done;
	void *opaque = job->opaque;

	job_free(job);
	done(opaque, NULL, result);
	json_object_put(result);
}

__attribute__((format(printf, 3, 4))) static void fail(struct image_job *job, enum daemon_error_code code, const char *format, ...)
{
	struct daemon_error error = {.code = code};
	daemon_done_fn done = job->done;
	void *opaque = job->opaque;
	size_t n = (size_t)snprintf(error.message, sizeof(error.message), "image %.300s: ", job->path);
	va_list ap;

	va_start(ap, format);
	vsnprintf(error.message + n, sizeof(error.message) - n, format, ap);
	va_end(ap);
	job_free(job);
	done(opaque, &error, NULL);
}

/* The report, strictly; NULL: it is no object. */
static json_object *take_report(struct image_job *job)
{
	json_object *report = NULL;
	const char *why;

	if (!job->report || line_parse_json(job->report, job->report_bytes, &report, &why) || !json_object_is_type(report, json_type_object)) {
		json_object_put(report);
		return NULL;
	}
	return report;
}

static void conclude_reported(struct image_job *job, int status)
{
	static const char *const states[] = {"clean", NULL, "corrupt", "leaks"};
	json_object *report = take_report(job), *result;

	if (!report) {
		fail(job, DAEMON_STORAGE, "%s", last_words(job));
		return;
	}
	result = result_of(job);
	if (job->work == IMAGE_CHECK)
		put_text(result, "state", states[status]);
	json_object_object_add(result, "report", report);
	answer(job, result);
}

static void conclude_failed(struct image_job *job, int status, bool killed)
{
	if (killed)
		fail(job, DAEMON_STORAGE, PROGRAM " was killed by signal %s", sigabbrev_np(status) ? sigabbrev_np(status) : "?");
	else if (status == 127)
		fail(job, DAEMON_UNSUPPORTED, PROGRAM " cannot be started (%s); install qemu-utils", last_words(job));
	else if (strstr(job->words, " lock"))
		fail(job, DAEMON_WRONG_STATE, "it, or what it is made from, is in use by a VM or another program; stop that first");
	else if (job->work == IMAGE_CHECK && status == NOT_POSSIBLE)
		fail(job, DAEMON_UNSUPPORTED, "its format has nothing that could be checked");
	else
		fail(job, DAEMON_STORAGE, "%s", last_words(job));
}

static void conclude(struct image_job *job, int status, bool killed)
{
	bool makes = job->image >= 0;
	int rc;

	if (!killed && (job->work == IMAGE_CHECK ? status == 0 || status == 2 || status == 3 : job->work == IMAGE_INFO && !status)) {
		conclude_reported(job, status);
		return;
	}
	if (killed || status) {
		conclude_failed(job, status, killed);
		return;
	}
	rc = makes ? give_name(job) : 0;
	if (rc) {
		fail(job, rc == -EEXIST ? DAEMON_EXISTS : DAEMON_STORAGE, "%s", rc == -EEXIST ? "another one was put there meanwhile" : strerror(-rc));
		return;
	}
	job->percent = 100;
	job->preallocated = 0;
	tell(job);
	answer(job, result_of(job));
}

static void on_ended(evutil_socket_t fd, short what, void *opaque)
{
	struct image_job *job = opaque;
	int status = 0;

	if (waitpid(job->pid, &status, WNOHANG) <= 0) {
		event_add(job->ended, NULL);
		return;
	}
	if (job->cancelled) {
		job_free(job);
		return;
	}
	/* What is in the pipes still: it has ended, so nothing waits. */
	errno = 0;
	for (int i = 0; i < 1024 && read_report(job) && errno != EAGAIN; i++)
		errno = 0;
	errno = 0;
	for (int i = 0; i < 64 && read_words(job) && errno != EAGAIN; i++)
		errno = 0;
	conclude(job, WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status), !WIFEXITED(status));
}

/* ---- the start ------------------------------------------------------------------------- */

/* The new image has no name before it is whole: whatever kills us, no half of it is left. Where the file system cannot, one that says what it is. */
static int make_image(struct image_job *job)
{
	char dir[PATH_MAX];
	char *slash;

	snprintf(dir, sizeof(dir), "%s", job->path);
	slash = strrchr(dir, '/');
	*slash = '\0';
	if (access(job->path, F_OK) == 0)
		return -EEXIST;
	job->image = open(dir[0] ? dir : "/", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (job->image >= 0 || (errno != EOPNOTSUPP && errno != EISDIR))
		return job->image < 0 ? -errno : 0;
	if ((size_t)snprintf(job->named, sizeof(job->named), "%s/.%s.part-%u", dir, slash + 1, job->number) >= sizeof(job->named)) {
		job->named[0] = '\0';
		return -ENAMETOOLONG;
	}
	job->image = open(job->named, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (job->image < 0) {
		int rc = -errno;

		job->named[0] = '\0';
		return rc;
	}
	return 0;
}

struct arguments {
	const char *argv[32];
	unsigned count;
	char target[64], size[32], options[PATH_MAX + 64], output[64];
};

static void add(struct arguments *a, const char *option, const char *value)
{
	if (option)
		a->argv[a->count++] = option;
	if (value)
		a->argv[a->count++] = value;
}

static void fill_arguments(struct arguments *a, const struct image_wish *wish, int image)
{
	static const char *const json = "--output=json";

	*a = (struct arguments){0};
	snprintf(a->target, sizeof(a->target), "/proc/self/fd/%d", image);
	snprintf(a->size, sizeof(a->size), "%llu", (unsigned long long)wish->size);
	add(a, PROGRAM, work_names[wish->work]);
	switch (wish->work) {
	case IMAGE_CREATE:
		add(a, "-q", NULL);
		add(a, "-f", wish->format);
		if (wish->backing) {
			add(a, "-b", wish->backing);
			add(a, "-F", wish->backing_format);
		}
		if (wish->preallocation) {
			snprintf(a->options, sizeof(a->options), "preallocation=%s", wish->preallocation);
			add(a, "-o", a->options);
		}
		add(a, a->target, wish->size ? a->size : NULL);
		break;
	case IMAGE_CONVERT:
		add(a, "-p", NULL);
		add(a, "-t", "writeback"); /* whole once it is done, not only in the page cache */
		add(a, "-f", wish->source_format);
		add(a, "-O", wish->format);
		add(a, wish->compress ? "-c" : NULL, NULL);
		add(a, wish->source, a->target);
		break;
	case IMAGE_CHECK:
		add(a, json, NULL);
		add(a, "-f", wish->format);
		if (wish->repair)
			add(a, "-r", wish->repair);
		add(a, wish->path, NULL);
		break;
	case IMAGE_RESIZE:
		add(a, "-q", NULL);
		add(a, "-f", wish->format);
		add(a, wish->shrink ? "--shrink" : NULL, NULL);
		if (wish->preallocation) {
			snprintf(a->options, sizeof(a->options), "--preallocation=%s", wish->preallocation);
			add(a, a->options, NULL);
		}
		add(a, wish->path, a->size);
		break;
	case IMAGE_INFO:
		add(a, json, "-U");
		if (wish->format)
			add(a, "-f", wish->format);
		add(a, wish->path, NULL);
		break;
	}
}

/* In the child. */
static void become_program(const struct arguments *a, int image, int out, int err)
{
	sigset_t none;
	int null = open("/dev/null", O_RDWR);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setenv("LC_ALL", "C", 1);
	if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 || dup2(err, STDERR_FILENO) < 0)
		_exit(127);
	if (image >= 0)
		fcntl(image, F_SETFD, 0);
	execvp(PROGRAM, (char *const *)a->argv);
	dprintf(STDERR_FILENO, "%s", strerror(errno));
	_exit(127);
}

static int start_program(struct image_job *job, const struct image_wish *wish)
{
	struct arguments arguments;
	int out[2], err[2], rc;

	fill_arguments(&arguments, wish, job->image);
	if (pipe2(out, O_CLOEXEC) < 0)
		return -errno;
	if (pipe2(err, O_CLOEXEC) < 0) {
		rc = -errno;
		close(out[0]);
		close(out[1]);
		return rc;
	}
	job->pid = fork();
	rc = job->pid < 0 ? -errno : 0;
	if (job->pid == 0)
		become_program(&arguments, job->image, out[1], err[1]);
	close(out[1]);
	close(err[1]);
	job->out = out[0];
	job->err = err[0];
	fcntl(job->out, F_SETFL, O_NONBLOCK);
	fcntl(job->err, F_SETFL, O_NONBLOCK);
	return rc;
}

static int watch(struct image_job *job)
{
	static const struct timeval often = {.tv_usec = TOLD_MS * 1000};
	struct event_base *base = job->daemon->base;

	job->pidfd = (int)syscall(SYS_pidfd_open, job->pid, 0);
	if (job->pidfd < 0)
		return -errno;
	job->ended = event_new(base, job->pidfd, EV_READ, on_ended, job);
	job->readable = event_new(base, job->out, EV_READ | EV_PERSIST, on_report, job);
	job->said = event_new(base, job->err, EV_READ | EV_PERSIST, on_words, job);
	job->tick = event_new(base, -1, EV_PERSIST, on_tick, job);
	if (!job->ended || !job->readable || !job->said || !job->tick)
		return -ENOMEM;
	event_add(job->ended, NULL);
	event_add(job->readable, NULL);
	event_add(job->said, NULL);
	event_add(job->tick, &often);
	return 0;
}

static unsigned running(const struct daemon *daemon)
{
	const struct image_job *job;
	unsigned n = 0;

	LIST_FOREACH(job, &daemon->images, link)
		n++;
	return n;
}

struct image_job *daemon_image(struct daemon *daemon, const struct image_wish *wish, image_progress_fn progress, daemon_done_fn done,
			       void *opaque)
{
	struct image_job *job = calloc(1, sizeof(*job));
	int rc = 0;

	if (!job) {
		answer_error(done, opaque, DAEMON_INTERNAL, "out of memory");
		return NULL;
	}
	*job = (struct image_job){.daemon = daemon, .work = wish->work, .image = -1, .pidfd = -1, .out = -1, .err = -1, .percent = -1,
				  .started = monotonic(), .progress = progress, .done = done, .opaque = opaque};
	snprintf(job->path, sizeof(job->path), "%s", wish->path);
	if (running(daemon) >= JOBS_MAX) {
		fail(job, DAEMON_LIMIT, "%u works on images run already, which is the most at a time", JOBS_MAX);
		return NULL;
	}
	job->number = ++daemon->last_image;
	LIST_INSERT_HEAD(&daemon->images, job, link);
	if (wish->work == IMAGE_CREATE || wish->work == IMAGE_CONVERT)
		rc = make_image(job);
	if (wish->work == IMAGE_CREATE && wish->preallocation && strcmp(wish->preallocation, "metadata") && strcmp(wish->preallocation, "off"))
		job->preallocated = wish->size;
	if (!rc)
		rc = start_program(job, wish);
	if (!rc) {
		rc = watch(job);
		if (rc) {
			kill(job->pid, SIGKILL);
			waitpid(job->pid, NULL, 0);
		}
	}
	if (rc) {
		fail(job, rc == -EEXIST ? DAEMON_EXISTS : DAEMON_STORAGE, "%s", rc == -EEXIST ? "it exists already; nothing is written over" : strerror(-rc));
		return NULL;
	}
	tell(job);
	return job;
}

json_object *daemon_image_list(struct daemon *daemon)
{
	json_object *rows = json_object_new_array();
	struct image_job *job;

	LIST_FOREACH(job, &daemon->images, link) {
		json_object *row;

		if (job->cancelled)
			continue;
		row = json_object_new_object();
		json_object_object_add(row, "operation", json_object_new_int64(job->number));
		put_text(row, "work", work_names[job->work]);
		put_text(row, "path", job->path);
		json_object_object_add(row, "percent", job->percent < 0 ? NULL : json_object_new_double(job->percent));
		json_object_object_add(row, "seconds", json_object_new_double(monotonic() - job->started));
		json_object_array_add(rows, row);
	}
	return rows;
}

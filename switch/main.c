/* trivisor-switch: one process for one network between the VMs of this host. No packet of it reaches a wire. */
#include "config.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "switch/private.h"

#define LOG_LINES_MAX 20000 /* no VM can fill the disk by connecting */
#define AGE_CHECK_S 30

void switch_log(const char *format, ...)
{
	static unsigned lines;
	struct timespec ts;
	struct tm tm;
	char text[500];
	va_list args;
	size_t n;
	int r;

	if (lines++ >= LOG_LINES_MAX)
		return;
	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	n = strftime(text, sizeof(text), "%FT%T", &tm);
	n += (size_t)snprintf(text + n, sizeof(text) - n, ".%03ldZ ", ts.tv_nsec / 1000000);
	va_start(args, format);
	r = vsnprintf(text + n, sizeof(text) - n, format, args);
	va_end(args);
	n += r < 0 ? 0 : (size_t)r;
	if (n > sizeof(text) - 2)
		n = sizeof(text) - 2;
	text[n++] = '\n';
	if (write(STDERR_FILENO, text, n) < 0)
		return; /* a full disk must not stop the network */
}

static void usage(FILE *to)
{
	fputs("Usage: trivisor-switch --dir DIR [--foreground]\n"
	      "Connects the VMs of one network: they come to DIR/" SWITCH_FILE_PORTS ". Normally trivisord starts it.\n",
	      to);
}

static void on_signal(evutil_socket_t fd, short what, void *opaque)
{
	struct fabric *fabric = opaque;
	struct signalfd_siginfo info;

	if (read(fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
		event_base_loopbreak(fabric->base);
}

static void on_age(evutil_socket_t fd, short what, void *opaque)
{
	struct fabric *fabric = opaque;
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	bridge_age(&fabric->bridge, (uint32_t)ts.tv_sec);
}

static int open_loop(struct fabric *fabric)
{
	const struct timeval period = {.tv_sec = AGE_CHECK_S};
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	fabric->signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	fabric->base = event_base_new();
	if (fabric->signal_fd < 0 || !fabric->base)
		return -ENOMEM;
	fabric->signal_event = event_new(fabric->base, fabric->signal_fd, EV_READ | EV_PERSIST, on_signal, fabric);
	fabric->age_event = event_new(fabric->base, -1, EV_PERSIST, on_age, fabric);
	return fabric->signal_event && fabric->age_event && event_add(fabric->signal_event, NULL) == 0 &&
			       event_add(fabric->age_event, &period) == 0
		       ? 0
		       : -ENOMEM;
}

static void close_loop(struct fabric *fabric)
{
	if (fabric->signal_event)
		event_free(fabric->signal_event);
	if (fabric->age_event)
		event_free(fabric->age_event);
	if (fabric->base)
		event_base_free(fabric->base);
}

/* Whoever started us may go away. */
static int open_log(const struct fabric *fabric)
{
	char path[PATH_MAX];
	int fd, null;

	snprintf(path, sizeof(path), "%s/" SWITCH_FILE_LOG, fabric->dir);
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (fd < 0 || null < 0)
		return -errno;
	dup2(null, STDIN_FILENO);
	dup2(fd, STDOUT_FILENO);
	dup2(fd, STDERR_FILENO);
	close(null);
	close(fd);
	return 0;
}

static int run(struct fabric *fabric, bool foreground)
{
	int rc = foreground ? 0 : open_log(fabric);

	if (!rc)
		rc = open_loop(fabric);
	if (!rc)
		rc = ports_open(fabric);
	/* Last: whoever finds it may connect VMs. */
	if (!rc)
		rc = control_open(fabric);
	if (!rc)
		rc = sandbox_enter();
	if (rc) {
		switch_log("cannot start: %s", strerror(-rc));
		return 1;
	}
	switch_log("the switch runs");
	event_base_dispatch(fabric->base);
	switch_log("the switch ends");
	return 0;
}

int main(int argc, char **argv)
{
	static struct fabric fabric = {.ports_fd = -1, .control_fd = -1, .signal_fd = -1};
	static const struct option options[] = {
		{"dir", required_argument, NULL, 'd'}, {"foreground", no_argument, NULL, 'f'}, {"version", no_argument, NULL, 'V'},
		{"help", no_argument, NULL, 'h'},      {NULL, 0, NULL, 0},
	};
	bool foreground = false;
	char absolute[PATH_MAX] = "";
	int c, status;

	while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		switch (c) {
		case 'd':
			if (!realpath(optarg, absolute) || strlen(absolute) >= sizeof(fabric.dir)) {
				fprintf(stderr, "trivisor-switch: --dir %s: %s\n", optarg, strerror(errno ? errno : ENAMETOOLONG));
				return 1;
			}
			break;
		case 'f': foreground = true; break;
		case 'V': printf("trivisor-switch %s\n", PACKAGE_VERSION); return 0;
		case 'h': usage(stdout); return 0;
		default: usage(stderr); return 2;
		}
	}
	if (!absolute[0] || optind != argc) {
		usage(stderr);
		return 2;
	}
	strcpy(fabric.dir, absolute);
	umask(077);
	tzset(); /* it reads a file, which the sandbox would not let it */
	LIST_INIT(&fabric.ports);
	LIST_INIT(&fabric.clients);
	status = run(&fabric, foreground);
	control_close(&fabric);
	ports_close(&fabric);
	close_loop(&fabric);
	return status;
}

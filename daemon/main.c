/* trivisord: options, signals, and the loop. */
#include "api/jsonrpc/rpc.h"
#include "api/libvirt/lv.h"
#include "config.h"
#include "daemon/daemon.h"
#include "daemon/log.h"
#include "daemon/settings.h"
#include "proto/file.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#define DESCRIPTORS 65536u

struct program {
	struct settings settings;
	struct event_base *base;
	struct daemon *daemon;
	struct rpc_server *server;
	struct lv_server *libvirt;
	struct event *signals[3];
	struct event *lifeline;
	bool ended_private; /* the lifeline ended: what we made goes too */
	int argc;
	char **argv;
};

static void usage(FILE *to)
{
	fputs("Usage: trivisord [--foreground] [--socket PATH] [--state-dir DIR] [--runtime-dir DIR] [--config FILE]\n"
	      "\n"
	      "Runs x86 virtual machines in the best mode this host has, and answers JSON-RPC on a UNIX socket.\n"
	      "\n"
	      "  --foreground         stay in the foreground and log to standard error\n"
	      "  --socket PATH        listen here instead of RUNTIME_DIR/api.sock\n"
	      "  --state-dir DIR      keep definitions and results here\n"
	      "  --runtime-dir DIR    keep the sockets of running VMs here\n"
	      "  --libvirt-socket PATH     speak libvirt's protocol here (default: where libvirt looks for \"trivisor\")\n"
	      "  --libvirt-socket-ro PATH  the same, for reading only\n"
	      "  --config FILE        read this configuration file\n"
	      "  --vm-program FILE    start this trivisor-vm\n"
	      "  --no-calibration     do not measure the host at start; host.calibrate still does\n"
	      "  --log-level LEVEL    error, warning, notice, info (default) or debug\n"
	      "  --lifeline FD        when FD reads end of file: end transient VMs, remove both directories, exit\n"
	      "  --print-api          print the JSON-RPC reference (Markdown) and exit\n"
	      "  --print-openrpc      print the JSON-RPC API as an OpenRPC document and exit\n"
	      "  --version, --help\n",
	      to);
}

static int take(char **slot, const char *value, struct settings *settings, unsigned bit)
{
	char absolute[PATH_MAX];
	char *copy;

	/* Relative to where the user is now, not to where a daemon may be later. */
	if (value[0] != '/') {
		if (!getcwd(absolute, sizeof(absolute)) || strlen(absolute) + strlen(value) + 2 > sizeof(absolute))
			return -ENAMETOOLONG;
		strcat(strcat(absolute, "/"), value);
		value = absolute;
	}
	copy = strdup(value);
	if (!copy)
		return -ENOMEM;
	free(*slot);
	*slot = copy;
	settings->from_command_line |= bit;
	return 0;
}

/* 0: go on. Otherwise *ret_status is the exit status. */
static int parse_options(int argc, char **argv, struct settings *s, int *ret_status)
{
	static const struct option options[] = {
		{"foreground", no_argument, NULL, 'f'},
		{"socket", required_argument, NULL, 's'},
		{"state-dir", required_argument, NULL, 'd'},
		{"runtime-dir", required_argument, NULL, 'r'},
		{"libvirt-socket", required_argument, NULL, 'b'},
		{"libvirt-socket-ro", required_argument, NULL, 'B'},
		{"config", required_argument, NULL, 'c'},
		{"vm-program", required_argument, NULL, 'v'},
		{"no-calibration", no_argument, NULL, 'C'},
		{"log-level", required_argument, NULL, 'l'},
		{"lifeline", required_argument, NULL, 'L'},
		{"print-api", no_argument, NULL, 'p'},
		{"print-openrpc", no_argument, NULL, 'o'},
		{"version", no_argument, NULL, 'V'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	int option, rc = 0;
	char *end;

	*ret_status = EXIT_SUCCESS;
	while (!rc && (option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		switch (option) {
		case 'f': s->foreground = true; break;
		case 's': rc = take(&s->socket_path, optarg, s, SETTING_SOCKET); break;
		case 'd': rc = take(&s->state_dir, optarg, s, SETTING_STATE); break;
		case 'r': rc = take(&s->runtime_dir, optarg, s, SETTING_RUNTIME); break;
		case 'b': rc = take(&s->libvirt_socket, optarg, s, SETTING_LIBVIRT); break;
		case 'B': rc = take(&s->libvirt_socket_ro, optarg, s, SETTING_LIBVIRT_RO); break;
		case 'c':
			rc = take(&s->config_path, optarg, s, 0);
			s->config_required = true;
			break;
		case 'C':
			s->calibrate = false;
			s->from_command_line |= SETTING_CALIBRATE;
			break;
		case 'v': rc = take(&s->vm_program, optarg, s, SETTING_VM_PROGRAM); break;
		case 'l':
			s->log_level = log_level_parse(optarg);
			s->from_command_line |= SETTING_LOG_LEVEL;
			if (s->log_level < 0) {
				fprintf(stderr,
					"trivisord: --log-level: \"%s\" is none of error, warning, notice, info, "
					"debug\n",
					optarg);
				rc = -EINVAL;
			}
			break;
		case 'L':
			s->lifeline_fd = (int)strtol(optarg, &end, 10);
			if (*end || end == optarg || fcntl(s->lifeline_fd, F_SETFD, FD_CLOEXEC) < 0) {
				fprintf(stderr, "trivisord: --lifeline: %s is no open descriptor\n", optarg);
				rc = -EINVAL;
			}
			break;
		case 'p': rpc_print_markdown(stdout); return 1;
		case 'o': rpc_print_openrpc(stdout); return 1;
		case 'V': puts("trivisord " PACKAGE_VERSION); return 1;
		case 'h': usage(stdout); return 1;
		default: rc = -EINVAL; break;
		}
	}
	if (!rc && optind != argc) {
		fprintf(stderr, "trivisord: unexpected argument \"%s\"\n", argv[optind]);
		rc = -EINVAL;
	}
	if (rc)
		fputs("Try trivisord --help\n", stderr);
	*ret_status = rc ? 2 : EXIT_SUCCESS;
	return rc ? 1 : 0;
}

/* ---- into the background ---------------------------------------------------------- */

/*
 * The parent waits for the child's word (a byte: it serves) and exits with its result, so that whoever starts us can
 * connect right after. Returns in the child only: the descriptor to say the word on, or -errno.
 */
static int go_background(void)
{
	int fds[2], status;
	char ready = 0;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0) {
		close(fds[0]);
		setsid();
		return fds[1];
	}
	close(fds[1]);
	status = read(fds[0], &ready, 1) == 1 && ready == 1 ? EXIT_SUCCESS : EXIT_FAILURE;
	_exit(status);
}

static void detach(const struct program *program, int ready_fd)
{
	char path[PATH_MAX], ready = 1;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), log = -1;

	snprintf(path, sizeof(path), "%s/trivisord.log", program->settings.runtime_dir);
	log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (null >= 0) {
		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
	}
	if (log >= 0 || null >= 0)
		dup2(log >= 0 ? log : null, STDERR_FILENO);
	if (chdir("/") < 0)
		log_warning("chdir /: %s", strerror(errno));
	if (write(ready_fd, &ready, 1) != 1)
		log_warning("whoever started this daemon has left already");
	close(ready_fd);
}

/* ---- signals ------------------------------------------------------------------------- */

static void stop(struct program *program)
{
	event_base_loopbreak(program->base);
}

static void on_stop(evutil_socket_t number, short what, void *opaque)
{
	struct program *program = opaque;

	log_notice("%s: stopping; %u running VMs stay", number == SIGTERM ? "SIGTERM" : "SIGINT",
		   daemon_running(program->daemon));
	stop(program);
}

static struct rpc_server_config server_config(const struct settings *s)
{
	return (struct rpc_server_config){.path = s->socket_path,
					  .mode = s->socket_mode,
					  .group = s->socket_group,
					  .max_clients = s->max_clients};
}

static struct lv_server_config libvirt_config(const struct settings *s)
{
	return (struct lv_server_config){.path = s->libvirt_socket,
					 .ro_path = s->libvirt_socket_ro,
					 .mode = s->socket_mode,
					 .group = s->socket_group,
					 .max_clients = s->max_clients};
}

/* The default paths may belong to nobody yet, or to another daemon: then this one goes on without them. */
static int serve_libvirt(struct program *program, char *error, size_t error_size)
{
	struct settings *s = &program->settings;
	struct lv_server_config config = libvirt_config(s);
	char *dir, *slash;
	int rc = 0;

	if (!config.path && !config.ro_path)
		return 0;
	if (s->libvirt_default) {
		dir = strdup(config.path);
		slash = dir ? strrchr(dir, '/') : NULL;
		if (slash)
			*slash = '\0';
		rc = dir ? file_make_dirs(dir, 0755) : -ENOMEM;
		free(dir);
	}
	snprintf(error, error_size, "%s: %s", config.path, strerror(-rc));
	if (!rc)
		rc = lv_server_create(program->daemon, &config, &program->libvirt, error, error_size);
	if (!rc || !s->libvirt_default)
		return rc;
	log_warning("libvirt clients are not served: %s", error);
	return 0;
}

/* The settings as a start now would see them: defaults, file, command line. */
static int read_again(const struct program *program, struct settings *ret, char *error, size_t error_size)
{
	char *config = strdup(program->settings.config_path);
	int rc = config ? settings_init(ret) : -ENOMEM, status;

	snprintf(error, error_size, "%s", strerror(-rc));
	if (rc) {
		free(config);
		return rc;
	}
	optind = 0; /* getopt_long(3): scan from the start */
	if (parse_options(program->argc, program->argv, ret, &status))
		rc = -EINVAL;
	/* A relative path was relative to where the daemon was started. */
	free(ret->config_path);
	ret->config_path = config;
	if (!rc)
		rc = settings_read_file(ret, error, error_size);
	if (!rc)
		rc = settings_complete(ret);
	if (rc)
		settings_finish(ret);
	return rc;
}

static void swap(char **a, char **b)
{
	char *other = *a;

	*a = *b;
	*b = other;
}

/* Paths stay as they are while the daemon runs; what can change does, or nothing at all. */
static void on_reload(evutil_socket_t number, short what, void *opaque)
{
	struct program *program = opaque;
	struct settings *s = &program->settings, next;
	struct rpc_server_config config;
	struct lv_server_config libvirt;
	struct timespec now;
	char error[700];

	clock_gettime(CLOCK_MONOTONIC, &now);
	sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%lld", (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000);
	if (read_again(program, &next, error, sizeof(error))) {
		log_error("SIGHUP: %s; nothing was changed", error);
		goto out;
	}
	config = server_config(&next);
	libvirt = libvirt_config(&next);
	if (rpc_server_configure(program->server, &config, error, sizeof(error)) ||
	    lv_server_configure(program->libvirt, &libvirt, error, sizeof(error))) {
		log_error("SIGHUP: %s; nothing was changed", error);
		settings_finish(&next);
		goto out;
	}
	s->log_level = next.log_level;
	s->max_clients = next.max_clients;
	s->max_vms = next.max_vms;
	s->start_timeout_s = next.start_timeout_s;
	s->socket_mode = next.socket_mode;
	swap(&s->socket_group, &next.socket_group);
	if (next.vm_program)
		swap(&s->vm_program, &next.vm_program);
	log_set_level((enum log_level)s->log_level);
	daemon_settings_changed(program->daemon);
	log_notice("SIGHUP: configuration read again (socket, state_dir and runtime_dir change only with a restart)");
	settings_finish(&next);
out:
	sd_notify(0, "READY=1");
}

static void transient_gone(void *opaque)
{
	struct program *program = opaque;

	program->ended_private = true;
	stop(program);
}

static void on_lifeline(evutil_socket_t fd, short what, void *opaque)
{
	struct program *program = opaque;
	char byte;

	if (read(fd, &byte, 1) > 0)
		return;
	event_del(program->lifeline);
	log_notice("the program that started this daemon has ended; so do its VMs");
	daemon_end_transient(program->daemon, transient_gone, program);
}

/* A client is one descriptor, a VM three: the customary soft limit of 1024 is soon reached, and costs nothing to lift.
 */
static void raise_descriptor_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= DESCRIPTORS)
		return;
	limit.rlim_cur = limit.rlim_max < DESCRIPTORS ? limit.rlim_max : DESCRIPTORS;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		log_warning("cannot raise the limit of open files: %s", strerror(errno));
}

static int watch_signals(struct program *program)
{
	static const struct {
		int number;
		void (*handle)(evutil_socket_t, short, void *);
	} table[] = {{SIGTERM, on_stop}, {SIGINT, on_stop}, {SIGHUP, on_reload}};

	signal(SIGPIPE, SIG_IGN);
	raise_descriptor_limit();
	for (size_t i = 0; i < 3; i++) {
		program->signals[i] = evsignal_new(program->base, table[i].number, table[i].handle, program);
		if (!program->signals[i] || event_add(program->signals[i], NULL))
			return -ENOMEM;
	}
	if (program->settings.lifeline_fd >= 0) {
		program->lifeline = event_new(program->base, program->settings.lifeline_fd, EV_READ | EV_PERSIST,
					      on_lifeline, program);
		if (!program->lifeline || event_add(program->lifeline, NULL))
			return -ENOMEM;
	}
	return 0;
}

/* ---- the program -------------------------------------------------------------------------- */

static int set_up(struct program *program)
{
	struct settings *s = &program->settings;
	struct rpc_server_config config;
	char error[700] = "out of memory";
	int rc = settings_read_file(s, error, sizeof(error));

	if (!rc)
		rc = settings_complete(s);
	if (!rc && !s->vm_program) {
		s->vm_program = settings_find_program("TRIVISOR_VM", "trivisor-vm", LIBEXECDIR);
		rc = s->vm_program ? 0 : -ENOMEM;
	}
	if (!rc) {
		s->calibrate_program = settings_find_program("TRIVISOR_CALIBRATE", "trivisor-calibrate", LIBEXECDIR);
		if (!s->calibrate_program || asprintf(&s->calibrate_guest, "%s.elf", s->calibrate_program) < 0) {
			s->calibrate_guest = NULL;
			rc = -ENOMEM;
		}
	}
	if (!rc) {
		log_set_level((enum log_level)s->log_level);
		program->base = event_base_new();
		rc = program->base ? 0 : -ENOMEM;
	}
	if (!rc)
		rc = watch_signals(program);
	if (!rc)
		rc = daemon_create(program->base, s, &program->daemon, error, sizeof(error));
	if (!rc) {
		config = server_config(s);
		rc = rpc_server_create(program->daemon, &config, &program->server, error, sizeof(error));
	}
	if (!rc)
		rc = serve_libvirt(program, error, sizeof(error));
	if (rc)
		log_error("%s", error);
	return rc;
}

/* A private daemon leaves nothing behind. Known names only, never a whole tree. */
static void remove_private(const struct settings *s)
{
	static const char *const names[] = {"lock", "trivisor.db", "trivisor.db-wal", "trivisor.db-journal",
					    "trivisord.log", "autostarted", "pools.json"};
	const char *const dirs[] = {s->runtime_dir, s->state_dir};
	char path[PATH_MAX];

	for (size_t d = 0; d < 2; d++) {
		for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
			if (snprintf(path, sizeof(path), "%s/%s", dirs[d], names[i]) < (int)sizeof(path))
				unlink(path);
		if (snprintf(path, sizeof(path), "%s/vms", dirs[d]) < (int)sizeof(path))
			rmdir(path);
		rmdir(dirs[d]);
	}
}

static void tear_down(struct program *program)
{
	if (program->daemon)
		daemon_stopping(program->daemon);
	lv_server_destroy(program->libvirt);
	rpc_server_destroy(program->server);
	daemon_destroy(program->daemon);
	if (program->ended_private)
		remove_private(&program->settings);
	for (size_t i = 0; i < 3; i++)
		if (program->signals[i])
			event_free(program->signals[i]);
	if (program->lifeline)
		event_free(program->lifeline);
	if (program->base)
		event_base_free(program->base);
	settings_finish(&program->settings);
}

int main(int argc, char **argv)
{
	static struct program program;
	int status, ready_fd = -1;

	umask(077);
	if (settings_init(&program.settings)) {
		fputs("trivisord: no home directory: set HOME, or name --state-dir and --runtime-dir\n", stderr);
		return EXIT_FAILURE;
	}
	if (parse_options(argc, argv, &program.settings, &status)) {
		settings_finish(&program.settings);
		return status;
	}
	if (!program.settings.foreground && !getenv("NOTIFY_SOCKET")) {
		ready_fd = go_background();
		if (ready_fd < 0) {
			fprintf(stderr, "trivisord: cannot go into the background: %s\n", strerror(-ready_fd));
			return EXIT_FAILURE;
		}
	}
	program.argc = argc;
	program.argv = argv;
	log_init();
	if (set_up(&program)) {
		tear_down(&program);
		return EXIT_FAILURE;
	}
	log_notice("version " PACKAGE_VERSION " serves %s; %u VMs run", program.settings.socket_path,
		   daemon_running(program.daemon));
	if (ready_fd >= 0)
		detach(&program, ready_fd);
	sd_notify(0, "READY=1");
	daemon_autostart(program.daemon);
	event_base_dispatch(program.base);
	sd_notify(0, "STOPPING=1");
	tear_down(&program);
	return EXIT_SUCCESS;
}

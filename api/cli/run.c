/* trictl run: a transient VM with its console on this terminal, from start to result. */
#include "api/cli/cli.h"
#include "api/cli/terminal.h"

#include "proto/control.h"
#include "proto/file.h"
#include "proto/sock.h"
#include "proto/vmdef.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CONSOLE_RETRY_MS 2
#define DRAIN_MS 2500      /* for the last output of a VM that has ended */
#define COME_BACK_MS 20000 /* for a daemon that is being restarted */
#define DESTROY_MS 10000

struct run {
	struct cli *cli;
	json_object *definition;
	char uuid[VMDEF_UUID_BYTES];
	const char *stats_path;
	double timeout_s; /* 0: none */
	bool no_reboot, verbose;

	struct private_daemon private_daemon;
	struct terminal terminal;
	char socket[PATH_MAX];
	char console[PATH_MAX]; /* "" until the daemon names it */
	int signals;
	int64_t run_id, wait_id;
	bool started;
	int64_t deadline_ms; /* of --timeout; 0: none */
	int64_t give_up_ms;  /* after we asked for the end; 0: we did not */
	int64_t answer_ms;   /* until when the daemon is to say anything at all; 0: it has */
	int64_t lost_ms;     /* since when the daemon is away; 0: it is there */
	int forced_status;   /* why we ended it: EXIT_TIMEOUT, EXIT_INTERRUPTED, EXIT_DESTROYED; 0: we did not */
	json_object *result; /* how it ended */
	char failure[1200];  /* why it did not start */
	bool done;
};

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* ---- the definition ------------------------------------------------------------------- */

static void put(json_object *to, const char *key, const char *text)
{
	json_object_object_add(to, key, json_object_new_string(text));
}

/* option: whose argument it is, for the message. */
static int put_path(json_object *to, const char *key, const char *option, const char *path)
{
	char *absolute;

	if (!path[0]) {
		complain("%s: an empty file name", option);
		return -EINVAL;
	}
	absolute = cli_absolute(path);
	if (!absolute) {
		complain("out of memory");
		return -ENOMEM;
	}
	put(to, key, absolute);
	free(absolute);
	return 0;
}

/* Takes one option of a disk. False: it is none. */
static bool put_disk_option(json_object *disk, const char *option)
{
	static const char *const keys[] = {"device", "format", "cache", "discard", "on_error", "serial"};
	const char *value = strchr(option, '=');
	size_t n = value ? (size_t)(value - option) : 0;

	if (!strcmp(option, "readonly") || !strcmp(option, "ro"))
		json_object_object_add(disk, "readonly", json_object_new_boolean(1));
	else if (!strcmp(option, "snapshot") || !strcmp(option, "snapshot=on"))
		json_object_object_add(disk, "snapshot", json_object_new_boolean(1));
	else
		for (size_t i = 0; n; i++) {
			if (i == sizeof(keys) / sizeof(keys[0]))
				return false;
			if (n == strlen(keys[i]) && !strncmp(option, keys[i], n)) {
				put(disk, keys[i], value + 1);
				return true;
			}
		}
	return !n || !strcmp(option, "snapshot=on");
}

static bool is_qcow2(const char *path)
{
	char head[4] = "";
	FILE *f = fopen(path, "rbe");

	if (f && fread(head, 1, sizeof(head), f) != sizeof(head))
		head[0] = '\0';
	if (f)
		fclose(f);
	return !memcmp(head, "QFI\xfb", 4);
}

/* FILE[,OPTION]...: options from the right, since a comma may be part of a name. */
static int add_disk(json_object *definition, char *text)
{
	json_object *disks = NULL, *disk = json_object_new_object();
	char *comma;

	if (!json_object_object_get_ex(definition, "disks", &disks)) {
		disks = json_object_new_array();
		json_object_object_add(definition, "disks", disks);
	}
	json_object_array_add(disks, disk);
	while ((comma = strrchr(text, ','))) {
		static const char *const words[] = {"readonly", "ro", "snapshot", "snapshot=on"};
		bool known = strchr(comma, '=') != NULL;

		for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
			known = known || !strcmp(comma + 1, words[i]);
		if (known && put_disk_option(disk, comma + 1)) {
			*comma = '\0';
			continue;
		}
		if (access(text, F_OK) == 0 || (errno != ENOENT && errno != ENOTDIR))
			break;
		complain("--disk: there is no file \"%s\", and \"%s\" is no option of a disk; there is readonly (or ro), snapshot=on, "
			 "device=, format=, cache=, discard=, on_error= and serial=",
			 text, comma + 1);
		return -EINVAL;
	}
	/* Never guessed for the guest's sake: what it writes into a raw image must not make another image of it. */
	if (!json_object_object_get_ex(disk, "format", NULL) && is_qcow2(text)) {
		complain("--disk: %s looks like a qcow2 image: add \",format=qcow2\", or \",format=raw\" if the guest is to see it as it is",
			 text);
		return -EINVAL;
	}
	return put_path(disk, "path", "--disk", text);
}

/* "PATH", or "PATH ARGUMENTS" as a boot loader's module command has it; a path with spaces cannot be given here. */
static int add_module(json_object *boot, char *text)
{
	json_object *modules = NULL, *module = json_object_new_object();
	size_t n = strcspn(text, " \t");
	char *arguments = text + n + strspn(text + n, " \t");

	if (!json_object_object_get_ex(boot, "modules", &modules)) {
		modules = json_object_new_array();
		json_object_object_add(boot, "modules", modules);
	}
	json_object_array_add(modules, module);
	if (arguments[0])
		put(module, "cmdline", arguments);
	text[n] = '\0';
	return put_path(module, "path", "--module", text);
}

static json_object *nvram_of(json_object *boot)
{
	json_object *nvram = NULL;

	if (!json_object_object_get_ex(boot, "nvram", &nvram)) {
		nvram = json_object_new_object();
		json_object_object_add(boot, "nvram", nvram);
	}
	return nvram;
}

static int parse_unsigned(const char *option, const char *text, unsigned *ret)
{
	char *end = NULL;
	unsigned long value = strtoul(text, &end, 10);

	if (text[0] < '0' || text[0] > '9' || *end || value > 1000000) {
		complain("%s: \"%s\" is no number", option, text);
		return -EINVAL;
	}
	*ret = (unsigned)value;
	return 0;
}

static int take_option(struct run *run, int option, char *value, json_object *boot)
{
	json_object *definition = run->definition;
	unsigned number;
	char *end;

	switch (option) {
	case 'n': put(definition, "name", value); return 0;
	case 'm': put(definition, "mode", value); return 0;
	case 'w': put(definition, "workload", value); return 0;
	case 'M':
		number = cli_memory_mib(value);
		if (!number)
			complain("--memory: \"%s\" is no amount of memory such as 512M or 2G", value);
		json_object_object_add(definition, "memory_mib", json_object_new_int64(number));
		return number ? 0 : -EINVAL;
	case 'v':
		if (parse_unsigned("--vcpus", value, &number))
			return -EINVAL;
		json_object_object_add(definition, "vcpus", json_object_new_int64(number));
		return 0;
	case 'k': return put_path(boot, "kernel", "--kernel", value);
	case 'i': return put_path(boot, "initrd", "--initrd", value);
	case 'f': return put_path(boot, "firmware", "--firmware", value);
	case 'a': put(boot, "cmdline", value); return 0;
	case 'o': return add_module(boot, value);
	case 'N': return put_path(nvram_of(boot), "path", "--nvram", value);
	case 'T': return put_path(nvram_of(boot), "template", "--nvram-template", value);
	case 'b':
		if (parse_unsigned("--boot-menu", value, &number))
			return -EINVAL;
		json_object_object_add(boot, "menu_ms", json_object_new_int64(number));
		return 0;
	case 'd': return add_disk(definition, value);
	case 'D': return cli_add_display(definition, value) ? -EINVAL : 0;
	case 'e': return cli_add_nic(definition, value) ? -EINVAL : 0;
	case 'H': return cli_add_share(definition, value) ? -EINVAL : 0;
	case 'K': return cli_add_vsock(definition, value) ? -EINVAL : 0;
	case 'c': return cli_add_cloud_init(definition, value) ? -EINVAL : 0;
	case 'B': return cli_add_smbios(definition, value) ? -EINVAL : 0;
	case 't':
		run->timeout_s = strtod(value, &end);
		if (*end || end == value || !isfinite(run->timeout_s) || run->timeout_s <= 0 || run->timeout_s > 1e9) {
			complain("--timeout: \"%s\" is no number of seconds", value);
			return -EINVAL;
		}
		return 0;
	case 's': run->stats_path = value; return 0;
	case 'R': run->no_reboot = true; return 0;
	case 'g': return put_path(definition, "gdb", "--gdb", value);
	case 'p': json_object_object_add(definition, "start_paused", json_object_new_boolean(1)); return 0;
	case 'X': json_object_object_add(definition, "debug_exit", json_object_new_boolean(1)); return 0;
	case 'C': json_object_object_add(definition, "debug_console", json_object_new_boolean(1)); return 0;
	case 'V': run->verbose = true; return 0;
	default: return -EINVAL;
	}
}

/* 0: go on. Otherwise *ret_status is what to leave with. */
static int parse(struct run *run, int argc, char **argv, int *ret_status)
{
	static const struct option options[] = {
		{"name", required_argument, NULL, 'n'},
		{"mode", required_argument, NULL, 'm'},
		{"memory", required_argument, NULL, 'M'},
		{"vcpus", required_argument, NULL, 'v'},
		{"kernel", required_argument, NULL, 'k'},
		{"initrd", required_argument, NULL, 'i'},
		{"append", required_argument, NULL, 'a'},
		{"firmware", required_argument, NULL, 'f'},
		{"nvram", required_argument, NULL, 'N'},
		{"nvram-template", required_argument, NULL, 'T'},
		{"boot-menu", required_argument, NULL, 'b'},
		{"module", required_argument, NULL, 'o'},
		{"disk", required_argument, NULL, 'd'},
		{"display", required_argument, NULL, 'D'},
		{"nic", required_argument, NULL, 'e'},
		{"share", required_argument, NULL, 'H'},
		{"vsock", required_argument, NULL, 'K'},
		{"cloud-init", required_argument, NULL, 'c'},
		{"smbios", required_argument, NULL, 'B'},
		{"workload", required_argument, NULL, 'w'},
		{"timeout", required_argument, NULL, 't'},
		{"stats", required_argument, NULL, 's'},
		{"no-reboot", no_argument, NULL, 'R'},
		{"gdb", required_argument, NULL, 'g'},
		{"paused", no_argument, NULL, 'p'},
		{"debug-exit", no_argument, NULL, 'X'},
		{"debug-console", no_argument, NULL, 'C'},
		{"verbose", no_argument, NULL, 'V'},
		{0},
	};
	json_object *boot = json_object_new_object();
	char name[32];
	int option;

	run->definition = json_object_new_object();
	json_object_object_add(run->definition, "boot", boot);
	*ret_status = EXIT_USAGE;
	while ((option = cli_option(run->cli, argc, argv, options)) >= 0) {
		if (option == 'h' || option == '?') {
			*ret_status = option == 'h' ? 0 : EXIT_USAGE;
			return -1;
		}
		if (take_option(run, option, optarg, boot))
			return -1;
	}
	if (optind != argc) {
		complain("unexpected argument \"%s\"", argv[optind]);
		return -1;
	}
	if (!json_object_object_get_ex(boot, "kernel", NULL) && !json_object_object_get_ex(boot, "firmware", NULL)) {
		complain("name what to boot: --kernel FILE, or --firmware FILE");
		return -1;
	}
	if (vmdef_uuid_generate(run->uuid)) {
		complain("no random numbers for a UUID: %s", strerror(errno));
		return -1;
	}
	put(run->definition, "uuid", run->uuid);
	if (!json_object_object_get_ex(run->definition, "name", NULL)) {
		snprintf(name, sizeof(name), "run-%.8s", run->uuid);
		put(run->definition, "name", name);
	}
	return 0;
}

/* ---- asking the daemon -------------------------------------------------------------------- */

static json_object *vm_params(const struct run *run)
{
	json_object *params = json_object_new_object();

	put(params, "vm", run->uuid);
	return params;
}

static int connect_daemon(struct run *run)
{
	int rc = cli_socket(run->cli, run->socket, sizeof(run->socket));

	if (!rc)
		rc = client_connect(&run->cli->client, run->socket);
	if (rc != -ENOENT && rc != -ECONNREFUSED) {
		if (rc == -ETIMEDOUT)
			complain_hung(run->socket, CLIENT_ANSWER_MS);
		else if (rc)
			complain("%s: %s", run->socket, strerror(-rc));
		return rc;
	}
	rc = private_daemon_start(&run->private_daemon);
	if (rc)
		return rc;
	if (run->verbose)
		complain("no daemon at %s; a private one runs in %s", run->socket, run->private_daemon.dir);
	snprintf(run->socket, sizeof(run->socket), "%s", run->private_daemon.socket);
	rc = client_connect(&run->cli->client, run->socket);
	if (rc)
		complain("%s: %s", run->socket, strerror(-rc));
	return rc;
}

/* Subscribes, starts, and waits for the end, all at once: the answers come when they come. */
static int start(struct run *run)
{
	struct client *client = &run->cli->client;
	json_object *params = json_object_new_object(), *kinds = json_object_new_array();

	json_object_array_add(kinds, json_object_new_string("state"));
	json_object_array_add(kinds, json_object_new_string("user_space"));
	json_object_array_add(kinds, json_object_new_string("reset"));
	json_object_array_add(kinds, json_object_new_string("panic"));
	json_object_object_add(params, "events", kinds);
	if (client_send(client, "events.subscribe", params) < 0)
		return -EPIPE;
	params = json_object_new_object();
	json_object_object_add(params, "definition", json_object_get(run->definition));
	json_object_object_add(params, "no_reboot", json_object_new_boolean(run->no_reboot));
	run->run_id = client_send(client, "vm.run", params);
	run->answer_ms = now_ms() + CLIENT_ANSWER_MS; /* it answers the subscription at once, whatever it does for the VM */
	if (run->timeout_s > 0)
		run->deadline_ms = now_ms() + (int64_t)(run->timeout_s * 1000);
	return run->run_id < 0 ? -EPIPE : 0;
}

/* Ends the VM for a reason of ours. Asked a second time, it does not wait any longer. */
static void end(struct run *run, int status)
{
	if (run->forced_status) {
		run->give_up_ms = now_ms();
		return;
	}
	run->forced_status = status;
	run->give_up_ms = now_ms() + DESTROY_MS;
	if (run->cli->client.connected)
		client_send(&run->cli->client, "vm.destroy", vm_params(run));
}

/* The daemon is gone for good: tell the VM's process itself, whose socket lies beside its console. */
static void end_without_daemon(const struct run *run)
{
	char path[PATH_MAX];
	char *slash;
	struct line_client line;
	int fd;

	if (!run->console[0])
		return;
	snprintf(path, sizeof(path), "%s", run->console);
	slash = strrchr(path, '/');
	if (!slash || (size_t)(slash - path) + sizeof(CONTROL_FILE_SOCKET) + 1 > sizeof(path))
		return;
	strcpy(slash + 1, CONTROL_FILE_SOCKET);
	fd = sock_connect(path);
	if (fd < 0)
		return;
	line_client_init(&line, fd);
	char *answer = NULL;
	static const char request[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"" CONTROL_DESTROY "\"}";
	if (line_client_send(&line, request, sizeof(request) - 1) == 0 &&
	    line_client_receive(&line, 2000, &answer, &(size_t){0}) == 0)
		free(answer);
	line_client_finish(&line);
}

/* ---- what comes from the daemon ----------------------------------------------------------------- */

static void take_event(struct run *run, json_object *params)
{
	json_object *uuid = NULL, *console = NULL, *event = NULL, *seconds = NULL;

	if (!json_object_object_get_ex(params, "uuid", &uuid) || strcmp(json_object_get_string(uuid), run->uuid))
		return;
	if (json_object_object_get_ex(params, "console", &console))
		snprintf(run->console, sizeof(run->console), "%s", json_object_get_string(console));
	if (run->verbose && json_object_object_get_ex(params, "event", &event)) {
		json_object_object_get_ex(params, "boot_seconds", &seconds);
		if (seconds)
			complain("user space after %.3f s%s", json_object_get_double(seconds),
				 run->terminal.raw ? "\r" : "");
	}
}

static void take_start(struct run *run, json_object *result, json_object *error)
{
	if (error) {
		snprintf(run->failure, sizeof(run->failure), "%s", client_error_text(error));
		run->done = true;
		return;
	}
	run->started = true;
	snprintf(run->console, sizeof(run->console), "%s",
		 json_object_get_string(json_object_object_get(result, "console")));
	if (run->verbose)
		complain("VM %s runs in %s%s", json_object_get_string(json_object_object_get(result, "name")),
			 json_object_get_string(json_object_object_get(result, "mode_reason")),
			 run->terminal.raw ? "\r" : "");
	run->wait_id = client_send(&run->cli->client, "vm.wait", vm_params(run));
}

static void take_message(struct run *run, json_object *message)
{
	json_object *result = NULL, *error = NULL, *params = NULL;

	if (json_object_object_get_ex(message, "method", NULL)) {
		if (json_object_object_get_ex(message, "params", &params))
			take_event(run, params);
	} else if (!run->started && client_is_answer(message, run->run_id, &result, &error)) {
		take_start(run, result, error);
	} else if (run->wait_id > 0 && client_is_answer(message, run->wait_id, &result, &error)) {
		if (error)
			snprintf(run->failure, sizeof(run->failure), "%s", client_error_text(error));
		run->result = json_object_get(result);
		run->done = true;
	}
}

/* The daemon was stopped or killed. A VM outlives that: wait for the next daemon and take the VM over again. */
static void daemon_lost(struct run *run)
{
	client_close(&run->cli->client);
	if (!run->console[0] || run->private_daemon.pid > 0 || run->forced_status) {
		snprintf(run->failure, sizeof(run->failure), "the daemon is gone");
		end_without_daemon(run);
		run->done = true;
		return;
	}
	run->lost_ms = now_ms();
}

/* The row of this VM in what a method answers: 0 and *ret_row (NULL: none) for the caller to put, or an exit status. */
static int find_row(struct run *run, const char *method, json_object *params, json_object **ret_row)
{
	json_object *rows = NULL, *uuid = NULL;
	int status = client_call(&run->cli->client, method, params, &rows);

	if (status)
		return status;
	*ret_row = NULL;
	for (size_t i = 0; i < json_object_array_length(rows) && !*ret_row; i++) {
		json_object *row = json_object_array_get_idx(rows, i);

		if (json_object_object_get_ex(row, "uuid", &uuid) && !strcmp(json_object_get_string(uuid), run->uuid))
			*ret_row = json_object_get(row);
	}
	json_object_put(rows);
	return 0;
}

/* With a new daemon: takes the VM over if it runs, else its result. 0, or an exit status when it has neither. */
static int take_over(struct run *run)
{
	json_object *row = NULL, *params, *result = NULL;
	int status = find_row(run, "vm.list", NULL, &row);

	if (!status && row) {
		json_object_put(row);
		status = client_call(&run->cli->client, "vm.claim", vm_params(run), &result);
		json_object_put(result);
		if (!status) {
			run->started = true;
			run->wait_id = client_send(&run->cli->client, "vm.wait", vm_params(run));
			return 0;
		}
	}
	if (status == EXIT_NO_DAEMON)
		return status;
	/* It ended while no daemon was there, or just now: the result is kept all the same. */
	params = json_object_new_object();
	put(params, "kind", "results");
	status = find_row(run, "events.history", params, &run->result);
	run->done = run->result != NULL;
	return status ? status : run->result ? 0 : EXIT_ERROR;
}

static void come_back(struct run *run)
{
	struct client *client = &run->cli->client;
	int status = EXIT_NO_DAEMON;

	if (client_connect(client, run->socket) == 0) {
		client->quiet = true;
		client->answer_ms = COME_BACK_MS;
		status = take_over(run);
		client->quiet = false;
	}
	if (status == 0) {
		run->lost_ms = 0;
		return;
	}
	/* A daemon that is being killed may take a connection yet and not answer any more. */
	client_close(client);
	if (status == EXIT_NO_DAEMON && now_ms() - run->lost_ms < COME_BACK_MS)
		return;
	snprintf(run->failure, sizeof(run->failure), "the daemon is gone, and the VM with it");
	end_without_daemon(run);
	run->done = true;
}

static void take_messages(struct run *run)
{
	json_object *message = NULL;
	int rc;

	while (!run->done && run->cli->client.connected) {
		rc = client_next(&run->cli->client, 0, &message);
		if (rc == -ETIMEDOUT)
			return;
		run->answer_ms = 0;
		if (rc) {
			daemon_lost(run);
			return;
		}
		take_message(run, message);
		json_object_put(message);
	}
}

/* ---- the loop ---------------------------------------------------------------------------------------- */

static void take_signal(struct run *run)
{
	struct signalfd_siginfo info;

	if (read(run->signals, &info, sizeof(info)) == (ssize_t)sizeof(info))
		end(run, EXIT_INTERRUPTED);
}

static int poll_timeout(const struct run *run, bool connecting)
{
	int64_t next = INT64_MAX, now = now_ms();

	if (connecting)
		next = now + CONSOLE_RETRY_MS;
	if (run->lost_ms && next > now + 100)
		next = now + 100;
	if (run->deadline_ms && run->deadline_ms < next)
		next = run->deadline_ms;
	if (run->give_up_ms && run->give_up_ms < next)
		next = run->give_up_ms;
	if (run->answer_ms && run->answer_ms < next)
		next = run->answer_ms;
	if (next == INT64_MAX)
		return -1;
	return next <= now ? 0 : next - now > 1000000 ? 1000000 : (int)(next - now);
}

static void check_times(struct run *run)
{
	int64_t now = now_ms();

	if (run->deadline_ms && now >= run->deadline_ms) {
		run->deadline_ms = 0;
		end(run, EXIT_TIMEOUT);
	}
	if (run->give_up_ms && now >= run->give_up_ms && !run->done) {
		end_without_daemon(run);
		run->done = true;
	}
	if (run->answer_ms && now >= run->answer_ms && !run->done) {
		run->forced_status = complain_hung(run->socket, CLIENT_ANSWER_MS);
		run->done = true;
	}
	if (run->lost_ms && !run->done)
		come_back(run);
}

/* False: not yet. Its socket comes a moment after the process; through the daemon it is there when the VM runs. */
static bool connect_console(struct run *run)
{
	int fd = run->started ? terminal_connect(run->socket, run->uuid, run->console) : sock_connect(run->console);

	run->terminal.console = fd >= 0 ? fd : -1;
	return fd >= 0;
}

static void loop(struct run *run)
{
	struct terminal *t = &run->terminal;
	bool attached = false;

	while (!run->done) {
		bool connecting = run->console[0] && !attached;
		bool typing = t->input_open && t->typed_bytes < sizeof(t->typed);
		struct pollfd fds[4] = {
			{.fd = run->cli->client.connected ? run->cli->client.line.fd : -1, .events = POLLIN},
			{.fd = run->signals, .events = POLLIN},
			{.fd = t->console, .events = (short)(POLLIN | (t->typed_bytes ? POLLOUT : 0))},
			{.fd = typing ? STDIN_FILENO : -1, .events = POLLIN},
		};

		if (poll(fds, 4, poll_timeout(run, connecting)) < 0 && errno != EINTR)
			break;
		if (fds[1].revents)
			take_signal(run);
		if (fds[3].revents)
			terminal_take_input(t);
		if (t->left && !run->forced_status)
			end(run, EXIT_DESTROYED);
		terminal_send_input(t);
		if (t->console >= 0 && fds[2].revents & (POLLIN | POLLHUP | POLLERR))
			terminal_take_output(t);
		if (connecting)
			attached = connect_console(run);
		take_messages(run);
		check_times(run);
	}
}

/* The process sends what its readers have not had yet before it goes. */
static void drain(struct run *run)
{
	int64_t until = now_ms() + DRAIN_MS;

	while (run->terminal.console >= 0) {
		int64_t left = until - now_ms();
		struct pollfd fd = {.fd = run->terminal.console, .events = POLLIN};

		if (left <= 0 || poll(&fd, 1, (int)left) <= 0)
			break;
		terminal_take_output(&run->terminal);
	}
}

/* ---- the result ------------------------------------------------------------------------------------------- */

/* Renaming over a device, a pipe or a link would replace it: root's /dev/null, say. */
static bool is_special(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0 && !S_ISREG(st.st_mode);
}

/* Asked before the VM starts: a long run must not end with nowhere to put its figures. 0 or -errno. */
static int check_stats_path(const char *path)
{
	const char *slash = strrchr(path, '/');
	char parent[PATH_MAX] = ".";
	struct stat st;

	if (!*path)
		return -ENOENT;
	if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
		return -EISDIR;
	if (is_special(path))
		return access(path, W_OK) < 0 ? -errno : 0;
	if (slash && (size_t)snprintf(parent, sizeof(parent), "%.*s", (int)(slash == path ? 1 : slash - path), path) >=
			     sizeof(parent))
		return -ENAMETOOLONG;
	return access(parent, W_OK | X_OK) < 0 ? -errno : 0;
}

static int write_special(const char *path, const char *text, size_t bytes)
{
	FILE *file = fopen(path, "we");
	int rc = 0;

	if (!file)
		return -errno;
	if (fwrite(text, 1, bytes, file) != bytes)
		rc = -errno;
	if (fclose(file) && !rc)
		rc = -errno;
	return rc;
}

static int write_stats(const struct run *run, const char *state, const char *reason)
{
	json_object *stats = NULL, *out = json_object_new_object();
	const char *text;
	size_t bytes;
	int rc;

	put(out, "uuid", run->uuid);
	json_object_object_add(out, "name", json_object_get(json_object_object_get(run->definition, "name")));
	put(out, "state", state);
	put(out, "reason", reason);
	if (run->result && json_object_object_get_ex(run->result, "exit_code", &stats))
		json_object_object_add(out, "exit_code", json_object_get(stats));
	if (run->result && json_object_object_get_ex(run->result, "stats", &stats)) {
		json_object_object_foreach(stats, key, value) json_object_object_add(out, key, json_object_get(value));
	}
	text = json_object_to_json_string_length(
		out, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE, &bytes);
	rc = is_special(run->stats_path) ? write_special(run->stats_path, text, bytes)
					 : file_write_atomic(run->stats_path, text, bytes, 0644);
	if (rc)
		complain("--stats %s: %s", run->stats_path, strerror(-rc));
	json_object_put(out);
	return rc;
}

/* The exit status that says how the VM ended by itself. */
static int status_of(json_object *result)
{
	const char *state = json_object_get_string(json_object_object_get(result, "state"));
	json_object *code = NULL;

	if (!strcmp(state, vm_state_name(VM_SHUTDOWN)))
		/* 0, or what a test kernel wrote to the debug-exit port. */
		return json_object_object_get_ex(result, "exit_code", &code) ? json_object_get_int(code) & 0xff : 0;
	if (!strcmp(state, vm_state_name(VM_FAILED)))
		return EXIT_NOT_STARTED;
	return !strcmp(state, vm_state_name(VM_DESTROYED)) ? EXIT_DESTROYED : EXIT_CRASHED;
}

/* Says no more than is known: of its start, and of its end. */
static void complain_timeout(const struct run *run)
{
	if (run->result)
		complain("the VM has not ended within %g s; destroyed", run->timeout_s);
	else if (run->started)
		complain("the VM has not ended within %g s; it was told to end, but trivisord at %s has not confirmed that",
			 run->timeout_s, run->socket);
	else if (run->failure[0])
		complain("the VM has not started within %g s; given up: %s", run->timeout_s, run->failure);
	else
		complain("the VM has not started within %g s: trivisord at %s has not answered: it is stopped or hangs; look at "
			 "its state and log",
			 run->timeout_s, run->socket);
}

static int conclude(struct run *run)
{
	const char *state = "failed", *reason = run->failure[0] ? run->failure : "no result";
	int status = run->started ? EXIT_ERROR : EXIT_NOT_STARTED;
	json_object *value = NULL;

	if (run->result) {
		state = json_object_get_string(json_object_object_get(run->result, "state"));
		if (json_object_object_get_ex(run->result, "reason", &value))
			reason = json_object_get_string(value);
		status = status_of(run->result);
	}
	if (run->forced_status)
		status = run->forced_status;
	if (status == EXIT_TIMEOUT)
		complain_timeout(run);
	else if (status == EXIT_NOT_STARTED || status == EXIT_ERROR)
		complain("%s", reason);
	else if (status == EXIT_NO_DAEMON)
		; /* that was said, and nothing is known of the VM */
	else if (run->verbose || (status && strcmp(state, "shutdown")))
		complain("VM %s: %s: %s", json_object_get_string(json_object_object_get(run->definition, "name")),
			 state, reason);
	if (run->stats_path && write_stats(run, state, reason) && !status)
		status = EXIT_ERROR;
	return status;
}

int command_run(struct cli *cli, int argc, char **argv)
{
	struct run run = {.cli = cli, .private_daemon = {.lifeline = -1}, .terminal = {.console = -1}};
	sigset_t set;
	int status;

	if (parse(&run, argc, argv, &status)) {
		json_object_put(run.definition);
		return status;
	}
	status = run.stats_path ? check_stats_path(run.stats_path) : 0;
	if (status) {
		complain("--stats %s: %s", run.stats_path, strerror(-status));
		json_object_put(run.definition);
		return EXIT_USAGE;
	}
	/* From here on the end of this program is the end of a VM: signals are read, not died of. */
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	run.signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	status = EXIT_NOT_STARTED;
	if (run.signals >= 0 && connect_daemon(&run) == 0) {
		terminal_start(&run.terminal);
		if (start(&run))
			snprintf(run.failure, sizeof(run.failure), "the daemon is gone");
		else
			loop(&run);
		drain(&run);
		terminal_finish(&run.terminal);
		status = conclude(&run);
	}
	client_close(&cli->client);
	private_daemon_stop(&run.private_daemon);
	if (run.signals >= 0)
		close(run.signals);
	json_object_put(run.result);
	json_object_put(run.definition);
	return status;
}

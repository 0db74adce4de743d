/* trictl: drives trivisord from the command line. */
#include "api/cli/cli.h"
#include "api/cli/terminal.h"

#include "config.h"
#include "proto/file.h"
#include "proto/paths.h"
#include "proto/vmdef.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

struct command {
	const char *name;
	int (*run)(struct cli *cli, int argc, char **argv);
	const char *arguments;
	const char *summary;
};

extern const struct command commands[];

/* ---- shared ------------------------------------------------------------------------ */

int cli_socket(const struct cli *cli, char *path, size_t size)
{
	static const char system_socket[] = "/run/trivisor/api.sock";
	const char *named = cli->socket ? cli->socket : getenv("TRIVISOR_SOCKET");
	int rc;

	if (named && named[0])
		return (size_t)snprintf(path, size, "%s", named) < size ? 0 : -ENAMETOOLONG;
	rc = paths_api_socket(path, size);
	/* A plain user without a daemon of their own may be allowed to use the system's. */
	if (!rc && access(path, F_OK) < 0 && access(system_socket, W_OK) == 0)
		snprintf(path, size, "%s", system_socket);
	return rc;
}

int cli_connect(struct cli *cli)
{
	char path[PATH_MAX];
	int rc = cli_socket(cli, path, sizeof(path));

	if (!rc)
		rc = client_connect(&cli->client, path);
	if (!rc)
		return 0;
	if (rc == -ETIMEDOUT)
		return complain_hung(path, CLIENT_ANSWER_MS);
	complain("%s: %s%s", path, strerror(-rc),
		 rc == -ENOENT || rc == -ECONNREFUSED
			 ? "; no trivisord serves it: start one, or name its socket with --socket"
			 : "");
	return EXIT_NO_DAEMON;
}

char *cli_absolute(const char *path)
{
	char cwd[PATH_MAX], *absolute = NULL;

	if (path[0] == '/')
		return strdup(path);
	if (!getcwd(cwd, sizeof(cwd)) || asprintf(&absolute, "%s/%s", cwd, path) < 0)
		return NULL;
	return absolute;
}

unsigned cli_memory_mib(const char *text)
{
	char *end = NULL;
	unsigned long long value;

	if (text[0] < '0' || text[0] > '9')
		return 0;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || end == text || value > VMDEF_MEMORY_MAX_MIB * 1024ull * 1024)
		return 0;
	switch (*end) {
	case 'K':
	case 'k':
		value = value % 1024 ? 0 : value / 1024;
		end++;
		break;
	case 'G':
	case 'g':
		value *= 1024;
		end++;
		break;
	case 'T':
	case 't':
		value *= 1024 * 1024;
		end++;
		break;
	case 'M':
	case 'm': end++; break;
	default: break;
	}
	if (!strcmp(end, "iB") || !strcmp(end, "B"))
		end += strlen(end);
	return *end || value > VMDEF_MEMORY_MAX_MIB ? 0 : (unsigned)value;
}

static const struct command *find_command(const char *name);

static void print_usage(FILE *to, const char *name)
{
	const struct command *command = find_command(name);

	fprintf(to, "Usage: trictl %s%s%s\n%s\n", command->name, command->arguments[0] ? " " : "", command->arguments,
		command->summary);
}

void cli_usage(const char *name)
{
	print_usage(stderr, name);
}

int cli_option(struct cli *cli, int argc, char **argv, const struct option *options)
{
	struct option all[48] = {
		{"socket", required_argument, NULL, 1}, {"json", no_argument, NULL, 2}, {"help", no_argument, NULL, 3}};
	size_t n = 3;
	int option;

	for (; options && options->name && n < 47; options++)
		all[n++] = *options;
	for (;;) {
		option = getopt_long(argc, argv, "", all, NULL);
		switch (option) {
		case 1: cli->socket = optarg; continue;
		case 2: cli->json = true; continue;
		case 3: print_usage(stdout, argv[0]); return 'h';
		case '?': fprintf(stderr, "Try trictl %s --help\n", argv[0]); return '?';
		default: return option;
		}
	}
}

int cli_arguments(struct cli *cli, int argc, char **argv, int min, int max, int *ret_status)
{
	int option = cli_option(cli, argc, argv, NULL);

	*ret_status = option == 'h' ? 0 : EXIT_USAGE;
	if (option >= 0)
		return -1;
	if (argc - optind < min || argc - optind > max) {
		print_usage(stderr, argv[0]);
		return -1;
	}
	return 0;
}

json_object *cli_vm_params(const char *vm)
{
	json_object *params = json_object_new_object();

	json_object_object_add(params, "vm", json_object_new_string(vm));
	return params;
}

int cli_ask(struct cli *cli, const char *method, json_object *params, json_object **ret_result)
{
	int status = cli_connect(cli);

	if (status) {
		json_object_put(params);
		return status;
	}
	return client_call(&cli->client, method, params, ret_result);
}

/* A file's text, or standard input's for "-". NULL: reported. */
static char *read_text(const char *path)
{
	char *text = NULL;
	size_t used = 0, size = 0;
	int rc;

	if (strcmp(path, "-")) {
		rc = file_read(path, VMDEF_JSON_MAX, &text, &used);
		if (rc)
			complain("%s: %s", path, strerror(-rc));
		return rc ? NULL : text;
	}
	do {
		if (size - used < 4096) {
			char *more = realloc(text, size += 65536);

			if (!more || size > VMDEF_JSON_MAX + 65536) {
				complain("standard input: %s", more ? "too long for a definition" : "out of memory");
				free(more ? more : text);
				return NULL;
			}
			text = more;
		}
		used += fread(text + used, 1, size - used - 1, stdin);
	} while (!feof(stdin) && !ferror(stdin));
	text[used] = '\0';
	return text;
}

json_object *cli_read_json(const char *path)
{
	char *text = read_text(path);
	const char *why = NULL;
	json_object *json = NULL;

	if (text && line_parse_json(text, strlen(text), &json, &why))
		complain("%s: not JSON: %s", strcmp(path, "-") ? path : "standard input", why);
	else if (text && !json) /* json-c's way to say null, here that of a failure */
		complain("%s: null is no definition", strcmp(path, "-") ? path : "standard input");
	free(text);
	return json;
}

/* ---- commands that are one call ------------------------------------------------------- */

int cli_simple(struct cli *cli, int argc, char **argv, const char *method, void (*show)(json_object *result))
{
	json_object *result = NULL;
	int status;

	if (cli_arguments(cli, argc, argv, 0, 0, &status))
		return status;
	status = cli_ask(cli, method, NULL, &result);
	if (status)
		return status;
	if (cli->json)
		render_json(result);
	else
		show(result);
	json_object_put(result);
	return 0;
}

static int cli_on_vm(struct cli *cli, int argc, char **argv, const char *method, void (*show)(json_object *result))
{
	json_object *result = NULL;
	int status;

	if (cli_arguments(cli, argc, argv, 1, 1, &status))
		return status;
	status = cli_ask(cli, method, cli_vm_params(argv[optind]), &result);
	if (status)
		return status;
	if (cli->json)
		render_json(result);
	else if (show)
		show(result);
	json_object_put(result);
	return 0;
}

static void show_list(json_object *rows)
{
	static const struct column columns[] = {
		{"NAME", "name"},   {"STATE", "state"}, {"MODE", "mode"}, {"MEMORY (MiB)", "memory_mib"},
		{"VCPUS", "vcpus"}, {"PID", "pid"},     {"UUID", "uuid"}};

	render_table(rows, columns, sizeof(columns) / sizeof(columns[0]));
}

static void show_modes(json_object *rows)
{
	static const struct column columns[] = {
		{"MODE", "mode"}, {"IN BUILD", "in_build"}, {"USABLE", "usable"}, {"WHY", "reason"}};

	render_table(rows, columns, 4);
}

static void show_object(json_object *object)
{
	render_object(object, 0);
}

static void show_state(json_object *object)
{
	puts(json_object_get_string(json_object_object_get(object, "state")));
}

static int command_list(struct cli *cli, int argc, char **argv)
{
	return cli_simple(cli, argc, argv, "vm.list", show_list);
}

static int command_modes(struct cli *cli, int argc, char **argv)
{
	return cli_simple(cli, argc, argv, "modes.list", show_modes);
}

static int command_version(struct cli *cli, int argc, char **argv)
{
	return cli_simple(cli, argc, argv, "daemon.version", show_object);
}

static int command_info(struct cli *cli, int argc, char **argv)
{
	return cli_on_vm(cli, argc, argv, "vm.get", show_object);
}

static int command_undefine(struct cli *cli, int argc, char **argv)
{
	return cli_on_vm(cli, argc, argv, "vm.undefine", NULL);
}

static int command_shutdown(struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {{"agent", no_argument, NULL, 'a'}, {0}};
	json_object *params = json_object_new_object(), *result = NULL;
	int option, status;

	while ((option = cli_option(cli, argc, argv, options)) == 'a')
		json_object_object_add(params, "by", json_object_new_string("agent"));
	if (option >= 0 || argc - optind != 1) {
		json_object_put(params);
		if (option < 0)
			print_usage(stderr, argv[0]);
		return option == 'h' ? 0 : EXIT_USAGE;
	}
	json_object_object_add(params, "vm", json_object_new_string(argv[optind]));
	status = cli_ask(cli, "vm.shutdown", params, &result);
	json_object_put(result);
	return status;
}

static int command_destroy(struct cli *cli, int argc, char **argv)
{
	return cli_on_vm(cli, argc, argv, "vm.destroy", show_state);
}

static int command_reboot(struct cli *cli, int argc, char **argv)
{
	return cli_on_vm(cli, argc, argv, "vm.reboot", NULL);
}

static int command_reset(struct cli *cli, int argc, char **argv)
{
	return cli_on_vm(cli, argc, argv, "vm.reset", NULL);
}

static int command_nmi(struct cli *cli, int argc, char **argv)
{
	return cli_on_vm(cli, argc, argv, "vm.nmi", NULL);
}

static int command_pause(struct cli *cli, int argc, char **argv)
{
	return cli_on_vm(cli, argc, argv, "vm.pause", show_state);
}

static int command_resume(struct cli *cli, int argc, char **argv)
{
	return cli_on_vm(cli, argc, argv, "vm.resume", show_state);
}

static int command_stats(struct cli *cli, int argc, char **argv)
{
	return cli_on_vm(cli, argc, argv, "vm.stats", show_object);
}

/* ---- the others --------------------------------------------------------------------------- */

static int command_define(struct cli *cli, int argc, char **argv)
{
	json_object *definition, *params, *result = NULL;
	int status;

	if (cli_arguments(cli, argc, argv, 1, 1, &status))
		return status;
	definition = cli_read_json(argv[optind]);
	if (!definition)
		return EXIT_ERROR;
	params = json_object_new_object();
	json_object_object_add(params, "definition", definition);
	status = cli_ask(cli, "vm.define", params, &result);
	if (status)
		return status;
	if (cli->json)
		render_json(result);
	else
		puts(json_object_get_string(json_object_object_get(result, "uuid")));
	json_object_put(result);
	return 0;
}

static int command_start(struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {{"mode", required_argument, NULL, 'm'},
						{"no-reboot", no_argument, NULL, 'n'},
						{"console", no_argument, NULL, 'c'},
						{"paused", no_argument, NULL, 'p'},
						{0}};
	json_object *params = json_object_new_object(), *result = NULL;
	bool console = false;
	int option, status;

	while ((option = cli_option(cli, argc, argv, options)) >= 0) {
		switch (option) {
		case 'm': json_object_object_add(params, "mode", json_object_new_string(optarg)); break;
		case 'n': json_object_object_add(params, "no_reboot", json_object_new_boolean(1)); break;
		case 'c': console = true; break;
		case 'p': json_object_object_add(params, "paused", json_object_new_boolean(1)); break;
		default: json_object_put(params); return option == 'h' ? 0 : EXIT_USAGE;
		}
	}
	if (argc - optind != 1) {
		json_object_put(params);
		print_usage(stderr, argv[0]);
		return EXIT_USAGE;
	}
	json_object_object_add(params, "vm", json_object_new_string(argv[optind]));
	status = cli_ask(cli, "vm.start", params, &result);
	if (status)
		return status == EXIT_ERROR ? EXIT_NOT_STARTED : status;
	if (cli->json)
		render_json(result);
	else
		printf("%s\n", json_object_get_string(json_object_object_get(result, "mode_reason")));
	fflush(stdout);
	if (console)
		status = cli_attach(cli, argv[optind], json_object_get_string(json_object_object_get(result, "console")),
				    &(struct terminal_wish){.scrollback = -1, .escape = TERMINAL_ESCAPE});
	json_object_put(result);
	return status;
}

static int ended_status(json_object *result)
{
	const char *state = json_object_get_string(json_object_object_get(result, "state"));

	if (!state || !strcmp(state, "failed"))
		return EXIT_NOT_STARTED;
	return !strcmp(state, "shutdown") ? 0 : !strcmp(state, "destroyed") ? EXIT_DESTROYED : EXIT_CRASHED;
}

static int command_wait(struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {{"timeout", required_argument, NULL, 't'}, {0}};
	json_object *params = json_object_new_object(), *message = NULL, *result = NULL, *error = NULL, *code = NULL;
	int option, status;
	char *end;
	int64_t id;

	while ((option = cli_option(cli, argc, argv, options)) >= 0) {
		if (option == 't') {
			json_object_object_add(params, "timeout", json_object_new_double(strtod(optarg, &end)));
			if (!*end && end != optarg && isfinite(strtod(optarg, NULL)))
				continue;
			complain("--timeout: \"%s\" is no number of seconds", optarg);
		}
		json_object_put(params);
		return option == 'h' ? 0 : EXIT_USAGE;
	}
	if (argc - optind != 1) {
		json_object_put(params);
		print_usage(stderr, argv[0]);
		return EXIT_USAGE;
	}
	json_object_object_add(params, "vm", json_object_new_string(argv[optind]));
	status = cli_connect(cli);
	if (status) {
		json_object_put(params);
		return status;
	}
	id = client_send(&cli->client, "vm.wait", params);
	while (id >= 0 && client_next(&cli->client, -1, &message) == 0 &&
	       !client_is_answer(message, id, &result, &error))
		json_object_put(message);
	if (!result && !error) {
		complain("the daemon is gone");
		return EXIT_NO_DAEMON;
	}
	if (error) {
		complain("%s", client_error_text(error));
		json_object_object_get_ex(error, "code", &code);
		status = json_object_get_int(code) == -32008 ? EXIT_TIMEOUT : EXIT_ERROR;
	} else {
		status = ended_status(result);
		if (cli->json)
			render_json(result);
		else
			show_state(result);
	}
	json_object_put(message);
	return status;
}

static int command_events(struct cli *cli, int argc, char **argv)
{
	json_object *result = NULL, *message = NULL, *params, *method = NULL;
	int status;

	if (cli_arguments(cli, argc, argv, 0, 1, &status))
		return status;
	status = cli_ask(cli, "events.subscribe", optind < argc ? cli_vm_params(argv[optind]) : NULL, &result);
	if (status)
		return status;
	json_object_put(result);
	while (client_next(&cli->client, -1, &message) == 0) {
		if (json_object_object_get_ex(message, "method", &method) &&
		    !strcmp(json_object_get_string(method), "event") &&
		    json_object_object_get_ex(message, "params", &params)) {
			if (cli->json) {
				puts(json_object_to_json_string_ext(params, JSON_C_TO_STRING_PLAIN |
										    JSON_C_TO_STRING_NOSLASHESCAPE));
				fflush(stdout);
			} else {
				render_event(params);
			}
		}
		json_object_put(message);
	}
	complain("the daemon is gone");
	return EXIT_NO_DAEMON;
}

static int command_call(struct cli *cli, int argc, char **argv)
{
	json_object *params = NULL, *result = NULL;
	const char *why = NULL;
	int status;

	if (cli_arguments(cli, argc, argv, 1, 2, &status))
		return status;
	if (argc - optind == 2 && line_parse_json(argv[optind + 1], strlen(argv[optind + 1]), &params, &why)) {
		complain("parameters: not JSON: %s", why);
		return EXIT_USAGE;
	}
	status = cli_ask(cli, argv[optind], params, &result);
	if (!status)
		render_json(result);
	json_object_put(result);
	return status;
}

const struct command commands[] = {
	{"run", command_run,
	 "--kernel FILE [--initrd FILE] [--append TEXT] [--name N] [--mode M] [--memory 512M] [--vcpus N]\n"
	 "                  [--module 'FILE ARGS'] [--firmware FILE] [--nvram FILE [--nvram-template FILE]]\n"
	 "                  [--boot-menu MS] [--disk FILE[,OPTION]...] [--nic user|switch|tap|macvtap|team[,...]]\n"
	 "                  [--display vga|vnc=unix:PATH|vnc=[127.0.0.1:]PORT|vnc=auto[,...]] [--workload W]\n"
	 "                  [--cloud-init user-data=FILE[,meta-data=FILE][,network-config=FILE][,vendor-data=FILE]]\n"
	 "                  [--smbios SECTION.KEY=TEXT|oem=TEXT]...\n"
	 "                  [--share DIR[,tag=TAG][,readonly]]... [--vsock on|[PATH][,cid=N]]\n"
	 "                  [--timeout S] [--stats FILE]\n"
	 "                  [--no-reboot] [--gdb PATH] [--paused] [--debug-exit] [--debug-console] [--verbose]",
	 "Makes a transient VM, puts its console on this terminal, and exits with its result."},
	{"define", command_define, "FILE",
	 "Keeps the definition in FILE (JSON; - is standard input) and prints its UUID."},
	{"undefine", command_undefine, "VM", "Forgets a VM that does not run."},
	{"list", command_list, "", "All VMs."},
	{"info", command_info, "VM", "Everything known of one VM."},
	{"start", command_start, "[--mode M] [--no-reboot] [--paused] [--console] VM", "Starts a VM."},
	{"shutdown", command_shutdown, "[--agent] VM", "Asks its guest to shut down: by its tools or the power button, or by its agent."},
	{"reboot", command_reboot, "VM", "Asks its guest to shut down, and starts it anew once it has."},
	{"reset", command_reset, "VM", "Presses its reset button: it starts anew at once."},
	{"nmi", command_nmi, "VM", "Sends its vCPUs a non-maskable interrupt, on which Linux prints where it is."},
	{"destroy", command_destroy, "VM", "Ends it at once."},
	{"pause", command_pause, "VM", "Stops its processors and its time."},
	{"resume", command_resume, "VM", "Continues a paused VM."},
	{"console", command_console, "[--read-only|--force] [--scrollback all|none|SIZE] [--escape KEY] [--log] VM",
	 "Its serial console; Ctrl-] leaves. --log prints what is kept of it."},
	{"wait", command_wait, "[--timeout S] VM", "Waits for its end; exits as run does."},
	{"stats", command_stats, "VM", "Its counters."},
	{"balloon", command_balloon, "[--stats-seconds S] VM [512M]", "A running guest's memory: what it has and uses, and what it is to have."},
	{"guest", command_guest,
	 "ping|info|thaw|freeze-status|time VM, freeze VM [MOUNTPOINT]..., trim VM [BYTES], set-time VM [SECONDS],\n"
	 "                  [--timeout S] exec VM -- PROGRAM [ARGUMENT]..., read|write VM PATH, set-password VM USER,\n"
	 "                  shutdown VM [powerdown|reboot|halt], command VM COMMAND [JSON],\n"
	 "                  tools|variables|sync-time VM, set-variable VM NAME [VALUE]",
	 "Asks the QEMU guest agent in the guest, or (tools to sync-time) VMware's tools. write and set-password read standard input."},
	{"regs", command_regs, "[--vcpu N] [--vector] VM", "Its vCPUs' registers."},
	{"disassemble", command_disassemble, "[--address A] [--count N] [--vcpu N] [--bits 16|32|64] VM",
	 "Guest code, with its translation."},
	{"hot-blocks", command_hot_blocks, "[--seconds S] [--top N] VM", "The guest code that takes its time, by sampling."},
	{"screenshot", command_screenshot, "VM FILE", "What its screen shows, as a PNG, or a PPM by FILE's name."},
	{"send-key", command_send_key, "[--hold MS] VM KEY[+KEY...] [KEY[+KEY...]...]", "Presses keys, such as ctrl+alt+delete; the next ones after those."},
	{"send-text", command_send_text, "VM TEXT", "Types a text on its keyboard."},
	{"perf-map", command_perf_map, "VM", "Names of its translated code, for perf(1)."},
	{"gdb", command_gdb, "[--architecture auto|i8086|i386|x86-64] VM", "Opens a socket for GDB, and prints what to type there."},
	{"nic", command_nic, "[--link up|down] [--receive KIB[/BURST]] [--transmit KIB[/BURST]] VM NUMBER",
	 "Changes a running VM's network interface (from 0): its cable, its limits (0: none)."},
	{"image", command_image, "create|convert|check|resize|info FILE..., or list", "Disk images, with a bar while they are worked on."},
	{"net", command_net, "create|delete|start|stop|autostart|no-autostart|get|stats|ports NAME, or list", "Networks between the VMs of this host."},
	{"media", command_media, "[--drive N] [--format F] [--force] VM FILE", "Puts another disc into its CD-ROM drive."},
	{"eject", command_eject, "[--drive N] [--force] VM", "Takes the disc out of its CD-ROM drive."},
	{"vsock", command_vsock, "VM PORT", "Standard input and output to a port of its vsock, where a program of the guest listens."},
	{"host", command_host, "", "What this host offers, and what was measured on it."},
	{"calibrate", command_calibrate, "", "Measures this host in every mode; takes seconds."},
	{"modes", command_modes, "", "The modes, and which of them work here."},
	{"compare", command_compare, "[--markdown] [VM]", "The modes side by side, in general, here, and for one VM."},
	{"explain", command_explain, "VM|FILE", "Which mode a VM gets, and why."},
	{"history", command_history, "[--limit N] [--reset] [VM]",
	 "How good predictions were, and what was learned; --reset forgets it."},
	{"fleet", command_fleet, "plan [--vms FILE] DIR",
	 "Places the VMs of FILE (default: DIR/vms.json) on the hosts of DIR, whose files \"trictl host --json\" wrote."},
	{"events", command_events, "[VM]", "Prints what happens, until interrupted."},
	{"version", command_version, "", "About the daemon."},
	{"call", command_call, "METHOD [JSON]", "Calls any method of the JSON-RPC API."},
};

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	return NULL;
}

static void usage(FILE *to)
{
	fputs("Usage: trictl [--socket PATH] [--json] COMMAND [ARGUMENTS]\n\nCommands:\n", to);
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		fprintf(to, "  %-13s%s\n", commands[i].name, commands[i].summary);
	fputs("\ntrictl COMMAND --help shows a command's arguments; trictl(1) tells all.\n", to);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"socket", required_argument, NULL, 's'},
						{"json", no_argument, NULL, 'j'},
						{"version", no_argument, NULL, 'V'},
						{"help", no_argument, NULL, 'h'},
						{0}};
	const struct command *command;
	struct cli cli = {0};
	int option, status;

	signal(SIGPIPE, SIG_IGN);
	while ((option = getopt_long(argc, argv, "+", options, NULL)) >= 0) {
		switch (option) {
		case 's': cli.socket = optarg; break;
		case 'j': cli.json = true; break;
		case 'V': puts("trictl " PACKAGE_VERSION); return 0;
		case 'h': usage(stdout); return 0;
		default: usage(stderr); return EXIT_USAGE;
		}
	}
	if (optind >= argc) {
		usage(stderr);
		return EXIT_USAGE;
	}
	command = find_command(argv[optind]);
	if (!command) {
		complain("there is no command \"%s\"; trictl --help lists them", argv[optind]);
		return EXIT_USAGE;
	}
	argc -= optind;
	argv += optind;
	optind = 0;
	status = command->run(&cli, argc, argv);
	client_close(&cli.client);
	if (fflush(stdout) == EOF && !status) {
		complain("standard output: %s", strerror(errno));
		status = EXIT_ERROR;
	}
	return status;
}

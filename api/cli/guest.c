/* trictl guest: what the QEMU guest agent does; trictl balloon: memory of a running guest. */
#include "api/cli/cli.h"
#include "proto/base64.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define READ_BYTES (4 << 20)
#define WRITE_BYTES (8 << 20)

static void put_text(json_object *to, const char *key, const char *text) { json_object_object_add(to, key, json_object_new_string(text)); }

/* Shows a result unless there is nothing in it. */
static int ask_and_show(struct cli *cli, const char *method, json_object *params)
{
	json_object *result = NULL;
	int status = cli_ask(cli, method, params, &result);

	if (!status && cli->json)
		render_json(result);
	else if (!status && json_object_is_type(result, json_type_object))
		render_object(result, 0);
	else if (!status && result)
		printf("%s\n", json_object_to_json_string_ext(result, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(result);
	return status;
}

/* ---- single words ------------------------------------------------------------------------- */

static int plain(struct cli *cli, const char *method, json_object *params, int argc, char **argv)
{
	return ask_and_show(cli, method, params);
}

/* The rest are parts, or mount points. */
static int with_list(struct cli *cli, const char *method, json_object *params, const char *key, int argc, char **argv)
{
	json_object *list = json_object_new_array();

	for (int i = 0; i < argc; i++)
		json_object_array_add(list, json_object_new_string(argv[i]));
	if (argc)
		json_object_object_add(params, key, list);
	else
		json_object_put(list);
	return ask_and_show(cli, method, params);
}

static int guest_info(struct cli *cli, const char *method, json_object *params, int argc, char **argv)
{
	return with_list(cli, method, params, "what", argc, argv);
}

static int guest_freeze(struct cli *cli, const char *method, json_object *params, int argc, char **argv)
{
	return with_list(cli, method, params, "mountpoints", argc, argv);
}

/* A number behind the VM. */
static int with_number(struct cli *cli, const char *method, json_object *params, const char *key, int argc, char **argv)
{
	char *end = NULL;
	double number = argc ? strtod(argv[0], &end) : 0;

	if (argc && (*end || end == argv[0] || !isfinite(number))) {
		complain("\"%s\" is no number", argv[0]);
		json_object_put(params);
		return EXIT_USAGE;
	}
	if (argc && !strcmp(key, "minimum"))
		json_object_object_add(params, key, json_object_new_int64((int64_t)number));
	else if (argc)
		json_object_object_add(params, key, json_object_new_double(number));
	return ask_and_show(cli, method, params);
}

static int guest_trim(struct cli *cli, const char *method, json_object *params, int argc, char **argv)
{
	return with_number(cli, method, params, "minimum", argc, argv);
}

static int guest_set_time(struct cli *cli, const char *method, json_object *params, int argc, char **argv)
{
	return with_number(cli, method, params, "time", argc, argv);
}

static int guest_shutdown(struct cli *cli, const char *method, json_object *params, int argc, char **argv)
{
	if (argc)
		put_text(params, "mode", argv[0]);
	return ask_and_show(cli, method, params);
}

/* All of standard input up to a limit, in base64; NULL: reported. */
static char *read_input(size_t max)
{
	unsigned char *bytes = malloc(max + 1);
	size_t n = bytes ? fread(bytes, 1, max + 1, stdin) : 0;
	char *encoded = bytes && n <= max ? base64_encode(bytes, n) : NULL;

	if (!encoded)
		complain("standard input: at most %zu bytes are taken", max);
	free(bytes);
	return encoded;
}

static int guest_set_password(struct cli *cli, const char *method, json_object *params, int argc, char **argv)
{
	char line[4096];

	/* Not from the command line, where others see it. */
	if (isatty(STDIN_FILENO))
		fputs("New password: ", stderr);
	if (!fgets(line, sizeof(line), stdin)) {
		complain("the password is read from standard input, a line of it");
		json_object_put(params);
		return EXIT_USAGE;
	}
	line[strcspn(line, "\n")] = '\0';
	put_text(params, "user", argv[0]);
	put_text(params, "password", line);
	explicit_bzero(line, sizeof(line));
	return ask_and_show(cli, method, params);
}

static int guest_command(struct cli *cli, const char *method, json_object *params, int argc, char **argv)
{
	json_object *arguments = argc > 1 ? json_tokener_parse(argv[1]) : NULL;

	if (argc > 1 && !json_object_is_type(arguments, json_type_object)) {
		complain("\"%s\" is no JSON object", argv[1]);
		json_object_put(arguments);
		json_object_put(params);
		return EXIT_USAGE;
	}
	put_text(params, "command", argv[0]);
	if (arguments)
		json_object_object_add(params, "arguments", arguments);
	return ask_and_show(cli, method, params);
}

/* ---- programs and files -------------------------------------------------------------------------- */

/* Writes a member's bytes. */
static bool put_bytes(FILE *to, json_object *result, const char *key)
{
	json_object *value = render_member(result, key);
	const char *text = value ? json_object_get_string(value) : "";
	size_t n = strlen(text);
	unsigned char *bytes = malloc(n + 3);
	ssize_t count = bytes ? base64_decode(text, n, bytes) : -1;
	bool ok = count >= 0 && fwrite(bytes, 1, (size_t)count, to) == (size_t)count && fflush(to) == 0;

	free(bytes);
	return ok;
}

/* The program's own output and exit status become ours. */
static int guest_exec(struct cli *cli, const char *method, json_object *params, int argc, char **argv)
{
	json_object *list = json_object_new_array(), *result = NULL, *value;
	int status;

	put_text(params, "path", argv[0]);
	for (int i = 1; i < argc; i++)
		json_object_array_add(list, json_object_new_string(argv[i]));
	json_object_object_add(params, "arguments", list);
	status = cli_ask(cli, method, params, &result);
	if (status)
		return status;
	if (cli->json)
		render_json(result);
	else if (!put_bytes(stdout, result, "output_base64") || !put_bytes(stderr, result, "errors_base64"))
		status = EXIT_FAILURE;
	value = render_member(result, "exit_code");
	if (!cli->json && value)
		status = json_object_get_int(value) & 255;
	else if (!cli->json && (value = render_member(result, "signal")))
		status = 128 + json_object_get_int(value);
	json_object_put(result);
	return status;
}

static int guest_read(struct cli *cli, const char *method, json_object *params, int argc, char **argv)
{
	int64_t offset = 0;
	int status = 0;

	/* A piece at a time, each opened anew: the connection keeps nothing. */
	for (bool more = true; more && !status;) {
		json_object *piece = json_object_new_object(), *result = NULL, *value;

		json_object_object_add(piece, "vm", json_object_get(render_member(params, "vm")));
		put_text(piece, "path", argv[0]);
		json_object_object_add(piece, "offset", json_object_new_int64(offset));
		json_object_object_add(piece, "count", json_object_new_int(READ_BYTES));
		status = cli_ask(cli, method, piece, &result);
		if (status)
			break;
		if (!put_bytes(stdout, result, "data_base64"))
			status = EXIT_FAILURE;
		value = render_member(result, "bytes");
		offset += value ? json_object_get_int64(value) : 0;
		more = value && json_object_get_int64(value) > 0 && !json_object_get_boolean(render_member(result, "eof"));
		json_object_put(result);
	}
	json_object_put(params);
	return status;
}

static int guest_write(struct cli *cli, const char *method, json_object *params, int argc, char **argv)
{
	char *encoded = read_input(WRITE_BYTES);

	if (!encoded) {
		json_object_put(params);
		return EXIT_USAGE;
	}
	put_text(params, "path", argv[0]);
	put_text(params, "data_base64", encoded);
	free(encoded);
	return ask_and_show(cli, method, params);
}

static int guest_set_variable(struct cli *cli, const char *method, json_object *params, int argc, char **argv)
{
	put_text(params, "name", argv[0]);
	if (argc > 1)
		put_text(params, "value", argv[1]);
	return plain(cli, method, params, 0, NULL);
}

static const struct {
	const char *word, *method;
	int min, max; /* arguments behind the VM */
	int (*run)(struct cli *cli, const char *method, json_object *params, int argc, char **argv); /* takes params */
} words[] = {
	{"ping", "vm.guest.ping", 0, 0, plain},
	{"info", "vm.guest.info", 0, 8, guest_info},
	{"exec", "vm.guest.exec", 1, 1000, guest_exec},
	{"freeze", "vm.guest.freeze", 0, 100, guest_freeze},
	{"thaw", "vm.guest.thaw", 0, 0, plain},
	{"freeze-status", "vm.guest.freeze_status", 0, 0, plain},
	{"trim", "vm.guest.trim", 0, 1, guest_trim},
	{"time", "vm.guest.time", 0, 0, plain},
	{"set-time", "vm.guest.set_time", 0, 1, guest_set_time},
	{"read", "vm.guest.read_file", 1, 1, guest_read},
	{"write", "vm.guest.write_file", 1, 1, guest_write},
	{"set-password", "vm.guest.set_password", 1, 1, guest_set_password},
	{"shutdown", "vm.guest.shutdown", 0, 1, guest_shutdown},
	{"command", "vm.guest.command", 1, 2, guest_command},
	{"tools", "vm.guest.tools", 0, 0, plain},
	{"variables", "vm.guest.variables", 0, 0, plain},
	{"set-variable", "vm.guest.set_variable", 1, 2, guest_set_variable},
	{"sync-time", "vm.guest.sync_time", 0, 0, plain},
};

int command_guest(struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {{"timeout", required_argument, NULL, 't'}, {0}};
	json_object *params = json_object_new_object();
	char *end = NULL;
	int option, left;

	/* What stands behind the first word that is no option is the program's, or ours by its place. */
	while ((option = cli_option(cli, argc, argv, options)) >= 0) {
		double seconds = option == 't' ? strtod(optarg, &end) : 0;

		if (option == 't' && !*end && isfinite(seconds) && end != optarg) {
			json_object_object_add(params, "timeout", json_object_new_double(seconds));
			continue;
		}
		json_object_put(params);
		if (option == 't')
			complain("--timeout wants a number of seconds");
		return option == 'h' ? 0 : EXIT_USAGE;
	}
	left = argc - optind - 2;
	for (size_t i = 0; left >= 0 && i < sizeof(words) / sizeof(words[0]); i++) {
		if (strcmp(words[i].word, argv[optind]) != 0 || left < words[i].min || left > words[i].max)
			continue;
		put_text(params, "vm", argv[optind + 1]);
		return words[i].run(cli, words[i].method, params, left, argv + optind + 2);
	}
	json_object_put(params);
	cli_usage(argv[0]);
	return EXIT_USAGE;
}

/* ---- the balloon ------------------------------------------------------------------------------------ */

int command_balloon(struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {{"stats-seconds", required_argument, NULL, 's'}, {0}};
	json_object *params = json_object_new_object();
	bool set = false;
	char *end = NULL;
	int option;

	while ((option = cli_option(cli, argc, argv, options)) >= 0) {
		long seconds = option == 's' ? strtol(optarg, &end, 10) : -1;

		if (option == 's' && !*end && end != optarg && seconds >= 0) {
			json_object_object_add(params, "stats_seconds", json_object_new_int64(seconds));
			set = true;
			continue;
		}
		json_object_put(params);
		if (option == 's')
			complain("--stats-seconds wants a number of seconds; 0: only when somebody asks");
		return option == 'h' ? 0 : EXIT_USAGE;
	}
	if (argc - optind == 2) {
		unsigned mib = cli_memory_mib(argv[optind + 1]);

		if (!mib) {
			complain("\"%s\" is no amount of memory such as 512M or 2G", argv[optind + 1]);
			json_object_put(params);
			return EXIT_USAGE;
		}
		json_object_object_add(params, "memory_mib", json_object_new_int64(mib));
		set = true;
	} else if (argc - optind != 1) {
		json_object_put(params);
		cli_usage(argv[0]);
		return EXIT_USAGE;
	}
	put_text(params, "vm", argv[optind]);
	return ask_and_show(cli, set ? "vm.balloon_set" : "vm.balloon", params);
}

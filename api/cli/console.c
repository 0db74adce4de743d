/* trictl console: a running VM's console on this terminal, with a role of its own; or what is kept of one. */
#include "api/cli/cli.h"
#include "api/cli/terminal.h"

#include "proto/base64.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SCROLLBACK_MAX (1 << 30)

/* "^]", "^A", or "none". False: it is none of that. */
static bool parse_escape(const char *text, int *ret)
{
	if (!strcmp(text, "none")) {
		*ret = -1;
		return true;
	}
	if (text[0] != '^' || !text[1] || text[2] || toupper((unsigned char)text[1]) < '@' || toupper((unsigned char)text[1]) > '_')
		return false;
	*ret = toupper((unsigned char)text[1]) & 0x1f;
	return true;
}

/* "all", "none", or an amount such as 64K; a plain number is bytes. */
static bool parse_scrollback(const char *text, int64_t *ret)
{
	char *end = NULL;
	long long value;

	if (!strcmp(text, "all") || !strcmp(text, "none")) {
		*ret = strcmp(text, "all") ? 0 : -1;
		return true;
	}
	if (!isdigit((unsigned char)text[0]))
		return false;
	errno = 0;
	value = strtoll(text, &end, 10);
	if (*end == 'K' || *end == 'k' || *end == 'M' || *end == 'm')
		value *= toupper((unsigned char)*end++) == 'K' ? 1 << 10 : value > 4096 ? 0 : 1 << 20;
	*ret = value;
	return !errno && !*end && value >= 0 && value <= SCROLLBACK_MAX;
}

/* The window's size goes to the daemon for what shows it to a guest; one that is away does not hear it. */
static void resized(void *opaque, unsigned columns, unsigned rows)
{
	struct terminal_session *session = opaque;
	struct client *client = session->client;
	json_object *params = cli_vm_params(session->vm), *message = NULL;

	json_object_object_add(params, "columns", json_object_new_int((int)columns));
	json_object_object_add(params, "rows", json_object_new_int((int)rows));
	client_send(client, "vm.console_resize", params);
	while (client_next(client, 0, &message) == 0)
		json_object_put(message);
}

int cli_attach(struct cli *cli, const char *vm, const char *console, const struct terminal_wish *wish)
{
	struct terminal_session session = {.vm = vm, .client = &cli->client, .wish = *wish};
	char socket_path[PATH_MAX];
	int status = cli_socket(cli, socket_path, sizeof(socket_path));

	if (status) {
		complain("the daemon's socket: %s", strerror(-status));
		return EXIT_ERROR;
	}
	status = terminal_open(socket_path, vm, console, wish, &session.fd);
	if (status)
		return status;
	if (!wish->read_only)
		session.resized = resized;
	return terminal_attach(&session);
}

static int print_log(struct cli *cli, const char *vm, int64_t bytes)
{
	json_object *params = cli_vm_params(vm), *result = NULL;
	const char *data;
	unsigned char *raw;
	size_t n;
	ssize_t count;
	int status;

	if (bytes >= 0)
		json_object_object_add(params, "bytes", json_object_new_int64(bytes > 4 << 20 ? 4 << 20 : bytes));
	status = cli_ask(cli, "vm.console_log", params, &result);
	if (status)
		return status;
	data = json_object_get_string(json_object_object_get(result, "data"));
	n = data ? strlen(data) : 0;
	raw = malloc(n + 4);
	count = raw && data ? base64_decode(data, n, raw) : -1;
	if (count < 0)
		complain("the daemon's answer holds no output");
	else if (cli->json)
		render_json(result);
	else
		fwrite(raw, 1, (size_t)count, stdout);
	free(raw);
	json_object_put(result);
	return count < 0 ? EXIT_ERROR : 0;
}

int command_console(struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {{"read-only", no_argument, NULL, 'r'},	 {"force", no_argument, NULL, 'f'},
						{"scrollback", required_argument, NULL, 's'}, {"escape", required_argument, NULL, 'e'},
						{"log", no_argument, NULL, 'l'},		 {0}};
	struct terminal_wish wish = {.scrollback = -1, .escape = TERMINAL_ESCAPE};
	json_object *result = NULL;
	bool log = false;
	int option, status;

	while ((option = cli_option(cli, argc, argv, options)) >= 0) {
		switch (option) {
		case 'r': wish.read_only = true; continue;
		case 'f': wish.force = true; continue;
		case 'l': log = true; continue;
		case 's':
			if (parse_scrollback(optarg, &wish.scrollback))
				continue;
			complain("--scrollback: \"%s\" is neither all, none, nor an amount such as 64K", optarg);
			return EXIT_USAGE;
		case 'e':
			if (parse_escape(optarg, &wish.escape))
				continue;
			complain("--escape: \"%s\" is neither a key such as ^] nor none", optarg);
			return EXIT_USAGE;
		default: return option == 'h' ? 0 : EXIT_USAGE;
		}
	}
	if (argc - optind != 1) {
		cli_usage(argv[0]);
		return EXIT_USAGE;
	}
	if (wish.force && wish.read_only) {
		complain("--force takes the keyboard, --read-only leaves it: give one of them");
		return EXIT_USAGE;
	}
	if (log)
		return print_log(cli, argv[optind], wish.scrollback);
	status = cli_ask(cli, "vm.console", cli_vm_params(argv[optind]), &result);
	if (status)
		return status;
	status = cli_attach(cli, argv[optind], json_object_get_string(json_object_object_get(result, "path")), &wish);
	json_object_put(result);
	return status;
}

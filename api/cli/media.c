/* Discs of a running VM: trictl media, trictl eject. */
#include "api/cli/cli.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

/* The options of both; the VM's name is argv[optind] then. 0, or -1 and *ret_status is what to leave with. */
static int parse(struct cli *cli, int argc, char **argv, int arguments, json_object *params, int *ret_status)
{
	static const struct option options[] = {
		{"drive", required_argument, NULL, 'd'}, {"format", required_argument, NULL, 'F'}, {"force", no_argument, NULL, 'f'}, {0}};
	char *end;
	int option;

	*ret_status = EXIT_USAGE;
	while ((option = cli_option(cli, argc, argv, options)) >= 0) {
		if (option == 'h' || option == '?') {
			*ret_status = option == 'h' ? 0 : EXIT_USAGE;
			return -1;
		}
		if (option == 'f') {
			json_object_object_add(params, "force", json_object_new_boolean(1));
		} else if (option == 'F') {
			json_object_object_add(params, "format", json_object_new_string(optarg));
		} else {
			json_object_object_add(params, "drive", json_object_new_int64(strtol(optarg, &end, 10)));
			if (*end || end == optarg) {
				complain("--drive: \"%s\" is no number", optarg);
				return -1;
			}
		}
	}
	if (argc - optind != arguments) {
		cli_usage(argv[0]);
		return -1;
	}
	json_object_object_add(params, "vm", json_object_new_string(argv[optind]));
	return 0;
}

static int ask(struct cli *cli, const char *method, json_object *params)
{
	json_object *result = NULL;
	int status = cli_ask(cli, method, params, &result);

	if (!status && cli->json)
		render_json(result);
	json_object_put(result);
	return status;
}

int command_media(struct cli *cli, int argc, char **argv)
{
	json_object *params = json_object_new_object();
	char *path;
	int status;

	if (parse(cli, argc, argv, 2, params, &status)) {
		json_object_put(params);
		return status;
	}
	path = cli_absolute(argv[optind + 1]);
	json_object_object_add(params, "path", json_object_new_string(path ? path : ""));
	free(path);
	return ask(cli, "vm.media_change", params);
}

int command_eject(struct cli *cli, int argc, char **argv)
{
	json_object *params = json_object_new_object();
	int status;

	if (parse(cli, argc, argv, 1, params, &status)) {
		json_object_put(params);
		return status;
	}
	return ask(cli, "vm.eject", params);
}

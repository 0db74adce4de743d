/* Commands about hosts, modes and the policy. */
#include "api/cli/cli.h"

#include "proto/paths.h"

#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

int command_host(struct cli *cli, int argc, char **argv)
{
	return cli_simple(cli, argc, argv, "host.probe", render_host);
}

int command_calibrate(struct cli *cli, int argc, char **argv)
{
	return cli_simple(cli, argc, argv, "host.calibrate", render_calibration);
}

/* Calls, shows, and gives the exit status. Takes params. */
static int call_and_show(struct cli *cli, const char *method, json_object *params, void (*show)(json_object *result))
{
	json_object *result = NULL;
	int status = cli_ask(cli, method, params, &result);

	if (status)
		return status;
	if (cli->json)
		render_json(result);
	else if (show)
		show(result);
	json_object_put(result);
	return 0;
}

int command_compare(struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {{"markdown", no_argument, NULL, 'm'}, {0}};
	bool markdown = false;
	int option;

	while ((option = cli_option(cli, argc, argv, options)) >= 0) {
		if (option != 'm')
			return option == 'h' ? 0 : EXIT_USAGE;
		markdown = true;
	}
	if (argc - optind > 1) {
		cli_usage(argv[0]);
		return EXIT_USAGE;
	}
	return call_and_show(cli, "modes.compare", optind < argc ? cli_vm_params(argv[optind]) : NULL,
			     markdown ? render_compare_markdown : render_compare);
}

int command_explain(struct cli *cli, int argc, char **argv)
{
	json_object *params, *definition;
	const char *what;
	int status;

	if (cli_arguments(cli, argc, argv, 1, 1, &status))
		return status;
	what = argv[optind];
	if (strcmp(what, "-") && !strchr(what, '/') && !strstr(what, ".json")) {
		params = cli_vm_params(what);
	} else {
		definition = cli_read_json(what);
		if (!definition)
			return EXIT_ERROR;
		params = json_object_new_object();
		json_object_object_add(params, "definition", definition);
	}
	return call_and_show(cli, "policy.explain", params, render_decision);
}

int command_history(struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {{"limit", required_argument, NULL, 'l'}, {"reset", no_argument, NULL, 'r'}, {0}};
	json_object *params = json_object_new_object();
	bool reset = false;
	int option;

	while ((option = cli_option(cli, argc, argv, options)) >= 0) {
		if (option == 'l') {
			char *end;
			long long limit = strtoll(optarg, &end, 10);

			if (end == optarg || *end) {
				fprintf(stderr, "trictl: --limit: \"%s\" is no number\n", optarg);
				json_object_put(params);
				return EXIT_USAGE;
			}
			json_object_object_add(params, "limit", json_object_new_int64(limit));
		} else if (option == 'r') {
			reset = true;
		} else {
			json_object_put(params);
			return option == 'h' ? 0 : EXIT_USAGE;
		}
	}
	if (argc - optind > 1) {
		json_object_put(params);
		cli_usage(argv[0]);
		return EXIT_USAGE;
	}
	if (optind < argc)
		json_object_object_add(params, "vm", json_object_new_string(argv[optind]));
	return call_and_show(cli, reset ? "policy.reset" : "policy.history", params, reset ? NULL : render_history);
}

/* ---- fleets ----------------------------------------------------------------------------- */

/* Facts without their sources and remedies, which are for people: a fleet's would fill half of a message. */
static json_object *bare_facts(json_object *facts)
{
	json_object *list = json_object_new_array();

	for (size_t i = 0; i < json_object_array_length(facts); i++) {
		json_object *row = json_object_array_get_idx(facts, i), *bare;

		if (!json_object_is_type(row, json_type_object)) {
			json_object_array_add(list, json_object_get(row));
			continue;
		}
		bare = json_object_new_object();
		json_object_object_foreach(row, key, member)
		{
			if (strcmp(key, "source") && strcmp(key, "remedy"))
				json_object_object_add(bare, key, json_object_get(member));
		}
		json_object_array_add(list, bare);
	}
	return list;
}

/* One host file: what "trictl host --json" wrote. Without a name of its own it is called as the file. NULL: reported. */
static json_object *read_host(const char *dir, const char *file)
{
	static const char *const keys[] = {"facts", "calibration", "group", "capacity"};
	json_object *json, *host, *value = NULL;
	char path[PATH_MAX], name[NAME_MAX + 1];

	if (paths_join(path, sizeof(path), dir, file))
		return NULL;
	json = cli_read_json(path);
	if (!json)
		return NULL;
	if (!json_object_is_type(json, json_type_object) || !json_object_object_get_ex(json, "facts", NULL)) {
		complain("%s: no host file: \"trictl host --json\" writes them", path);
		json_object_put(json);
		return NULL;
	}
	host = json_object_new_object();
	snprintf(name, sizeof(name), "%.*s", (int)(strlen(file) - strlen(".json")), file);
	if (!json_object_object_get_ex(json, "name", &value))
		value = NULL;
	json_object_object_add(host, "name", value ? json_object_get(value) : json_object_new_string(name));
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (json_object_object_get_ex(json, keys[i], &value))
			json_object_object_add(host, keys[i],
					       !i && json_object_is_type(value, json_type_array) ? bare_facts(value)
												 : json_object_get(value));
	json_object_put(json);
	return host;
}

static bool is_host_file(const char *name)
{
	size_t n = strlen(name);

	return n > 5 && name[0] != '.' && !strcmp(name + n - 5, ".json") && strcmp(name, "vms.json");
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int filter_hosts(const struct dirent *entry)
{
	return is_host_file(entry->d_name);
}

/* NULL: reported. */
static json_object *read_hosts(const char *dir)
{
	json_object *hosts = json_object_new_array();
	struct dirent **entries = NULL;
	int n = scandir(dir, &entries, filter_hosts, by_name);
	bool ok = n > 0;

	if (n < 0)
		complain("%s: %s", dir, strerror(errno));
	else if (!n)
		complain("%s: there are no host files (*.json) in it; \"trictl host --json\" writes them", dir);
	for (int i = 0; i < n; i++) {
		json_object *host = ok ? read_host(dir, entries[i]->d_name) : NULL;

		ok = ok && host;
		if (host)
			json_object_array_add(hosts, host);
		free(entries[i]);
	}
	free(entries);
	if (ok)
		return hosts;
	json_object_put(hosts);
	return NULL;
}

int command_fleet(struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {{"vms", required_argument, NULL, 'v'}, {0}};
	json_object *params, *hosts, *vms, *list = NULL;
	const char *file = NULL;
	char path[PATH_MAX];
	int option;

	while ((option = cli_option(cli, argc, argv, options)) >= 0) {
		if (option != 'v')
			return option == 'h' ? 0 : EXIT_USAGE;
		file = optarg;
	}
	if (argc - optind != 2 || strcmp(argv[optind], "plan")) {
		cli_usage(argv[0]);
		return EXIT_USAGE;
	}
	if (!file && paths_join(path, sizeof(path), argv[optind + 1], "vms.json"))
		return EXIT_ERROR;
	vms = cli_read_json(file ? file : path);
	hosts = vms ? read_hosts(argv[optind + 1]) : NULL;
	if (!hosts) {
		json_object_put(vms);
		return EXIT_ERROR;
	}
	/* A list, or an object that has one. */
	if (json_object_is_type(vms, json_type_object) && json_object_object_get_ex(vms, "vms", &list)) {
		json_object_get(list);
		json_object_put(vms);
		vms = list;
	}
	params = json_object_new_object();
	json_object_object_add(params, "hosts", hosts);
	json_object_object_add(params, "vms", vms);
	return call_and_show(cli, "policy.plan", params, render_plan);
}

/* trictl's commands that show a running VM's insides. */
#include "api/cli/cli.h"

#include <getopt.h>
#include <stdlib.h>
#include <math.h>
#include <string.h>

static json_object *member(json_object *object, const char *key)
{
	json_object *value = NULL;

	json_object_object_get_ex(object, key, &value);
	return value;
}

static const char *text(json_object *object, const char *key)
{
	json_object *value = member(object, key);

	return value ? json_object_get_string(value) : "-";
}

/* Connects, calls, shows the result, as JSON if wanted. Takes params. An exit status. */
static int ask_and_show(struct cli *cli, const char *method, json_object *params, void (*show)(json_object *result))
{
	json_object *result = NULL;
	int status = cli_connect(cli);

	if (status) {
		json_object_put(params);
		return status;
	}
	status = client_call(&cli->client, method, params, &result);
	if (status)
		return status;
	if (cli->json)
		render_json(result);
	else
		show(result);
	json_object_put(result);
	return 0;
}

/*
 * The options of a command, into params by the names they have there; then the VM's name. 'n' takes a whole number, 'x' an
 * address, 'd' a number, 's' a string, 'b' nothing. False: *ret_status is what to leave with.
 */
struct parameter {
	const char *option, *name;
	char type;
};

static bool put_parameter(json_object *params, const struct parameter *p, const char *value)
{
	json_object *json = NULL;
	char *end = NULL;

	switch (p->type) {
	case 'b': json = json_object_new_boolean(1); break;
	case 's': json = json_object_new_string(value); break;
	case 'x': json = json_object_new_string(value); break;
	case 'n': json = json_object_new_int64(strtoll(value, &end, 0)); break;
	default: json = json_object_new_double(strtod(value, &end)); break;
	}
	json_object_object_add(params, p->name, json);
	/* JSON has no infinities and no NaN. */
	if (end && (*end || end == value || !isfinite(json_object_get_double(json)))) {
		complain("--%s: \"%s\" is no number", p->option, value);
		return false;
	}
	return true;
}

static json_object *parse(struct cli *cli, int argc, char **argv, const struct parameter *parameters, int *ret_status)
{
	struct option options[16] = {{0}};
	json_object *params = json_object_new_object();
	int n = 0, option;

	for (; parameters[n].option; n++)
		options[n] = (struct option){parameters[n].option, parameters[n].type == 'b' ? no_argument : required_argument, NULL,
					     256 + n};
	*ret_status = EXIT_USAGE;
	while ((option = cli_option(cli, argc, argv, options)) >= 0) {
		if (option >= 256 && put_parameter(params, &parameters[option - 256], optarg))
			continue;
		*ret_status = option == 'h' ? 0 : EXIT_USAGE;
		json_object_put(params);
		return NULL;
	}
	if (argc - optind != 1) {
		complain("name one VM; trictl %s --help shows how", argv[0]);
		json_object_put(params);
		return NULL;
	}
	json_object_object_add(params, "vm", json_object_new_string(argv[optind]));
	return params;
}

/* ---- regs --------------------------------------------------------------------- */

/* Four to a line. */
static void show_values(json_object *values, const char *indent)
{
	unsigned n = 0;

	json_object_object_foreach(values, key, value)
	{
		printf("%s%s%-6s %-18s", n % 4 ? "  " : indent, "", key, json_object_get_string(value));
		if (++n % 4 == 0)
			putchar('\n');
	}
	if (n % 4)
		putchar('\n');
}

static void show_segments(json_object *segments)
{
	json_object_object_foreach(segments, key, s)
		printf("  %-6s %-7s base %-18s limit %-10s access %s\n", key, text(s, "selector"), text(s, "base"), text(s, "limit"),
		       text(s, "access"));
}

static void show_vcpu(json_object *vcpu)
{
	json_object *vector = member(vcpu, "vector"), *gdtr = member(vcpu, "gdtr"), *idtr = member(vcpu, "idtr");

	printf("vCPU %s: %s, %s, CPL %s, flags %s\n", text(vcpu, "vcpu"), text(vcpu, "activity"), text(vcpu, "mode"),
	       text(vcpu, "cpl"), text(vcpu, "flags"));
	show_values(member(vcpu, "general"), "  ");
	show_segments(member(vcpu, "segments"));
	printf("  gdtr   base %s limit %s, idtr base %s limit %s\n", text(gdtr, "base"), text(gdtr, "limit"), text(idtr, "base"),
	       text(idtr, "limit"));
	show_values(member(vcpu, "control"), "  ");
	show_values(member(vcpu, "debug"), "  ");
	json_object_object_foreach(member(vcpu, "msrs"), key, value)
		printf("  %-16s %s\n", key, json_object_get_string(value));
	if (vector) {
		json_object_object_foreach(vector, name, bytes)
			printf("  %-6s %s\n", name, json_object_get_string(bytes));
	}
}

static void show_registers(json_object *result)
{
	json_object *vcpus = member(result, "vcpus");

	for (size_t i = 0; i < json_object_array_length(vcpus); i++)
		show_vcpu(json_object_array_get_idx(vcpus, i));
}

int command_regs(struct cli *cli, int argc, char **argv)
{
	static const struct parameter parameters[] = {{"vcpu", "vcpu", 'n'}, {"vector", "vector", 'b'}, {0}};
	int status;
	json_object *params = parse(cli, argc, argv, parameters, &status);

	return params ? ask_and_show(cli, "vm.regs", params, show_registers) : status;
}

/* ---- gdb ---------------------------------------------------------------------- */

static void show_gdb(json_object *result)
{
	printf("target remote %s\n", text(result, "path"));
	if (json_object_get_boolean(member(result, "connected")))
		puts("(a debugger is attached)");
}

int command_gdb(struct cli *cli, int argc, char **argv)
{
	static const struct parameter parameters[] = {{"architecture", "architecture", 's'}, {0}};
	int status;
	json_object *params = parse(cli, argc, argv, parameters, &status);

	return params ? ask_and_show(cli, "vm.gdb", params, show_gdb) : status;
}

/* ---- disassemble, hot-blocks --------------------------------------------------- */

static void show_lines(json_object *lines, const char *indent)
{
	for (size_t i = 0; i < json_object_array_length(lines); i++) {
		json_object *line = json_object_array_get_idx(lines, i);

		printf("%s%-18s  %-20s  %s", indent, text(line, "address"), text(line, "bytes"), text(line, "text"));
		if (member(line, "guest"))
			printf("    ; %s", text(line, "guest"));
		putchar('\n');
	}
}

static void show_disassembly(json_object *result)
{
	json_object *translations = member(result, "translations");

	printf("%s (physical %s), %s-bit code:\n", text(result, "address"), text(result, "physical"), text(result, "bits"));
	show_lines(member(result, "code"), "  ");
	for (size_t i = 0; i < json_object_array_length(translations); i++) {
		json_object *t = json_object_array_get_idx(translations, i);

		printf("translation of %s at CPL %s: %s instructions, %s bytes, in %s bytes of host code:\n", text(t, "address"),
		       text(t, "cpl"), text(t, "instructions"), text(t, "guest_bytes"), text(t, "host_bytes"));
		show_lines(member(t, "code"), "    ");
	}
}

int command_disassemble(struct cli *cli, int argc, char **argv)
{
	static const struct parameter parameters[] = {
		{"address", "address", 'x'}, {"count", "count", 'n'}, {"vcpu", "vcpu", 'n'}, {"bits", "bits", 'n'}, {0}};
	int status;
	json_object *params = parse(cli, argc, argv, parameters, &status);

	return params ? ask_and_show(cli, "vm.disassemble", params, show_disassembly) : status;
}

static void show_shares(const char *title, json_object *counts, double all)
{
	printf("%s:", title);
	json_object_object_foreach(counts, key, value)
	{
		double n = json_object_get_double(value);
		if (n > 0)
			printf(" %s %.1f%%", key, all > 0 ? 100 * n / all : 0);
	}
	putchar('\n');
}

static void show_hot_blocks(json_object *result)
{
	json_object *blocks = member(result, "blocks"), *where = member(result, "where");
	double busy = json_object_get_double(member(result, "samples"));

	printf("%s samples of vCPUs at work in %.1f s, in %s blocks; shares are of these\n", text(result, "samples"),
	       json_object_get_double(member(result, "seconds")), text(result, "distinct_blocks"));
	json_object_object_del(where, "idle");
	show_shares("where", where, busy);
	show_shares("helpers", member(result, "helpers"), busy);
	for (size_t i = 0; i < json_object_array_length(blocks); i++) {
		json_object *b = json_object_array_get_idx(blocks, i);

		printf("%5.1f%%  %s (physical %s), CPL %s\n", 100 * json_object_get_double(member(b, "share")), text(b, "address"),
		       text(b, "physical"), text(b, "cpl"));
		show_lines(member(b, "code"), "        ");
	}
}

int command_hot_blocks(struct cli *cli, int argc, char **argv)
{
	static const struct parameter parameters[] = {{"seconds", "seconds", 'd'}, {"top", "top", 'n'}, {0}};
	int status;
	json_object *params = parse(cli, argc, argv, parameters, &status);

	return params ? ask_and_show(cli, "vm.hot_blocks", params, show_hot_blocks) : status;
}

/* ---- perf-map -------------------------------------------------------------------- */

static void show_perf_map(json_object *result)
{
	printf("%s\nperf finds it as: ln -sf %s /tmp/perf-%s.map\n", text(result, "path"), text(result, "path"),
	       text(result, "pid"));
	if (!json_object_get_boolean(member(result, "usable")))
		puts("(this VM was started without \"perf_map\": true in its definition, so perf will not look for it)");
}

int command_perf_map(struct cli *cli, int argc, char **argv)
{
	static const struct parameter parameters[] = {{0}};
	int status;
	json_object *params = parse(cli, argc, argv, parameters, &status);

	return params ? ask_and_show(cli, "vm.perf_map", params, show_perf_map) : status;
}

/* Networks: trictl net, and the --nic option, "TYPE[,KEY=VALUE]..." to a network interface of a definition. */
#include "api/cli/cli.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

static void put_text(json_object *to, const char *key, const char *text)
{
	json_object_object_add(to, key, json_object_new_string(text));
}

static bool get_number(const char *text, unsigned long max, unsigned long *ret)
{
	char *end = NULL;

	if (text[0] < '0' || text[0] > '9')
		return false;
	*ret = strtoul(text, &end, 10);
	return !*end && *ret <= max;
}

static json_object *list_of(json_object *nic, const char *key)
{
	json_object *list = NULL;

	if (!json_object_object_get_ex(nic, key, &list)) {
		list = json_object_new_array();
		json_object_object_add(nic, key, list);
	}
	return list;
}

/* "[tcp:|udp:][ADDRESS:]PORT:[GUEST_ADDRESS:]PORT" */
static bool put_forward(json_object *nic, char *text)
{
	json_object *forward = json_object_new_object();
	char *part[5], *rest = text;
	unsigned count = 0, at = 0;
	unsigned long host_port, guest_port;

	json_object_array_add(list_of(nic, "forward"), forward);
	while (rest && count < 5)
		part[count++] = strsep(&rest, ":");
	if (rest)
		return false;
	if (count > 0 && (!strcmp(part[0], "tcp") || !strcmp(part[0], "udp")))
		put_text(forward, "protocol", part[at++]);
	if (count - at >= 3 && strchr(part[at], '.'))
		put_text(forward, "host_address", part[at++]);
	if (at >= count || !get_number(part[at++], 65535, &host_port))
		return false;
	if (count - at >= 2 && strchr(part[at], '.'))
		put_text(forward, "guest_address", part[at++]);
	if (at + 1 != count || !get_number(part[at], 65535, &guest_port))
		return false;
	json_object_object_add(forward, "host_port", json_object_new_int64((int64_t)host_port));
	json_object_object_add(forward, "guest_port", json_object_new_int64((int64_t)guest_port));
	return true;
}

/* "KIB" or "KIB/BURST", a second's amount and a burst's. */
static bool put_limit(json_object *nic, const char *key, char *text)
{
	json_object *limit = json_object_new_object();
	char *burst = strchr(text, '/');
	unsigned long number;

	json_object_object_add(nic, key, limit);
	if (burst)
		*burst++ = '\0';
	if (!get_number(text, 1u << 30, &number))
		return false;
	json_object_object_add(limit, "kib_per_second", json_object_new_int64((int64_t)number));
	if (burst && !get_number(burst, 1u << 30, &number))
		return false;
	if (burst)
		json_object_object_add(limit, "burst_kib", json_object_new_int64((int64_t)number));
	return true;
}

static bool put_number(json_object *nic, const char *key, char *text)
{
	unsigned long number;

	if (!get_number(text, 1u << 30, &number))
		return false;
	json_object_object_add(nic, key, json_object_new_int64((int64_t)number));
	return true;
}

static bool put_plain(json_object *nic, const char *key, char *text)
{
	put_text(nic, key, text);
	return true;
}

static bool put_flag(json_object *nic, const char *key, char *text)
{
	bool on = !text || !strcmp(text, "on");

	json_object_object_add(nic, key, json_object_new_boolean(on));
	return on || !strcmp(text, "off");
}

static bool put_forward_key(json_object *nic, const char *key, char *text) { return put_forward(nic, text); }

static bool put_trunk(json_object *nic, const char *key, char *text)
{
	char *part;

	if (!strcmp(text, "all"))
		return put_plain(nic, key, text);
	while ((part = strsep(&text, "+"))) {
		unsigned long vlan;

		if (!get_number(part, 4094, &vlan))
			return false;
		json_object_array_add(list_of(nic, key), json_object_new_int64((int64_t)vlan));
	}
	return true;
}

static bool put_uplinks(json_object *nic, const char *key, char *text)
{
	char *part;

	while ((part = strsep(&text, "+")))
		json_object_array_add(list_of(nic, key), json_object_new_string(part));
	return true;
}

static const struct {
	const char *key;
	bool (*put)(json_object *nic, const char *key, char *text);
	const char *form;
} keys[] = {
	{"mac", put_plain, "an address such as 52:54:00:12:34:56"},
	{"mtu", put_number, "a number of bytes"},
	{"link", put_plain, "up or down"},
	{"receive", put_limit, "KIB_A_SECOND[/BURST_KIB]"},
	{"transmit", put_limit, "KIB_A_SECOND[/BURST_KIB]"},
	{"forward", put_forward_key, "[tcp:|udp:][ADDRESS:]PORT:[GUEST_ADDRESS:]GUEST_PORT"},
	{"subnet", put_plain, "a network such as 10.0.2.0/24"},
	{"restrict", put_flag, "on or off"},
	{"hide_host", put_flag, "on or off"},
	{"hostname", put_plain, "a name"},
	{"network", put_plain, "the name of a network"},
	{"interface", put_plain, "the name of a network device"},
	{"bridge", put_plain, "the name of a bridge"},
	{"device", put_plain, "the name of a network device"},
	{"mode", put_plain, "bridge, vepa, private or passthru"},
	{"own_mac_only", put_flag, "on or off"},
	{"uplinks", put_uplinks, "names of network devices joined by +"},
	{"policy", put_plain, "active-backup or balance"},
	{"vlan", put_number, "a number from 1 to 4094"},
	{"trunk", put_trunk, "all, or VLANs joined by +, such as 10+20"},
	{"mirror", put_flag, "on or off"},
};

static int put_key(json_object *nic, char *text)
{
	char *value = strchr(text, '=');

	if (value)
		*value++ = '\0';
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		if (strcmp(keys[i].key, text) != 0)
			continue;
		if ((value || keys[i].put == put_flag) && keys[i].put(nic, text, value))
			return 0;
		complain("--nic: %s= wants %s", text, keys[i].form);
		return -1;
	}
	complain("--nic: \"%s\" is no option of a network interface", text);
	return -1;
}

int cli_add_nic(json_object *definition, char *text)
{
	json_object *nic = json_object_new_object();
	char *rest = text;

	json_object_array_add(list_of(definition, "nics"), nic);
	put_text(nic, "type", strsep(&rest, ","));
	while (rest)
		if (put_key(nic, strsep(&rest, ",")))
			return -1;
	return 0;
}

/* ---- trictl nic ---------------------------------------------------------------------------- */

/* "KIB[/BURST]" as two parameters. */
static bool put_new_limit(json_object *params, const char *key, const char *burst_key, char *text)
{
	char *burst = strchr(text, '/');

	if (burst)
		*burst++ = '\0';
	return put_number(params, key, text) && (!burst || put_number(params, burst_key, burst));
}

int command_nic(struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {{"link", required_argument, NULL, 'l'},
						{"receive", required_argument, NULL, 'r'},
						{"transmit", required_argument, NULL, 't'},
						{"help", no_argument, NULL, 'h'},
						{0}};
	json_object *params = json_object_new_object(), *result = NULL;
	int option, status = EXIT_USAGE;
	bool ok = true;

	while (ok && (option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		switch (option) {
		case 'l': put_text(params, "link", optarg); break;
		case 'r': ok = put_new_limit(params, "receive_kib", "receive_burst_kib", optarg); break;
		case 't': ok = put_new_limit(params, "transmit_kib", "transmit_burst_kib", optarg); break;
		case 'h':
			cli_usage(argv[0]);
			json_object_put(params);
			return 0;
		default: ok = false; break;
		}
	}
	if (ok && argc - optind == 2 && json_object_object_length(params) > 0 && put_number(params, "nic", argv[optind + 1])) {
		put_text(params, "vm", argv[optind]);
		status = cli_ask(cli, "vm.nic_set", params, &result);
		json_object_put(result);
		return status;
	}
	cli_usage(argv[0]);
	json_object_put(params);
	return status;
}

/* ---- trictl net -------------------------------------------------------------------------------- */

static const char *text_of(json_object *row, const char *key)
{
	json_object *value = NULL;

	return json_object_object_get_ex(row, key, &value) && value ? json_object_get_string(value) : "-";
}

static void show_nets(json_object *rows)
{
	printf("%-24s %-7s %s\n", "NAME", "ACTIVE", "AUTOSTART");
	for (size_t i = 0; i < json_object_array_length(rows); i++) {
		json_object *row = json_object_array_get_idx(rows, i);

		printf("%-24s %-7s %s\n", text_of(row, "name"), text_of(row, "active"), text_of(row, "autostart"));
	}
}

static void show_ports(json_object *result)
{
	json_object *rows = json_object_object_get(result, "ports");

	printf("%-20s %3s %-17s %4s %-6s %12s %12s %8s\n", "VM", "NIC", "MAC", "VLAN", "KIND", "FROM VM", "TO VM", "DROPPED");
	for (size_t i = 0; i < json_object_array_length(rows); i++) {
		json_object *row = json_object_array_get_idx(rows, i);
		bool mirror = json_object_get_boolean(json_object_object_get(row, "mirror"));

		printf("%-20s %3s %-17s %4s %-6s %12s %12s %8s\n", text_of(row, "vm"), text_of(row, "nic"), text_of(row, "mac"),
		       text_of(row, "vlan"), mirror ? "mirror" : json_object_object_get_ex(row, "trunk", NULL) ? "trunk" : "access",
		       text_of(row, "rx_bytes"), text_of(row, "tx_bytes"), text_of(row, "tx_dropped"));
	}
}

static void show_plain(json_object *result)
{
	json_object_object_foreach(result, key, value) printf("%-12s %s\n", key, json_object_get_string(value));
}

int command_net(struct cli *cli, int argc, char **argv)
{
	static const struct {
		const char *word, *method;
		bool name;
		void (*show)(json_object *result);
	} words[] = {{"create", "net.create", true, NULL}, {"list", "net.list", false, show_nets},
		     {"get", "net.get", true, show_plain}, {"delete", "net.delete", true, NULL},
		     {"stats", "net.stats", true, show_plain}, {"ports", "net.ports", true, show_ports},
		     {"start", "net.start", true, NULL}, {"stop", "net.stop", true, NULL},
		     {"autostart", "net.set", true, NULL}, {"no-autostart", "net.set", true, NULL}};
	json_object *params = NULL, *result = NULL;
	int status;

	if (cli_arguments(cli, argc, argv, 1, 2, &status))
		return status;
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (strcmp(words[i].word, argv[optind]) != 0 || argc - optind != 1 + words[i].name)
			continue;
		if (words[i].name) {
			params = json_object_new_object();
			put_text(params, "name", argv[optind + 1]);
		}
		if (!strcmp(words[i].method, "net.set"))
			json_object_object_add(params, "autostart", json_object_new_boolean(!strcmp(words[i].word, "autostart")));
		status = cli_ask(cli, words[i].method, params, &result);
		if (!status && cli->json)
			puts(json_object_to_json_string_ext(result, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
		else if (!status && words[i].show)
			words[i].show(result);
		json_object_put(result);
		return status;
	}
	cli_usage(argv[0]);
	return EXIT_USAGE;
}

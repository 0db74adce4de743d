/* A VM's screen: trictl screenshot, and the --display option, "KEY=VALUE[,...]" to a display of a definition. */
#include "api/cli/cli.h"
#include "proto/base64.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

/* ---- screenshot ------------------------------------------------------------------ */

/* A file named *.ppm is one; everything else is a PNG. */
static bool is_ppm(const char *path)
{
	size_t n = strlen(path);

	return n >= 4 && !strcmp(path + n - 4, ".ppm");
}

static int write_file(const char *path, const unsigned char *bytes, size_t n)
{
	FILE *f = strcmp(path, "-") ? fopen(path, "we") : stdout;
	bool ok = f && fwrite(bytes, 1, n, f) == n;

	if (f && f != stdout && fclose(f) == EOF)
		ok = false;
	if (!ok)
		complain("%s: %s", path, strerror(errno));
	return ok ? 0 : EXIT_ERROR;
}

int command_screenshot(struct cli *cli, int argc, char **argv)
{
	json_object *params, *result = NULL, *data;
	unsigned char *bytes;
	ssize_t n = -1;
	int status;

	if (cli_arguments(cli, argc, argv, 2, 2, &status))
		return status;
	params = cli_vm_params(argv[optind]);
	json_object_object_add(params, "format", json_object_new_string(is_ppm(argv[optind + 1]) ? "ppm" : "png"));
	status = cli_ask(cli, "vm.screenshot", params, &result);
	if (status)
		return status;
	data = render_member(result, "data");
	bytes = malloc((size_t)json_object_get_string_len(data) + 1);
	if (bytes)
		n = base64_decode(json_object_get_string(data), (size_t)json_object_get_string_len(data), bytes);
	if (n < 0)
		complain("the daemon's picture is none");
	status = n < 0 ? EXIT_ERROR : write_file(argv[optind + 1], bytes, (size_t)n);
	free(bytes);
	json_object_put(result);
	return status;
}

/* ---- keys ---------------------------------------------------------------------------- */

/* "ctrl+alt+f2", or numbers. */
static json_object *stroke(char *text)
{
	json_object *keys = json_object_new_array();
	char *name;

	while ((name = strsep(&text, "+"))) {
		char *end;
		long number = strtol(name, &end, 10);
		bool one_digit = name[0] && !name[1]; /* the key with that digit */

		json_object_array_add(keys, *name && !*end && !one_digit ? json_object_new_int64(number) : json_object_new_string(name));
	}
	return keys;
}

int command_send_key(struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {{"hold", required_argument, NULL, 'H'}, {0}};
	const char *hold = NULL;
	int option, status = 0;

	while ((option = cli_option(cli, argc, argv, options)) >= 0) {
		if (option != 'H')
			return option == 'h' ? 0 : EXIT_USAGE;
		hold = optarg;
		if (!hold[0] || hold[strspn(hold, "0123456789")] || strlen(hold) > 5) {
			complain("--hold: \"%s\" is no number of milliseconds", hold);
			return EXIT_USAGE;
		}
	}
	if (argc - optind < 2) {
		complain("name a VM and keys; trictl send-key --help shows how");
		return EXIT_USAGE;
	}
	for (int i = optind + 1; i < argc && !status; i++) {
		json_object *params = cli_vm_params(argv[optind]), *result = NULL;

		json_object_object_add(params, "keys", stroke(argv[i]));
		if (hold)
			json_object_object_add(params, "hold_ms", json_object_new_int64(atol(hold)));
		status = cli_ask(cli, "vm.send_key", params, &result);
		json_object_put(result);
	}
	return status;
}

int command_send_text(struct cli *cli, int argc, char **argv)
{
	json_object *params, *result = NULL;
	int status;

	if (cli_arguments(cli, argc, argv, 2, 2, &status))
		return status;
	params = cli_vm_params(argv[optind]);
	json_object_object_add(params, "text", json_object_new_string(argv[optind + 1]));
	status = cli_ask(cli, "vm.send_text", params, &result);
	json_object_put(result);
	return status;
}

/* ---- --display --------------------------------------------------------------------- */

static json_object *object_of(json_object *to, const char *key)
{
	json_object *object = render_member(to, key);

	if (!object) {
		object = json_object_new_object();
		json_object_object_add(to, key, object);
	}
	return object;
}

static int put_file(json_object *to, const char *key, const char *path)
{
	char *absolute = cli_absolute(path);

	if (!absolute) {
		complain("out of memory");
		return -1;
	}
	json_object_object_add(to, key, json_object_new_string(absolute));
	free(absolute);
	return 0;
}

/* "unix", "unix:PATH", "auto", "[ADDRESS:]PORT" */
static int put_vnc(json_object *vnc, char *text)
{
	char *colon = strrchr(text, ':'), *end = NULL;
	const char *port = colon ? colon + 1 : text;
	long number;

	if (!strcmp(text, "unix") || !strcmp(text, "auto")) {
		json_object_object_add(vnc, text[0] == 'u' ? "socket" : "autoport", json_object_new_boolean(1));
		return 0;
	}
	if (!strncmp(text, "unix:", 5))
		return put_file(vnc, "socket", text + 5);
	number = port[0] >= '0' && port[0] <= '9' ? strtol(port, &end, 10) : 0;
	if (number < 1 || number > 65535 || *end) {
		complain("--display: vnc= wants unix:PATH, 127.0.0.1:PORT, or auto for the first free port from 5900 on");
		return -1;
	}
	if (colon) {
		*colon = '\0';
		json_object_object_add(vnc, "address", json_object_new_string(text));
	}
	json_object_object_add(vnc, "port", json_object_new_int64(number));
	return 0;
}

/* Its first line; on a command line others would see it. */
static int put_password(json_object *vnc, const char *path)
{
	char line[64] = "";
	FILE *f = fopen(path, "re");

	if (!f || !fgets(line, sizeof(line), f)) {
		complain("--display: password_file=%s: %s", path, f ? "it is empty" : strerror(errno));
		if (f)
			fclose(f);
		return -1;
	}
	fclose(f);
	line[strcspn(line, "\n")] = '\0';
	json_object_object_add(vnc, "password", json_object_new_string(line));
	return 0;
}

static int put_key(json_object *display, char *text)
{
	char *value = strchr(text, '=');

	if (!strcmp(text, "vga")) {
		json_object_object_add(display, "type", json_object_new_string(text));
		return 0;
	}
	if (value)
		*value++ = '\0';
	if (value && !strcmp(text, "vnc"))
		return put_vnc(object_of(display, "vnc"), value);
	if (value && !strcmp(text, "password_file"))
		return put_password(object_of(display, "vnc"), value);
	if (value && !strcmp(text, "rom"))
		return put_file(display, "rom", value);
	complain("--display: \"%s\" is not vga, vnc=WHERE, password_file=FILE or rom=FILE", text);
	return -1;
}

int cli_add_display(json_object *definition, char *text)
{
	json_object *display = object_of(definition, "display");

	while (text)
		if (put_key(display, strsep(&text, ",")))
			return -1;
	return 0;
}

/* trictl image: disk images, with a bar while they are worked on. */
#include "api/cli/cli.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define BAR_COLUMNS 40
#define LINE_EVERY 10 /* percent, where there is no terminal */

struct progress {
	bool terminal;
	bool shown;   /* a bar stands in the line */
	double told;  /* percent of the last line */
	const char *work;
};

/* By the name's ending; what is in a file is never asked, since a guest may have written it. NULL: unknown. */
static const char *format_of(const char *path)
{
	static const struct {
		const char *ending, *format;
	} rows[] = {{".qcow2", "qcow2"}, {".raw", "raw"}, {".img", "raw"}, {".vmdk", "vmdk"}, {".vdi", "vdi"}, {".vhd", "vpc"}, {".vhdx", "vhdx"}};
	const char *dot = strrchr(path, '.');

	for (size_t i = 0; dot && i < sizeof(rows) / sizeof(rows[0]); i++)
		if (!strcasecmp(dot, rows[i].ending))
			return rows[i].format;
	return NULL;
}

static bool put_format(json_object *params, const char *key, const char *given, const char *path, const char *option)
{
	const char *format = given ? given : format_of(path);

	if (!format) {
		complain("%s: its name does not say of what format it is: give %s raw, qcow2, vdi, vmdk, vpc or vhdx", path, option);
		return false;
	}
	json_object_object_add(params, key, json_object_new_string(format));
	return true;
}

static void put_path(json_object *params, const char *key, const char *path)
{
	char *absolute = cli_absolute(path);

	json_object_object_add(params, key, json_object_new_string(absolute ? absolute : ""));
	free(absolute);
}

/* "10G", "512M", "1T", "4096" (bytes). 0: it is none. */
static int64_t parse_size(const char *text)
{
	static const char units[] = "KMGT";
	char *end = NULL;
	long long value;
	const char *unit;

	errno = 0;
	value = text[0] >= '0' && text[0] <= '9' ? strtoll(text, &end, 10) : 0;
	if (errno || value <= 0)
		return 0;
	unit = *end ? strchr(units, *end & ~0x20) : NULL;
	if (unit) {
		int shift = 10 * (int)(unit - units + 1);

		if (value > INT64_MAX >> shift)
			return 0;
		value <<= shift;
		end++;
	}
	if (!strcmp(end, "iB") || !strcmp(end, "B"))
		end += strlen(end);
	return *end ? 0 : value;
}

static bool put_size(json_object *params, const char *text)
{
	int64_t size = parse_size(text);

	if (!size)
		complain("\"%s\" is no size such as 512M or 10G", text);
	json_object_object_add(params, "size", json_object_new_int64(size));
	return size > 0;
}

/* ---- progress ---------------------------------------------------------------------- */

static void show_progress(struct progress *p, json_object *params)
{
	json_object *value = render_member(params, "percent"), *elapsed = render_member(params, "seconds");
	double percent = value ? json_object_get_double(value) : -1, seconds = elapsed ? json_object_get_double(elapsed) : 0;
	int filled = (int)(percent * BAR_COLUMNS / 100);

	if (p->terminal) {
		if (percent < 0)
			fprintf(stderr, "\r%s: %.0f s ", p->work, seconds);
		else
			fprintf(stderr, "\r%s: [%.*s%*s] %3.0f %% ", p->work, filled, "########################################",
				BAR_COLUMNS - filled, "", percent);
		p->shown = true;
		return;
	}
	if (percent >= p->told + LINE_EVERY || (percent >= 100 && p->told < 100)) {
		p->told = percent;
		complain("%s: %.0f %%", p->work, percent);
	}
}

static void end_progress(struct progress *p)
{
	if (p->shown)
		fputs("\r\033[K", stderr);
	p->shown = false;
}

/* Calls, and shows how far it is until the answer comes. Ctrl-C ends the connection, and so the work. Takes params. */
static int call(struct cli *cli, const char *work, json_object *params, json_object **ret_result)
{
	struct progress progress = {.terminal = isatty(STDERR_FILENO), .work = work};
	json_object *message = NULL, *result = NULL, *error = NULL, *method = NULL;
	char name[32];
	int status = cli_connect(cli);
	int64_t id;

	if (status) {
		json_object_put(params);
		return status;
	}
	snprintf(name, sizeof(name), "image.%s", work);
	id = client_send(&cli->client, name, params);
	while (id >= 0 && client_next(&cli->client, -1, &message) == 0 && !client_is_answer(message, id, &result, &error)) {
		if (json_object_object_get_ex(message, "method", &method) && !strcmp(json_object_get_string(method), "image.progress"))
			show_progress(&progress, json_object_object_get(message, "params"));
		json_object_put(message);
		message = NULL;
	}
	end_progress(&progress);
	if (result)
		*ret_result = json_object_get(result);
	else if (error)
		complain("%s", client_error_text(error));
	else
		complain("the daemon is gone, and the work with it");
	status = result ? 0 : error ? EXIT_ERROR : EXIT_NO_DAEMON;
	json_object_put(message);
	return status;
}

/* ---- the commands -------------------------------------------------------------------- */

struct options {
	const char *format, *from, *backing, *backing_format, *preallocation, *repair;
	bool compress, shrink;
};

static const char usage[] =
	"Usage: trictl image create [--format F] [--backing FILE [--backing-format F]] [--preallocation off|metadata|falloc|full] FILE [SIZE]\n"
	"       trictl image convert [--from F] [--format F] [--compress] SOURCE FILE\n"
	"       trictl image check [--format F] [--repair leaks|all] FILE\n"
	"       trictl image resize [--format F] [--shrink] [--preallocation P] FILE SIZE\n"
	"       trictl image info [--format F] FILE\n"
	"       trictl image list\n"
	"Without --format the name's ending says it: .raw .img .qcow2 .vdi .vmdk .vhd .vhdx\n";

static bool fill_create(json_object *params, const struct options *o, int count, char **words)
{
	if (!put_format(params, "format", o->format, words[0], "--format"))
		return false;
	put_path(params, "path", words[0]);
	if (o->preallocation)
		json_object_object_add(params, "preallocation", json_object_new_string(o->preallocation));
	if (o->backing) {
		put_path(params, "backing", o->backing);
		if (!put_format(params, "backing_format", o->backing_format, o->backing, "--backing-format"))
			return false;
	}
	if (count < 2 && !o->backing) {
		complain("image create: give its size, such as 10G");
		return false;
	}
	return count < 2 || put_size(params, words[1]);
}

static bool fill(json_object *params, const char *work, const struct options *o, int count, char **words)
{
	bool convert = !strcmp(work, "convert");

	if (!strcmp(work, "create"))
		return fill_create(params, o, count, words);
	put_path(params, convert ? "source" : "path", words[0]);
	if (convert) {
		put_path(params, "path", words[1]);
		if (o->compress)
			json_object_object_add(params, "compress", json_object_new_boolean(1));
		return put_format(params, "source_format", o->from, words[0], "--from") && put_format(params, "format", o->format, words[1], "--format");
	}
	if (!strcmp(work, "info")) {
		if (o->format)
			json_object_object_add(params, "format", json_object_new_string(o->format));
		return true;
	}
	if (o->repair)
		json_object_object_add(params, "repair", json_object_new_string(o->repair));
	if (o->shrink)
		json_object_object_add(params, "shrink", json_object_new_boolean(1));
	if (o->preallocation && !strcmp(work, "resize"))
		json_object_object_add(params, "preallocation", json_object_new_string(o->preallocation));
	return put_format(params, "format", o->format, words[0], "--format") && (strcmp(work, "resize") || put_size(params, words[1]));
}

static int show(struct cli *cli, const char *work, json_object *result)
{
	json_object *report = render_member(result, "report"), *state = render_member(result, "state");
	bool bad = state && strcmp(json_object_get_string(state), "clean");

	if (cli->json)
		render_json(result);
	else if (state)
		printf("%s\n", json_object_get_string(state));
	if (!cli->json && report && (bad || !strcmp(work, "info")))
		render_object(report, 0);
	json_object_put(result);
	return bad ? EXIT_ERROR : 0;
}

static int list(struct cli *cli)
{
	static const struct column columns[] = {{"OPERATION", "operation"}, {"WORK", "work"}, {"PERCENT", "percent"}, {"SECONDS", "seconds"}, {"PATH", "path"}};
	json_object *rows = NULL;
	int status = cli_ask(cli, "image.list", NULL, &rows);

	if (status)
		return status;
	if (cli->json)
		render_json(rows);
	else
		render_table(rows, columns, sizeof(columns) / sizeof(columns[0]));
	json_object_put(rows);
	return 0;
}

int command_image(struct cli *cli, int argc, char **argv)
{
	static const struct {
		const char *work;
		int min, max;
	} works[] = {{"create", 1, 2}, {"convert", 2, 2}, {"check", 1, 1}, {"resize", 2, 2}, {"info", 1, 1}, {"list", 0, 0}};
	static const struct option options[] = {{"format", required_argument, NULL, 'f'},	 {"from", required_argument, NULL, 'F'},
						{"backing", required_argument, NULL, 'b'},	 {"backing-format", required_argument, NULL, 'B'},
						{"preallocation", required_argument, NULL, 'p'}, {"repair", required_argument, NULL, 'r'},
						{"compress", no_argument, NULL, 'c'},		 {"shrink", no_argument, NULL, 's'},
						{0}};
	struct options o = {0};
	json_object *params, *result = NULL;
	int option, status, count;
	size_t i = 0;

	while ((option = cli_option(cli, argc, argv, options)) >= 0) {
		switch (option) {
		case 'f': o.format = optarg; break;
		case 'F': o.from = optarg; break;
		case 'b': o.backing = optarg; break;
		case 'B': o.backing_format = optarg; break;
		case 'p': o.preallocation = optarg; break;
		case 'r': o.repair = optarg; break;
		case 'c': o.compress = true; break;
		case 's': o.shrink = true; break;
		default: return option == 'h' ? 0 : EXIT_USAGE;
		}
	}
	count = argc - optind - 1;
	while (count >= 0 && i < sizeof(works) / sizeof(works[0]) && strcmp(works[i].work, argv[optind]))
		i++;
	if (count < 0 || i == sizeof(works) / sizeof(works[0]) || count < works[i].min || count > works[i].max) {
		fputs(usage, stderr);
		return EXIT_USAGE;
	}
	if (!strcmp(works[i].work, "list"))
		return list(cli);
	params = json_object_new_object();
	if (!fill(params, works[i].work, &o, count, argv + optind + 1)) {
		json_object_put(params);
		return EXIT_USAGE;
	}
	status = call(cli, works[i].work, params, &result);
	return status ? status : show(cli, works[i].work, result);
}

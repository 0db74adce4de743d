/* What the policy knows and says, for people. */
#include "api/cli/cli.h"

#include <string.h>

static const char *const modes[] = {"bt", "hvm", "pv"};
#define MODES (sizeof(modes) / sizeof(modes[0]))

static void labelled(const char *label, json_object *value, unsigned indent)
{
	char buffer[2048];

	if (!value)
		return;
	printf("%*s%-10s", (int)indent, "", label);
	render_wrap(render_plain(value, buffer, sizeof(buffer)), indent + 10, render_width());
}

void render_compare(json_object *rows)
{
	for (size_t i = 0; i < json_object_array_length(rows); i++) {
		json_object *row = json_object_array_get_idx(rows, i);

		printf("%s%s\n", i ? "\n" : "", json_object_get_string(render_member(row, "aspect")));
		for (size_t m = 0; m < MODES; m++) {
			json_object *cell = render_member(row, modes[m]);

			labelled(modes[m], render_member(cell, "text"), 2);
			labelled("  here:", render_member(cell, "host"), 2);
		}
	}
}

void render_decision(json_object *decision)
{
	json_object *candidates = render_member(decision, "candidates"),
		    *changes = render_member(decision, "would_change");
	char buffer[1024], line[1200];
	unsigned width = render_width();

	printf("mode: %s\n", render_plain(render_member(decision, "mode"), buffer, sizeof(buffer)));
	printf("why: ");
	render_wrap(render_plain(render_member(decision, "reason"), buffer, sizeof(buffer)), 5, width);
	printf("candidates:\n");
	for (size_t i = 0; i < json_object_array_length(candidates); i++) {
		json_object *row = json_object_array_get_idx(candidates, i);
		char verdict[64], reason[700];

		snprintf(line, sizeof(line), "%s: %s", render_plain(render_member(row, "verdict"), verdict, sizeof(verdict)),
			 render_plain(render_member(row, "reason"), reason, sizeof(reason)));
		printf("  %-5s", json_object_get_string(render_member(row, "mode")));
		render_wrap(line, 7, width);
		if (render_member(row, "remedy")) {
			printf("       remedy: ");
			render_wrap(render_plain(render_member(row, "remedy"), buffer, sizeof(buffer)), 15, width);
		}
	}
	for (size_t i = 0; i < json_object_array_length(changes); i++) {
		printf("%s", i ? "  " : "what would change the answer:\n  ");
		render_wrap(render_plain(json_object_array_get_idx(changes, i), buffer, sizeof(buffer)), 4, width);
	}
	if (render_member(decision, "guest"))
		render_value("guest", render_member(decision, "guest"), 0);
}

/* ---- the host ------------------------------------------------------------------------- */

static void format_time(double ns, char *text, size_t size)
{
	static const struct {
		double from, unit;
		const char *name;
	} units[] = {{1e9, 1e9, "s"}, {1e6, 1e6, "ms"}, {1e3, 1e3, "us"}, {0, 1, "ns"}};
	size_t i = 0;

	while (i < 3 && ns < units[i].from)
		i++;
	snprintf(text, size, "%.3g %s", ns / units[i].unit, units[i].name);
}

static void format_figure(json_object *figure, char *text, size_t size)
{
	json_object *ns = render_member(figure, "ns"), *times = render_member(figure, "times_native");
	size_t n;

	snprintf(text, size, "%s", !figure ? "-" : ns ? "" : "cannot");
	if (!ns)
		return;
	format_time(json_object_get_double(ns), text, size);
	n = strlen(text);
	if (times)
		snprintf(text + n, size - n, " (x%.2f)", json_object_get_double(times));
}

static json_object *figure_of(json_object *figures, const char *name)
{
	return render_member(render_member(figures, "figures"), name);
}

/* What a mode could not do, once for each reason. */
static void explain_failures(const char *mode, json_object *figures)
{
	json_object *all = render_member(figures, "figures");
	char buffer[400], line[700];

	if (render_member(figures, "problem")) {
		printf("%s: ", mode);
		render_wrap(render_plain(render_member(figures, "problem"), buffer, sizeof(buffer)), 4, render_width());
		return;
	}
	json_object_object_foreach(all, name, figure)
	{
		json_object *why = render_member(figure, "cannot_execute");

		if (!why)
			continue;
		snprintf(line, sizeof(line), "%s cannot execute %s: %s", mode, name,
			 render_plain(why, buffer, sizeof(buffer)));
		render_wrap(line, 4, render_width());
	}
}

void render_calibration(json_object *c)
{
	json_object *native = render_member(c, "native"), *tried = render_member(c, "modes");
	char text[64];

	printf("measured ");
	render_time(json_object_get_double(render_member(c, "time")));
	printf(", in %.1f s%s\n\n%-12s%-12s", json_object_get_double(render_member(c, "seconds")),
	       json_object_get_boolean(render_member(c, "complete")) ? "" : " (not all of it: the host was too busy)",
	       "MEASURE", "NATIVE");
	json_object_object_foreach(tried, title, unused)
	{
		printf("%-20s", title);
		(void)unused;
	}
	putchar('\n');
	json_object_object_foreach(render_member(native, "figures"), name, figure)
	{
		format_figure(figure, text, sizeof(text));
		printf("%-12s%-12s", name, strcmp(text, "cannot") ? text : "-");
		json_object_object_foreach(tried, mode, figures)
		{
			format_figure(figure_of(figures, name), text, sizeof(text));
			printf("%-20s", text);
			(void)mode;
		}
		putchar('\n');
	}
	putchar('\n');
	json_object_object_foreach(tried, mode, figures) explain_failures(mode, figures);
}

void render_host(json_object *host)
{
	static const struct column facts[] = {{"FACT", "name"}, {"VALUE", "value"}, {"SOURCE", "source"}};
	json_object *rows = render_member(host, "facts"), *calibration = render_member(host, "calibration");
	char buffer[400];
	bool any = false;

	render_table(rows, facts, 3);
	for (size_t i = 0; i < json_object_array_length(rows); i++) {
		json_object *row = json_object_array_get_idx(rows, i), *remedy = render_member(row, "remedy");

		if (!remedy)
			continue;
		printf("%s  %s: ", any ? "" : "\nremedies:\n", json_object_get_string(render_member(row, "name")));
		render_wrap(render_plain(remedy, buffer, sizeof(buffer)), 4, render_width());
		any = true;
	}
	putchar('\n');
	if (calibration)
		render_calibration(calibration);
	else
		puts(json_object_get_boolean(render_member(host, "calibrating"))
			     ? "This host is being measured right now."
			     : "This host has not been measured: trictl calibrate");
}

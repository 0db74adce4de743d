/* What the policy knows and says, for people. */
#include "api/cli/cli.h"

#include <stdlib.h>
#include <string.h>

static const char *const modes[] = {"bt", "hvm", "pv"};
#define MODES (sizeof(modes) / sizeof(modes[0]))

/* ---- the comparison ---------------------------------------------------------------------- */

/* Prints what of a text fits into `width` columns, padded; *text moves on to the next line's first word. */
static void print_piece(const char **text, unsigned width, bool last)
{
	const char *from = *text, *end = from, *next = from;

	while (*next) {
		const char *word = next + strspn(next, " ");
		const char *stop = word + strcspn(word, " ");

		if ((size_t)(stop - from) > width && end > from)
			break;
		/* A word longer than a line is cut. */
		end = (size_t)(stop - from) > width ? from + width : stop;
		next = end;
		if (end < stop)
			break;
	}
	printf("%-*.*s", last ? 0 : (int)width, (int)(end - from), from);
	*text = end + strspn(end, " ");
}

/* Texts side by side, wrapped; an empty one is an empty column. */
static void print_columns(const char *const *texts, size_t count, unsigned width)
{
	unsigned each = (width - 2 - 3 * ((unsigned)count - 1)) / (unsigned)count;
	const char *at[8];
	bool more = true;

	for (size_t i = 0; i < count; i++)
		at[i] = texts[i];
	while (more) {
		more = false;
		printf("  ");
		for (size_t i = 0; i < count; i++) {
			print_piece(&at[i], each, i + 1 == count);
			if (i + 1 < count)
				printf(" | ");
			more |= *at[i] != '\0';
		}
		putchar('\n');
	}
}

static void print_rule(const char *title, unsigned width)
{
	size_t n = strlen(title);

	printf("%s ", title);
	for (; n + 1 < width; n++)
		putchar('-');
	putchar('\n');
}

/* "hvm/ept: …; hvm/npt, which this host has: …" */
static void variants_of(json_object *list, char *text, size_t size)
{
	size_t n = 0;

	text[0] = '\0';
	for (size_t i = 0; i < json_object_array_length(list) && n < size; i++) {
		json_object *row = json_object_array_get_idx(list, i);

		n += (size_t)snprintf(text + n, size - n, "%s%s%s: %s", i ? "; " : "",
				      json_object_get_string(render_member(row, "variant")),
				      json_object_get_boolean(render_member(row, "here")) ? " (this host)" : "",
				      json_object_get_string(render_member(row, "text")));
	}
}

static const char *cell_text(json_object *value, char *text, size_t size)
{
	if (json_object_is_type(value, json_type_array))
		variants_of(value, text, size);
	else if (json_object_is_type(value, json_type_boolean))
		snprintf(text, size, "%s", json_object_get_boolean(value) ? "it holds" : "it does not hold");
	else
		render_plain(value, text, size);
	return text;
}

/* Parts of a cell in the order in which they are shown, and the words before them. */
static const struct {
	const char *key, *prefix;
} cell_parts[] = {{"text", ""}, {"variants", ""}, {"host", "here: "}, {"holds", "this VM: "}, {"guest", ""}};
#define CELL_PARTS (sizeof(cell_parts) / sizeof(cell_parts[0]))

/* One member of each mode's cell; false when none has it. */
static bool texts_of(json_object *row, const char *key, char buffers[][2048], const char **texts, const char *prefix)
{
	bool any = false;

	for (size_t m = 0; m < MODES; m++) {
		json_object *value = render_member(render_member(row, modes[m]), key);
		int n = snprintf(buffers[m], 2048, "%s", value ? prefix : "");

		if (value) {
			char plain[2000];

			snprintf(buffers[m] + n, 2048 - (size_t)n, "%s", cell_text(value, plain, sizeof(plain)));
		}
		texts[m] = buffers[m];
		any |= value != NULL;
	}
	return any;
}

void render_compare(json_object *rows)
{
	char buffers[MODES][2048];
	const char *texts[MODES];
	unsigned width = render_width();

	print_columns(modes, MODES, width);
	for (size_t i = 0; i < json_object_array_length(rows); i++) {
		json_object *row = json_object_array_get_idx(rows, i);
		char aspect[80];

		print_rule(render_plain(render_member(row, "aspect"), aspect, sizeof(aspect)), width);
		for (size_t p = 0; p < CELL_PARTS; p++)
			if (texts_of(row, cell_parts[p].key, buffers, texts, cell_parts[p].prefix))
				print_columns(texts, MODES, width);
	}
}

static void print_markdown(const char *text)
{
	for (; *text; text++)
		printf(*text == '|' || *text == '*' || *text == '_' || *text == '<' ? "\\%c" : "%c", *text);
}

void render_compare_markdown(json_object *rows)
{
	char buffer[2048];

	printf("| |");
	for (size_t m = 0; m < MODES; m++)
		printf(" %s |", modes[m]);
	printf("\n|---|---|---|---|\n");
	for (size_t i = 0; i < json_object_array_length(rows); i++) {
		json_object *row = json_object_array_get_idx(rows, i);

		printf("| **%s** |", render_plain(render_member(row, "aspect"), buffer, sizeof(buffer)));
		for (size_t m = 0; m < MODES; m++) {
			json_object *cell = render_member(row, modes[m]);

			putchar(' ');
			for (size_t k = 0; k < CELL_PARTS; k++)
				if (render_member(cell, cell_parts[k].key)) {
					if (k)
						printf("<br>");
					if (cell_parts[k].prefix[0])
						printf("**%.*s** ", (int)strlen(cell_parts[k].prefix) - 1, cell_parts[k].prefix);
					print_markdown(cell_text(render_member(cell, cell_parts[k].key), buffer, sizeof(buffer)));
				}
			printf(" <sub>%s</sub> |", render_plain(render_member(cell, "source"), buffer, sizeof(buffer)));
		}
		putchar('\n');
	}
}

/* ---- decisions ------------------------------------------------------------------------------ */

static void print_candidate(json_object *row, unsigned width)
{
	json_object *predicted = render_member(row, "predicted");
	char verdict[64], buffer[700], cost[32] = "-", confidence[32] = "-";

	if (predicted) {
		snprintf(cost, sizeof(cost), "x%.3g", json_object_get_double(render_member(predicted, "cost")));
		snprintf(confidence, sizeof(confidence), "%.0f %%",
			 json_object_get_double(render_member(predicted, "confidence")) * 100);
	}
	printf("  %-13s%-11s%8s %10s  ",
	       json_object_get_string(render_member(row, render_member(row, "variant") ? "variant" : "mode")),
	       render_plain(render_member(row, "verdict"), verdict, sizeof(verdict)), cost, confidence);
	render_wrap(render_plain(render_member(row, "reason"), buffer, sizeof(buffer)), 47, width);
	if (render_member(row, "remedy")) {
		printf("%47s", "");
		snprintf(verdict, sizeof(verdict), "remedy: ");
		printf("%s", verdict);
		render_wrap(render_plain(render_member(row, "remedy"), buffer, sizeof(buffer)), 55, width);
	}
}

struct share {
	const char *name;
	double value;
};

static int by_share(const void *a, const void *b)
{
	const struct share *x = a, *y = b;

	return x->value < y->value ? 1 : x->value > y->value ? -1 : 0;
}

/* The largest shares of a workload: "integer 42 %, syscall 14 %, …". */
static void print_workload(json_object *workload, unsigned width)
{
	json_object *shares = render_member(workload, "shares");
	struct share sorted[64];
	char text[600], buffer[200];
	size_t n = 0, used;

	used = (size_t)snprintf(text, sizeof(text), "%s (%s):",
				json_object_get_string(render_member(workload, "name")),
				render_plain(render_member(workload, "source"), buffer, sizeof(buffer)));
	if (!shares)
		return;
	json_object_object_foreach(shares, name, share) if (n < 64) sorted[n++] =
		(struct share){name, json_object_get_double(share)};
	qsort(sorted, n, sizeof(sorted[0]), by_share);
	for (size_t i = 0; i < n && i < 6 && used < sizeof(text); i++)
		used += (size_t)snprintf(text + used, sizeof(text) - used, "%s %s %.0f %%", i ? "," : "", sorted[i].name,
					 sorted[i].value * 100);
	printf("workload: ");
	render_wrap(text, 10, width);
}

void render_decision(json_object *decision)
{
	json_object *candidates = render_member(decision, "candidates"),
		    *changes = render_member(decision, "would_change"), *boot = render_member(decision, "predicted_boot_seconds");
	json_object *constraints = render_member(decision, "constraints");
	unsigned width = render_width();
	char buffer[1024];

	printf("mode: %s\nwhy: ", render_plain(render_member(decision, "mode"), buffer, sizeof(buffer)));
	render_wrap(render_plain(render_member(decision, "reason"), buffer, sizeof(buffer)), 5, width);
	if (render_member(decision, "workload"))
		print_workload(render_member(decision, "workload"), width);
	for (size_t i = 0; constraints && i < json_object_array_length(constraints); i++) {
		json_object *row = json_object_array_get_idx(constraints, i);
		char line[700];

		snprintf(line, sizeof(line), "%s %.300s: %s", json_object_get_string(render_member(row, "key")),
			 json_object_get_string(render_member(row, "value")), json_object_get_string(render_member(row, "means")));
		printf("demanded: ");
		render_wrap(line, 10, width);
	}
	if (boot)
		printf("predicted time to user space: %.2f s\n", json_object_get_double(boot));
	printf("\n  %-13s%-11s%8s %10s  %s\n", "CANDIDATE", "VERDICT", "COST", "CONFIDENCE", "WHY");
	for (size_t i = 0; i < json_object_array_length(candidates); i++)
		print_candidate(json_object_array_get_idx(candidates, i), width);
	for (size_t i = 0; i < json_object_array_length(changes); i++) {
		printf("%s- ", i ? "  " : "\nwhat would change the answer:\n  ");
		render_wrap(render_plain(json_object_array_get_idx(changes, i), buffer, sizeof(buffer)), 4, width);
	}
	if (render_member(decision, "guest")) {
		putchar('\n');
		render_value("guest", render_member(decision, "guest"), 0);
	}
}

void render_history(json_object *history)
{
	static const struct column columns[] = {{"VM", "name"},
						{"MODE", "mode"},
						{"COST", "predicted_cost"},
						{"PREDICTED s", "predicted_boot_seconds"},
						{"BOOT s", "boot_seconds"},
						{"ERROR", "error"}};
	json_object *statistics = render_member(history, "statistics"), *error = render_member(statistics, "mean_error");

	render_table(render_member(history, "outcomes"), columns, 6);
	printf("\npredictions with an outcome: %d", json_object_get_int(render_member(statistics, "predictions")));
	if (error)
		printf(", off by %.0f %% on average", json_object_get_double(error) * 100);
	printf("\nlearned corrections:");
	json_object_object_foreach(render_member(statistics, "corrections"), mode, row)
		printf("  %s x%.3f (%d)", mode, json_object_get_double(render_member(row, "factor")),
		       json_object_get_int(render_member(row, "outcomes")));
	putchar('\n');
}

void render_plan(json_object *plan)
{
	static const struct column placed[] = {{"VM", "vm"}, {"HOST", "host"}, {"MODE", "variant"}, {"COST", "cost"}};
	static const struct column left[] = {{"VM", "vm"}, {"NOT PLACED BECAUSE", "reason"}};
	static const struct column hosts[] = {{"HOST", "host"},
					      {"VMS", "vms"},
					      {"MEMORY LEFT (MiB)", "memory_left_mib"},
					      {"VCPUS LEFT", "vcpus_left"},
					      {"MEASURED", "measured"}};

	render_table(render_member(plan, "placements"), placed, 4);
	if (json_object_array_length(render_member(plan, "unplaced"))) {
		putchar('\n');
		render_table(render_member(plan, "unplaced"), left, 2);
	}
	putchar('\n');
	render_table(render_member(plan, "hosts"), hosts, 5);
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
		snprintf(text + n, size - n, json_object_get_double(times) < 100 ? " (x%.2f)" : " (x%.0f)",
			 json_object_get_double(times));
}

static json_object *figure_of(json_object *figures, const char *name)
{
	return render_member(render_member(figures, "figures"), name);
}

/* What a mode could not do, once for each reason. */
static void explain_failures(const char *mode, json_object *figures)
{
	json_object *all = render_member(figures, "figures");
	const char *last = "";
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
		if (strcmp(last, json_object_get_string(why)))
			snprintf(line, sizeof(line), "%s cannot execute %s: %s", mode, name,
				 render_plain(why, buffer, sizeof(buffer)));
		else
			snprintf(line, sizeof(line), "%s cannot execute %s: the same", mode, name);
		last = json_object_get_string(why);
		printf("- ");
		render_wrap(line, 2, render_width());
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

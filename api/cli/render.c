/* Tables and lists for people. */
#include "api/cli/cli.h"

#include <ctype.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

void render_json(json_object *value)
{
	printf("%s\n", json_object_to_json_string_ext(value, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
								     JSON_C_TO_STRING_NOSLASHESCAPE));
}

const char *render_plain(json_object *value, char *buffer, size_t size)
{
	if (!value)
		return "-";
	if (json_object_is_type(value, json_type_boolean))
		return json_object_get_boolean(value) ? "yes" : "no";
	if (json_object_is_type(value, json_type_double))
		snprintf(buffer, size, "%.3f", json_object_get_double(value));
	else
		snprintf(buffer, size, "%s", json_object_get_string(value));
	for (char *c = buffer; *c; c++)
		if (iscntrl((unsigned char)*c))
			*c = '?';
	return buffer;
}

json_object *render_member(json_object *object, const char *key)
{
	json_object *value = NULL;

	json_object_object_get_ex(object, key, &value);
	return value;
}

#define COLUMN_MAX 48

void render_table(json_object *rows, const struct column *columns, size_t count)
{
	size_t widths[16], n = json_object_array_length(rows);
	char buffer[512];

	for (size_t c = 0; c < count; c++) {
		widths[c] = strlen(columns[c].title);
		for (size_t r = 0; r < n; r++) {
			size_t w = strlen(render_plain(render_member(json_object_array_get_idx(rows, r), columns[c].key), buffer,
						sizeof(buffer)));

			/* One long value shall not widen all rows. */
			widths[c] = w > widths[c] && w <= COLUMN_MAX ? w : widths[c];
		}
	}
	for (size_t c = 0; c < count; c++)
		printf("%-*s%s", c + 1 < count ? (int)widths[c] : 0, columns[c].title, c + 1 < count ? "  " : "\n");
	for (size_t r = 0; r < n; r++)
		for (size_t c = 0; c < count; c++)
			printf("%-*s%s", c + 1 < count ? (int)widths[c] : 0,
			       render_plain(render_member(json_object_array_get_idx(rows, r), columns[c].key), buffer,
				     sizeof(buffer)),
			       c + 1 < count ? "  " : "\n");
}

void render_object(json_object *object, unsigned indent)
{
	json_object_object_foreach(object, key, value) render_value(key, value, indent);
}

static bool is_time(const char *key)
{
	return !strcmp(key, "time") || !strcmp(key, "created") || !strcmp(key, "started") || !strcmp(key, "ended");
}

void render_time(double seconds)
{
	time_t whole = (time_t)seconds;
	char text[40];
	struct tm tm;

	localtime_r(&whole, &tm);
	strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &tm);
	printf("%s.%03d", text, (int)((seconds - (double)whole) * 1000));
}

void render_value(const char *key, json_object *value, unsigned indent)
{
	char buffer[2048];

	if (json_object_is_type(value, json_type_object) && json_object_object_length(value)) {
		printf("%*s%s:\n", (int)indent, "", key);
		render_object(value, indent + 2);
		return;
	}
	if (json_object_is_type(value, json_type_array) && json_object_array_length(value)) {
		printf("%*s%s:\n", (int)indent, "", key);
		for (size_t i = 0; i < json_object_array_length(value); i++) {
			json_object *item = json_object_array_get_idx(value, i);

			if (json_object_is_type(item, json_type_object)) {
				if (i)
					printf("%*s--\n", (int)indent + 2, "");
				render_object(item, indent + 2);
			} else {
				printf("%*s%s\n", (int)indent + 2, "", render_plain(item, buffer, sizeof(buffer)));
			}
		}
		return;
	}
	if (is_time(key) && value) {
		printf("%*s%s: ", (int)indent, "", key);
		render_time(json_object_get_double(value));
		putchar('\n');
		return;
	}
	if (json_object_is_type(value, json_type_object) || json_object_is_type(value, json_type_array))
		value = NULL;
	printf("%*s%s: %s\n", (int)indent, "", key, render_plain(value, buffer, sizeof(buffer)));
}

unsigned render_width(void)
{
	struct winsize window;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) < 0 || !window.ws_col)
		return 100;
	return window.ws_col < 72 ? 72 : window.ws_col > 120 ? 120 : window.ws_col;
}

void render_wrap(const char *text, unsigned indent, unsigned width)
{
	size_t column = indent;

	while (*text) {
		size_t word = strcspn(text, " ");

		if (column + word > width && column > indent) {
			printf("\n%*s", (int)indent, "");
			column = indent;
		}
		printf("%.*s", (int)word, text);
		column += word;
		text += word;
		if (*text == ' ') {
			text++;
			if (*text && column < width)
				putchar(' ');
			column++;
		}
	}
	putchar('\n');
}

void render_event(json_object *event)
{
	char name[256], kind[64], buffer[512];

	render_time(json_object_get_double(render_member(event, "time")));
	printf("  %s  %s", render_plain(render_member(event, "name"), name, sizeof(name)),
	       render_plain(render_member(event, "event"), kind, sizeof(kind)));
	json_object_object_foreach(event, key, value) if (strcmp(key, "time") && strcmp(key, "name") &&
							  strcmp(key, "event") && strcmp(key, "uuid") &&
							  strcmp(key, "subscription"))
		printf("  %s=%s", key, render_plain(value, buffer, sizeof(buffer)));
	putchar('\n');
	fflush(stdout);
}

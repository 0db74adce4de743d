/* Figures of a host: what calibration programs print, how it is kept, and when it no longer holds. */
#include "policy/policy.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT 1
/* Beyond this no figure is one: an operation of ten minutes. */
#define NS_MAX 6e11
/* Nor is a thousandth of any processor's cycle. */
#define NS_MIN 1e-4

static const struct {
	const char *name, *operation, *native;
} measures[POLICY_MEASURES] = {
#define MEASURE(name, operation, native) {#name, operation, native},
#include "proto/measures.def"
#undef MEASURE
};

const char *policy_measure_name(enum policy_measure measure)
{
	return measures[measure].name;
}

const char *policy_measure_operation(enum policy_measure measure)
{
	return measures[measure].operation;
}

const char *policy_measure_native(enum policy_measure measure)
{
	return measures[measure].native;
}

bool policy_measure_is_loop(enum policy_measure measure)
{
	return !strcmp(measures[measure].native, "the same code");
}

bool policy_measure_parse(const char *name, enum policy_measure *ret_measure)
{
	for (int i = 0; i < POLICY_MEASURES; i++)
		if (!strcmp(measures[i].name, name)) {
			*ret_measure = (enum policy_measure)i;
			return true;
		}
	return false;
}

void policy_calibration_key(const struct policy_host *host, const char *version, struct policy_calibration_key *ret_key)
{
	memset(ret_key, 0, sizeof(*ret_key));
	snprintf(ret_key->cpu, sizeof(ret_key->cpu), "%s", host->cpu_model[0] ? host->cpu_model : host->cpu_vendor);
	snprintf(ret_key->kernel, sizeof(ret_key->kernel), "%s", host->kernel);
	snprintf(ret_key->version, sizeof(ret_key->version), "%s", version);
}

bool policy_calibration_same(const struct policy_calibration_key *a, const struct policy_calibration_key *b)
{
	return !strcmp(a->cpu, b->cpu) && !strcmp(a->kernel, b->kernel) && !strcmp(a->version, b->version);
}

/* ---- lines ---------------------------------------------------------------------------- */

/* Four significant digits: more is noise, and what is stored is what is used. */
static double rounded(double value)
{
	char text[32];

	snprintf(text, sizeof(text), "%.4g", value);
	return strtod(text, NULL);
}

static void take_figure(struct policy_figure *figure, double least, double median, unsigned rounds)
{
	if (figure->state == POLICY_FIGURE_NS && figure->ns <= least) {
		figure->rounds += rounds;
		return;
	}
	figure->rounds = (figure->state == POLICY_FIGURE_NS ? figure->rounds : 0) + rounds;
	figure->state = POLICY_FIGURE_NS;
	figure->ns = least;
	figure->median_ns = median;
	figure->why[0] = '\0';
}

void policy_figure_cannot(struct policy_figures *figures, enum policy_measure measure, const char *why)
{
	struct policy_figure *figure = &figures->of[measure];

	if (figure->state == POLICY_FIGURE_NS)
		return;
	figure->state = POLICY_FIGURE_CANNOT;
	snprintf(figure->why, sizeof(figure->why), "%s", why);
}

enum policy_line policy_calibration_line(struct policy_figures *figures, const char *line, double khz, double *ret_khz,
					 enum policy_measure *ret_measure)
{
	unsigned long long version, rate = 0, least, median, operations, rounds;
	int used = 0;
	char name[24];

	if (!strcmp(line, "end"))
		return POLICY_LINE_END;
	if (sscanf(line, "calibrate ready %llu %llu", &version, &rate) >= 1) {
		if (version != 1)
			return POLICY_LINE_OTHER;
		if (ret_khz && rate > 0)
			*ret_khz = (double)rate;
		return POLICY_LINE_READY;
	}
	if (sscanf(line, "begin %23s", name) == 1)
		return policy_measure_parse(name, ret_measure) ? POLICY_LINE_BEGIN : POLICY_LINE_OTHER;
	if (sscanf(line, "figure %23s %llu %llu %llu %llu", name, &least, &median, &operations, &rounds) == 5) {
		double ns = rounded((double)least / 1000 / khz * 1e6);
		double median_ns = rounded((double)median / 1000 / khz * 1e6);

		if (!policy_measure_parse(name, ret_measure) || !(ns > NS_MIN && ns < NS_MAX && median_ns >= ns) || !rounds ||
		    rounds > 1000000)
			return POLICY_LINE_OTHER;
		take_figure(&figures->of[*ret_measure], ns, median_ns, (unsigned)rounds);
		return POLICY_LINE_FIGURE;
	}
	if (sscanf(line, "fail %23s %n", name, &used) == 1 && used && policy_measure_parse(name, ret_measure)) {
		policy_figure_cannot(figures, *ret_measure, line + used);
		return POLICY_LINE_FIGURE;
	}
	return POLICY_LINE_OTHER;
}

/* ---- as JSON ---------------------------------------------------------------------------- */

static void put(json_object *to, const char *key, const char *text)
{
	json_object_object_add(to, key, json_object_new_string(text));
}

static json_object *number(double value)
{
	char text[32];

	snprintf(text, sizeof(text), "%.4g", value);
	return json_object_new_double_s(strtod(text, NULL), text);
}

static json_object *figures_json(const struct policy_figures *figures, const struct policy_figures *native)
{
	json_object *object = json_object_new_object(), *rows = json_object_new_object();

	json_object_object_add(object, "measured", json_object_new_boolean(figures->tried));
	json_object_object_add(object, "time", json_object_new_double(figures->time));
	if (figures->start_ms > 0)
		json_object_object_add(object, "start_ms", number(figures->start_ms));
	if (figures->problem[0])
		put(object, "problem", figures->problem);
	for (int i = 0; i < POLICY_MEASURES; i++) {
		const struct policy_figure *f = &figures->of[i];
		json_object *row;

		if (f->state == POLICY_FIGURE_NONE)
			continue;
		row = json_object_new_object();
		if (f->state == POLICY_FIGURE_NS) {
			json_object_object_add(row, "ns", number(f->ns));
			json_object_object_add(row, "median_ns", number(f->median_ns));
			json_object_object_add(row, "rounds", json_object_new_int64(f->rounds));
			/* A system call of Linux and one of a kernel of four instructions are no pair. */
			if (native && policy_measure_is_loop((enum policy_measure)i) && native->of[i].state == POLICY_FIGURE_NS)
				json_object_object_add(row, "times_native", number(f->ns / native->of[i].ns));
		} else {
			put(row, "cannot_execute", f->why);
		}
		json_object_object_add(rows, measures[i].name, row);
	}
	json_object_object_add(object, "figures", rows);
	return object;
}

json_object *policy_calibration_json(const struct policy_calibration *c)
{
	json_object *object = json_object_new_object(), *key = json_object_new_object(),
		    *modes = json_object_new_object();

	json_object_object_add(object, "format", json_object_new_int(FORMAT));
	put(key, "cpu", c->key.cpu);
	put(key, "kernel", c->key.kernel);
	put(key, "version", c->key.version);
	json_object_object_add(object, "key", key);
	json_object_object_add(object, "complete", json_object_new_boolean(c->complete));
	json_object_object_add(object, "time", json_object_new_double(c->time));
	json_object_object_add(object, "seconds", number(c->seconds));
	json_object_object_add(object, "native", figures_json(&c->native, NULL));
	for (int m = 0; m < POLICY_MODE_COUNT; m++)
		if (c->mode[m].tried || c->mode[m].problem[0])
			json_object_object_add(modes, policy_mode_name((enum policy_mode)m),
					       figures_json(&c->mode[m], &c->native));
	json_object_object_add(object, "modes", modes);
	return object;
}

static json_object *member(json_object *object, const char *key, json_type type)
{
	json_object *value = NULL;

	return json_object_is_type(object, json_type_object) && json_object_object_get_ex(object, key, &value) &&
			       json_object_is_type(value, type)
		       ? value
		       : NULL;
}

static double number_of(json_object *object, const char *key)
{
	json_object *value = member(object, key, json_type_double);
	double number;

	if (!value)
		value = member(object, key, json_type_int);
	number = value ? json_object_get_double(value) : 0;
	return isfinite(number) ? number : 0;
}

static void text_of(json_object *object, const char *key, char *to, size_t size)
{
	json_object *value = member(object, key, json_type_string);

	snprintf(to, size, "%s", value ? json_object_get_string(value) : "");
}

static bool parse_figure(json_object *row, struct policy_figure *ret, char *ret_why, size_t size)
{
	double rounds = number_of(row, "rounds");

	memset(ret, 0, sizeof(*ret));
	text_of(row, "cannot_execute", ret->why, sizeof(ret->why));
	if (ret->why[0]) {
		ret->state = POLICY_FIGURE_CANNOT;
		return true;
	}
	ret->ns = number_of(row, "ns");
	ret->median_ns = number_of(row, "median_ns");
	ret->rounds = rounds > 0 && rounds < 1e9 ? (unsigned)rounds : 0;
	ret->state = POLICY_FIGURE_NS;
	if (!(ret->ns > NS_MIN && ret->ns < NS_MAX))
		snprintf(ret_why, size, "ns: a time from %g to %g is wanted", NS_MIN, NS_MAX);
	else if (!(ret->median_ns >= ret->ns && ret->median_ns < NS_MAX))
		snprintf(ret_why, size, "median_ns: a time that is not below ns is wanted");
	else
		return true;
	return false;
}

/* path: what it is called in messages. */
static bool parse_figures(json_object *json, const char *path, struct policy_figures *ret, char *ret_why, size_t size)
{
	json_object *rows = member(json, "figures", json_type_object), *measured = member(json, "measured", json_type_boolean);
	char why[80];

	if (!rows) {
		snprintf(ret_why, size, "%s: an object with figures is wanted", path);
		return false;
	}
	/* Older files name only what was measured. */
	ret->tried = !measured || json_object_get_boolean(measured);
	ret->time = number_of(json, "time");
	ret->start_ms = number_of(json, "start_ms");
	text_of(json, "problem", ret->problem, sizeof(ret->problem));
	json_object_object_foreach(rows, name, row)
	{
		enum policy_measure measure;

		/* What a newer version measured is no harm. */
		if (policy_measure_parse(name, &measure) && !parse_figure(row, &ret->of[measure], why, sizeof(why))) {
			snprintf(ret_why, size, "%s.figures.%s.%s", path, name, why);
			return false;
		}
	}
	return true;
}

bool policy_calibration_parse(json_object *json, struct policy_calibration *ret, char *ret_why, size_t size)
{
	json_object *modes = member(json, "modes", json_type_object), *key = member(json, "key", json_type_object);
	json_object *complete = member(json, "complete", json_type_boolean);
	bool ok = modes && key && number_of(json, "format") == FORMAT;
	char path[24];

	memset(ret, 0, sizeof(*ret));
	if (ok) {
		text_of(key, "cpu", ret->key.cpu, sizeof(ret->key.cpu));
		text_of(key, "kernel", ret->key.kernel, sizeof(ret->key.kernel));
		text_of(key, "version", ret->key.version, sizeof(ret->key.version));
		ret->complete = complete && json_object_get_boolean(complete);
		ret->time = number_of(json, "time");
		ret->seconds = number_of(json, "seconds");
		ok = parse_figures(member(json, "native", json_type_object), "native", &ret->native, ret_why, size);
	} else {
		snprintf(ret_why, size, "an object with format %d, key, native and modes is wanted", FORMAT);
	}
	for (int m = 0; ok && m < POLICY_MODE_COUNT; m++) {
		const char *name = policy_mode_name((enum policy_mode)m);
		json_object *figures = NULL;

		if (!json_object_object_get_ex(modes, name, &figures))
			continue;
		snprintf(path, sizeof(path), "modes.%s", name);
		ok = parse_figures(figures, path, &ret->mode[m], ret_why, size);
	}
	if (!ok)
		memset(ret, 0, sizeof(*ret));
	ret->valid = ok;
	return ok;
}

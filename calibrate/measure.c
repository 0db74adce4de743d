/* Rounds of a measure: grown until one is long enough to time, short enough that many fit between two interruptions. */
#include "calibrate/measure.h"

#define ROUNDS_MAX 128
#define ROUNDS_MIN 5

const char *run_failure;

static const char *const names[MEASURE_COUNT] = {
#define MEASURE(name, operation, native) #name,
#include "proto/measures.def"
#undef MEASURE
};

const char *measure_name(enum measure_id id)
{
	return names[id];
}

void put_number(uint64_t value)
{
	char digits[24];
	unsigned n = sizeof(digits);

	digits[--n] = '\0';
	do {
		digits[--n] = (char)('0' + value % 10);
		value /= 10;
	} while (value);
	put_text(digits + n);
}

static void put_two(const char *word, const char *name)
{
	put_text(word);
	put_text(name);
}

static uint64_t per_operation(uint64_t spent, uint64_t operations)
{
	return spent > UINT64_MAX / 1000 ? spent / operations * 1000 : spent * 1000 / operations;
}

static void insert(uint64_t *sorted, unsigned n, uint64_t value)
{
	while (n && sorted[n - 1] > value) {
		sorted[n] = sorted[n - 1];
		n--;
	}
	sorted[n] = value;
}

static void fail(const char *name, const char *why)
{
	put_two("fail ", name);
	put_two(" ", why);
	put_text("\n");
}

static void measure_one(const char *name, const struct measure *m, uint64_t budget)
{
	uint64_t rounds[ROUNDS_MAX], operations = m->first, spent = 0, begin;
	const char *why = m->prepare ? m->prepare() : NULL;
	unsigned n = 0;

	run_failure = NULL;
	if (!why && !m->run)
		why = "there is no such thing here";
	if (why) {
		fail(name, why);
		return;
	}
	/* The first time is special: code is translated, pages and caches are filled. */
	m->run(operations);
	begin = ticks();
	/* A round of 1/128 of the budget (about a millisecond) is seldom interrupted, and starting it costs nothing. */
	while (!run_failure) {
		spent = m->run(operations);
		if (spent >= budget / 128 || ticks() - begin >= budget / 4 || (m->most && operations * 2 > m->most))
			break;
		operations *= 2;
	}
	if (!run_failure)
		rounds[n++] = per_operation(spent, operations);
	while (!run_failure && n < ROUNDS_MAX &&
	       (ticks() - begin < budget || (n < ROUNDS_MIN && ticks() - begin < 4 * budget)))
		insert(rounds, n++, per_operation(m->run(operations), operations));
	if (run_failure) {
		fail(name, run_failure);
		return;
	}
	put_two("figure ", name);
	put_text(" ");
	put_number(rounds[0]);
	put_text(" ");
	put_number(rounds[n / 2]);
	put_text(" ");
	put_number(operations);
	put_text(" ");
	put_number(n);
	put_text("\n");
}

static bool same(const char *name, const char *text, size_t length)
{
	size_t i = 0;

	while (i < length && name[i] && name[i] == text[i])
		i++;
	return i == length && !name[i];
}

bool measure_run(const char *name, size_t length, uint64_t budget)
{
	for (unsigned i = 0; i < MEASURE_COUNT; i++)
		if (same(names[i], name, length)) {
			put_two("begin ", names[i]);
			put_text("\n");
			measure_one(names[i], &measures[i], budget);
			return true;
		}
	return false;
}

void measure_list(const char *list, uint64_t budget)
{
	while (*list) {
		size_t length = 0;

		while (list[length] && list[length] != ' ')
			length++;
		if (same("all", list, length)) {
			for (unsigned i = 0; i < MEASURE_COUNT; i++)
				measure_run(names[i], __builtin_strlen(names[i]), budget);
		} else if (length && !measure_run(list, length, budget)) {
			put_text("fail ? there is no such measure\n");
		}
		list += length;
		while (*list == ' ')
			list++;
	}
	put_text("end\n");
}

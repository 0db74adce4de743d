/*
 * differential: random unprivileged instructions, natively and translated.
 *
 *	differential [--seed S] [--count N] [--bits 16|32|64] [--case K] [--verbose] [--keep-going] [--stats]
 *
 * Without arguments, as ./check runs it, it does a fixed number of cases in each kind of code. A difference is shown
 * with the fewest of its instructions that still show it, and the command that repeats it.
 */
#include "tests/differential/case.h"
#include "tests/differential/watch.h"

#include <getopt.h>
#include <string.h>
#include <time.h>

#define CHECK_CASES_64 240000u
#define CHECK_CASES_32 60000u
#define CHECK_CASES_16 30000u
#define HALF (NATIVE_SLOTS / 2)
#define EXCUSES 64

struct run {
	struct native *native;
	struct guest *guest;
	uint64_t seed;
	bool verbose;
	bool precise; /* flags count even where they are dead; the engine is told */
	unsigned keep_going; /* differences to be shown before it ends */
	unsigned differences, excused;
	struct {
		char text[48];
		unsigned count;
	} excuse[EXCUSES];
};

static const struct outcome *translated(struct run *r, const struct diff_case *c, bool again)
{
	watch_case(c->bits == 64 ? "--bits 64" : c->bits == 32 ? "--bits 32" : "--bits 16", c->number);
	return guest_run(r->guest, c, again);
}

static void excused(struct run *r, const char *why)
{
	r->excused++;
	for (unsigned i = 0; i < EXCUSES; i++) {
		if (!r->excuse[i].count)
			snprintf(r->excuse[i].text, sizeof(r->excuse[i].text), "%s", why);
		if (!strncmp(r->excuse[i].text, why, sizeof(r->excuse[i].text) - 1)) {
			r->excuse[i].count++;
			return;
		}
	}
}

static bool changes_code(const struct diff_case *c, const struct outcome *native)
{
	return memcmp(native->mem[PHYS_CODE0], c->mem[PHYS_CODE0], 2 * GUEST_PAGE_SIZE);
}

/* A store into the code can make flags matter that did not in what was translated: they are lost by then. */
static bool agrees_with_all_flags(struct run *r, const struct diff_case *c, const struct outcome *native)
{
	const char *what = NULL;

	guest_precise_flags(r->guest, true);
	for (unsigned i = 0; i < 2 && !what; i++)
		what = outcome_compare(c, native, translated(r, c, i > 0), true);
	guest_precise_flags(r->guest, r->precise);
	return !what;
}

/* Runs c translated, twice, against what happened natively. NULL: no difference, or an excused one. */
static const char *check(struct run *r, const struct diff_case *c, const struct outcome *native, bool count)
{
	const char *what = NULL, *why = outcome_excuse(native);

	if (why) {
		if (count)
			excused(r, why);
		return NULL;
	}
	for (unsigned i = 0; i < 2 && !what; i++) {
		const struct outcome *guest = translated(r, c, i > 0);
		what = outcome_compare(c, native, guest, r->precise);
		if (what) {
			why = difference_excuse(r->native, c, native, guest);
			if (!why && changes_code(c, native) && agrees_with_all_flags(r, c, native))
				why = "flags that only code written over the old reads";
			if (why) {
				if (count)
					excused(r, why);
				return NULL;
			}
		}
	}
	return what;
}

/* Drops instructions as long as a difference remains. */
static void shrink(struct run *r, struct diff_case *c)
{
	static struct outcome native;
	bool progress = true;

	while (progress) {
		progress = false;
		for (unsigned i = 0; i < c->insns; i++) {
			if (c->piece[i].dropped)
				continue;
			c->piece[i].dropped = true;
			case_layout(c);
			native = *native_run(r->native, c);
			if (check(r, c, &native, false)) {
				progress = true;
			} else {
				c->piece[i].dropped = false;
				case_layout(c);
			}
		}
	}
}

static void report(struct run *r, const struct diff_case *found, const char *what)
{
	static struct diff_case c, traced;
	static struct outcome native;
	const struct outcome *guest;

	c = *found;
	printf("# difference in %s; repeat with: differential --bits %u --seed %llu --case %u --verbose\n", what, c.bits,
	       (unsigned long long)c.seed, c.number);
	shrink(r, &c);
	native = *native_run(r->native, &c);
	case_print(&c);
	guest = translated(r, &c, false);
	const char *first = outcome_compare(&c, &native, guest, r->precise);
	if (!first) {
		guest = translated(r, &c, true);
		first = outcome_compare(&c, &native, guest, r->precise);
		printf("# (the first run agrees; this is the second)\n");
	}
	printf("# shrunk, they differ in %s:\n", first ? first : "nothing any more (it depends on what ran before)");
	outcomes_print(&c, &native, guest);
	traced = c;
	traced.trace = true;
	trace_print(&c, native_run(r->native, &traced));
	fflush(stdout);
}

static void fill(struct run *r, unsigned slot, unsigned number, unsigned n, unsigned bits)
{
	for (unsigned i = 0; i < n; i++) {
		case_generate(native_case(r->native, slot + i), r->seed, number + i, bits);
		case_layout(native_case(r->native, slot + i));
	}
}

/* Cases [from, from + count): a half of the slots runs natively while the other is compared. */
static void run_cases(struct run *r, unsigned from, unsigned count, unsigned bits)
{
	static struct diff_case c;
	static struct outcome native;
	unsigned done = 0, next = count < HALF ? count : HALF, slot = 0;

	fill(r, 0, from, next, bits);
	native_begin(r->native, 0, next);
	while (done < count && r->differences < r->keep_going) {
		unsigned now = next, at = slot;
		const struct diff_case *bad[HALF];
		const char *what[HALF];
		unsigned bads = 0;
		slot ^= HALF;
		next = count - done - now < HALF ? count - done - now : HALF;
		fill(r, slot, from + done + now, next, bits);
		native_wait(r->native);
		native_begin(r->native, slot, next);
		/* The child is busy with the other half: what needs it comes after. */
		for (unsigned i = 0; i < now; i++) {
			const struct diff_case *it = native_case(r->native, at + i);
			const struct outcome *o = native_outcome(r->native, at + i);
			const char *why = outcome_excuse(o), *w = NULL;
			if (why) {
				excused(r, why);
				continue;
			}
			/* Some with every flag exact; some kicked all the time. */
			r->precise = it->number % 8 == 5;
			guest_precise_flags(r->guest, r->precise);
			guest_storm(r->guest, it->number % 512 >= 480);
			for (unsigned k = 0; k < 2 && !w; k++)
				w = outcome_compare(it, o, translated(r, it, k > 0), r->precise);
			if (w) {
				bad[bads] = it;
				what[bads++] = w;
			}
		}
		guest_storm(r->guest, false);
		if (bads) {
			native_wait(r->native);
			for (unsigned i = 0; i < bads && r->differences < r->keep_going; i++) {
				c = *bad[i];
				r->precise = c.number % 8 == 5;
				guest_precise_flags(r->guest, r->precise);
				native = *native_run(r->native, &c);
				if (!check(r, &c, &native, true))
					continue;
				r->differences++;
				report(r, &c, what[i]);
			}
			native_begin(r->native, slot, next);
		}
		done += now;
	}
	native_wait(r->native);
}

static void one_case(struct run *r, unsigned number, unsigned bits)
{
	static struct diff_case c, traced;
	static struct outcome native;
	const struct outcome *guest;
	const char *what, *why;

	case_generate(&c, r->seed, number, bits);
	case_layout(&c);
	native = *native_run(r->native, &c);
	guest = translated(r, &c, false);
	what = outcome_compare(&c, &native, guest, r->precise);
	why = outcome_excuse(&native);
	if (r->verbose) {
		case_print(&c);
		outcomes_print(&c, &native, guest);
		traced = c;
		traced.trace = true;
		trace_print(&c, native_run(r->native, &traced));
	}
	if (why)
		printf("# excused: %s\n", why);
	else if (check(r, &c, &native, true)) {
		r->differences++;
		report(r, &c, what ? what : "the second run");
	}
}

static int plan(struct run *r, unsigned tests, unsigned n, unsigned count, unsigned bits, unsigned from)
{
	struct timespec t0, t1;
	unsigned before = r->differences, excused_before = r->excused;

	if (bits == 16 && !native_has_ldt(r->native)) {
		printf("ok %u # SKIP this kernel lets nobody have 16-bit segments (modify_ldt)\n", n);
		return 0;
	}
	clock_gettime(CLOCK_MONOTONIC, &t0);
	run_cases(r, from, count, bits);
	clock_gettime(CLOCK_MONOTONIC, &t1);
	double seconds = (double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) * 1e-9;
	/* Cases that prove nothing must stay rare, or the test tests nothing. */
	bool enough = (r->excused - excused_before) * 20 < count || count < 200;
	printf("%s %u - %u cases of %u-bit code, seed %llu, natively and translated twice (%u prove nothing; %.0f s)\n",
	       r->differences > before || !enough ? "not ok" : "ok", n, count, bits, (unsigned long long)r->seed, r->excused - excused_before,
	       seconds);
	fflush(stdout);
	return r->differences > before;
}

/* With and without the engine's shortcuts with flags. */
static void regressions(struct run *r, unsigned n)
{
	static struct diff_case c;
	static struct outcome native;
	unsigned before = r->differences;

	for (unsigned i = 0; i < regression_count(); i++) {
		const char *name = regression_case(i, &c), *what = NULL, *why;
		if (c.bits == 16 && !native_has_ldt(r->native))
			continue;
		native = *native_run(r->native, &c);
		why = outcome_excuse(&native);
		for (unsigned k = 0; k < 2 && !what && !why; k++) {
			r->precise = k;
			guest_precise_flags(r->guest, r->precise);
			what = check(r, &c, &native, true);
		}
		if (why || what) {
			r->differences++;
			printf("# \"%s\": %s\n", name, why ? why : "wrong again");
			if (what)
				report(r, &c, what);
		}
	}
	r->precise = false;
	guest_precise_flags(r->guest, false);
	printf("%s %u - %u pieces of code that were wrong once\n", r->differences > before ? "not ok" : "ok", n, regression_count());
}

static void skip(unsigned tests, const char *why)
{
	printf("1..%u\n", tests);
	for (unsigned i = 1; i <= tests; i++)
		printf("ok %u # SKIP %s\n", i, why);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"seed", 1, NULL, 's'},  {"count", 1, NULL, 'n'},    {"bits", 1, NULL, 'b'},  {"case", 1, NULL, 'c'},
		{"verbose", 0, NULL, 'v'}, {"keep-going", 1, NULL, 'k'}, {"stats", 0, NULL, 't'}, {"from", 1, NULL, 'f'}, {0}};
	struct run r = {.seed = 1, .keep_going = 1};
	unsigned count = 0, bits = 0, number = 0, from = 0;
	bool single = false, stats = false;
	const char *why;

	for (int o; (o = getopt_long(argc, argv, "", options, NULL)) >= 0;)
		switch (o) {
		case 's': r.seed = strtoull(optarg, NULL, 0); break;
		case 'n': count = (unsigned)strtoul(optarg, NULL, 0); break;
		case 'b': bits = (unsigned)strtoul(optarg, NULL, 0); break;
		case 'c': number = (unsigned)strtoul(optarg, NULL, 0); single = true; break;
		case 'f': from = (unsigned)strtoul(optarg, NULL, 0); break;
		case 'v': r.verbose = true; break;
		case 'k': r.keep_going = (unsigned)strtoul(optarg, NULL, 0); break;
		case 't': stats = true; break;
		default:
			fprintf(stderr, "usage: differential [--seed S] [--count N] [--from K] [--bits 16|32|64] [--case K] [--verbose] "
					"[--keep-going N] [--stats]\n");
			return 2;
		}
	if (bits && bits != 16 && bits != 32 && bits != 64) {
		fprintf(stderr, "differential: --bits is 16, 32 or 64\n");
		return 2;
	}
	unsigned tests = single ? 1 : !from + (bits ? 1 : 3);
	/* The engine may die of what it runs (a host fault in a helper). */
	watch_start("differential", r.seed);
	why = native_start(&r.native); /* forks: before the engine starts its threads */
	if (!why)
		why = guest_start(&r.guest);
	if (why) {
		skip(tests, why);
		return 0;
	}
	printf("1..%u\n", tests);
	if (single) {
		one_case(&r, number, bits ? bits : 64);
		printf("%s 1 - case %u\n", r.differences ? "not ok" : "ok", number);
	} else {
		unsigned n = 1;
		if (!from)
			regressions(&r, n++);
		if (!bits || bits == 64)
			plan(&r, tests, n++, count ? count : CHECK_CASES_64, 64, from);
		if (!bits || bits == 32)
			plan(&r, tests, n++, count ? count : CHECK_CASES_32, 32, from);
		if (!bits || bits == 16)
			plan(&r, tests, n, count ? count : CHECK_CASES_16, 16, from);
	}
	for (unsigned i = 0; i < EXCUSES && r.excuse[i].count; i++)
		printf("# %u: %s\n", r.excuse[i].count, r.excuse[i].text);
	if (stats)
		guest_print_stats(r.guest);
	guest_stop(r.guest);
	native_stop(r.native);
	return 0;
}

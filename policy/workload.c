/* What guests do with their time: named profiles, users' weights, and what a VM's own counters tell. */
#include "policy/policy.h"
#include "proto/vmdef.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

_Static_assert((int)VMDEF_WEIGHTS == (int)POLICY_MEASURES, "weights are shares of measures");

/* Half of what is known is as old as this much processor time, or as four runs. */
#define HALF_LIFE_S 600.0
#define HALF_LIFE_RUNS 4.0
/* So much processor time makes a workload known by two thirds. */
#define KNOWN_S 60.0
#define LEARNED_MAX 0.9
#define SHORTEST_S 0.2

/*
 * Assumptions, not measurements: typical shares of native time by the kind of work, kernel included, chosen so that
 * what names the profile dominates. A user's weights, or what is learned, takes their place.
 */
#define PROFILE(...) {__VA_ARGS__}
static const struct {
	const char *name;
	double share[POLICY_MEASURES];
} profiles[] = {
	{"compute", PROFILE([POLICY_integer] = .49, [POLICY_code] = .06, [POLICY_floating] = .14, [POLICY_vector] = .09, [POLICY_memory] = .12,
			    [POLICY_tlb] = .04, [POLICY_syscall] = .02, [POLICY_fault] = .02, [POLICY_interrupt] = .01,
			    [POLICY_virtio] = .01)},
	{"memory", PROFILE([POLICY_integer] = .17, [POLICY_code] = .05, [POLICY_vector] = .04, [POLICY_memory] = .36, [POLICY_tlb] = .25,
			   [POLICY_syscall] = .03, [POLICY_fault] = .07, [POLICY_process] = .01, [POLICY_interrupt] = .01,
			   [POLICY_virtio] = .01)},
	{"syscall", PROFILE([POLICY_integer] = .24, [POLICY_code] = .06, [POLICY_memory] = .09, [POLICY_tlb] = .04, [POLICY_syscall] = .45,
			    [POLICY_fault] = .04, [POLICY_process] = .02, [POLICY_interrupt] = .03, [POLICY_virtio] = .03)},
	{"process", PROFILE([POLICY_integer] = .18, [POLICY_code] = .07, [POLICY_memory] = .08, [POLICY_tlb] = .06, [POLICY_syscall] = .14,
			    [POLICY_fault] = .22, [POLICY_process] = .20, [POLICY_interrupt] = .02, [POLICY_virtio] = .03)},
	{"io", PROFILE([POLICY_integer] = .20, [POLICY_code] = .06, [POLICY_memory] = .08, [POLICY_tlb] = .03, [POLICY_syscall] = .20,
		       [POLICY_fault] = .02, [POLICY_interrupt] = .12, [POLICY_port_io] = .01, [POLICY_virtio] = .28)},
	{"mixed", PROFILE([POLICY_integer] = .33, [POLICY_code] = .09, [POLICY_floating] = .04, [POLICY_vector] = .03, [POLICY_memory] = .12,
			  [POLICY_tlb] = .06, [POLICY_syscall] = .14, [POLICY_fault] = .07, [POLICY_process] = .04,
			  [POLICY_interrupt] = .03, [POLICY_port_io] = .01, [POLICY_virtio] = .04)},
};
#define PROFILES (sizeof(profiles) / sizeof(profiles[0]))

static void normalise(double *share)
{
	double sum = 0;

	for (int i = 0; i < POLICY_MEASURES; i++)
		sum += share[i];
	for (int i = 0; i < POLICY_MEASURES && sum > 0; i++)
		share[i] /= sum;
}

bool policy_workload_named(const char *name, struct policy_workload *ret)
{
	for (size_t i = 0; i < PROFILES; i++)
		if (!strcmp(profiles[i].name, name)) {
			memset(ret, 0, sizeof(*ret));
			snprintf(ret->name, sizeof(ret->name), "%s", name);
			memcpy(ret->share, profiles[i].share, sizeof(ret->share));
			normalise(ret->share);
			ret->certainty = 0.8;
			snprintf(ret->source, sizeof(ret->source), "the definition says %s", name);
			return true;
		}
	return false;
}

/* Shares that no counter shows keep those of the mixed profile. */
static void from_learned(const struct policy_learned *learned, struct policy_workload *ret)
{
	double seen = 0, seen_share = 0;
	struct policy_workload mixed;

	policy_workload_named("mixed", &mixed);
	for (int i = 0; i < POLICY_MEASURES; i++)
		if (learned->observed >> i & 1) {
			seen += learned->seconds[i];
			seen_share += mixed.share[i];
		}
	for (int i = 0; i < POLICY_MEASURES; i++)
		ret->share[i] = learned->observed >> i & 1 ? learned->seconds[i] / seen * seen_share : mixed.share[i];
	normalise(ret->share);
	snprintf(ret->name, sizeof(ret->name), "learned");
	ret->certainty = LEARNED_MAX * (1 - exp(-learned->cpu_seconds / KNOWN_S));
	snprintf(ret->source, sizeof(ret->source), "learned from %u run%s (%.0f s of processor time still count)",
		 learned->runs, learned->runs == 1 ? "" : "s", learned->cpu_seconds);
}

void policy_workload_of(const struct vmdef *def, const struct policy_learned *learned, struct policy_workload *ret)
{
	const char *declared = def->workload;
	double sum = 0;

	for (int i = 0; i < POLICY_MEASURES; i++)
		sum += def->policy.weights[i];
	memset(ret, 0, sizeof(*ret));
	if (sum > 0) {
		snprintf(ret->name, sizeof(ret->name), "weights");
		memcpy(ret->share, def->policy.weights, sizeof(ret->share));
		normalise(ret->share);
		ret->certainty = 0.95;
		snprintf(ret->source, sizeof(ret->source), "the definition's own weights");
		return;
	}
	if (declared[0] && policy_workload_named(declared, ret))
		return;
	if (learned && learned->cpu_seconds > SHORTEST_S && learned->observed) {
		from_learned(learned, ret);
		return;
	}
	policy_workload_named("mixed", ret);
	ret->certainty = 0.4;
	if (declared[0] && strcmp(declared, "auto"))
		snprintf(ret->source, sizeof(ret->source), "\"%s\" is no workload (compute, memory, syscall, process, io, "
			 "mixed, auto): taken as mixed", declared);
	else
		snprintf(ret->source, sizeof(ret->source), "not known yet: taken as mixed until it has run");
}

json_object *policy_workload_json(const struct policy_workload *workload)
{
	json_object *object = json_object_new_object(), *shares = json_object_new_object();
	char text[32];

	json_object_object_add(object, "name", json_object_new_string(workload->name));
	json_object_object_add(object, "source", json_object_new_string(workload->source));
	snprintf(text, sizeof(text), "%.2f", workload->certainty);
	json_object_object_add(object, "certainty", json_object_new_double_s(workload->certainty, text));
	for (int i = 0; i < POLICY_MEASURES; i++) {
		if (workload->share[i] < 0.0005)
			continue;
		snprintf(text, sizeof(text), "%.3f", workload->share[i]);
		json_object_object_add(shares, policy_measure_name((enum policy_measure)i),
				       json_object_new_double_s(workload->share[i], text));
	}
	json_object_object_add(object, "shares", shares);
	return object;
}

/* ---- learning ---------------------------------------------------------------------------- */

/* The first counter of this name among the objects of a run's statistics; -1 when none counts it. */
static double counter(json_object *stats, const char *name)
{
	static const char *const groups[] = {"exits", "engine", "machine"};
	json_object *group = NULL, *value = NULL;

	for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++)
		if (json_object_object_get_ex(stats, groups[i], &group) && json_object_is_type(group, json_type_object) &&
		    json_object_object_get_ex(group, name, &value) && json_object_is_type(value, json_type_int))
			return (double)json_object_get_int64(value);
	return -1;
}

static double seconds(json_object *stats, const char *name)
{
	json_object *value = NULL;
	double number;

	if (!json_object_object_get_ex(stats, name, &value))
		return 0;
	number = json_object_get_double(value);
	return number > 0 && number < 1e9 ? number : 0;
}

static bool ends_in(const char *text, const char *end)
{
	size_t n = strlen(text), m = strlen(end);

	return n >= m && !strcmp(text + n - m, end);
}

/* What all disks did ("virtio_blk0_reads"…); -1 when there is none. Doorbells tell nothing where the host's kernel takes them. */
static double virtio_requests(json_object *stats)
{
	static const char *const kinds[] = {"_reads", "_writes", "_flushes"};
	json_object *machine = NULL;
	double sum = -1;

	if (!json_object_object_get_ex(stats, "machine", &machine) || !json_object_is_type(machine, json_type_object))
		return -1;
	json_object_object_foreach(machine, name, value)
	{
		for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++)
			if (!strncmp(name, "virtio_", 7) && ends_in(name, kinds[k]) && json_object_is_type(value, json_type_int))
				sum = fmax(sum, 0) + (double)json_object_get_int64(value);
	}
	return sum;
}

/* Which counter tells of which measure. Without disks, writes to device memory stand for virtio requests. */
static const struct {
	enum policy_measure measure;
	const char *names[3];
} counters[] = {
	{POLICY_syscall, {"syscalls"}},
	{POLICY_fault, {"page_faults"}},
	{POLICY_interrupt, {"interrupts"}},
	{POLICY_port_io, {"pio", "io"}},
	{POLICY_virtio, {"mmio"}},
};

bool policy_learn(struct policy_learned *learned, json_object *stats, enum policy_mode mode,
		  const struct policy_calibration *calibration)
{
	const struct policy_figures *here = calibration ? &calibration->mode[mode] : NULL;
	double cpu, rest, decay, native[POLICY_MEASURES] = {0}, cost = 0;
	struct policy_workload mixed;
	unsigned observed = 0;

	if (!here || !here->tried || !json_object_is_type(stats, json_type_object))
		return false;
	cpu = rest = seconds(stats, "cpu_user_seconds") + seconds(stats, "cpu_system_seconds");
	if (cpu < SHORTEST_S)
		return false;
	for (size_t i = 0; i < sizeof(counters) / sizeof(counters[0]); i++) {
		enum policy_measure m = counters[i].measure;
		double n = m == POLICY_virtio ? virtio_requests(stats) : -1;

		for (size_t k = 0; n < 0 && k < 3 && counters[i].names[k]; k++)
			n = counter(stats, counters[i].names[k]);
		if (n < 0 || here->of[m].state != POLICY_FIGURE_NS)
			continue;
		observed |= 1u << m;
		/* Natively it would have cost what it costs a process; a port has no such counterpart. */
		native[m] = n * (calibration->native.of[m].state == POLICY_FIGURE_NS ? calibration->native.of[m].ns
										       : here->of[m].ns) / 1e9;
		rest -= n * here->of[m].ns / 1e9;
	}
	if (!observed)
		return false;
	/* The rest of the time went to loops, in the proportions that are usual. */
	policy_workload_named("mixed", &mixed);
	for (int i = 0; i < POLICY_MEASURES; i++) {
		double slower = policy_slowdown(calibration, mode, (enum policy_measure)i);

		if (!policy_measure_is_loop((enum policy_measure)i))
			continue;
		cost += mixed.share[i] * (slower > 0 ? slower : 1);
		observed |= 1u << i;
	}
	for (int i = 0; i < POLICY_MEASURES && rest > 0; i++)
		if (policy_measure_is_loop((enum policy_measure)i))
			native[i] = rest * mixed.share[i] / cost;
	decay = pow(0.5, fmax(cpu / HALF_LIFE_S, 1 / HALF_LIFE_RUNS));
	for (int i = 0; i < POLICY_MEASURES; i++)
		learned->seconds[i] = learned->seconds[i] * decay + native[i];
	learned->cpu_seconds = learned->cpu_seconds * decay + cpu;
	learned->observed |= observed;
	learned->runs++;
	return true;
}

/* From figures and a workload to what it would cost in a mode. */
#include "policy/policy.h"

#include <math.h>
#include <string.h>

/*
 * What a guest's kernel does for an event. `of_native`: how much of the event's time in a process is kernel code rather
 * than the processor's way in and out. The rest: what that code is made of. A call or a fault stays in a few pages of
 * code; a new process runs through the scheduler, memory management and file system, which fit no near cache and least
 * of all one of translations. Chosen so that bt comes out as bench/run's rows do (docs/policy.md has both).
 */
static const struct {
	double of_native, integer, memory, tlb, code;
} kernel_work[POLICY_MEASURES] = {
	[POLICY_syscall] = {.6, .65, .15, .1, .1},   [POLICY_fault] = {.9, .65, .15, .1, .1},
	[POLICY_process] = {1, .35, .15, .15, .35},  [POLICY_interrupt] = {.7, .65, .15, .1, .1},
	[POLICY_port_io] = {.5, .65, .15, .1, .1},   [POLICY_virtio] = {.7, .65, .15, .1, .1},
};

/* Without these no system of today runs. */
static const enum policy_measure needed[] = {POLICY_integer, POLICY_floating, POLICY_vector,    POLICY_memory,
					     POLICY_syscall, POLICY_fault,    POLICY_interrupt, POLICY_port_io};

static bool measured(const struct policy_figures *figures, enum policy_measure measure)
{
	return figures->of[measure].state == POLICY_FIGURE_NS;
}

static double loop(const struct policy_calibration *c, enum policy_mode mode, enum policy_measure measure)
{
	if (!measured(&c->mode[mode], measure) || !measured(&c->native, measure))
		return 0;
	return c->mode[mode].of[measure].ns / c->native.of[measure].ns;
}

/* 0 when no part of it is known. */
static double kernel(const struct policy_calibration *c, enum policy_mode mode, enum policy_measure event)
{
	const struct {
		enum policy_measure measure;
		double share;
	} parts[] = {{POLICY_integer, kernel_work[event].integer},
		     {POLICY_memory, kernel_work[event].memory},
		     {POLICY_tlb, kernel_work[event].tlb},
		     {POLICY_code, kernel_work[event].code}};
	double sum = 0, shares = 0;

	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		double factor = loop(c, mode, parts[i].measure);

		if (factor > 0) {
			sum += factor * parts[i].share;
			shares += parts[i].share;
		}
	}
	return shares > 0 ? sum / shares : 0;
}

double policy_slowdown(const struct policy_calibration *c, enum policy_mode mode, enum policy_measure measure)
{
	double code, reference;

	if (policy_measure_is_loop(measure))
		return loop(c, mode, measure);
	code = kernel(c, mode, measure) * kernel_work[measure].of_native;
	if (code <= 0 || !measured(&c->mode[mode], measure))
		return 0;
	/* A process has no ports; a system call is the least it pays to reach the kernel that has. */
	reference = measured(&c->native, measure)          ? c->native.of[measure].ns
		    : measured(&c->native, POLICY_syscall) ? c->native.of[POLICY_syscall].ns
							   : 0;
	return reference > 0 ? code + c->mode[mode].of[measure].ns / reference : 0;
}

/* How far a figure can be relied on: rounds that agree were not disturbed. */
static double quality(const struct policy_figure *figure)
{
	double q = figure->median_ns > 0 ? figure->ns / figure->median_ns : 0;

	return figure->rounds < 5 ? q * 0.7 : q;
}

void policy_predict(const struct policy_calibration *c, enum policy_mode mode, const struct policy_workload *workload,
		    struct policy_cost *ret)
{
	double cost = 0, known = 0, trust = 0;

	*ret = (struct policy_cost){.cannot = -1};
	if (!c || !c->valid || !c->mode[mode].tried)
		return;
	for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++)
		if (c->mode[mode].of[needed[i]].state == POLICY_FIGURE_CANNOT) {
			ret->cannot = (int)needed[i];
			return;
		}
	for (int i = 0; i < POLICY_MEASURES; i++) {
		double factor = policy_slowdown(c, mode, (enum policy_measure)i);

		if (factor <= 0)
			continue;
		cost += workload->share[i] * factor;
		known += workload->share[i];
		trust += workload->share[i] * quality(&c->mode[mode].of[i]) *
			 (measured(&c->native, (enum policy_measure)i) ? quality(&c->native.of[i]) : 0.7);
	}
	if (known < 0.5)
		return;
	ret->known = true;
	ret->cost = cost / known;
	ret->confidence = fmin(1, sqrt(trust / known) * known * (0.5 + 0.5 * workload->certainty));
}

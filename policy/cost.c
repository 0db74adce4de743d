/* From figures and a workload to what it would cost in a mode. */
#include "policy/policy.h"

#include <math.h>
#include <string.h>

/* What kernel code is made of, for what a guest's kernel does around an event. */
static const struct {
	enum policy_measure measure;
	double share;
} kernel_code[] = {{POLICY_integer, .6}, {POLICY_memory, .25}, {POLICY_tlb, .15}};

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
static double kernel(const struct policy_calibration *c, enum policy_mode mode)
{
	double sum = 0, shares = 0;

	for (size_t i = 0; i < sizeof(kernel_code) / sizeof(kernel_code[0]); i++) {
		double factor = loop(c, mode, kernel_code[i].measure);

		if (factor > 0) {
			sum += factor * kernel_code[i].share;
			shares += kernel_code[i].share;
		}
	}
	return shares > 0 ? sum / shares : 0;
}

double policy_slowdown(const struct policy_calibration *c, enum policy_mode mode, enum policy_measure measure)
{
	double code, reference;

	if (measure <= POLICY_tlb)
		return loop(c, mode, measure);
	code = kernel(c, mode);
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

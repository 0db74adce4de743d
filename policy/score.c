/* Which mode a VM gets: what is ruled out and why, what the rest would cost, and the choice among it. */
#include "policy/policy.h"
#include "proto/vmdef.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define SAY(buffer, ...) snprintf(buffer, sizeof(buffer), __VA_ARGS__)

/* Who has a feature: see proto/cpu_features.def. */
enum source { HOST, ENGINE, REQUEST, AVX512 };
static const enum source sources[CPU_FEATURE_COUNT] = {
#define CPU_FEATURE(name, leaf, subleaf, reg, bit, source) source,
#include "proto/cpu_features.def"
#undef CPU_FEATURE
};

static uint64_t wanted_features(const struct vmdef *def)
{
	uint64_t wanted = 0;

	for (int i = 0; i < CPU_FEATURE_COUNT; i++)
		wanted |= (uint64_t)(def->cpu_feature[i] == VMDEF_YES) << i;
	return wanted;
}

void policy_constraints_of(const struct vmdef *def, struct policy_constraints *ret)
{
	/* enum vmdef_mode has auto before the modes. */
	_Static_assert(VMDEF_MODE_BT - 1 == (int)POLICY_BT && VMDEF_MODE_PV - 1 == (int)POLICY_PV, "modes in one order");
	*ret = (struct policy_constraints){
		.require = def->policy.require,
		.forbid = def->policy.forbid,
		.features = wanted_features(def),
		.kernel_isolation = def->policy.isolation == VMDEF_ISOLATION_KERNEL,
		.passthrough = def->policy.passthrough || def->passthrough_count,
		.devices = def->passthrough_count,
		.nested = def->policy.nested,
		.migratable = def->policy.migratable,
		.vmware_tools = def->tools == VMDEF_TOOLS_VMWARE,
	};
}

/* ---- what is ruled out ----------------------------------------------------------------- */

/* remedy may be NULL. */
static void rule_out(struct policy_candidate *candidate, const char *remedy, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static void rule_out(struct policy_candidate *candidate, const char *remedy, const char *format, ...)
{
	char reason[sizeof(candidate->reason)]; /* what is said may quote what was there */
	va_list args;

	candidate->verdict = POLICY_RULED_OUT;
	va_start(args, format);
	vsnprintf(reason, sizeof(reason), format, args);
	va_end(args);
	SAY(candidate->reason, "%s", reason);
	SAY(candidate->remedy, "%s", remedy ? remedy : "");
}

/* A packed kernel is unpacked by who runs it: whether it has the entry shows then, to who has asked for it. */
static void check_guest(enum policy_mode mode, const struct policy_guest *guest, bool by_wish, struct policy_candidate *candidate)
{
	if (mode == POLICY_PV && guest->xen_pv != POLICY_YES && !(by_wish && guest->xen_pv == POLICY_UNKNOWN))
		rule_out(candidate, "boot a kernel with the Xen PV ABI, as an ELF file", "%s",
			 guest->xen_pv == POLICY_NO ? "the guest's kernel has no Xen PV entry"
						    : "whether the guest's kernel has a Xen PV entry is not known");
	else if (mode != POLICY_PV && guest->image == POLICY_IMAGE_ELF && guest->pvh == POLICY_NO)
		rule_out(candidate, "boot a bzImage, or a kernel built with CONFIG_PVH",
			 "the guest's kernel is an ELF file with neither a PVH entry nor a Multiboot header");
}

static void check_features(const struct policy_host *host, uint64_t wanted, struct policy_candidate *candidate)
{
	for (int i = 0; i < CPU_FEATURE_COUNT; i++) {
		const char *name = policy_feature_name((enum cpu_feature)i);

		if (!(wanted >> i & 1))
			continue;
		if ((sources[i] == HOST || sources[i] == AVX512) && !(host->features >> i & 1)) {
			rule_out(candidate, "choose a host that has it, or leave it out of cpu.features",
				 "this host's processor has no %s", name);
			return;
		}
		if (sources[i] == AVX512) {
			rule_out(candidate, "leave it out of cpu.features", "no mode runs AVX-512 code yet (%s)", name);
			return;
		}
	}
}

static void check_constraints(enum policy_mode mode, const struct policy_host *host, const struct policy_constraints *c,
			      struct policy_candidate *candidate)
{
	const char *name = policy_mode_name(mode);
	char remedy[sizeof(candidate->remedy)];

	if (c->forbid >> mode & 1) {
		rule_out(candidate, "take it out of policy.forbid", "the definition forbids %s", name);
	} else if (c->require && !(c->require >> mode & 1)) {
		rule_out(candidate, "add it to policy.require", "the definition requires another mode");
	} else if (c->passthrough && mode != POLICY_HVM) {
		rule_out(candidate, NULL, "a device can be passed through in hvm only");
	} else if (c->passthrough && host->iommu_groups <= 0) {
		rule_out(candidate, policy_iommu_remedy(host), "passthrough needs an IOMMU, and this host shows none");
	} else if (c->passthrough && c->migratable) {
		rule_out(candidate, c->devices ? "drop passthrough or policy.migratable" : "drop policy.passthrough or policy.migratable",
			 "a VM with a device of its host cannot move");
	} else if (c->nested && mode != POLICY_HVM) {
		rule_out(candidate, NULL, "%s does not offer guests virtualization of their own", name);
	} else if (c->nested && host->nested != POLICY_YES) {
		policy_nested_remedy(host, remedy, sizeof(remedy));
		rule_out(candidate, remedy, "the guest wants to run VMs, and %s",
			 host->kvm_hardware == POLICY_YES ? "nested virtualization is off"
							  : "this host has no virtualization of its own to hand on");
	} else if (c->vmware_tools && mode == POLICY_HVM && host->backdoor != POLICY_YES) {
		rule_out(candidate, "load the kvm module with enable_vmware_backdoor=1",
			 "VMware's tools are programs that use its port, and this host's KVM does not let them");
	} else if (c->vmware_tools && mode == POLICY_PV) {
		rule_out(candidate, "leave \"tools\" out of the definition", "a Xen PV guest has no VMware port");
	} else if (c->kernel_isolation && mode == POLICY_BT) {
		rule_out(candidate, "accept policy.isolation \"vm\"",
			 "under bt a guest's kernel and programs share one process: no speculative boundary");
	} else {
		check_features(host, c->features, candidate);
	}
}

static bool software_kvm(enum policy_mode mode, const struct policy_host *host)
{
	return mode == POLICY_HVM && host->kvm_hardware != POLICY_YES;
}

/* All that it cannot execute by name, and why for the first that every system needs. */
static void rule_out_unable(const struct policy_figures *figures, enum policy_measure needed,
			    struct policy_candidate *candidate)
{
	char names[200] = "";
	size_t n = 0;

	for (int i = 0; i < POLICY_MEASURES; i++)
		if (figures->of[i].state == POLICY_FIGURE_CANNOT)
			n += (size_t)snprintf(names + n, sizeof(names) - n, "%s%s", n ? ", " : "",
					      policy_measure_name((enum policy_measure)i));
	rule_out(candidate, NULL, "cannot execute what systems need: %s (%s: %s)", names, policy_measure_name(needed),
		 figures->of[needed].why);
}

/* Only where the policy chooses: what was asked for by name is tried. */
static void check_figures(enum policy_mode mode, const struct policy_query *q, struct policy_candidate *candidate)
{
	const struct policy_figures *figures = q->calibration ? &q->calibration->mode[mode] : NULL;
	int cannot = candidate->predicted.cannot;

	if (figures && figures->tried && figures->problem[0])
		rule_out(candidate, NULL, "the calibration guest does not run in it: %.300s", figures->problem);
	else if (cannot >= 0)
		rule_out_unable(figures, (enum policy_measure)cannot, candidate);
	else if (software_kvm(mode, q->host) && !candidate->predicted.known)
		rule_out(candidate, "measure this host: trictl calibrate",
			 "not known to be hardware, and never measured here (%.250s)", candidate->reason);
}

static void judge_candidate(enum policy_mode mode, const struct policy_query *q, bool by_wish,
			    const struct policy_workload *workload, struct policy_candidate *candidate)
{
	struct policy_mode_state state;
	char remedy[sizeof(candidate->remedy)];

	policy_mode_judge(mode, q->host, &state);
	candidate->verdict = state.usable ? POLICY_POSSIBLE : POLICY_RULED_OUT;
	SAY(candidate->variant, "%s", state.variant);
	SAY(candidate->reason, "%s", state.reason);
	SAY(candidate->remedy, "%s", state.remedy);
	policy_predict(q->calibration, mode, workload, &candidate->predicted);
	candidate->correction = q->corrections ? q->corrections->factor[mode] : 1;
	candidate->predicted.cost *= candidate->correction;
	if (q->guest->problem[0])
		rule_out(candidate, NULL, "no mode can boot this VM: %s", q->guest->problem);
	if (candidate->verdict == POLICY_POSSIBLE)
		check_guest(mode, q->guest, by_wish, candidate);
	if (candidate->verdict == POLICY_POSSIBLE && q->constraints)
		check_constraints(mode, q->host, q->constraints, candidate);
	if (candidate->verdict == POLICY_POSSIBLE && !by_wish) {
		SAY(remedy, "%s", candidate->remedy);
		check_figures(mode, q, candidate);
		if (candidate->verdict == POLICY_RULED_OUT && !candidate->remedy[0])
			SAY(candidate->remedy, "%s", remedy[0] ? remedy : "measure this host again: trictl calibrate");
	}
}

/* ---- the choice --------------------------------------------------------------------------- */

static bool possible(const struct policy_decision *d, enum policy_mode mode)
{
	return d->candidates[mode].verdict == POLICY_POSSIBLE;
}

/* False: none. Where figures are missing, what is known of the modes in general: real hardware, translation, the rest. */
static bool cheapest(const struct policy_decision *d, enum policy_mode *ret_mode)
{
	static const enum policy_mode order[] = {POLICY_HVM, POLICY_BT, POLICY_PV};
	const struct policy_candidate *best = NULL;

	for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
		const struct policy_candidate *c = &d->candidates[order[i]];

		if (c->verdict != POLICY_POSSIBLE)
			continue;
		if (!best || (best->predicted.known && c->predicted.known && c->predicted.cost < best->predicted.cost)) {
			best = c;
			*ret_mode = order[i];
		}
	}
	return best != NULL;
}

/* A VM that had a mode keeps it unless another is better by more than POLICY_HYSTERESIS. */
static bool keeps_previous(const struct policy_decision *d, const char *previous, enum policy_mode *mode)
{
	enum policy_mode last;

	if (!previous || !policy_mode_parse(previous, &last) || last == *mode || !possible(d, last) ||
	    !d->candidates[last].predicted.known || !d->candidates[*mode].predicted.known ||
	    d->candidates[*mode].predicted.cost < (1 - POLICY_HYSTERESIS) * d->candidates[last].predicted.cost)
		return false;
	*mode = last;
	return true;
}

/* How much of a reason comes before what it gives in parentheses as detail. */
static int headline(const char *reason, int max)
{
	const char *detail = strstr(reason, " (");
	size_t length = detail ? (size_t)(detail - reason) : strlen(reason);

	return length < (size_t)max ? (int)length : max;
}

static void say_others(const struct policy_decision *d, char *text, size_t size)
{
	text[0] = '\0';
	for (int i = 0; i < POLICY_MODE_COUNT; i++) {
		const struct policy_candidate *c = &d->candidates[i];
		size_t n = strlen(text);

		if ((enum policy_mode)i == d->mode)
			continue;
		if (c->verdict == POLICY_POSSIBLE && c->predicted.known)
			snprintf(text + n, size - n, "; %s would cost %.3g", c->variant, c->predicted.cost);
		else if (c->verdict == POLICY_RULED_OUT && i == POLICY_HVM)
			snprintf(text + n, size - n, "; hvm is ruled out (%.*s)", headline(c->reason, 300), c->reason);
	}
}

static void decide_auto(const struct policy_query *q, struct policy_decision *d)
{
	const struct policy_candidate *c;
	char others[400];
	bool kept;

	d->possible = cheapest(d, &d->mode);
	if (!d->possible) {
		if (q->guest->problem[0])
			SAY(d->reason, "this VM cannot start: %.550s", q->guest->problem);
		else
			SAY(d->reason, "no mode can run this VM here; bt: %.*s; hvm: %.*s; pv: %.*s",
			    headline(d->candidates[POLICY_BT].reason, 220), d->candidates[POLICY_BT].reason,
			    headline(d->candidates[POLICY_HVM].reason, 200), d->candidates[POLICY_HVM].reason,
			    headline(d->candidates[POLICY_PV].reason, 100), d->candidates[POLICY_PV].reason);
		return;
	}
	kept = keeps_previous(d, q->previous, &d->mode);
	c = &d->candidates[d->mode];
	say_others(d, others, sizeof(others));
	if (c->predicted.known)
		SAY(d->reason, "%s: predicted %.3g times native time for its work (%s, confidence %.0f %%)%s%.350s", c->variant,
		    c->predicted.cost, d->workload.name, c->predicted.confidence * 100,
		    kept ? ", as last time: nothing is better by more than 10 %" : "", others);
	else
		SAY(d->reason, "%s: %.200s, and nothing was measured here yet%.300s", c->variant,
		    d->mode == POLICY_BT ? "runs any unmodified x86 guest" : c->reason, others);
}

static void decide_wish(const char *wish, struct policy_decision *d)
{
	const struct policy_candidate *c;

	if (!policy_mode_parse(wish, &d->mode)) {
		SAY(d->reason, "there is no mode \"%.7s\"; there are bt, hvm and pv", wish);
		return;
	}
	c = &d->candidates[d->mode];
	d->possible = c->verdict == POLICY_POSSIBLE;
	if (!d->possible)
		SAY(d->reason, "%s was asked for, but cannot be used: %.270s%s%.240s", wish, c->reason,
		    c->remedy[0] ? "; remedy: " : "; let the policy choose with mode auto", c->remedy);
	else if (c->predicted.cannot >= 0)
		SAY(d->reason, "%s: the definition asks for it, though it cannot execute %s here: %.400s", c->variant,
		    policy_measure_name((enum policy_measure)c->predicted.cannot), c->reason);
	else if (c->predicted.known)
		SAY(d->reason, "%s: the definition asks for it; predicted %.3g times native time: %.400s", c->variant,
		    c->predicted.cost, c->reason);
	else
		SAY(d->reason, "%s: the definition asks for it, and it is usable: %.400s", c->variant, c->reason);
}

/* ---- what would change it -------------------------------------------------------------------- */

static void change(struct policy_decision *d, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void change(struct policy_decision *d, const char *format, ...)
{
	va_list args;

	if (d->change_count >= POLICY_CHANGES)
		return;
	va_start(args, format);
	vsnprintf(d->would_change[d->change_count++], sizeof(d->would_change[0]), format, args);
	va_end(args);
}

/* Named workloads under which another mode would be the cheapest. */
static void note_workloads(const struct policy_query *q, struct policy_decision *d)
{
	static const char *const names[] = {"compute", "memory", "syscall", "process", "io"};
	struct policy_decision other = *d;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct policy_workload workload;
		enum policy_mode mode;

		policy_workload_named(names[i], &workload);
		for (int m = 0; m < POLICY_MODE_COUNT; m++) {
			policy_predict(q->calibration, (enum policy_mode)m, &workload, &other.candidates[m].predicted);
			other.candidates[m].predicted.cost *= other.candidates[m].correction;
		}
		if (cheapest(&other, &mode) && mode != d->mode && other.candidates[mode].predicted.known)
			change(d, "\"workload\": \"%s\": then %s would cost %.3g, and %s %.3g", names[i],
			       other.candidates[mode].variant, other.candidates[mode].predicted.cost,
			       other.candidates[d->mode].variant, other.candidates[d->mode].predicted.cost);
	}
}

/*
 * What it takes for a mode that is ruled out. One reason may hide another: what the definition forbids or requires, its other
 * demands, the host and its figures. All have to go, so all are told; where one cannot, nothing is promised.
 */
static void note_remedy(const struct policy_query *q, enum policy_mode mode, struct policy_decision *d)
{
	struct policy_constraints others = q->constraints ? *q->constraints : (struct policy_constraints){0};
	const struct policy_constraints *demands[] = {q->constraints ? q->constraints : &others, &others, NULL /* the host alone */};
	struct policy_query alone = *q;
	const char *name = policy_mode_name(mode);
	char text[1000] = "", last[sizeof(d->candidates[0].remedy)] = "";

	alone.constraints = NULL;
	others.require = others.forbid = 0;
	for (size_t i = 0; i < sizeof(demands) / sizeof(demands[0]); i++) {
		struct policy_candidate candidate = {.verdict = POLICY_POSSIBLE};
		size_t n = strlen(text);

		if (!demands[i])
			judge_candidate(mode, &alone, !strcmp(d->wish, name), &d->workload, &candidate);
		else
			check_constraints(mode, q->host, demands[i], &candidate);
		if (candidate.verdict != POLICY_RULED_OUT)
			continue;
		if (!candidate.remedy[0])
			return;
		if (strcmp(candidate.remedy, last))
			snprintf(text + n, sizeof(text) - n, "%s%s", n ? "; and then " : "", candidate.remedy);
		SAY(last, "%s", candidate.remedy);
	}
	if (text[0])
		change(d, "for %s: %.280s", name, text);
}

static void note_changes(const struct policy_query *q, struct policy_decision *d)
{
	const struct policy_candidate *hvm = &d->candidates[POLICY_HVM];
	struct policy_mode_state state;

	policy_mode_judge(POLICY_HVM, q->host, &state);
	if (strcmp(d->wish, "auto"))
		change(d, "\"mode\": \"auto\" in the definition lets the policy choose");
	for (int m = 0; m < POLICY_MODE_COUNT && !d->possible; m++)
		note_remedy(q, (enum policy_mode)m, d);
	if (d->possible && d->mode != POLICY_HVM && hvm->verdict == POLICY_RULED_OUT) {
		if (!state.in_build && q->host->kvm_hardware == POLICY_YES)
			change(d, "a version of trivisor with an hvm engine: this host has hardware virtualization");
		else
			note_remedy(q, POLICY_HVM, d);
	}
	if (d->possible && q->guest->xen_pv != POLICY_YES && d->candidates[POLICY_PV].remedy[0])
		change(d, "for pv: %s", d->candidates[POLICY_PV].remedy);
	if (d->possible && !d->candidates[d->mode].predicted.known && d->candidates[d->mode].predicted.cannot < 0)
		change(d, "figures of this host (trictl calibrate): without them only what is known in general counts");
	else if (d->possible && !strcmp(d->wish, "auto"))
		note_workloads(q, d);
}

unsigned policy_possible(const struct policy_query *query)
{
	struct policy_candidate candidate;
	struct policy_workload mixed;
	unsigned modes = 0;

	policy_workload_named("mixed", &mixed);
	for (int i = 0; i < POLICY_MODE_COUNT; i++) {
		memset(&candidate, 0, sizeof(candidate));
		judge_candidate((enum policy_mode)i, query, false, query->workload ? query->workload : &mixed, &candidate);
		modes |= (unsigned)(candidate.verdict == POLICY_POSSIBLE) << i;
	}
	return modes;
}

void policy_decide(const struct policy_query *query, struct policy_decision *ret_decision)
{
	struct policy_decision *d = ret_decision;
	bool by_wish = strcmp(query->wish, "auto");
	enum policy_mode wished = POLICY_MODE_COUNT;

	memset(d, 0, sizeof(*d));
	SAY(d->wish, "%.7s", query->wish);
	d->guest = *query->guest;
	if (query->workload)
		d->workload = *query->workload;
	else
		policy_workload_named("mixed", &d->workload);
	if (query->constraints)
		d->constraints = *query->constraints;
	if (by_wish)
		policy_mode_parse(query->wish, &wished);
	for (int i = 0; i < POLICY_MODE_COUNT; i++)
		judge_candidate((enum policy_mode)i, query, (enum policy_mode)i == wished, &d->workload,
				&d->candidates[i]);
	if (by_wish)
		decide_wish(query->wish, d);
	else
		decide_auto(query, d);
	note_changes(query, d);
	if (d->possible)
		d->candidates[d->mode].verdict = POLICY_CHOSEN;
}

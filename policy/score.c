/* From facts to a mode: which are possible, and which of those is taken. */
#include "policy/policy.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
	const char *name;
	const char *technique;
	bool in_build; /* this version has an engine for it; modes/ says the same to trivisor-vm */
} modes[POLICY_MODE_COUNT] = {
	[POLICY_BT] = {"bt", "same-ISA binary translation in user space", true},
	[POLICY_HVM] = {"hvm", "the processor's own virtualization (VT-x, AMD-V) through /dev/kvm", false},
	[POLICY_PV] = {"pv", "a guest kernel that cooperates (the Xen PV ABI)", false},
};

const char *policy_mode_name(enum policy_mode mode)
{
	return modes[mode].name;
}

bool policy_mode_parse(const char *name, enum policy_mode *ret_mode)
{
	for (int i = 0; i < POLICY_MODE_COUNT; i++)
		if (!strcmp(modes[i].name, name)) {
			*ret_mode = (enum policy_mode)i;
			return true;
		}
	return false;
}

#define SAY(buffer, ...) snprintf(buffer, sizeof(buffer), __VA_ARGS__)

/* ---- modes on this host ------------------------------------------------------------- */

static void judge_bt(const struct policy_host *host, struct policy_mode_state *state)
{
	state->usable = host->exec_memory_error == 0;
	if (state->usable) {
		SAY(state->reason, "needs only Linux on x86-64, and executable memory can be mapped");
	} else {
		SAY(state->reason, "executable memory cannot be mapped: %s", strerror(host->exec_memory_error));
		SAY(state->remedy, "set sysctl vm.memfd_noexec=0, or let the security policy allow executable memory");
	}
}

/* What the host says of hardware virtualization, whether or not this version could use it. */
static bool judge_hardware(const struct policy_host *host, char *reason, size_t reason_size, char *remedy,
			   size_t remedy_size)
{
	const char *flag = host->vmx == POLICY_YES ? "VT-x" : "AMD-V";

	if (!host->kvm_device) {
		snprintf(reason, reason_size, "there is no /dev/kvm");
		snprintf(remedy, remedy_size, "%s",
			 host->under_hypervisor
				 ? "ask the outer hypervisor's owner for nested virtualization"
				 : "load kvm_intel or kvm_amd; enable VT-x or AMD-V in the firmware's setup");
	} else if (host->kvm_pvm == POLICY_YES) {
		snprintf(reason, reason_size,
			 "/dev/kvm is kvm_pvm, a software KVM that emulates unmodified guests instruction by "
			 "instruction");
		snprintf(remedy, remedy_size,
			 "a host with VT-x or AMD-V, or with nested virtualization, has a real one");
	} else if (host->vmx == POLICY_NO && host->svm == POLICY_NO) {
		snprintf(reason, reason_size,
			 "there is a /dev/kvm, but the processor shows neither vmx nor svm to this kernel");
		snprintf(remedy, remedy_size, "%s",
			 host->under_hypervisor ? "ask the outer hypervisor's owner for nested virtualization"
						: "enable VT-x or AMD-V in the firmware's setup");
	} else if (host->kvm_open_error) {
		snprintf(reason, reason_size, "/dev/kvm cannot be opened: %s", strerror(host->kvm_open_error));
		snprintf(remedy, remedy_size, "%s",
			 host->kvm_open_error == EACCES ? "add the daemon's user to the group that owns /dev/kvm"
							: "load kvm_intel or kvm_amd");
	} else if (host->kvm_hardware != POLICY_YES) {
		snprintf(reason, reason_size,
			 "whether /dev/kvm is hardware could not be learned (/proc/cpuinfo or /sys/module tell "
			 "nothing)");
		snprintf(remedy, remedy_size, "mount /sys where the daemon runs");
	} else {
		snprintf(reason, reason_size, "%s through /dev/kvm (API %d)", flag, host->kvm_api);
		return true;
	}
	return false;
}

void policy_mode_judge(enum policy_mode mode, const struct policy_host *host, struct policy_mode_state *ret_state)
{
	char reason[200] = "", remedy[200] = "";
	bool hardware;

	memset(ret_state, 0, sizeof(*ret_state));
	ret_state->in_build = modes[mode].in_build;
	switch (mode) {
	case POLICY_BT: judge_bt(host, ret_state); break;
	case POLICY_HVM:
		hardware = judge_hardware(host, reason, sizeof(reason), remedy, sizeof(remedy));
		ret_state->usable = hardware && ret_state->in_build;
		if (ret_state->in_build)
			SAY(ret_state->reason, "%s", reason);
		else
			SAY(ret_state->reason, "not in this version; on this host: %s", reason);
		SAY(ret_state->remedy, "%s", remedy);
		break;
	case POLICY_PV:
		ret_state->usable = ret_state->in_build;
		SAY(ret_state->reason, "%s",
		    ret_state->in_build ? "needs only Linux on x86-64" : "not in this version");
		break;
	default: break;
	}
}

bool policy_mode_can_try(enum policy_mode mode, const struct policy_host *host)
{
	switch (mode) {
	case POLICY_BT: return host->exec_memory_error == 0;
	case POLICY_HVM: return modes[mode].in_build && host->kvm_device && host->kvm_open_error == 0;
	default: return false; /* the calibration guest has no Xen PV entry */
	}
}

static void add(json_object *to, const char *key, const char *text)
{
	json_object_object_add(to, key, json_object_new_string(text));
}

json_object *policy_modes_json(const struct policy_host *host)
{
	json_object *rows = json_object_new_array();

	for (int i = 0; i < POLICY_MODE_COUNT; i++) {
		json_object *row = json_object_new_object();
		struct policy_mode_state state;

		policy_mode_judge((enum policy_mode)i, host, &state);
		add(row, "mode", modes[i].name);
		add(row, "technique", modes[i].technique);
		json_object_object_add(row, "in_build", json_object_new_boolean(state.in_build));
		json_object_object_add(row, "usable", json_object_new_boolean(state.usable));
		add(row, "reason", state.reason);
		if (state.remedy[0])
			add(row, "remedy", state.remedy);
		json_object_array_add(rows, row);
	}
	return rows;
}

/* ---- decisions ------------------------------------------------------------------------ */

static void judge_candidate(enum policy_mode mode, const struct policy_host *host, const struct policy_guest *guest,
			    struct policy_candidate *candidate)
{
	struct policy_mode_state state;

	policy_mode_judge(mode, host, &state);
	candidate->verdict = state.usable ? POLICY_POSSIBLE : POLICY_RULED_OUT;
	SAY(candidate->reason, "%s", state.reason);
	SAY(candidate->remedy, "%s", state.remedy);
	if (!state.usable)
		return;
	if (mode == POLICY_PV && guest->xen_pv != POLICY_YES) {
		candidate->verdict = POLICY_RULED_OUT;
		SAY(candidate->reason, "%s",
		    guest->xen_pv == POLICY_NO ? "the guest's kernel has no Xen PV entry"
					       : "whether the guest's kernel has a Xen PV entry is not known");
		SAY(candidate->remedy, "boot a kernel with the Xen PV ABI, as an ELF file");
	} else if (mode != POLICY_PV && guest->image == POLICY_IMAGE_ELF && guest->pvh == POLICY_NO) {
		candidate->verdict = POLICY_RULED_OUT;
		SAY(candidate->reason, "the guest's kernel is an ELF file with neither a PVH entry nor a Multiboot header");
		SAY(candidate->remedy, "boot a bzImage, or a kernel built with CONFIG_PVH");
	}
}

static void change(struct policy_decision *d, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void change(struct policy_decision *d, const char *format, ...)
{
	va_list args;

	if (d->change_count >= sizeof(d->would_change) / sizeof(d->would_change[0]))
		return;
	va_start(args, format);
	vsnprintf(d->would_change[d->change_count++], sizeof(d->would_change[0]), format, args);
	va_end(args);
}

static void note_changes(struct policy_decision *d, const struct policy_host *host)
{
	const struct policy_candidate *hvm = &d->candidates[POLICY_HVM];

	if (d->possible && d->mode != POLICY_HVM && hvm->verdict == POLICY_RULED_OUT) {
		if (host->kvm_hardware == POLICY_YES)
			change(d, "a version of trivisor with an hvm engine: this host has hardware virtualization");
		else
			change(d, "real hardware virtualization on this host, and a version of trivisor with an hvm "
				  "engine");
	}
	if (strcmp(d->wish, "auto"))
		change(d, "\"mode\": \"auto\" in the definition lets the policy choose");
	if (!d->possible && d->candidates[POLICY_BT].remedy[0])
		change(d, "for bt: %s", d->candidates[POLICY_BT].remedy);
}

static void decide_auto(struct policy_decision *d)
{
	/* By what is known without measuring: hardware first where it is real, translation otherwise, cooperation last.
	 */
	static const enum policy_mode order[] = {POLICY_HVM, POLICY_BT, POLICY_PV};

	for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++)
		if (d->candidates[order[i]].verdict == POLICY_POSSIBLE) {
			d->mode = order[i];
			d->possible = true;
			break;
		}
	if (!d->possible)
		SAY(d->reason, "no mode can run this VM here; bt: %.250s; hvm: %.200s", d->candidates[POLICY_BT].reason,
		    d->candidates[POLICY_HVM].reason);
	else if (d->mode == POLICY_BT)
		SAY(d->reason, "bt: runs any unmodified x86 guest; hvm is ruled out (%.300s)",
		    d->candidates[POLICY_HVM].reason);
	else
		SAY(d->reason, "%s: %.400s", modes[d->mode].name, d->candidates[d->mode].reason);
}

static void decide_wish(struct policy_decision *d, const char *wish)
{
	const struct policy_candidate *candidate;

	if (!policy_mode_parse(wish, &d->mode)) {
		SAY(d->reason, "there is no mode \"%.7s\"; there are bt, hvm and pv", wish);
		return;
	}
	candidate = &d->candidates[d->mode];
	d->possible = candidate->verdict == POLICY_POSSIBLE;
	if (d->possible)
		SAY(d->reason, "%s: the definition asks for it, and it is usable: %.400s", wish, candidate->reason);
	else
		SAY(d->reason, "%s was asked for, but cannot be used: %.270s%s%.240s", wish, candidate->reason,
		    candidate->remedy[0] ? "; remedy: " : "; let the policy choose with mode auto", candidate->remedy);
}

void policy_decide(const struct policy_host *host, const struct policy_guest *guest, const char *wish,
		   struct policy_decision *ret_decision)
{
	struct policy_decision *d = ret_decision;

	memset(d, 0, sizeof(*d));
	SAY(d->wish, "%.7s", wish);
	d->guest = *guest;
	for (int i = 0; i < POLICY_MODE_COUNT; i++)
		judge_candidate((enum policy_mode)i, host, guest, &d->candidates[i]);
	if (strcmp(wish, "auto"))
		decide_wish(d, wish);
	else
		decide_auto(d);
	if (d->possible)
		d->candidates[d->mode].verdict = POLICY_CHOSEN;
	note_changes(d, host);
}

json_object *policy_decision_json(const struct policy_decision *d)
{
	static const char *const verdicts[] = {
		[POLICY_CHOSEN] = "chosen", [POLICY_POSSIBLE] = "possible", [POLICY_RULED_OUT] = "ruled out"};
	json_object *object = json_object_new_object(), *candidates = json_object_new_array(),
		    *changes = json_object_new_array();

	add(object, "wish", d->wish);
	json_object_object_add(object, "mode", d->possible ? json_object_new_string(modes[d->mode].name) : NULL);
	add(object, "reason", d->reason);
	for (int i = 0; i < POLICY_MODE_COUNT; i++) {
		json_object *row = json_object_new_object();

		add(row, "mode", modes[i].name);
		add(row, "verdict", verdicts[d->candidates[i].verdict]);
		add(row, "reason", d->candidates[i].reason);
		if (d->candidates[i].remedy[0])
			add(row, "remedy", d->candidates[i].remedy);
		json_object_array_add(candidates, row);
	}
	json_object_object_add(object, "candidates", candidates);
	for (unsigned i = 0; i < d->change_count; i++)
		json_object_array_add(changes, json_object_new_string(d->would_change[i]));
	json_object_object_add(object, "would_change", changes);
	json_object_object_add(object, "guest", policy_guest_json(&d->guest));
	return object;
}

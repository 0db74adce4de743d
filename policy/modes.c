/* The modes, and what this host has for each. */
#include "policy/policy.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct {
	const char *name;
	const char *technique;
	bool in_build; /* this version has an engine for it; modes/ says the same to trivisor-vm */
} modes[POLICY_MODE_COUNT] = {
	[POLICY_BT] = {"bt", "same-ISA binary translation in user space", true},
	[POLICY_HVM] = {"hvm", "the processor's own virtualization (VT-x, AMD-V) through /dev/kvm", true},
	[POLICY_PV] = {"pv", "a guest kernel that cooperates (the Xen PV ABI)", true},
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

unsigned policy_engines(void)
{
	unsigned engines = 0;

	for (int i = 0; i < POLICY_MODE_COUNT; i++)
		engines |= (unsigned)modes[i].in_build << i;
	return engines;
}

#define SAY(buffer, ...) snprintf(buffer, sizeof(buffer), __VA_ARGS__)

static void judge_bt(const struct policy_host *host, struct policy_mode_state *state)
{
	SAY(state->variant, "bt");
	state->usable = host->exec_memory_error == 0;
	if (state->usable) {
		SAY(state->reason, "needs only Linux on x86-64, and executable memory can be mapped");
	} else {
		SAY(state->reason, "executable memory cannot be mapped: %s", strerror(host->exec_memory_error));
		SAY(state->remedy, "set sysctl vm.memfd_noexec=0, or let the security policy allow executable memory");
	}
}

static void say_variant(const struct policy_host *host, struct policy_mode_state *state)
{
	bool intel = host->kvm_intel == POLICY_YES, amd = host->kvm_amd == POLICY_YES;
	enum policy_known tables = intel ? host->ept : amd ? host->npt : POLICY_UNKNOWN;

	SAY(state->variant, "hvm%s", tables == POLICY_NO ? "/shadow" : tables == POLICY_UNKNOWN ? "" : intel ? "/ept" : "/npt");
	SAY(state->reason, "%s through /dev/kvm (API %d)%s%s%s", intel ? "VT-x" : "AMD-V", host->kvm_api,
	    tables == POLICY_NO                      ? ", shadow paging: no second level of page tables"
	    : tables == POLICY_UNKNOWN               ? ""
	    : intel                                  ? ", EPT"
						     : ", NPT",
	    host->unrestricted_guest == POLICY_NO ? ", real mode emulated" : "",
	    host->under_hypervisor                ? ", nested under another hypervisor"
	    : (intel ? host->apicv : host->avic) == POLICY_YES ? intel ? ", APICv" : ", AVIC"
						    : "");
}

/* What the host says of hvm, whether or not this version has an engine for it. True: guests can be started. */
static bool judge_hvm(const struct policy_host *host, struct policy_mode_state *state)
{
	bool opens = host->kvm_device && !host->kvm_open_error;

	SAY(state->variant, "hvm");
	policy_hardware_remedy(host, state->remedy, sizeof(state->remedy));
	if (!host->kvm_device)
		SAY(state->reason, "there is no /dev/kvm%s",
		    host->firmware_locked == POLICY_YES ? ": the firmware has switched the extension off"
		    : host->container[0] && (host->vmx == POLICY_YES || host->svm == POLICY_YES)
			    ? " in this container, though the processor has the extension"
			    : "");
	else if (host->kvm_open_error)
		SAY(state->reason, "/dev/kvm cannot be opened: %s", strerror(host->kvm_open_error));
	else if (host->kvm_hardware == POLICY_YES)
		say_variant(host, state);
	else if (host->kvm_pvm == POLICY_YES)
		SAY(state->reason,
		    "/dev/kvm is kvm_pvm, a software KVM that emulates unmodified guests instruction by instruction");
	else if (host->vmx == POLICY_NO && host->svm == POLICY_NO)
		SAY(state->reason, "there is a /dev/kvm, but the processor shows neither vmx nor svm to this kernel: it "
				   "emulates");
	else
		SAY(state->reason, "whether /dev/kvm is hardware could not be learned (/proc/cpuinfo or /sys/module tell "
				   "nothing)");
	if (host->kvm_hardware == POLICY_NO && opens)
		SAY(state->variant, "hvm/software");
	return opens;
}

void policy_mode_judge(enum policy_mode mode, const struct policy_host *host, struct policy_mode_state *ret_state)
{
	char here[200];
	bool can;

	memset(ret_state, 0, sizeof(*ret_state));
	ret_state->in_build = (host->engines ? host->engines : policy_engines()) >> mode & 1;
	switch (mode) {
	case POLICY_BT: judge_bt(host, ret_state); break;
	case POLICY_HVM:
		can = judge_hvm(host, ret_state);
		ret_state->usable = can && ret_state->in_build;
		if (!ret_state->in_build) {
			SAY(here, "%.199s", ret_state->reason);
			SAY(ret_state->reason, "not in this version; on this host: %s", here);
		}
		break;
	case POLICY_PV:
		judge_bt(host, ret_state); /* its code is translated */
		SAY(ret_state->variant, "pv/xen");
		if (ret_state->usable)
			SAY(ret_state->reason, "needs only Linux on x86-64, and a guest kernel with a Xen PV entry");
		if (!ret_state->in_build)
			SAY(ret_state->reason, "not in this version");
		ret_state->usable = ret_state->usable && ret_state->in_build;
		break;
	default: break;
	}
}

bool policy_mode_can_try(enum policy_mode mode, const struct policy_host *host)
{
	struct policy_mode_state state;

	policy_mode_judge(mode, host, &state);
	return state.usable;
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
		add(row, "variant", state.variant);
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

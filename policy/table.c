/* The modes side by side: general facts with their sources, and what holds on this host. */
#include "policy/policy.h"

#include <stdio.h>
#include <string.h>

struct cell {
	const char *text;
	const char *source;
};

struct row {
	const char *aspect;
	struct cell cells[POLICY_MODE_COUNT];
};

static const char adams[] = "Adams and Agesen, A Comparison of Software and Hardware Techniques for x86 Virtualization, ASPLOS 2006";
static const char vmware[] = "VMware, Understanding Full Virtualization, Paravirtualization, and Hardware Assist, 2007";
static const char xen[] = "Barham et al., Xen and the Art of Virtualization, SOSP 2003";
static const char sdm[] = "Intel SDM vol. 3 (VMX), AMD APM vol. 2 (SVM)";

static const struct row rows[] = {
	{"technique",
	 {[POLICY_BT] = {"binary translation of guest code, and direct execution where it is safe", adams},
	  [POLICY_HVM] = {"the guest runs in a processor mode of its own (VMX non-root, SVM guest); exits on sensitive operations", sdm},
	  [POLICY_PV] = {"the guest's kernel calls the hypervisor instead of executing what it may not (hypercalls)", xen}}},
	{"guest modification and compatibility",
	 {[POLICY_BT] = {"none: any unmodified x86 system; excellent compatibility", vmware},
	  [POLICY_HVM] = {"none: any unmodified x86 system; excellent compatibility", vmware},
	  [POLICY_PV] = {"the kernel must be ported to the ABI; Linux has been since 2.6.23, Windows is not", vmware}}},
	{"performance",
	 {[POLICY_BT] = {"user code near native where it runs directly; kernel entries, page-table updates and indirect jumps cost", adams},
	  [POLICY_HVM] = {"near native; exits and two-dimensional page walks cost", adams},
	  [POLICY_PV] = {"low overhead for batched operations; depends on the workload", vmware}}},
	{"who uses it",
	 {[POLICY_BT] = {"VMware Workstation and ESX before hardware assistance, Microsoft Virtual PC, VirtualBox before 6.1 (ring 0)", vmware},
	  [POLICY_HVM] = {"KVM, Hyper-V, Xen HVM and PVH, VMware ESXi, bhyve", vmware},
	  [POLICY_PV] = {"Xen PV domains; Linux's paravirt-ops in other hypervisors", vmware}}},
	{"guest independent of the hypervisor",
	 {[POLICY_BT] = {"yes: the guest cannot tell, and needs not", vmware},
	  [POLICY_HVM] = {"yes; paravirtual drivers are optional", vmware},
	  [POLICY_PV] = {"no: the kernel speaks one hypervisor's ABI, though the same kernel can boot on bare hardware too", vmware}}},
};

static json_object *cell_json(const struct row *row, enum policy_mode mode, const char *host)
{
	json_object *cell = json_object_new_object();

	json_object_object_add(cell, "text", json_object_new_string(row->cells[mode].text));
	if (host)
		json_object_object_add(cell, "host", json_object_new_string(host));
	json_object_object_add(cell, "source", json_object_new_string(row->cells[mode].source));
	return cell;
}

json_object *policy_compare_json(const struct policy_host *host)
{
	json_object *table = json_object_new_array();

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		json_object *row = json_object_new_object();

		json_object_object_add(row, "aspect", json_object_new_string(rows[i].aspect));
		for (int m = 0; m < POLICY_MODE_COUNT; m++) {
			struct policy_mode_state state;
			char text[640];
			const char *here = NULL;

			policy_mode_judge((enum policy_mode)m, host, &state);
			if (!strcmp(rows[i].aspect, "technique")) {
				snprintf(text, sizeof(text), "%s: %s", state.usable ? "usable here" : "not usable here", state.reason);
				here = text;
			} else if (!strcmp(rows[i].aspect, "performance")) {
				here = "not measured on this host yet";
			}
			json_object_object_add(row, policy_mode_name((enum policy_mode)m), cell_json(&rows[i], (enum policy_mode)m, here));
		}
		json_object_array_add(table, row);
	}
	return table;
}

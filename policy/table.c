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

static const char adams[] = "Adams and Agesen, A Comparison of Software and Hardware Techniques for x86 Virtualization, "
			    "ASPLOS 2006";
static const char vmware[] = "VMware, Understanding Full Virtualization, Paravirtualization, and Hardware Assist, 2007";
static const char xen[] = "Barham et al., Xen and the Art of Virtualization, SOSP 2003";
static const char sdm[] = "Intel SDM vol. 3 (VMX), AMD APM vol. 2 (SVM)";
static const char projects[] = "the products' and projects' own documentation";
static const char popek[] = "Popek and Goldberg, Formal Requirements for Virtualizable Third Generation Architectures, "
			    "CACM 1974";

static const struct row rows[] = {
	{"technique",
	 {[POLICY_BT] = {"binary translation of guest code, and direct execution where it is safe", adams},
	  [POLICY_HVM] = {"the guest runs in a processor mode of its own (VMX non-root, SVM guest); sensitive operations "
			  "leave it",
			  sdm},
	  [POLICY_PV] = {"the guest's kernel calls the hypervisor (hypercalls) instead of executing what it may not",
			 xen}}},
	{"guest modification and compatibility",
	 {[POLICY_BT] = {"none: any unmodified x86 system; excellent compatibility", vmware},
	  [POLICY_HVM] = {"none: any unmodified x86 system; excellent compatibility", vmware},
	  [POLICY_PV] = {"the kernel must be ported to the ABI (Linux and the BSDs are, Windows is not); poor "
			 "compatibility with others",
			 vmware}}},
	{"performance",
	 {[POLICY_BT] = {"user code can run near native speed; kernel entries, page-table updates and indirect jumps "
			 "cost",
			 adams},
	  [POLICY_HVM] = {"system calls and most code at native speed; leaving the guest and two-dimensional page walks "
			  "cost",
			  adams},
	  [POLICY_PV] = {"close to native where privileged operations can be batched; the kernel's cooperation pays for "
			 "it",
			 xen}}},
	{"who uses it",
	 {[POLICY_BT] = {"VMware Workstation and ESX and Microsoft Virtual PC before processors could do it", vmware},
	  [POLICY_HVM] = {"KVM, Hyper-V, Xen (HVM and PVH), VMware ESXi, bhyve", projects},
	  [POLICY_PV] = {"Xen PV domains", xen}}},
	{"guest independent of the hypervisor",
	 {[POLICY_BT] = {"yes: the guest sees a PC and need not know", popek},
	  [POLICY_HVM] = {"yes: the guest sees a PC and need not know; paravirtual drivers are optional", sdm},
	  [POLICY_PV] = {"no: the kernel speaks one hypervisor's ABI, though the same image may boot on bare hardware "
			 "too",
			 vmware}}},
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
				snprintf(text, sizeof(text), "%s: %s", state.usable ? "usable here" : "not usable here",
					 state.reason);
				here = text;
			} else if (!strcmp(rows[i].aspect, "performance")) {
				here = "not measured on this host yet";
			}
			json_object_object_add(row, policy_mode_name((enum policy_mode)m),
					       cell_json(&rows[i], (enum policy_mode)m, here));
		}
		json_object_array_add(table, row);
	}
	return table;
}

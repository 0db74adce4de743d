/* The modes side by side: general facts with their sources, and what holds on this host. */
#include "policy/policy.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

struct cell {
	const char *text;
	const char *source;
};

/* hvm is not one technique: what differs by what the host has. Named as policy_mode_state's variants. */
enum variant { EPT, NPT, SHADOW, SOFTWARE, VARIANTS };
static const char *const variant_names[VARIANTS] = {"hvm/ept", "hvm/npt", "hvm/shadow", "hvm/software"};

struct row {
	const char *aspect;
	struct cell cells[POLICY_MODE_COUNT];
	struct cell variants[VARIANTS]; /* text NULL: as the mode in general */
};

static const char adams[] = "Adams and Agesen, A Comparison of Software and Hardware Techniques for x86 Virtualization, "
			    "ASPLOS 2006";
static const char vmware[] = "VMware, Understanding Full Virtualization, Paravirtualization, and Hardware Assist, 2007";
static const char xen[] = "Barham et al., Xen and the Art of Virtualization, SOSP 2003";
static const char sdm[] = "Intel SDM vol. 3 (VMX), AMD APM vol. 2 (SVM)";
static const char projects[] = "the products' and projects' own documentation";
static const char popek[] = "Popek and Goldberg, Formal Requirements for Virtualizable Third Generation Architectures, "
			    "CACM 1974";

static const char agesen[] = "Agesen, Garthwaite, Sheldon and Subrahmanyam, The Evolution of an x86 Virtual Machine Monitor, "
			     "ACM SIGOPS OSR 44(4), 2010";
static const char bhargava[] = "Bhargava et al., Accelerating Two-Dimensional Page Walks for Virtualized Systems, ASPLOS 2008";
static const char pvm[] = "Huang et al., PVM: Efficient Shadow Paging for Deploying Secure Containers in Cloud-native "
			  "Environment, SOSP 2023; this project's docs/policy.md for its emulator";

static const char own[] = "this project's documentation (docs/bt.md, docs/architecture.md)";

static const struct row rows[] = {
	{.aspect = "technique",
	 .cells = {[POLICY_BT] = {"binary translation of guest code, and direct execution where it is safe", adams},
	  [POLICY_HVM] = {"the guest runs in a processor mode of its own (VMX non-root, SVM guest); sensitive operations "
			  "leave it",
			  sdm},
	  [POLICY_PV] = {"the guest's kernel calls the hypervisor (hypercalls) instead of executing what it may not",
			 xen}},
	 .variants = {[EPT] = {"VT-x with extended page tables", sdm},
	  [NPT] = {"AMD-V with nested page tables", sdm},
	  [SHADOW] = {"VT-x or AMD-V of the first generation: page tables are shadowed in software", agesen},
	  [SOFTWARE] = {"a /dev/kvm without VT-x or AMD-V: the host's kernel emulates unmodified guests instruction by "
			"instruction",
			pvm}}},
	{.aspect = "guest modification and compatibility",
	 .cells = {[POLICY_BT] = {"none: any unmodified x86 system; excellent compatibility", vmware},
	  [POLICY_HVM] = {"none: any unmodified x86 system; excellent compatibility", vmware},
	  [POLICY_PV] = {"the kernel must be ported to the ABI (Linux and the BSDs are, Windows is not); poor "
			 "compatibility with others",
			 vmware}}},
	{.aspect = "performance",
	 .cells = {[POLICY_BT] = {"user code can run near native speed; kernel entries, page-table updates and indirect jumps "
			 "cost",
			 adams},
	  [POLICY_HVM] = {"system calls and most code at native speed; leaving the guest costs", adams},
	  [POLICY_PV] = {"close to native where privileged operations can be batched; the kernel's cooperation pays for "
			 "it",
			 xen}},
	 .variants = {[EPT] = {"page faults stay in the guest; a TLB miss walks two tables", agesen},
	  [NPT] = {"page faults stay in the guest; a TLB miss walks two tables", bhargava},
	  [SHADOW] = {"page faults and changes of page tables leave the guest: slower there than translation", adams},
	  [SOFTWARE] = {"thousands of times slower than native", pvm}}},
	{.aspect = "who uses it",
	 .cells = {[POLICY_BT] = {"VMware Workstation and ESX and Microsoft Virtual PC before processors could do it", vmware},
	  [POLICY_HVM] = {"KVM, Hyper-V, Xen (HVM and PVH), VMware ESXi, bhyve", projects},
	  [POLICY_PV] = {"Xen PV domains", xen}},
	 .variants = {[SHADOW] = {"the same products on processors before Nehalem (Intel, 2008) and Barcelona (AMD, 2007)", agesen},
	  [SOFTWARE] = {"hosts of secure containers in clouds without nested virtualization, for guests of their own kind",
			pvm}}},
	{.aspect = "guest independent of the hypervisor",
	 .cells = {[POLICY_BT] = {"yes: the guest sees a PC and need not know", popek},
	  [POLICY_HVM] = {"yes: the guest sees a PC and need not know; paravirtual drivers are optional", sdm},
	  [POLICY_PV] = {"no: the kernel speaks one hypervisor's ABI, though the same image may boot on bare hardware "
			 "too",
			 vmware}}},
	{.aspect = "memory virtualization",
	 .cells = {[POLICY_BT] = {"a TLB in software: every access is checked against pages that a walk of the guest's tables granted",
			 own},
	  [POLICY_HVM] = {"the processor walks the guest's tables and a second level of the hypervisor's", sdm},
	  [POLICY_PV] = {"the guest's own tables, in use as they are; changes go through hypercalls that validate them",
			 xen}},
	 .variants = {[SHADOW] = {"the hypervisor keeps shadow tables, and every change of a guest's tables traps", agesen},
	  [SOFTWARE] = {"the emulator walks the guest's tables for every access", pvm}}},
	{.aspect = "I/O virtualization",
	 .cells = {[POLICY_BT] = {"emulated devices and virtio; a doorbell is a call within one process", own},
	  [POLICY_HVM] = {"emulated devices and virtio; passthrough of real devices behind VT-d or AMD-Vi", sdm},
	  [POLICY_PV] = {"split drivers: rings in shared pages (grant tables) and event channels", xen}}},
	{.aspect = "what the host needs",
	 .cells = {[POLICY_BT] = {"Linux on x86-64, and leave to map executable memory; no privilege", own},
	  [POLICY_HVM] = {"VT-x or AMD-V that this kernel may use, its module, and access to /dev/kvm", sdm},
	  [POLICY_PV] = {"Linux on x86-64; no privilege", own}},
	 .variants = {[EPT] = {"an Intel processor since Nehalem", agesen},
	  [NPT] = {"an AMD processor since Barcelona", bhargava},
	  [SHADOW] = {"any processor with VT-x or AMD-V", sdm},
	  [SOFTWARE] = {"a kernel with such a module, and access to /dev/kvm; nothing of the processor", pvm}}},
	{.aspect = "isolation",
	 .cells = {[POLICY_BT] = {"one sandboxed process for a VM; guest user and guest kernel share its address space, so "
			 "between them there is no speculative boundary",
			 own},
	  [POLICY_HVM] = {"the processor's guest mode in one sandboxed process for a VM; the kernel's KVM is exposed to "
			  "the guest",
			  sdm},
	  [POLICY_PV] = {"the guest's kernel runs deprivileged; hypercalls are the interface that is exposed", xen}}},
	{.aspect = "start-up time",
	 .cells = {[POLICY_BT] = {"no set-up in the host's kernel; the first run of all code pays for its translation", own},
	  [POLICY_HVM] = {"a VM of the kernel's is made; code runs at once", sdm},
	  [POLICY_PV] = {"no firmware and no probing of devices", xen}}},
};

/* ---- what was measured here ---------------------------------------------------------- */

static void date(double time, char *text, size_t size)
{
	time_t whole = (time_t)time;
	struct tm tm;

	if (!gmtime_r(&whole, &tm) || !strftime(text, size, "%Y-%m-%d %H:%M UTC", &tm))
		snprintf(text, size, "an unknown day");
}

static void append(char *text, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));

static void append(char *text, size_t size, const char *format, ...)
{
	size_t n = strlen(text);
	va_list args;

	va_start(args, format);
	vsnprintf(text + n, size - n, format, args);
	va_end(args);
}

/* Three digits and a unit. */
static void append_time(char *text, size_t size, double ns)
{
	static const struct {
		double from, unit;
		const char *name;
	} units[] = {{1e9, 1e9, "s"}, {1e6, 1e6, "ms"}, {1e3, 1e3, "us"}, {0, 1, "ns"}};

	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (ns >= units[i].from) {
			append(text, size, "%.3g %s", ns / units[i].unit, units[i].name);
			return;
		}
}

/* The same code natively: how many times its time. What only a guest has: its time, and a process's counterpart. */
static void performance_here(const struct policy_calibration *c, enum policy_mode mode, char *text, size_t size)
{
	const struct policy_figures *f = &c->mode[mode];
	const char *comma = "";

	date(f->time, text, size);
	append(text, size, ", in times of native: ");
	for (int i = 0; i < POLICY_MEASURES; i++)
		if (policy_measure_is_loop((enum policy_measure)i) && f->of[i].state == POLICY_FIGURE_NS && c->native.of[i].state == POLICY_FIGURE_NS) {
			append(text, size, "%s%s %.2f", comma, policy_measure_name((enum policy_measure)i),
			       f->of[i].ns / c->native.of[i].ns);
			comma = ", ";
		}
	comma = "; in itself: ";
	for (int i = 0; i < POLICY_MEASURES; i++)
		if (!policy_measure_is_loop((enum policy_measure)i) && f->of[i].state == POLICY_FIGURE_NS) {
			append(text, size, "%s%s ", comma, policy_measure_name((enum policy_measure)i));
			comma = ", ";
			append_time(text, size, f->of[i].ns);
			if (c->native.of[i].state == POLICY_FIGURE_NS) {
				append(text, size, " (a process: ");
				append_time(text, size, c->native.of[i].ns);
				append(text, size, ")");
			}
		}
	comma = "; cannot execute: ";
	for (int i = 0; i < POLICY_MEASURES; i++)
		if (f->of[i].state == POLICY_FIGURE_CANNOT) {
			append(text, size, "%s%s", comma, policy_measure_name((enum policy_measure)i));
			comma = ", ";
		}
}

static const char *here(const struct row *row, enum policy_mode mode, const struct policy_host *host,
			const struct policy_calibration *c, char *text, size_t size)
{
	const struct policy_figures *f = c ? &c->mode[mode] : NULL;
	bool measured = f && f->tried && !f->problem[0];
	struct policy_mode_state state;

	policy_mode_judge(mode, host, &state);
	if (!strcmp(row->aspect, "technique")) {
		snprintf(text, size, "%s: %s", state.usable ? "usable" : "not usable", state.reason);
	} else if (!strcmp(row->aspect, "what the host needs") && !state.usable && state.remedy[0]) {
		snprintf(text, size, "missing: %s", state.remedy);
	} else if (!strcmp(row->aspect, "performance")) {
		if (measured)
			performance_here(c, mode, text, size);
		else if (f && f->tried && f->problem[0])
			snprintf(text, size, "cannot be measured: %s", f->problem);
		else if (!policy_mode_can_try(mode, host))
			snprintf(text, size, "not measured: %s", state.in_build ? state.reason : "not in this version");
		else if (f && f->problem[0])
			snprintf(text, size, "%s", f->problem);
		else
			snprintf(text, size, "not measured on this host yet (host.calibrate, \"trictl calibrate\")");
	} else if (!strcmp(row->aspect, "start-up time") && measured && f->start_ms > 0) {
		date(f->time, text, size);
		append(text, size, ": %.0f ms from starting the process to the first word of a small guest", f->start_ms);
	} else {
		return NULL;
	}
	return text;
}


/* ---- what holds for one VM -------------------------------------------------------------- */

/* Whether what a cell says holds for this VM here: what is about images holds whatever the host can do. */
static bool holds(const struct row *row, enum policy_mode mode, const struct policy_decision *d)
{
	if (!strcmp(row->aspect, "guest modification and compatibility") ||
	    !strcmp(row->aspect, "guest independent of the hypervisor"))
		return !d->guest.problem[0] && (mode != POLICY_PV || d->guest.xen_pv == POLICY_YES);
	return d->candidates[mode].verdict != POLICY_RULED_OUT;
}

/* In words; NULL where there is nothing to add to whether it holds. */
static const char *for_guest(const struct row *row, enum policy_mode mode, const struct policy_decision *d, char *text,
			     size_t size)
{
	static const char *const verdicts[] = {
		[POLICY_CHOSEN] = "chosen", [POLICY_POSSIBLE] = "possible", [POLICY_RULED_OUT] = "ruled out"};
	const struct policy_candidate *c = &d->candidates[mode];
	enum policy_known entry = mode == POLICY_PV ? d->guest.xen_pv : POLICY_YES;
	bool out = c->verdict == POLICY_RULED_OUT;

	if (!strcmp(row->aspect, "technique"))
		snprintf(text, size, "%s%s%s", verdicts[c->verdict], out ? ": " : "", out ? c->reason : "");
	else if (!strcmp(row->aspect, "guest modification and compatibility"))
		snprintf(text, size, "%s",
			 d->guest.problem[0]       ? d->guest.problem
			 : entry == POLICY_YES     ? "its image can be entered this way"
			 : entry == POLICY_UNKNOWN ? "whether its kernel can is not known"
						   : "its kernel cannot");
	else if (!strcmp(row->aspect, "performance") && c->predicted.known)
		snprintf(text, size, "predicted %.3g times native time (workload %s)", c->predicted.cost, d->workload.name);
	else if (!strcmp(row->aspect, "memory virtualization") && !out)
		snprintf(text, size, "it would be %s", c->variant);
	else if (!strcmp(row->aspect, "I/O virtualization") && d->constraints.passthrough)
		snprintf(text, size, "it asks for a device of the host: %s", out ? c->reason : "possible");
	else if (!strcmp(row->aspect, "what the host needs") && out && c->remedy[0])
		snprintf(text, size, "missing: %s", c->remedy);
	else if (!strcmp(row->aspect, "isolation"))
		snprintf(text, size, "it asks to be kept apart from %s: %s",
			 d->constraints.kernel_isolation ? "other VMs, and its kernel from its programs" : "other VMs",
			 d->constraints.kernel_isolation && mode == POLICY_BT ? "not given" : "given");
	else if (!strcmp(row->aspect, "start-up time") && c->boot_seconds > 0)
		snprintf(text, size, "predicted %.2f s to user space, from its earlier boots", c->boot_seconds);
	else
		return NULL;
	return text;
}

/* ---- the table ---------------------------------------------------------------------------- */

static json_object *variants_json(const struct row *row, const char *variant_here)
{
	json_object *list = NULL;

	for (int v = 0; v < VARIANTS; v++) {
		json_object *item;

		if (!row->variants[v].text)
			continue;
		list = list ? list : json_object_new_array();
		item = json_object_new_object();
		json_object_object_add(item, "variant", json_object_new_string(variant_names[v]));
		json_object_object_add(item, "text", json_object_new_string(row->variants[v].text));
		json_object_object_add(item, "here", json_object_new_boolean(!strcmp(variant_here, variant_names[v])));
		json_object_object_add(item, "source", json_object_new_string(row->variants[v].source));
		json_object_array_add(list, item);
	}
	return list;
}

static json_object *cell_json(const struct row *row, enum policy_mode mode, const struct policy_host *host,
			      const struct policy_calibration *calibration, const struct policy_decision *decision)
{
	json_object *cell = json_object_new_object(), *variants;
	struct policy_mode_state state;
	char text[2048];

	policy_mode_judge(mode, host, &state);
	json_object_object_add(cell, "text", json_object_new_string(row->cells[mode].text));
	variants = mode == POLICY_HVM ? variants_json(row, state.variant) : NULL;
	if (variants)
		json_object_object_add(cell, "variants", variants);
	if (here(row, mode, host, calibration, text, sizeof(text)))
		json_object_object_add(cell, "host", json_object_new_string(text));
	if (decision) {
		json_object_object_add(cell, "holds", json_object_new_boolean(holds(row, mode, decision)));
		if (for_guest(row, mode, decision, text, sizeof(text)))
			json_object_object_add(cell, "guest", json_object_new_string(text));
	}
	json_object_object_add(cell, "source", json_object_new_string(row->cells[mode].source));
	return cell;
}

json_object *policy_compare_json(const struct policy_host *host, const struct policy_calibration *calibration,
				 const struct policy_decision *decision)
{
	json_object *table = json_object_new_array();

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		json_object *row = json_object_new_object();

		json_object_object_add(row, "aspect", json_object_new_string(rows[i].aspect));
		for (int m = 0; m < POLICY_MODE_COUNT; m++)
			json_object_object_add(row, policy_mode_name((enum policy_mode)m),
					       cell_json(&rows[i], (enum policy_mode)m, host, calibration, decision));
		json_object_array_add(table, row);
	}
	return table;
}

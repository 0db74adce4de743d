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

static const char own[] = "this project's documentation (docs/bt.md, docs/architecture.md)";

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
	{"memory virtualization",
	 {[POLICY_BT] = {"a TLB in software: every access is checked against pages that a walk of the guest's tables granted",
			 own},
	  [POLICY_HVM] = {"hvm/ept, hvm/npt: the processor walks two tables; hvm/shadow: the hypervisor keeps shadow tables "
			  "and every change of a guest's traps",
			  sdm},
	  [POLICY_PV] = {"the guest's own tables, in use as they are; changes go through hypercalls that validate them",
			 xen}}},
	{"I/O virtualization",
	 {[POLICY_BT] = {"emulated devices and virtio; a doorbell is a call within one process", own},
	  [POLICY_HVM] = {"emulated devices and virtio; passthrough of real devices behind VT-d or AMD-Vi", sdm},
	  [POLICY_PV] = {"split drivers: rings in shared pages (grant tables) and event channels", xen}}},
	{"what the host needs",
	 {[POLICY_BT] = {"Linux on x86-64, and leave to map executable memory; no privilege", own},
	  [POLICY_HVM] = {"VT-x or AMD-V that this kernel may use, its module, and access to /dev/kvm", sdm},
	  [POLICY_PV] = {"Linux on x86-64; no privilege", own}}},
	{"isolation",
	 {[POLICY_BT] = {"one sandboxed process for a VM; guest user and guest kernel share its address space, so "
			 "between them there is no speculative boundary",
			 own},
	  [POLICY_HVM] = {"the processor's guest mode in one sandboxed process for a VM; the kernel's KVM is exposed to "
			  "the guest",
			  sdm},
	  [POLICY_PV] = {"the guest's kernel runs deprivileged; hypercalls are the interface that is exposed", xen}}},
	{"start-up time",
	 {[POLICY_BT] = {"no set-up in the host's kernel; the first run of all code pays for its translation", own},
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
			append(text, size, "%s%s (%s)", comma, policy_measure_name((enum policy_measure)i), f->of[i].why);
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
		else if (f && f->problem[0])
			snprintf(text, size, "cannot be measured: %s", f->problem);
		else if (!policy_mode_can_try(mode, host))
			snprintf(text, size, "not measured: %s", state.in_build ? state.reason : "not in this version");
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


static json_object *cell_json(const struct row *row, enum policy_mode mode, const char *host, const char *guest)
{
	json_object *cell = json_object_new_object();

	json_object_object_add(cell, "text", json_object_new_string(row->cells[mode].text));
	if (host)
		json_object_object_add(cell, "host", json_object_new_string(host));
	if (guest)
		json_object_object_add(cell, "guest", json_object_new_string(guest));
	json_object_object_add(cell, "source", json_object_new_string(row->cells[mode].source));
	return cell;
}

/* What holds for one VM; NULL where a row has nothing to say of it. */
static const char *for_guest(const struct row *row, enum policy_mode mode, const struct policy_decision *d, char *text,
			     size_t size)
{
	static const char *const verdicts[] = {
		[POLICY_CHOSEN] = "chosen", [POLICY_POSSIBLE] = "possible", [POLICY_RULED_OUT] = "ruled out"};
	const struct policy_candidate *c = &d->candidates[mode];
	enum policy_known entry = mode == POLICY_PV ? d->guest.xen_pv : POLICY_YES;

	if (!strcmp(row->aspect, "technique"))
		snprintf(text, size, "%s%s%s", verdicts[c->verdict], c->verdict == POLICY_RULED_OUT ? ": " : "",
			 c->verdict == POLICY_RULED_OUT ? c->reason : "");
	else if (!strcmp(row->aspect, "guest modification and compatibility"))
		snprintf(text, size, "%s",
			 d->guest.problem[0]       ? d->guest.problem
			 : entry == POLICY_YES     ? "its image can be entered this way"
			 : entry == POLICY_UNKNOWN ? "whether its kernel can is not known"
						   : "its kernel cannot");
	else if (!strcmp(row->aspect, "performance") && c->predicted.known)
		snprintf(text, size, "predicted %.3g times native time (workload %s)", c->predicted.cost, d->workload.name);
	else
		return NULL;
	return text;
}

json_object *policy_compare_json(const struct policy_host *host, const struct policy_calibration *calibration,
				 const struct policy_decision *decision)
{
	json_object *table = json_object_new_array();
	char text[2048], guest[800];

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		json_object *row = json_object_new_object();

		json_object_object_add(row, "aspect", json_object_new_string(rows[i].aspect));
		for (int m = 0; m < POLICY_MODE_COUNT; m++) {
			enum policy_mode mode = (enum policy_mode)m;
			const char *at = here(&rows[i], mode, host, calibration, text, sizeof(text));
			const char *of = decision ? for_guest(&rows[i], mode, decision, guest, sizeof(guest)) : NULL;

			json_object_object_add(row, policy_mode_name(mode), cell_json(&rows[i], mode, at, of));
		}
		json_object_array_add(table, row);
	}
	return table;
}

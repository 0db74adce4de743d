/* What this host can run, as libvirt's capabilities and domain capabilities XML: only what is true here and now. */
#include "api/libvirt/handlers.h"
#include "api/libvirt/host.h"
#include "api/libvirt/private.h"
#include "api/libvirt/xml.h"
#include "daemon/settings.h"
#include "policy/policy.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MACHINE "pc"

static void put_escaped(FILE *to, const char *text)
{
	for (; *text; text++)
		switch (*text) {
		case '<': fputs("&lt;", to); break;
		case '>': fputs("&gt;", to); break;
		case '&': fputs("&amp;", to); break;
		case '\'': fputs("&apos;", to); break;
		default:
			if (isprint((unsigned char)*text))
				fputc(*text, to);
		}
}

static void put_element(FILE *to, const char *indent, const char *name, const char *text)
{
	fprintf(to, "%s<%s>", indent, name);
	put_escaped(to, text);
	fprintf(to, "</%s>\n", name);
}

/* The first line of a file of sysfs or /etc. False: there is none. */
static bool read_line(const char *path, char *line, size_t size)
{
	FILE *f = fopen(path, "re");
	bool ok = f && fgets(line, (int)size, f) && line[0] != '\n';

	if (f)
		fclose(f);
	if (ok)
		line[strcspn(line, "\n")] = '\0';
	return ok;
}

static void reply_text(struct lv_call *call, FILE *to, char **text)
{
	if (!to || fclose(to)) {
		free(*text);
		lv_fail(call, VIR_ERR_NO_MEMORY, "out of memory");
		return;
	}
	xdr_put_string(&call->out, *text);
	free(*text);
	lv_reply(call);
}

/* ---- domain types: a libvirt word for each mode ------------------------------------------- */

struct type_row {
	const char *type;
	enum policy_mode mode;
	bool any_mode;
};

static const struct type_row types[] = {
	{"trivisor", POLICY_BT, true}, {"kvm", POLICY_HVM, false}, {"qemu", POLICY_BT, false}, {"xen", POLICY_PV, false}};

/* kvm only where the processor itself virtualizes: installers take it for "fast" when they see it. */
static bool type_usable(const struct type_row *row, const struct policy_host *host)
{
	struct policy_mode_state state;

	for (enum policy_mode m = 0; m < POLICY_MODE_COUNT; m++) {
		if (!row->any_mode && m != row->mode)
			continue;
		policy_mode_judge(m, host, &state);
		if (state.in_build && state.usable && (row->mode != POLICY_HVM || host->kvm_hardware == POLICY_YES))
			return true;
	}
	return false;
}

/* ---- capabilities ----------------------------------------------------------------------------- */

static void put_host_uuid(FILE *to)
{
	char id[64];

	/* machine-id(5): 32 hexadecimal digits, one for each installation. */
	if (read_line("/etc/machine-id", id, sizeof(id)) && strlen(id) == 32 &&
	    strspn(id, "0123456789abcdef") == 32)
		fprintf(to, "    <uuid>%.8s-%.4s-%.4s-%.4s-%.12s</uuid>\n", id, id + 8, id + 12, id + 16, id + 20);
}

static long topology_number(unsigned cpu, const char *file)
{
	char path[128], line[32];

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%u/topology/%s", cpu, file);
	return read_line(path, line, sizeof(line)) ? atol(line) : 0;
}

static void put_host(FILE *to, const struct policy_host *host)
{
	struct host_topology t;

	host_topology(&t);
	fputs("  <host>\n", to);
	put_host_uuid(to);
	fprintf(to, "    <cpu>\n      <arch>%s</arch>\n", t.arch);
	put_element(to, "      ", "vendor",
		    !strcmp(host->cpu_vendor, "GenuineIntel")   ? "Intel"
		    : !strcmp(host->cpu_vendor, "AuthenticAMD") ? "AMD"
								: host->cpu_vendor);
	fprintf(to,
		"      <topology sockets='%u' dies='1' cores='%u' threads='%u'/>\n    </cpu>\n    <power_management/>\n"
		"    <iommu support='%s'/>\n    <topology>\n      <cells num='1'>\n        <cell id='0'>\n"
		"          <memory unit='KiB'>%llu</memory>\n          <cpus num='%u'>\n",
		t.sockets, t.cores, t.threads, host->iommu_groups > 0 ? "yes" : "no", (unsigned long long)t.memory_kib,
		t.cpus);
	for (unsigned i = 0; i < HOST_CPUS_MAX; i++)
		if (t.online[i])
			fprintf(to, "            <cpu id='%u' socket_id='%ld' die_id='0' core_id='%ld' siblings='%u'/>\n", i,
				topology_number(i, "physical_package_id"), topology_number(i, "core_id"), i);
	fputs("          </cpus>\n        </cell>\n      </cells>\n    </topology>\n  </host>\n", to);
}

static void put_guest(FILE *to, const char *arch, unsigned bits, const char *emulator, const struct policy_host *host)
{
	fprintf(to, "  <guest>\n    <os_type>hvm</os_type>\n    <arch name='%s'>\n      <wordsize>%u</wordsize>\n", arch,
		bits);
	put_element(to, "      ", "emulator", emulator);
	fprintf(to, "      <machine maxCpus='%d'>" MACHINE "</machine>\n", VMDEF_VCPUS_MAX);
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (types[i].mode != POLICY_PV && type_usable(&types[i], host))
			fprintf(to, "      <domain type='%s'/>\n", types[i].type);
	fputs("    </arch>\n    <features>\n      <acpi default='on' toggle='no'/>\n      <apic default='on' toggle='no'/>\n",
	      to);
	if (bits == 32)
		fputs("      <pae/>\n", to);
	fputs("      <cpuselection/>\n      <deviceboot/>\n    </features>\n  </guest>\n", to);
}

void lv_connect_get_capabilities(struct lv_call *call, struct vm *vm)
{
	const char *emulator = daemon_settings(call->daemon)->vm_program;
	struct policy_host host;
	char *text = NULL;
	size_t bytes;
	FILE *to = open_memstream(&text, &bytes);

	policy_probe(&host);
	if (to) {
		fputs("<capabilities>\n\n", to);
		put_host(to, &host);
		put_guest(to, "i686", 32, emulator, &host);
		put_guest(to, "x86_64", 64, emulator, &host);
		if (type_usable(&types[3], &host))
			fprintf(to,
				"  <guest>\n    <os_type>xen</os_type>\n    <arch name='x86_64'>\n      <wordsize>64</wordsize>\n"
				"      <machine maxCpus='%d'>xenpv</machine>\n      <domain type='xen'/>\n    </arch>\n  </guest>\n",
				VMDEF_VCPUS_MAX);
		fputs("</capabilities>\n", to);
	}
	reply_text(call, to, &text);
}

/* ---- domain capabilities ------------------------------------------------------------------------ */

static void put_loaders(FILE *to)
{
	fputs("  <os supported='yes'>\n    <enum name='firmware'>\n      <value>bios</value>\n    </enum>\n"
	      "    <loader supported='yes'>\n",
	      to);
	for (size_t i = 0; lv_xml_seabios[i]; i++)
		if (access(lv_xml_seabios[i], R_OK) == 0)
			put_element(to, "      ", "value", lv_xml_seabios[i]);
	fputs("      <enum name='type'>\n        <value>rom</value>\n      </enum>\n      <enum name='readonly'>\n"
	      "        <value>yes</value>\n      </enum>\n      <enum name='secure'>\n        <value>no</value>\n      </enum>\n"
	      "    </loader>\n  </os>\n",
	      to);
}

/* The guest's processor is the host's, less what the machine hides: nothing else can be chosen. */
static void put_fixed_part(FILE *to)
{
	fputs("  <cpu>\n    <mode name='host-passthrough' supported='yes'>\n      <enum name='hostPassthroughMigratable'>\n"
	      "        <value>off</value>\n      </enum>\n    </mode>\n    <mode name='maximum' supported='yes'>\n"
	      "      <enum name='maximumMigratable'>\n        <value>off</value>\n      </enum>\n    </mode>\n"
	      "    <mode name='host-model' supported='no'/>\n    <mode name='custom' supported='no'/>\n  </cpu>\n"
	      "  <memoryBacking supported='no'/>\n"
	      "  <devices>\n    <disk supported='yes'>\n      <enum name='diskDevice'>\n        <value>disk</value>\n      </enum>\n"
	      "      <enum name='bus'>\n        <value>virtio</value>\n      </enum>\n      <enum name='model'>\n"
	      "        <value>virtio</value>\n        <value>virtio-non-transitional</value>\n      </enum>\n    </disk>\n"
	      "    <graphics supported='yes'>\n      <enum name='type'>\n        <value>vnc</value>\n      </enum>\n    </graphics>\n"
	      "    <video supported='yes'>\n      <enum name='modelType'>\n        <value>vga</value>\n        <value>none</value>\n"
	      "      </enum>\n    </video>\n    <hostdev supported='no'/>\n"
	      "    <rng supported='yes'>\n      <enum name='model'>\n        <value>virtio</value>\n      </enum>\n"
	      "      <enum name='backendModel'>\n        <value>random</value>\n      </enum>\n    </rng>\n"
	      "    <filesystem supported='yes'>\n      <enum name='driverType'>\n        <value>virtiofs</value>\n      </enum>\n    </filesystem>\n    <tpm supported='no'/>\n    <redirdev supported='no'/>\n"
	      "    <channel supported='yes'>\n      <enum name='type'>\n        <value>unix</value>\n      </enum>\n    </channel>\n  </devices>\n"
	      "  <features>\n    <gic supported='no'/>\n    <vmcoreinfo supported='no'/>\n    <genid supported='no'/>\n"
	      "    <backingStoreInput supported='no'/>\n    <backup supported='no'/>\n    <sev supported='no'/>\n"
	      "    <sgx supported='no'/>\n  </features>\n",
	      to);
}

void lv_connect_get_domain_capabilities(struct lv_call *call, struct vm *vm)
{
	const char *arch = call->args[1].text ? call->args[1].text : "x86_64", *type = call->args[3].text;
	const struct type_row *row = NULL;
	struct policy_host host;
	char *text = NULL;
	size_t bytes;
	FILE *to;

	if (!lv_flags(call, call->args[4].u, 0))
		return;
	policy_probe(&host);
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]) && !row; i++)
		if ((!type || !strcmp(type, types[i].type)) && type_usable(&types[i], &host))
			row = &types[i];
	if (strcmp(arch, "x86_64") && strcmp(arch, "i686")) {
		lv_fail(call, VIR_ERR_INVALID_ARG, "unknown architecture: %.60s", arch);
		return;
	}
	if (!row) {
		lv_fail(call, VIR_ERR_INVALID_ARG, "the domain type \"%.60s\" is not possible on this host; capabilities lists "
						   "those that are", type ? type : "");
		return;
	}
	to = open_memstream(&text, &bytes);
	if (to) {
		fputs("<domainCapabilities>\n", to);
		put_element(to, "  ", "path", daemon_settings(call->daemon)->vm_program);
		put_element(to, "  ", "domain", row->type);
		put_element(to, "  ", "machine", row->mode == POLICY_PV ? "xenpv" : MACHINE);
		put_element(to, "  ", "arch", arch);
		fprintf(to, "  <vcpu max='%d'/>\n  <iothreads supported='no'/>\n", VMDEF_VCPUS_MAX);
		put_loaders(to);
		put_fixed_part(to);
		fputs("</domainCapabilities>\n", to);
	}
	reply_text(call, to, &text);
}

/* ---- what the firmware says of the host ------------------------------------------------------------ */

void lv_connect_get_sysinfo(struct lv_call *call, struct vm *vm)
{
	static const struct {
		const char *group, *name, *file;
	} rows[] = {{"bios", "vendor", "bios_vendor"},         {"bios", "version", "bios_version"},
		    {"bios", "date", "bios_date"},             {"system", "manufacturer", "sys_vendor"},
		    {"system", "product", "product_name"},     {"system", "version", "product_version"},
		    {"system", "serial", "product_serial"},    {"baseBoard", "manufacturer", "board_vendor"},
		    {"baseBoard", "product", "board_name"},    {"baseBoard", "version", "board_version"}};
	const char *group = "";
	char *text = NULL;
	size_t bytes;
	FILE *to;

	if (!lv_flags(call, call->args[0].u, 0))
		return;
	to = open_memstream(&text, &bytes);
	if (to)
		fputs("<sysinfo type='smbios'>\n", to);
	for (size_t i = 0; to && i < sizeof(rows) / sizeof(rows[0]); i++) {
		char path[128], line[256];

		snprintf(path, sizeof(path), "/sys/class/dmi/id/%s", rows[i].file);
		if (!read_line(path, line, sizeof(line)))
			continue;
		if (strcmp(group, rows[i].group))
			fprintf(to, "%s%s%s  <%s>\n", group[0] ? "  </" : "", group, group[0] ? ">\n" : "", rows[i].group);
		group = rows[i].group;
		fprintf(to, "    <entry name='%s'>", rows[i].name);
		put_escaped(to, line);
		fputs("</entry>\n", to);
	}
	if (to && group[0])
		fprintf(to, "  </%s>\n", group);
	if (to)
		fputs("</sysinfo>\n", to);
	reply_text(call, to, &text);
}

/* What is known of a host as rows: one table shows them, says where they come from, and reads fact files of others. */
#include "policy/policy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum fact_type {
	FACT_TEXT,     /* char[size]; empty: null */
	FACT_BOOL,     /* bool */
	FACT_KNOWN,    /* enum policy_known; unknown: null */
	FACT_UNSIGNED, /* unsigned; 0: null */
	FACT_COUNT,    /* int; -1: null */
	FACT_U64,
	FACT_ERRNO,    /* int: "yes" for 0, else strerror's text */
	FACT_FEATURES, /* uint64_t: names separated by blanks */
	FACT_MODES,    /* unsigned: the same, of modes */
};

struct fact {
	const char *name;
	enum fact_type type;
	size_t offset, size;
	const char *source;
};

#define AT(member) offsetof(struct policy_host, member), sizeof(((struct policy_host *)NULL)->member)
#define INTEL "/sys/module/kvm_intel/parameters"
#define AMD "/sys/module/kvm_amd/parameters"

static const struct fact facts[] = {
	{"cpu_vendor", FACT_TEXT, AT(cpu_vendor), "CPUID leaf 0"},
	{"cpu_model", FACT_TEXT, AT(cpu_model), "CPUID leaves 0x80000002 to 0x80000004"},
	{"cpu_features", FACT_FEATURES, AT(features), "CPUID leaves 1, 7, 0x80000001 and 0x80000008"},
	{"kernel", FACT_TEXT, AT(kernel), "uname(2)"},
	{"engines", FACT_MODES, AT(engines), "this version of trivisor"},
	{"under_hypervisor", FACT_BOOL, AT(under_hypervisor), "CPUID leaf 1, ECX bit 31"},
	{"hypervisor", FACT_TEXT, AT(hypervisor), "CPUID leaf 0x40000000"},
	{"container", FACT_TEXT, AT(container), "/run/systemd/container, /.dockerenv, /run/.containerenv"},
	{"cores", FACT_UNSIGNED, AT(cores), "sched_getaffinity(2)"},
	{"numa_nodes", FACT_UNSIGNED, AT(numa_nodes), "/sys/devices/system/node"},
	{"memory_mib", FACT_U64, AT(memory_mib), "/proc/meminfo MemTotal"},
	{"available_mib", FACT_U64, AT(available_mib), "/proc/meminfo MemAvailable"},
	{"huge_pages_2m_free", FACT_U64, AT(huge_pages_free), "/sys/kernel/mm/hugepages/hugepages-2048kB"},
	{"huge_pages_1g_free", FACT_U64, AT(huge_pages_1g_free), "/sys/kernel/mm/hugepages/hugepages-1048576kB"},
	{"transparent_huge_pages", FACT_TEXT, AT(transparent_huge_pages), "/sys/kernel/mm/transparent_hugepage/enabled"},
	{"executable_memfd", FACT_ERRNO, AT(exec_memory_error), "a memfd mapped PROT_EXEC"},
	{"cpuid_vmx", FACT_KNOWN, AT(cpuid_vmx), "CPUID leaf 1, ECX bit 5"},
	{"cpuid_svm", FACT_KNOWN, AT(cpuid_svm), "CPUID leaf 0x80000001, ECX bit 2"},
	{"vmx", FACT_KNOWN, AT(vmx), "/proc/cpuinfo flags"},
	{"svm", FACT_KNOWN, AT(svm), "/proc/cpuinfo flags"},
	{"firmware_locked", FACT_KNOWN, AT(firmware_locked),
	 "MSR 0x3a or 0xc0010114, else CPUID against /proc/cpuinfo"},
	{"kvm_device", FACT_BOOL, AT(kvm_device), "/dev/kvm"},
	{"kvm_access", FACT_TEXT, AT(kvm_access), "stat(\"/dev/kvm\")"},
	{"kvm_opens", FACT_ERRNO, AT(kvm_open_error), "open(\"/dev/kvm\", O_RDWR)"},
	{"kvm_api_version", FACT_COUNT, AT(kvm_api), "ioctl KVM_GET_API_VERSION"},
	{"kvm_max_vcpus", FACT_COUNT, AT(kvm_max_vcpus), "KVM_CAP_MAX_VCPUS"},
	{"kvm_irqchip", FACT_KNOWN, AT(kvm_irqchip), "KVM_CAP_IRQCHIP"},
	{"kvm_pit", FACT_KNOWN, AT(kvm_pit), "KVM_CAP_PIT2"},
	{"kvm_ioeventfd", FACT_KNOWN, AT(kvm_ioeventfd), "KVM_CAP_IOEVENTFD"},
	{"kvm_irqfd", FACT_KNOWN, AT(kvm_irqfd), "KVM_CAP_IRQFD"},
	{"kvm_nested_state", FACT_KNOWN, AT(kvm_nested_state), "KVM_CAP_NESTED_STATE"},
	{"kvm_clock", FACT_KNOWN, AT(kvm_clock), "KVM_CAP_ADJUST_CLOCK"},
	{"module_kvm_intel", FACT_KNOWN, AT(kvm_intel), "/sys/module"},
	{"module_kvm_amd", FACT_KNOWN, AT(kvm_amd), "/sys/module"},
	{"module_kvm_pvm", FACT_KNOWN, AT(kvm_pvm), "/sys/module"},
	{"kvm_is_hardware", FACT_KNOWN, AT(kvm_hardware), "/dev/kvm, the flags and the modules together"},
	{"nested_virtualization", FACT_KNOWN, AT(nested), "/sys/module/kvm_{intel,amd}/parameters/nested"},
	{"kvm_vmware_backdoor", FACT_KNOWN, AT(backdoor), "/sys/module/kvm/parameters/enable_vmware_backdoor"},
	{"ept", FACT_KNOWN, AT(ept), INTEL "/ept"},
	{"unrestricted_guest", FACT_KNOWN, AT(unrestricted_guest), INTEL "/unrestricted_guest"},
	{"vpid", FACT_KNOWN, AT(vpid), INTEL "/vpid"},
	{"apicv", FACT_KNOWN, AT(apicv), INTEL "/enable_apicv"},
	{"npt", FACT_KNOWN, AT(npt), AMD "/npt"},
	{"avic", FACT_KNOWN, AT(avic), AMD "/avic"},
	{"asids", FACT_COUNT, AT(asids), "CPUID 0x8000000a"},
	{"iommu_units", FACT_COUNT, AT(iommu_units), "/sys/class/iommu"},
	{"iommu_groups", FACT_COUNT, AT(iommu_groups), "/sys/kernel/iommu_groups"},
};
#define FACTS (sizeof(facts) / sizeof(facts[0]))

/* ---- remedies ---------------------------------------------------------------------------- */

static bool forbidden(const struct policy_host *host)
{
	return host->kvm_open_error == EACCES || host->kvm_open_error == EPERM;
}

/* kvm_access is "owner:group 0660": whether being in that group helps. */
static void permission_remedy(const struct policy_host *host, char *ret_remedy, size_t size)
{
	const char *mode = strrchr(host->kvm_access, ' ');
	bool group_may = !mode || (strtoul(mode, NULL, 8) & 060) == 060;

	snprintf(ret_remedy, size, "%sadd the daemon's user to the group that owns /dev/kvm%s%s%s",
		 group_may ? "" : "let a group use it (chgrp kvm /dev/kvm, chmod 0660 /dev/kvm), and ",
		 host->kvm_access[0] ? " (" : "", host->kvm_access, host->kvm_access[0] ? ")" : "");
}

void policy_hardware_remedy(const struct policy_host *host, char *ret_remedy, size_t size)
{
	bool intel = strstr(host->cpu_vendor, "Intel") != NULL;
	const char *extension = intel ? "VT-x" : "AMD-V", *module = intel ? "kvm_intel" : "kvm_amd";
	bool has = host->vmx == POLICY_YES || host->svm == POLICY_YES;
	bool cpuid_has = host->cpuid_vmx == POLICY_YES || host->cpuid_svm == POLICY_YES;
	bool loaded = host->kvm_intel == POLICY_YES || host->kvm_amd == POLICY_YES;

	ret_remedy[0] = '\0';
	if (host->kvm_pvm == POLICY_YES && host->kvm_device && forbidden(host))
		permission_remedy(host, ret_remedy, size);
	else if (host->kvm_pvm == POLICY_YES)
		snprintf(ret_remedy, size, "a host with VT-x or AMD-V, or with nested virtualization, has a real one");
	else if (host->firmware_locked == POLICY_YES)
		snprintf(ret_remedy, size, "enable %s in the firmware's setup (it is switched off there)", extension);
	else if (!has && !cpuid_has && host->under_hypervisor)
		snprintf(ret_remedy, size, "ask the outer hypervisor's owner for nested virtualization");
	else if (!has && host->cpuid_vmx == POLICY_NO && host->cpuid_svm == POLICY_NO)
		snprintf(ret_remedy, size, "none: this processor has neither VT-x nor AMD-V; use a host that has");
	else if (!has)
		snprintf(ret_remedy, size, "enable %s in the firmware's setup, and load %s", extension, module);
	else if (!host->kvm_device && host->container[0])
		snprintf(ret_remedy, size, "give the container /dev/kvm (%s run --device /dev/kvm)",
			 !strcmp(host->container, "podman") ? "podman" : "docker");
	else if (!host->kvm_device)
		snprintf(ret_remedy, size, "load %s (modprobe %s)%s", module, module,
			 loaded ? ", and let udev make /dev/kvm" : "");
	else if (forbidden(host))
		permission_remedy(host, ret_remedy, size);
	else if (host->kvm_open_error)
		snprintf(ret_remedy, size, "load %s", module);
	else if (host->kvm_hardware == POLICY_UNKNOWN)
		snprintf(ret_remedy, size, "mount /sys and /proc where the daemon runs");
}

const char *policy_iommu_remedy(const struct policy_host *host)
{
	if (host->iommu_groups > 0)
		return "";
	if (host->iommu_units > 0)
		return "boot with intel_iommu=on or amd_iommu=on";
	if (host->under_hypervisor)
		return "ask the outer hypervisor's owner for a virtual IOMMU";
	return "enable VT-d or AMD-Vi in the firmware's setup, and boot with intel_iommu=on";
}

void policy_nested_remedy(const struct policy_host *host, char *ret_remedy, size_t size)
{
	ret_remedy[0] = '\0';
	if (host->kvm_hardware != POLICY_YES)
		policy_hardware_remedy(host, ret_remedy, size);
	else if (host->nested != POLICY_YES)
		snprintf(ret_remedy, size, "load %s with nested=1", host->kvm_amd == POLICY_YES ? "kvm_amd" : "kvm_intel");
}

/* "" when nothing is missing. */
static void remedy_of(const struct policy_host *host, const char *name, char *remedy, size_t size)
{
	bool intel = host->kvm_intel == POLICY_YES, amd = host->kvm_amd == POLICY_YES;

	remedy[0] = '\0';
	if (!strcmp(name, "executable_memfd") && host->exec_memory_error)
		snprintf(remedy, size, "set sysctl vm.memfd_noexec=0, or let the security policy allow executable memory");
	else if (!strcmp(name, "kvm_opens") && host->kvm_device && host->kvm_open_error)
		policy_hardware_remedy(host, remedy, size);
	else if (!strcmp(name, "kvm_is_hardware") && host->kvm_hardware != POLICY_YES && !(host->kvm_device && host->kvm_open_error))
		policy_hardware_remedy(host, remedy, size);
	else if (!strcmp(name, "firmware_locked") && host->firmware_locked == POLICY_YES)
		policy_hardware_remedy(host, remedy, size);
	else if (!strcmp(name, "nested_virtualization") && host->nested == POLICY_NO && (intel || amd))
		snprintf(remedy, size, "load %s with nested=1 (only guests that run VMs themselves need it)",
			 intel ? "kvm_intel" : "kvm_amd");
	else if (!strcmp(name, "ept") && host->ept == POLICY_NO)
		snprintf(remedy, size, "load kvm_intel with ept=1 if the processor has it; shadow paging is slow");
	else if (!strcmp(name, "npt") && host->npt == POLICY_NO)
		snprintf(remedy, size, "load kvm_amd with npt=1 if the processor has it; shadow paging is slow");
	else if (!strcmp(name, "iommu_groups") && host->iommu_groups == 0)
		snprintf(remedy, size, "%s (only passthrough needs it)", policy_iommu_remedy(host));
}

/* ---- out ------------------------------------------------------------------------------------ */

static json_object *features_text(uint64_t features)
{
	char text[CPU_FEATURE_COUNT * 16] = "";
	size_t n = 0;

	for (int i = 0; i < CPU_FEATURE_COUNT; i++)
		if (features >> i & 1)
			n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%s", n ? " " : "",
					      policy_feature_name((enum cpu_feature)i));
	return json_object_new_string(text);
}

static json_object *modes_text(unsigned modes)
{
	char text[64] = "";
	size_t n = 0;

	for (int i = 0; i < POLICY_MODE_COUNT; i++)
		if (modes >> i & 1)
			n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%s", n ? " " : "",
					      policy_mode_name((enum policy_mode)i));
	return json_object_new_string(text);
}

static json_object *value_of(const struct policy_host *host, const struct fact *fact)
{
	const void *at = (const char *)host + fact->offset;
	int number;

	switch (fact->type) {
	case FACT_TEXT: return *(const char *)at ? json_object_new_string(at) : NULL;
	case FACT_BOOL: return json_object_new_boolean(*(const bool *)at);
	case FACT_KNOWN:
		if (*(const enum policy_known *)at == POLICY_UNKNOWN)
			return NULL;
		return json_object_new_boolean(*(const enum policy_known *)at == POLICY_YES);
	case FACT_UNSIGNED:
		return *(const unsigned *)at ? json_object_new_int64(*(const unsigned *)at) : NULL;
	case FACT_COUNT:
		number = *(const int *)at;
		return number >= 0 ? json_object_new_int(number) : NULL;
	case FACT_U64: return json_object_new_int64((int64_t) * (const uint64_t *)at);
	case FACT_ERRNO:
		number = *(const int *)at;
		return json_object_new_string(number ? strerror(number) : "yes");
	case FACT_FEATURES: return features_text(*(const uint64_t *)at);
	case FACT_MODES: return modes_text(*(const unsigned *)at);
	}
	return NULL;
}

json_object *policy_host_facts(const struct policy_host *host)
{
	json_object *rows = json_object_new_array();
	char remedy[200];

	for (size_t i = 0; i < FACTS; i++) {
		json_object *row = json_object_new_object();

		/* There is nothing to open. */
		if (!strcmp(facts[i].name, "kvm_opens") && !host->kvm_device) {
			json_object_put(row);
			continue;
		}
		json_object_object_add(row, "name", json_object_new_string(facts[i].name));
		json_object_object_add(row, "value", value_of(host, &facts[i]));
		json_object_object_add(row, "source", json_object_new_string(facts[i].source));
		remedy_of(host, facts[i].name, remedy, sizeof(remedy));
		if (remedy[0])
			json_object_object_add(row, "remedy", json_object_new_string(remedy));
		json_object_array_add(rows, row);
	}
	return rows;
}

/* ---- in ----------------------------------------------------------------------------------------- */

static int errno_of(const char *text)
{
	if (!strcmp(text, "yes"))
		return 0;
	for (int i = 1; i < 134; i++)
		if (!strcmp(text, strerror(i)))
			return i;
	return EIO;
}

/* Words that are not known are passed over: another version may know more. */
static uint64_t parse_words(const char *text, bool modes)
{
	char copy[1024], *save = NULL;
	enum cpu_feature feature;
	enum policy_mode mode;
	uint64_t set = 0;

	snprintf(copy, sizeof(copy), "%s", text);
	for (char *word = strtok_r(copy, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
		if (modes && policy_mode_parse(word, &mode))
			set |= 1ull << mode;
		else if (!modes && policy_feature_parse(word, &feature))
			set |= 1ull << feature;
	}
	return set;
}

static bool set_number(json_object *value, double max, double *ret)
{
	*ret = json_object_get_double(value);
	return (json_object_is_type(value, json_type_int) || json_object_is_type(value, json_type_double)) && *ret >= 0 &&
	       *ret <= max;
}

static bool set_value(struct policy_host *host, const struct fact *fact, json_object *value)
{
	void *at = (char *)host + fact->offset;
	bool text = json_object_is_type(value, json_type_string), yes = json_object_is_type(value, json_type_boolean);
	double number = 0;

	switch (fact->type) {
	case FACT_TEXT:
		if (text)
			snprintf(at, fact->size, "%s", json_object_get_string(value));
		return text;
	case FACT_BOOL:
		if (yes)
			*(bool *)at = json_object_get_boolean(value);
		return yes;
	case FACT_KNOWN:
		if (yes)
			*(enum policy_known *)at = json_object_get_boolean(value) ? POLICY_YES : POLICY_NO;
		return yes;
	case FACT_UNSIGNED:
		if (!set_number(value, 1e6, &number))
			return false;
		*(unsigned *)at = (unsigned)number;
		return true;
	case FACT_COUNT:
		if (!set_number(value, 1e6, &number))
			return false;
		*(int *)at = (int)number;
		return true;
	case FACT_U64:
		if (!set_number(value, 1e12, &number))
			return false;
		*(uint64_t *)at = (uint64_t)number;
		return true;
	case FACT_ERRNO:
		if (text)
			*(int *)at = errno_of(json_object_get_string(value));
		return text;
	case FACT_FEATURES:
		if (text)
			*(uint64_t *)at = parse_words(json_object_get_string(value), false);
		return text;
	case FACT_MODES:
		if (text)
			*(unsigned *)at = (unsigned)parse_words(json_object_get_string(value), true);
		return text;
	}
	return false;
}

static void set_unknown(struct policy_host *host)
{
	memset(host, 0, sizeof(*host));
	for (size_t i = 0; i < FACTS; i++)
		if (facts[i].type == FACT_KNOWN)
			*(enum policy_known *)((char *)host + facts[i].offset) = POLICY_UNKNOWN;
		else if (facts[i].type == FACT_COUNT)
			*(int *)((char *)host + facts[i].offset) = -1;
}

bool policy_host_parse(json_object *rows, struct policy_host *ret_host, char *error, size_t error_size)
{
	set_unknown(ret_host);
	if (!json_object_is_type(rows, json_type_array)) {
		snprintf(error, error_size, "facts: an array is wanted, as host.probe answers it");
		return false;
	}
	for (size_t i = 0; i < json_object_array_length(rows); i++) {
		json_object *row = json_object_array_get_idx(rows, i), *name = NULL, *value = NULL;
		size_t f = 0;

		if (!json_object_is_type(row, json_type_object) || !json_object_object_get_ex(row, "name", &name) ||
		    !json_object_object_get_ex(row, "value", &value) || !json_object_is_type(name, json_type_string)) {
			snprintf(error, error_size, "facts[%zu]: an object with name and value is wanted", i);
			return false;
		}
		while (f < FACTS && strcmp(facts[f].name, json_object_get_string(name)))
			f++;
		if (f < FACTS && value && !set_value(ret_host, &facts[f], value)) {
			snprintf(error, error_size, "facts[%zu]: %s cannot be %.60s", i, facts[f].name,
				 json_object_get_string(value));
			return false;
		}
	}
	return true;
}

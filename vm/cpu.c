/* The processor that the guest sees: its name and features, and what of the host's it does not get, with the reason. */
#include "vm/private.h"

#include <cpuid.h>
#include <json-c/json.h>
#include <string.h>

/* clang-format off: tables of names as Linux has them in /proc/cpuinfo, bit 0 first; "" where it has none or they are no features */

static const char *const leaf1_edx[32] = {
	"fpu", "vme", "de", "pse", "tsc", "msr", "pae", "mce", "cx8", "apic", "", "sep", "mtrr", "pge", "mca", "cmov",
	"pat", "pse36", "pn", "clflush", "", "dts", "acpi", "mmx", "fxsr", "sse", "sse2", "ss", "ht", "tm", "ia64", "pbe",
};
static const char *const leaf1_ecx[32] = {
	"pni", "pclmulqdq", "dtes64", "monitor", "ds_cpl", "vmx", "smx", "est", "tm2", "ssse3", "cid", "sdbg", "fma", "cx16", "xtpr", "pdcm",
	"", "pcid", "dca", "sse4_1", "sse4_2", "x2apic", "movbe", "popcnt", "tsc_deadline_timer", "aes", "xsave", "", "avx", "f16c", "rdrand", "hypervisor",
};
static const char *const leaf7_ebx[32] = {
	"fsgsbase", "tsc_adjust", "sgx", "bmi1", "hle", "avx2", "", "smep", "bmi2", "erms", "invpcid", "rtm", "cqm", "", "mpx", "rdt_a",
	"avx512f", "avx512dq", "rdseed", "adx", "smap", "avx512ifma", "", "clflushopt", "clwb", "intel_pt", "avx512pf", "avx512er", "avx512cd", "sha_ni", "avx512bw", "avx512vl",
};
static const char *const leaf7_ecx[32] = {
	"", "avx512vbmi", "umip", "pku", "", "waitpkg", "avx512_vbmi2", "", "gfni", "vaes", "vpclmulqdq", "avx512_vnni", "avx512_bitalg", "tme", "avx512_vpopcntdq", "",
	"la57", "", "", "", "", "", "rdpid", "", "bus_lock_detect", "cldemote", "", "movdiri", "movdir64b", "enqcmd", "", "",
};
static const char *const leaf7_edx[32] = {
	"", "", "", "", "fsrm", "", "", "", "avx512_vp2intersect", "", "md_clear", "", "", "", "serialize", "",
	"tsxldtrk", "", "pconfig", "arch_lbr", "ibt", "", "amx_bf16", "avx512_fp16", "amx_tile", "amx_int8", "", "", "flush_l1d", "arch_capabilities", "", "",
};
static const char *const ext1_edx[32] = {
	"", "", "", "", "", "", "", "", "", "", "", "syscall", "", "", "", "",
	"", "", "", "mp", "nx", "", "mmxext", "", "", "fxsr_opt", "pdpe1gb", "rdtscp", "", "lm", "3dnowext", "3dnow",
};
static const char *const ext1_ecx[32] = {
	"lahf_lm", "cmp_legacy", "svm", "extapic", "cr8_legacy", "abm", "sse4a", "misalignsse", "3dnowprefetch", "osvw", "ibs", "xop", "skinit", "wdt", "", "lwp",
	"fma4", "tce", "", "nodeid_msr", "", "tbm", "topoext", "perfctr_core", "perfctr_nb", "", "bpext", "ptsc", "perfctr_llc", "mwaitx", "", "",
};
static const char *const ext8_ebx[32] = {
	"clzero", "irperf", "xsaveerptr", "", "rdpru", "", "", "", "", "wbnoinvd", "", "", "amd_ibpb", "", "amd_ibrs", "amd_stibp",
	"", "", "", "", "", "", "", "", "amd_ssbd", "virt_ssbd", "", "", "", "", "", "",
};

static const struct {
	uint32_t leaf, subleaf;
	unsigned reg; /* EAX to EDX */
	const char *const *names;
} words[] = {
	{1, 0, 3, leaf1_edx}, {1, 0, 2, leaf1_ecx}, {7, 0, 1, leaf7_ebx}, {7, 0, 2, leaf7_ecx}, {7, 0, 3, leaf7_edx},
	{0x80000001, 0, 3, ext1_edx}, {0x80000001, 0, 2, ext1_ecx}, {0x80000008, 0, 1, ext8_ebx},
};

enum source { HOST, ENGINE, REQUEST, AVX512 };
static const struct {
	uint32_t leaf, subleaf;
	unsigned reg, bit;
	enum source source;
	const char *name;
} wishes[] = {
#define CPU_FEATURE(name, leaf, subleaf, reg, bit, source) {leaf, subleaf, reg, bit, source, #name},
#include "proto/cpu_features.def"
#undef CPU_FEATURE
};

/* clang-format on */

/* Why a feature of the host's is not the guest's. */
static const char *reason_of(const struct vm *vm, uint32_t leaf, uint32_t subleaf, unsigned reg, unsigned bit, const char *name,
			     char *text, size_t bytes)
{
	for (unsigned i = 0; i < ARRAY_SIZE(wishes); i++) {
		if (wishes[i].leaf != leaf || wishes[i].subleaf != subleaf || wishes[i].reg != reg || wishes[i].bit != bit)
			continue;
		if (vm->def->cpu_feature[i] == VMDEF_NO)
			return "the definition takes it away";
		if (wishes[i].source == HOST || wishes[i].source == ENGINE)
			return "it depends on another that is not offered";
		snprintf(text, bytes, "%s; the definition's cpu.%s asks for it",
			 wishes[i].source == AVX512 ? "its state makes switches dearer" : "it costs more than it gives in mode bt", wishes[i].name);
		return text;
	}
	if (!strcmp(name, "vmx") || !strcmp(name, "svm") || !strcmp(name, "smx") || !strcmp(name, "skinit"))
		return "guests of guests are not supported";
	if (!strcmp(name, "monitor") || !strcmp(name, "mwaitx") || !strcmp(name, "waitpkg"))
		return "hlt sleeps without keeping a host processor busy";
	return "not in every mode of this version, and a VM can move between modes";
}

static void put_word(struct vm *vm, unsigned w, struct json_object *features, struct json_object *masked)
{
	uint32_t guest[4], host[4] = {0};

	cpuid_query(machine_cpuid(vm->machine), 0, 0, 0, words[w].leaf, words[w].subleaf, guest);
	__get_cpuid_count(words[w].leaf, words[w].subleaf, &host[0], &host[1], &host[2], &host[3]);
	for (unsigned bit = 0; bit < 32; bit++) {
		const char *name = words[w].names[bit];
		char text[160];
		if (!name[0])
			continue;
		if (guest[words[w].reg] >> bit & 1) {
			json_object_array_add(features, json_object_new_string(name));
		} else if (host[words[w].reg] >> bit & 1) {
			struct json_object *m = json_object_new_object();
			const char *why = reason_of(vm, words[w].leaf, words[w].subleaf, words[w].reg, bit, name, text, sizeof(text));
			json_object_object_add(m, "feature", json_object_new_string(name));
			json_object_object_add(m, "reason", json_object_new_string(why));
			json_object_array_add(masked, m);
		}
	}
}

struct json_object *vm_cpu_json(struct vm *vm)
{
	struct json_object *o = json_object_new_object(), *features = json_object_new_array(), *masked = json_object_new_array();
	const struct cpuid_model *model = machine_cpuid(vm->machine);
	uint32_t r[4];
	char text[49] = "";

	cpuid_query(model, 0, 0, 0, 0, 0, r);
	memcpy(text, &r[1], 4);
	memcpy(text + 4, &r[3], 4);
	memcpy(text + 8, &r[2], 4);
	text[12] = 0;
	json_object_object_add(o, "vendor", json_object_new_string(text));
	cpuid_query(model, 0, 0, 0, 1, 0, r);
	unsigned family = r[0] >> 8 & 15, number = r[0] >> 4 & 15;
	if (family == 6 || family == 15)
		number |= r[0] >> 12 & 0xf0;
	if (family == 15)
		family += r[0] >> 20 & 255;
	json_object_object_add(o, "family", json_object_new_int((int)family));
	json_object_object_add(o, "model", json_object_new_int((int)number));
	json_object_object_add(o, "stepping", json_object_new_int((int)(r[0] & 15)));
	for (unsigned i = 0; i < 3; i++) {
		cpuid_query(model, 0, 0, 0, 0x80000002 + i, 0, r);
		memcpy(text + 16 * i, r, 16);
	}
	text[48] = 0;
	for (char *c = text; *c; c++)
		if (*c < ' ' || *c > '~')
			*c = '?';
	json_object_object_add(o, "name", json_object_new_string(text + strspn(text, " ")));
	for (unsigned w = 0; w < ARRAY_SIZE(words); w++)
		put_word(vm, w, features, masked);
	json_object_object_add(o, "features", features);
	json_object_object_add(o, "masked", masked);
	return o;
}

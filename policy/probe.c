/* What the host offers for running guests. */
#include "policy/policy.h"

#include <cpuid.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U /* linux/memfd.h, since Linux 6.3 */
#endif

/* The first line of a small file without its newline. 0 or -errno. */
static int read_line(const char *path, char *line, size_t size)
{
	FILE *file = fopen(path, "re");
	char *got;

	if (!file)
		return -errno;
	got = fgets(line, (int)size, file);
	fclose(file);
	if (!got)
		return -ENODATA;
	line[strcspn(line, "\n")] = '\0';
	return 0;
}

static uint64_t meminfo_kib(const char *key)
{
	FILE *file = fopen("/proc/meminfo", "re");
	char line[128];
	uint64_t kib = 0;

	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, key, strlen(key))) {
			kib = strtoull(line + strlen(key), NULL, 10);
			break;
		}
	if (file)
		fclose(file);
	return kib;
}

/* ---- processor ---------------------------------------------------------------------- */

static const struct {
	const char *name;
	unsigned leaf, subleaf, reg, bit;
} features[CPU_FEATURE_COUNT] = {
#define CPU_FEATURE(name, leaf, subleaf, reg, bit, source) {#name, leaf, subleaf, reg, bit},
#include "proto/cpu_features.def"
#undef CPU_FEATURE
};
_Static_assert(CPU_FEATURE_COUNT <= 64, "struct policy_host keeps them in one word");

const char *policy_feature_name(enum cpu_feature feature)
{
	return features[feature].name;
}

bool policy_feature_parse(const char *name, enum cpu_feature *ret_feature)
{
	for (int i = 0; i < CPU_FEATURE_COUNT; i++)
		if (!strcmp(features[i].name, name)) {
			*ret_feature = (enum cpu_feature)i;
			return true;
		}
	return false;
}

static unsigned ecx_of(unsigned leaf)
{
	unsigned eax, ebx, ecx, edx;

	return __get_cpuid(leaf, &eax, &ebx, &ecx, &edx) ? ecx : 0;
}

static void probe_cpuid(struct policy_host *host)
{
	unsigned eax, ebx, ecx, edx, max;
	char brand[49] = "";
	size_t skip = 0;

	/* AMD APM vol. 3 appendix E, Intel SDM vol. 2 CPUID: leaf 0 names the vendor, 0x80000002..4 the model. */
	if (!__get_cpuid(0, &max, &ebx, &ecx, &edx))
		return;
	memcpy(host->cpu_vendor, &ebx, 4);
	memcpy(host->cpu_vendor + 4, &edx, 4);
	memcpy(host->cpu_vendor + 8, &ecx, 4);
	for (unsigned i = 0; i < 3; i++)
		if (__get_cpuid(0x80000002 + i, &eax, &ebx, &ecx, &edx)) {
			unsigned words[4] = {eax, ebx, ecx, edx};

			memcpy(brand + i * 16, words, 16);
		}
	while (brand[skip] == ' ')
		skip++;
	snprintf(host->cpu_model, sizeof(host->cpu_model), "%s", brand + skip);

	__cpuid(1, eax, ebx, ecx, edx);
	host->under_hypervisor = ecx >> 31;
	if (host->under_hypervisor) {
		__cpuid(0x40000000, eax, ebx, ecx, edx);
		memcpy(host->hypervisor, &ebx, 4);
		memcpy(host->hypervisor + 4, &ecx, 4);
		memcpy(host->hypervisor + 8, &edx, 4);
		for (char *c = host->hypervisor; *c; c++)
			if (!isprint((unsigned char)*c))
				*c = '?';
	}
	host->cpuid_vmx = ecx_of(1) >> 5 & 1 ? POLICY_YES : POLICY_NO;
	host->cpuid_svm = ecx_of(0x80000001) >> 2 & 1 ? POLICY_YES : POLICY_NO;
	for (int i = 0; i < CPU_FEATURE_COUNT; i++) {
		unsigned r[4] = {0};

		if (__get_cpuid_count(features[i].leaf, features[i].subleaf, &r[0], &r[1], &r[2], &r[3]) &&
		    r[features[i].reg] >> features[i].bit & 1)
			host->features |= 1ull << i;
	}
}

static bool has_word(const char *line, const char *word)
{
	size_t n = strlen(word);

	for (const char *at = strstr(line, word); at; at = strstr(at + 1, word))
		if ((at == line || isspace((unsigned char)at[-1])) && (!at[n] || isspace((unsigned char)at[n])))
			return true;
	return false;
}

static void probe_cpuinfo(struct policy_host *host)
{
	FILE *file = fopen("/proc/cpuinfo", "re");
	char line[8192];

	host->vmx = host->svm = POLICY_UNKNOWN;
	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, "flags", 5)) {
			host->vmx = has_word(line, "vmx") ? POLICY_YES : POLICY_NO;
			host->svm = has_word(line, "svm") ? POLICY_YES : POLICY_NO;
			break;
		}
	if (file)
		fclose(file);
}

/* ---- KVM ------------------------------------------------------------------------------- */

/* /sys/module lists modules that are loaded, and built-in ones that have parameters or a version. */
static enum policy_known module_present(const char *name)
{
	char path[128];

	if (access("/sys/module", X_OK) != 0)
		return POLICY_UNKNOWN;
	snprintf(path, sizeof(path), "/sys/module/%s", name);
	return access(path, F_OK) == 0 ? POLICY_YES : POLICY_NO;
}

static enum policy_known parameter(const char *module, const char *name)
{
	char path[128], line[16];

	snprintf(path, sizeof(path), "/sys/module/%s/parameters/%s", module, name);
	if (read_line(path, line, sizeof(line)))
		return POLICY_UNKNOWN;
	return line[0] == 'Y' || line[0] == '1' ? POLICY_YES : POLICY_NO;
}

static enum policy_known either(enum policy_known a, enum policy_known b)
{
	return a != POLICY_UNKNOWN ? a : b;
}

static enum policy_known extension(int fd, unsigned long number)
{
	return ioctl(fd, KVM_CHECK_EXTENSION, number) > 0 ? POLICY_YES : POLICY_NO;
}

static void probe_kvm_api(struct policy_host *host, int fd)
{
	host->kvm_api = ioctl(fd, KVM_GET_API_VERSION, 0);
	host->kvm_max_vcpus = ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);
	host->kvm_irqchip = extension(fd, KVM_CAP_IRQCHIP);
	host->kvm_pit = extension(fd, KVM_CAP_PIT2);
	host->kvm_ioeventfd = extension(fd, KVM_CAP_IOEVENTFD);
	host->kvm_irqfd = extension(fd, KVM_CAP_IRQFD);
	host->kvm_nested_state = extension(fd, KVM_CAP_NESTED_STATE);
	host->kvm_clock = extension(fd, KVM_CAP_ADJUST_CLOCK);
}

/*
 * The name of a user or group from a local file: not through NSS, which may ask a server. Fields are NAME:x:ID:….
 */
static void name_of(const char *path, unsigned id, char *name, size_t size)
{
	FILE *file = fopen(path, "re");
	char line[1024], found[64];
	unsigned number;

	snprintf(name, size, "%u", id);
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "%63[^:]:%*[^:]:%u", found, &number) == 2 && number == id) {
			snprintf(name, size, "%.*s", (int)size - 1, found);
			break;
		}
	if (file)
		fclose(file);
}

static void probe_kvm_access(struct policy_host *host)
{
	char user[24], group[24];
	struct stat st;

	host->kvm_access[0] = '\0';
	if (stat("/dev/kvm", &st) < 0)
		return;
	name_of("/etc/passwd", st.st_uid, user, sizeof(user));
	name_of("/etc/group", st.st_gid, group, sizeof(group));
	snprintf(host->kvm_access, sizeof(host->kvm_access), "%s:%s %04o", user, group, st.st_mode & 07777);
}

/*
 * Firmware may switch VT-x (IA32_FEATURE_CONTROL, SDM vol. 3, 24.7: locked without bit 2) or AMD-V (VM_CR, APM vol. 2,
 * 15.30.1: SVMDIS) off until the next boot. Where MSRs cannot be read, a processor that has the extension while Linux
 * hides the flag says the same: Linux clears it for that reason.
 */
/* APM vol. 3, appendix E: EBX of the SVM leaf. */
static int probe_asids(const struct policy_host *host)
{
	unsigned eax, ebx, ecx, edx;

	return host->cpuid_svm == POLICY_YES && __get_cpuid(0x8000000a, &eax, &ebx, &ecx, &edx) ? (int)ebx : -1;
}

static enum policy_known probe_lock(const struct policy_host *host)
{
	bool intel = host->cpuid_vmx == POLICY_YES;
	int fd = open("/dev/cpu/0/msr", O_RDONLY | O_CLOEXEC);
	uint64_t value = 0;
	bool got = fd >= 0 && pread(fd, &value, 8, intel ? 0x3a : 0xc0010114) == 8;

	if (fd >= 0)
		close(fd);
	if (host->cpuid_vmx != POLICY_YES && host->cpuid_svm != POLICY_YES)
		return POLICY_NO;
	if (got)
		return (intel ? (value & 5) == 1 : (value >> 4 & 1) == 1) ? POLICY_YES : POLICY_NO;
	if ((intel ? host->vmx : host->svm) == POLICY_UNKNOWN)
		return POLICY_UNKNOWN;
	return (intel ? host->vmx : host->svm) == POLICY_NO ? POLICY_YES : POLICY_NO;
}

static void probe_kvm(struct policy_host *host)
{
	int fd;

	host->kvm_device = access("/dev/kvm", F_OK) == 0;
	host->kvm_api = host->kvm_max_vcpus = -1;
	host->kvm_irqchip = host->kvm_pit = host->kvm_ioeventfd = host->kvm_irqfd = host->kvm_nested_state =
		host->kvm_clock = POLICY_UNKNOWN;
	fd = open("/dev/kvm", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	host->kvm_open_error = fd < 0 ? errno : 0;
	if (fd >= 0) {
		probe_kvm_api(host, fd);
		close(fd);
	}
	host->kvm_intel = module_present("kvm_intel");
	host->kvm_amd = module_present("kvm_amd");
	host->kvm_pvm = module_present("kvm_pvm");
	host->nested = either(parameter("kvm_intel", "nested"), parameter("kvm_amd", "nested"));
	host->backdoor = parameter("kvm", "enable_vmware_backdoor");
	host->ept = parameter("kvm_intel", "ept");
	host->unrestricted_guest = parameter("kvm_intel", "unrestricted_guest");
	host->vpid = parameter("kvm_intel", "vpid");
	host->apicv = parameter("kvm_intel", "enable_apicv");
	host->npt = parameter("kvm_amd", "npt");
	host->avic = parameter("kvm_amd", "avic");
	host->asids = probe_asids(host);
	host->firmware_locked = probe_lock(host);
	probe_kvm_access(host);

	/*
	 * A working /dev/kvm proves nothing: kvm_pvm answers the same ioctls and emulates. Hardware it is when the
	 * processor shows its extension to this kernel and the module that drives that extension is there.
	 */
	if (!host->kvm_device || host->kvm_pvm == POLICY_YES)
		host->kvm_hardware = POLICY_NO;
	else if (host->vmx == POLICY_NO && host->svm == POLICY_NO)
		host->kvm_hardware = POLICY_NO;
	else if ((host->vmx == POLICY_YES && host->kvm_intel == POLICY_YES) ||
		 (host->svm == POLICY_YES && host->kvm_amd == POLICY_YES))
		host->kvm_hardware = POLICY_YES;
	else
		host->kvm_hardware = POLICY_UNKNOWN;
}

/* ---- memory ------------------------------------------------------------------------------ */

/* What bt's code cache does: one memfd, an alias that can be executed. */
static int try_exec_memory(void)
{
	int fd = memfd_create("probe", MFD_CLOEXEC | MFD_EXEC), error = 0;
	void *page;

	if (fd < 0 && errno == EINVAL)
		fd = memfd_create("probe", MFD_CLOEXEC);
	if (fd < 0)
		return errno;
	if (ftruncate(fd, 4096) < 0) {
		error = errno;
	} else {
		page = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
		if (page == MAP_FAILED)
			error = errno;
		else
			munmap(page, 4096);
	}
	close(fd);
	return error;
}

static void probe_memory(struct policy_host *host)
{
	char line[128], *from, *to;

	host->huge_pages_free = host->huge_pages_1g_free = 0;
	host->transparent_huge_pages[0] = '\0';
	host->memory_mib = meminfo_kib("MemTotal:") >> 10;
	host->available_mib = meminfo_kib("MemAvailable:") >> 10;
	if (!read_line("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", line, sizeof(line)))
		host->huge_pages_free = strtoull(line, NULL, 10);
	if (!read_line("/sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages", line, sizeof(line)))
		host->huge_pages_1g_free = strtoull(line, NULL, 10);
	/* "always [madvise] never": the one in brackets holds. */
	if (!read_line("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof(line)) &&
	    (from = strchr(line, '[')) && (to = strchr(from, ']'))) {
		*to = '\0';
		snprintf(host->transparent_huge_pages, sizeof(host->transparent_huge_pages), "%.15s", from + 1);
	}
	host->exec_memory_error = try_exec_memory();
}

/* Entries whose names begin so; 0 when there is no such directory, -1 when it cannot be read. */
static int count_entries(const char *path, const char *prefix)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	int n = 0;

	if (!dir)
		return errno == ENOENT ? 0 : -1;
	while ((entry = readdir(dir)))
		n += entry->d_name[0] != '.' && !strncmp(entry->d_name, prefix, strlen(prefix));
	closedir(dir);
	return n;
}

/* systemd's convention (systemd.io/CONTAINER_INTERFACE), and the marks that others leave. */
static void probe_container(struct policy_host *host)
{
	if (!read_line("/run/systemd/container", host->container, sizeof(host->container)))
		return;
	if (access("/.dockerenv", F_OK) == 0)
		snprintf(host->container, sizeof(host->container), "docker");
	else if (access("/run/.containerenv", F_OK) == 0)
		snprintf(host->container, sizeof(host->container), "podman");
}

void policy_probe_again(struct policy_host *host)
{
	cpu_set_t set;

	probe_kvm(host);
	probe_memory(host);
	host->iommu_units = count_entries("/sys/class/iommu", "");
	host->iommu_groups = count_entries("/sys/kernel/iommu_groups", "");
	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		host->cores = (unsigned)CPU_COUNT(&set);
	else
		host->cores = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
}

void policy_probe(struct policy_host *ret_host)
{
	struct utsname name;
	int nodes;

	memset(ret_host, 0, sizeof(*ret_host));
	ret_host->engines = policy_engines();
	probe_cpuid(ret_host);
	probe_cpuinfo(ret_host);
	probe_container(ret_host);
	nodes = count_entries("/sys/devices/system/node", "node");
	ret_host->numa_nodes = nodes > 0 ? (unsigned)nodes : 0;
	if (uname(&name) == 0)
		snprintf(ret_host->kernel, sizeof(ret_host->kernel), "%.60s %.64s", name.sysname, name.release);
	policy_probe_again(ret_host);
}

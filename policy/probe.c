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
	if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) {
		host->avx2 = ebx >> 5 & 1;
		host->avx512 = ebx >> 16 & 1;
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

static void probe_kvm(struct policy_host *host)
{
	char line[16];
	int fd;

	host->kvm_device = access("/dev/kvm", F_OK) == 0;
	host->kvm_api = -1;
	fd = open("/dev/kvm", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	host->kvm_open_error = fd < 0 ? errno : 0;
	if (fd >= 0) {
		host->kvm_api = ioctl(fd, KVM_GET_API_VERSION, 0);
		close(fd);
	}
	host->kvm_intel = module_present("kvm_intel");
	host->kvm_amd = module_present("kvm_amd");
	host->kvm_pvm = module_present("kvm_pvm");
	host->nested = POLICY_UNKNOWN;
	if (!read_line("/sys/module/kvm_intel/parameters/nested", line, sizeof(line)) ||
	    !read_line("/sys/module/kvm_amd/parameters/nested", line, sizeof(line)))
		host->nested = line[0] == 'Y' || line[0] == '1' ? POLICY_YES : POLICY_NO;

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

	host->memory_mib = meminfo_kib("MemTotal:") >> 10;
	host->available_mib = meminfo_kib("MemAvailable:") >> 10;
	if (!read_line("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", line, sizeof(line)))
		host->huge_pages_free = strtoull(line, NULL, 10);
	/* "always [madvise] never": the one in brackets holds. */
	if (!read_line("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof(line)) &&
	    (from = strchr(line, '[')) && (to = strchr(from, ']'))) {
		*to = '\0';
		snprintf(host->transparent_huge_pages, sizeof(host->transparent_huge_pages), "%.15s", from + 1);
	}
	host->exec_memory_error = try_exec_memory();
}

static int count_iommu_groups(void)
{
	DIR *dir = opendir("/sys/kernel/iommu_groups");
	struct dirent *entry;
	int n = 0;

	if (!dir)
		return errno == ENOENT ? 0 : -1;
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			n++;
	closedir(dir);
	return n;
}

void policy_probe(struct policy_host *ret_host)
{
	struct utsname name;
	cpu_set_t set;

	memset(ret_host, 0, sizeof(*ret_host));
	probe_cpuid(ret_host);
	probe_cpuinfo(ret_host);
	probe_kvm(ret_host);
	probe_memory(ret_host);
	ret_host->iommu_groups = count_iommu_groups();
	if (uname(&name) == 0)
		snprintf(ret_host->kernel, sizeof(ret_host->kernel), "%.60s %.64s", name.sysname, name.release);
	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		ret_host->cores = (unsigned)CPU_COUNT(&set);
	else
		ret_host->cores = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
}

/* ---- as rows ------------------------------------------------------------------------------- */

static void put(json_object *rows, const char *name, json_object *value, const char *source, const char *remedy)
{
	json_object *row = json_object_new_object();

	json_object_object_add(row, "name", json_object_new_string(name));
	json_object_object_add(row, "value", value);
	json_object_object_add(row, "source", json_object_new_string(source));
	if (remedy)
		json_object_object_add(row, "remedy", json_object_new_string(remedy));
	json_object_array_add(rows, row);
}

static json_object *known(enum policy_known value)
{
	return value == POLICY_UNKNOWN ? NULL : json_object_new_boolean(value == POLICY_YES);
}

static void put_kvm(json_object *rows, const struct policy_host *host)
{
	static const char modules[] = "/sys/module";
	const char *remedy = NULL;
	char opened[128];

	if (!host->kvm_device)
		remedy = host->under_hypervisor
				 ? "ask the outer hypervisor's owner for nested virtualization"
				 : "load kvm_intel or kvm_amd; enable VT-x or AMD-V in the firmware's setup";
	put(rows, "kvm_device", json_object_new_boolean(host->kvm_device), "/dev/kvm", remedy);
	if (host->kvm_device) {
		snprintf(opened, sizeof(opened), "%s", host->kvm_open_error ? strerror(host->kvm_open_error) : "yes");
		put(rows, "kvm_opens", json_object_new_string(opened), "open(\"/dev/kvm\", O_RDWR)",
		    host->kvm_open_error == EACCES ? "add the daemon's user to the group that owns /dev/kvm" : NULL);
	}
	put(rows, "kvm_api_version", host->kvm_api >= 0 ? json_object_new_int(host->kvm_api) : NULL,
	    "ioctl KVM_GET_API_VERSION", NULL);
	put(rows, "vmx", known(host->vmx), "/proc/cpuinfo flags", NULL);
	put(rows, "svm", known(host->svm), "/proc/cpuinfo flags", NULL);
	put(rows, "module_kvm_intel", known(host->kvm_intel), modules, NULL);
	put(rows, "module_kvm_amd", known(host->kvm_amd), modules, NULL);
	put(rows, "module_kvm_pvm", known(host->kvm_pvm), modules,
	    host->kvm_pvm == POLICY_YES ? "this KVM emulates in software; a host with VT-x or AMD-V (or nested "
					  "virtualization) has a real one"
					: NULL);
	put(rows, "kvm_is_hardware", known(host->kvm_hardware), "/dev/kvm, the flags and the modules together", NULL);
	put(rows, "nested_virtualization", known(host->nested), "/sys/module/kvm_{intel,amd}/parameters/nested", NULL);
	put(rows, "iommu_groups", host->iommu_groups >= 0 ? json_object_new_int(host->iommu_groups) : NULL,
	    "/sys/kernel/iommu_groups",
	    host->iommu_groups == 0 ? "enable VT-d or AMD-Vi in the firmware's setup (only passthrough needs it)"
				    : NULL);
}

json_object *policy_host_facts(const struct policy_host *host)
{
	json_object *rows = json_object_new_array();
	char text[128];

	put(rows, "cpu_vendor", json_object_new_string(host->cpu_vendor), "CPUID leaf 0", NULL);
	put(rows, "cpu_model", json_object_new_string(host->cpu_model), "CPUID leaves 0x80000002 to 0x80000004", NULL);
	put(rows, "kernel", json_object_new_string(host->kernel), "uname(2)", NULL);
	put(rows, "under_hypervisor", json_object_new_boolean(host->under_hypervisor), "CPUID leaf 1, ECX bit 31",
	    NULL);
	if (host->under_hypervisor)
		put(rows, "hypervisor", json_object_new_string(host->hypervisor), "CPUID leaf 0x40000000", NULL);
	put(rows, "cores", json_object_new_int64(host->cores), "sched_getaffinity(2)", NULL);
	put(rows, "avx2", json_object_new_boolean(host->avx2), "CPUID leaf 7, EBX bit 5", NULL);
	put(rows, "avx512f", json_object_new_boolean(host->avx512), "CPUID leaf 7, EBX bit 16", NULL);
	put(rows, "memory_mib", json_object_new_int64((int64_t)host->memory_mib), "/proc/meminfo MemTotal", NULL);
	put(rows, "available_mib", json_object_new_int64((int64_t)host->available_mib), "/proc/meminfo MemAvailable",
	    NULL);
	put(rows, "huge_pages_2m_free", json_object_new_int64((int64_t)host->huge_pages_free),
	    "/sys/kernel/mm/hugepages/hugepages-2048kB", NULL);
	put(rows, "transparent_huge_pages",
	    host->transparent_huge_pages[0] ? json_object_new_string(host->transparent_huge_pages) : NULL,
	    "/sys/kernel/mm/transparent_hugepage/enabled", NULL);
	snprintf(text, sizeof(text), "%s", host->exec_memory_error ? strerror(host->exec_memory_error) : "yes");
	put(rows, "executable_memfd", json_object_new_string(text), "a memfd mapped PROT_EXEC",
	    host->exec_memory_error ? "set sysctl vm.memfd_noexec=0, or let the security policy allow executable memory"
				    : NULL);
	put_kvm(rows, host);
	return rows;
}

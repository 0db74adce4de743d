/*
 * What a guest that breaks the translator or a device is left with: no privileges, no programs to start, no new
 * sockets, no new executable memory, no files but its own. All of it works for a plain user and inside a container
 * under Docker's default seccomp profile; what a host lacks (Landlock) is logged and gone without.
 */
#include "vm/private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

/* ---- the file system: Landlock, where the kernel has it ---- */

#define LL_READ (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define LL_WRITE_FILE LANDLOCK_ACCESS_FS_WRITE_FILE
#define LL_OWN_DIR                                                                                            \
	(LL_READ | LL_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG |             \
	 LANDLOCK_ACCESS_FS_MAKE_SOCK)
#define LL_ALL                                                                                                \
	(LL_OWN_DIR | LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_MAKE_CHAR | \
	 LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK |         \
	 LANDLOCK_ACCESS_FS_MAKE_SYM)

/* Allows `access` at and below `path`. A path that is not there needs no rule: opening it fails with a better error. */
static int allow_path(int ruleset, const char *path, uint64_t access)
{
	int fd = open(path, O_PATH | O_CLOEXEC);
	if (fd < 0)
		return 0;
	struct stat st;
	if (fstat(fd, &st) == 0 && !S_ISDIR(st.st_mode))
		access &= LANDLOCK_ACCESS_FS_READ_FILE | LL_WRITE_FILE;
	struct landlock_path_beneath_attr rule = {.allowed_access = access, .parent_fd = fd};
	int rc = syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0 ? -errno : 0;
	close(fd);
	return rc;
}

static bool has_user_nic(const struct vmdef *def)
{
	for (unsigned i = 0; i < def->nic_count; i++)
		if (def->nics[i].type == VMDEF_NIC_USER)
			return true;
	return false;
}

static int allow_tap(int ruleset, const char *device)
{
	char path[64];
	int rc = allow_path(ruleset, "/dev/net/tun", LL_READ | LL_WRITE_FILE);

	snprintf(path, sizeof(path), "/dev/tap%u", if_nametoindex(device));
	return rc ? rc : allow_path(ruleset, path, LL_READ | LL_WRITE_FILE);
}

static int allow_own_files(const struct vm *vm, int ruleset)
{
	const struct vmdef *def = vm->def;
	int rc = allow_path(ruleset, vm->options.dir, LL_OWN_DIR);
	/* Its own statistics, and what the machine reads of the processor. */
	if (!rc)
		rc = allow_path(ruleset, "/proc", LL_READ);
	if (!rc)
		rc = allow_path(ruleset, "/sys/devices/system", LL_READ);
	const char *const boot[] = {def->boot.kernel, def->boot.initrd, def->boot.firmware};
	for (unsigned i = 0; !rc && i < ARRAY_SIZE(boot); i++)
		if (boot[i])
			rc = allow_path(ruleset, boot[i], LL_READ);
	for (unsigned i = 0; !rc && i < def->boot.module_count; i++)
		rc = allow_path(ruleset, def->boot.modules[i].path, LL_READ);
	if (!rc && def->display.rom)
		rc = allow_path(ruleset, def->display.rom, LL_READ);
	if (!rc && def->boot.nvram.path)
		rc = allow_path(ruleset, def->boot.nvram.path, LL_READ | LL_WRITE_FILE);
	/* A BIOS that is not named by the definition. */
	if (!rc)
		rc = allow_path(ruleset, "/usr/share/seabios", LL_READ);
	for (const char *const *file = vm->mode->files; !rc && file && *file; file++)
		rc = allow_path(ruleset, *file, LL_READ | LL_WRITE_FILE);
	for (unsigned i = 0; !rc && i < def->disk_count; i++)
		rc = allow_path(ruleset, def->disks[i].path, LL_READ | (def->disks[i].readonly ? 0 : LL_WRITE_FILE));
	/* Taps, and macvtaps by their numbers. */
	for (unsigned i = 0; !rc && i < def->nic_count; i++) {
		char name[VMDEF_INTERFACE_BYTES];

		vmdef_nic_device(&def->nics[i], name);
		if (name[0])
			rc = allow_tap(ruleset, name);
		for (unsigned k = 0; !rc && k < def->nics[i].uplink_count; k++)
			rc = allow_tap(ruleset, def->nics[i].uplinks[k]);
	}
	/* Seeds of VNC's challenges. */
	if (!rc && vmdef_has_vnc(def))
		rc = allow_path(ruleset, "/dev/urandom", LANDLOCK_ACCESS_FS_READ_FILE);
	/* libslirp's: which name servers the host uses, which may change; and seeds. */
	if (!rc && has_user_nic(def)) {
		char real[PATH_MAX];

		rc = allow_path(ruleset, "/dev/urandom", LANDLOCK_ACCESS_FS_READ_FILE);
		if (!rc)
			rc = allow_path(ruleset, "/etc/resolv.conf", LANDLOCK_ACCESS_FS_READ_FILE);
		/* A file that is replaced is found again only through its directory. All of /etc would be too much. */
		if (!rc && realpath("/etc/resolv.conf", real) && strncmp(real, "/run/", 5) == 0) {
			*strrchr(real, '/') = '\0';
			rc = allow_path(ruleset, real, LL_READ);
		}
	}
	return rc;
}

static int restrict_files(struct vm *vm)
{
	struct landlock_ruleset_attr attr = {.handled_access_fs = LL_ALL};
	int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);
	if (ruleset < 0) {
		vm_log("no Landlock here (%s): file access is limited by the system call filter alone", strerror(errno));
		return 0;
	}
	int rc = allow_own_files(vm, ruleset);
	if (!rc && syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
		rc = -errno;
	close(ruleset);
	return rc;
}

/* ---- privileges ---- */

/* Of the calling thread. Async-signal-safe. */
static int drop_own_capabilities(void)
{
	/* The bounding set cannot be shrunk without CAP_SETPCAP; with no_new_privs and no execve it is moot. */
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2] = {{0}};
	return syscall(SYS_capset, &header, none) < 0 ? -errno : 0;
}

static atomic_int threads_dropped, drop_failures;

/* Of the kernel's task flags. */
#define PF_IO_WORKER 0x10u
#define PF_USER_WORKER 0x4000u /* since Linux 6.4 */

/* KVM's and io_uring's own workers are listed as threads of ours, but never run our code, nor take signals. */
static bool is_kernel_worker(pid_t tid)
{
	char path[64], line[512];
	unsigned flags = 0;
	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)tid);
	FILE *f = fopen(path, "re");
	if (!f)
		return false;
	/* proc(5): tid (name) state ppid pgrp session tty tpgid flags; the name may hold anything. */
	const char *after = fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL;
	bool worker = after && sscanf(after + 1, " %*c %*d %*d %*d %*d %*d %u", &flags) == 1 && (flags & (PF_IO_WORKER | PF_USER_WORKER));
	fclose(f);
	return worker;
}

/* Asks every other thread to drop its capabilities, by SIGSYS, which none of ours blocks. Returns how many. */
static int ask_other_threads(void)
{
	DIR *dir = opendir("/proc/self/task");
	if (!dir)
		return -errno;
	int asked = 0;
	const struct dirent *entry;
	while ((entry = readdir(dir))) {
		pid_t tid = (pid_t)atoi(entry->d_name);
		if (tid > 0 && tid != gettid() && !is_kernel_worker(tid) && syscall(SYS_tgkill, getpid(), tid, SIGSYS) == 0)
			asked++;
	}
	closedir(dir);
	return asked;
}

/*
 * Capabilities belong to threads, and the machine and the engine have started some by now: earlier was too early, since
 * root's are what opens files of other users.
 */
static int drop_capabilities(void)
{
	int rc = drop_own_capabilities(), asked = rc ? rc : ask_other_threads();
	if (asked < 0)
		return asked;
	for (int ms = 0; atomic_load(&threads_dropped) < asked; ms++) {
		if (ms == 1000)
			return -ETIMEDOUT;
		usleep(1000);
	}
	return atomic_load(&drop_failures) ? -EPERM : 0;
}

int vm_sandbox_early(struct vm *vm)
{
	/* A core would hold the guest's memory. */
	struct rlimit no_core = {0, 0};
	if (setrlimit(RLIMIT_CORE, &no_core) < 0)
		return -errno;
	if (vm->options.no_sandbox)
		return 0;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	return restrict_files(vm);
}

/* ---- the system call filter ---- */

/* Allowed whatever their arguments. Each with the reason it is needed once the guest runs. */
static const struct {
	const char *name, *reason;
} allowed[] = {
	{"read", "eventfds, signalfd, sockets, result of open files"},
	{"write", "eventfds, the log, result.json"},
	{"pread64", "disks, kernels on a reset"},
	{"pwrite64", "disks, a firmware's variables"},
	{"preadv", "disks, scattered buffers"},
	{"pwritev", "disks, scattered buffers"},
	{"preadv2", "disks, what the page cache has"},
	{"pwritev2", "disks, writes that are to last"},
	{"io_uring_enter", "disks; the rings are made and confined to their files before"},
	{"fdatasync", "a guest's flush"},
	{"fsync", "result.json"},
	{"fallocate", "a guest's discard on a disk, giving RAM back"},
	{"lseek", "kernels on a reset"},
	{"fstat", "sizes of files"},
	{"newfstatat", "sizes of files, as glibc asks"},
	{"statx", "sizes of files, as glibc asks"},
	{"fcntl", "flags of descriptors"},
	{"close", "descriptors"},
	{"rename", "result.json into place"},
	{"renameat", "result.json into place"},
	{"renameat2", "result.json into place"},
	{"unlink", "own sockets at the end"},
	{"unlinkat", "own sockets at the end"},
	{"fchmod", "result.json"},
	{"lstat", "own sockets"},
	{"access", "whether a file is there"},
	{"faccessat", "whether a file is there"},
	{"faccessat2", "whether a file is there"},
	{"stat", "own files"},
	{"readlink", "own files"},
	{"accept4", "clients of the control socket, the console and the debugger"},
	{"listen", "the debugger's socket, bound before; no new one can be made"},
	{"recvfrom", "console input"},
	{"recvmsg", "control requests"},
	{"sendto", "console output"},
	{"sendmsg", "control answers"},
	{"readv", "libevent's buffers"},
	{"writev", "libevent's buffers"},
	{"getsockopt", "libevent"},
	{"getsockname", "libevent"},
	{"getpeername", "libevent"},
	{"shutdown", "ending a connection"},
	{"epoll_wait", "the event loop"},
	{"epoll_pwait", "the event loop"},
	{"epoll_pwait2", "the event loop"},
	{"epoll_ctl", "the event loop"},
	{"poll", "waiting"},
	{"ppoll", "waiting"},
	{"select", "waiting"},
	{"pselect6", "waiting"},
	{"eventfd2", "waking threads"},
	{"timerfd_create", "timers"},
	{"timerfd_settime", "timers"},
	{"timerfd_gettime", "timers"},
	{"futex", "locks"},
	{"futex_waitv", "locks"},
	{"clock_nanosleep", "timers"},
	{"nanosleep", "timers"},
	{"clock_gettime", "time, where the vDSO cannot"},
	{"clock_getres", "time"},
	{"gettimeofday", "time"},
	{"time", "time"},
	{"sched_yield", "spinning politely"},
	{"sched_getaffinity", "thread start"},
	{"sched_getparam", "thread start"},
	{"sched_getscheduler", "thread start"},
	{"getcpu", "statistics"},
	{"set_robust_list", "thread start"},
	{"rseq", "thread start"},
	{"set_tid_address", "thread start"},
	{"gettid", "thread names and kicks"},
	{"getpid", "status"},
	{"getuid", "libraries"},
	{"geteuid", "libraries"},
	{"tgkill", "kicking a vCPU, abort"},
	{"membarrier", "patching code that other threads run"},
	{"rt_sigaction", "signals of the engine"},
	{"rt_sigprocmask", "signals of the engine"},
	{"rt_sigreturn", "signals of the engine"},
	{"sigaltstack", "signals of the engine"},
	{"rt_sigtimedwait", "signals"},
	{"munmap", "memory"},
	{"mremap", "memory; cannot add PROT_EXEC"},
	{"madvise", "memory"},
	{"brk", "memory"},
	{"mincore", "memory statistics"},
	{"ftruncate", "giving memory back"},
	{"getrandom", "virtio-rng, temporary names"},
	{"getrusage", "statistics"},
	{"sysinfo", "statistics"},
	{"uname", "libraries"},
	{"restart_syscall", "after a signal"},
	{"exit", "threads"},
	{"exit_group", "the end"},
};

/* Allowed without PROT_EXEC only: the code cache is mapped before the filter, once writable and once executable. */
static const char *const allowed_without_exec[] = {"mmap", "mprotect", "pkey_mprotect"};

/* A name libseccomp does not know on this system is nothing to allow. */
/* What a sanitizer's report needs, in builds with one. Looking for leaks takes a process of its own and is left out. */
#ifdef __SANITIZE_ADDRESS__
static const char *const allowed_for_reports[] = {"readlink", "sigaltstack", "sched_yield", "gettid", NULL};
static bool confined;
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void) { return confined; }
#else
static const char *const allowed_for_reports[] = {NULL};
#endif

static int allow(scmp_filter_ctx ctx, const char *name)
{
	int nr = seccomp_syscall_resolve_name(name);
	return nr == __NR_SCMP_ERROR ? 0 : seccomp_rule_add(ctx, SCMP_ACT_ALLOW, nr, 0);
}

/*
 * Files: to read (a kernel on a reset, /proc), or made anew (result.json). Nothing that exists is opened for writing,
 * /proc/self/mem least of all. Landlock narrows the rest.
 */
static int allow_open(scmp_filter_ctx ctx)
{
	const uint64_t fresh = O_CREAT | O_EXCL;
	int rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1,
				  SCMP_A2(SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY));
	if (!rc)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, fresh, fresh));
	return rc;
}

/* libevent's buffers, stdio, and what the mode asks of its kernel driver: nothing else may be asked of a descriptor. */
static int allow_ioctls(scmp_filter_ctx ctx, const struct vm *vm)
{
	static const unsigned long ours[] = {FIONREAD, FIONBIO, TCGETS, 0};
	const unsigned long *const lists[] = {ours, vm->mode->ioctls, vm->passthrough ? vfio_ioctls : NULL};
	int rc = 0;
	for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
		for (const unsigned long *request = lists[i]; !rc && request && *request; request++)
			rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
					      SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffffu, (uint32_t)*request));
	return rc;
}

/* A `user` network: connections that the guest opens are sockets of ours, of the Internet's families only. */
static int allow_internet(scmp_filter_ctx ctx)
{
	static const char *const calls[] = {"connect", "bind", "accept", "setsockopt"};
	static const int families[] = {AF_INET, AF_INET6};
	int rc = 0;
	for (size_t i = 0; !rc && i < ARRAY_SIZE(calls); i++)
		rc = allow(ctx, calls[i]);
	for (size_t i = 0; !rc && i < ARRAY_SIZE(families); i++)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, (uint64_t)families[i]));
	if (!rc) /* urgent data */
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				      SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffffu, (uint32_t)SIOCATMARK));
	/* ICMP and raw sockets may be refused to a plain user; libslirp lives with that. */
	return rc;
}

/* What libvncserver does with a viewer's socket, and between its threads. */
static int allow_viewers(scmp_filter_ctx ctx)
{
	static const char *const calls[] = {"setsockopt", "pipe", "pipe2"};
	int rc = 0;
	for (size_t i = 0; !rc && i < ARRAY_SIZE(calls); i++)
		rc = allow(ctx, calls[i]);
	return rc;
}

static int fill_filter(scmp_filter_ctx ctx, const struct vm *vm)
{
	for (size_t i = 0; i < ARRAY_SIZE(allowed); i++) {
		int rc = allow(ctx, allowed[i].name);
		if (rc)
			return rc;
	}
	for (size_t i = 0; allowed_for_reports[i]; i++) {
		int rc = allow(ctx, allowed_for_reports[i]);
		if (rc)
			return rc;
	}
	for (size_t i = 0; i < ARRAY_SIZE(allowed_without_exec); i++) {
		int nr = seccomp_syscall_resolve_name(allowed_without_exec[i]);
		int rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, nr, 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
		if (rc)
			return rc;
	}
	/* Names of threads, and how exactly they sleep. Other prctl calls could loosen things. */
	int rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1, SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
	if (!rc)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
				      SCMP_A0(SCMP_CMP_EQ, PR_SET_TIMERSLACK));
	/* Threads only (CLONE_THREAD is 0x10000). clone3 hides its flags from a filter; glibc then takes clone. */
	if (!rc)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	if (!rc)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
				      SCMP_A0(SCMP_CMP_MASKED_EQ, 0x10000, 0x10000));
	if (!rc)
		rc = allow_ioctls(ctx, vm);
	if (!rc)
		rc = allow_open(ctx);
	if (!rc && has_user_nic(vm->def))
		rc = allow_internet(ctx);
	if (!rc && vmdef_has_vnc(vm->def))
		rc = allow_viewers(ctx);
	/* Scheduling limits of our own process, read by glibc when it makes a stack. */
	if (!rc)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 1, SCMP_A2(SCMP_CMP_EQ, 0));
	/* Signals to ourselves only. */
	if (!rc)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(kill), 1, SCMP_A0(SCMP_CMP_EQ, (uint64_t)getpid()));
	return rc;
}

static size_t put_hex(char *text, uint64_t value)
{
	char digits[16];
	size_t d = 0, n = 0;
	do
		digits[d++] = "0123456789abcdef"[value & 15];
	while (value >>= 4);
	while (d)
		text[n++] = digits[--d];
	return n;
}

/* Either drop_capabilities asks, or the filter refused a call. That was not carried out; say which one it was and from where, since nothing else will. Async-signal-safe. */
static void on_sigsys(int signal_number, siginfo_t *info, void *context)
{
	const ucontext_t *uc = context;
	if (info->si_code == SI_TKILL && info->si_pid == getpid()) {
		if (drop_own_capabilities())
			atomic_fetch_add(&drop_failures, 1);
		atomic_fetch_add(&threads_dropped, 1);
		return;
	}
	const struct {
		const char *label;
		uint64_t value;
	} parts[] = {
		{"sandbox: a system call that is not on the list: 0x", (uint64_t)(unsigned)info->si_syscall},
		{" first arguments 0x", (uint64_t)uc->uc_mcontext.gregs[REG_RDI]},
		{" 0x", (uint64_t)uc->uc_mcontext.gregs[REG_RSI]},
		{" 0x", (uint64_t)uc->uc_mcontext.gregs[REG_RDX]},
		{" from 0x", (uint64_t)uc->uc_mcontext.gregs[REG_RIP]},
		{", vm_sandbox_enter is at 0x", (uint64_t)(uintptr_t)vm_sandbox_enter},
	};
	char text[256];
	size_t n = 0;
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		size_t label = strlen(parts[i].label);
		memcpy(text + n, parts[i].label, label);
		n += label;
		n += put_hex(text + n, parts[i].value);
	}
	text[n++] = '\n';
	if (write(STDERR_FILENO, text, n) < 0)
		_exit(VM_EXIT_CRASHED);
	_exit(VM_EXIT_CRASHED);
}

int vm_sandbox_enter(struct vm *vm)
{
	if (vm->options.no_sandbox) {
		vm_log("running without a sandbox, by request");
		return 0;
	}
	struct sigaction sa = {.sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO | SA_RESTART};
	sigaction(SIGSYS, &sa, NULL);
#ifdef __SANITIZE_ADDRESS__
	confined = true;
#endif
	int rc = drop_capabilities();
	if (rc)
		return rc;
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_TRAP);
	if (!ctx)
		return -ENOMEM;
	/* The machine's clock thread is there already. */
	rc = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1);
	if (!rc)
		rc = fill_filter(ctx, vm);
	if (!rc)
		rc = seccomp_load(ctx);
	seccomp_release(ctx);
	return rc;
}

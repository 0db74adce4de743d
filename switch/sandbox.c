/* What a VM that breaks the switch is left with: the sockets that are open, and memory. */
#include <errno.h>
#include <linux/capability.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "machine/types.h"
#include "switch/private.h"

/* Each with the reason it is needed once VMs are connected. */
static const struct {
	const char *name, *reason;
} allowed[] = {
	{"recvfrom", "frames, greetings"},
	{"recvmsg", "control requests"},
	{"sendto", "answers to greetings"},
	{"sendmsg", "frames"},
	{"readv", "libevent's buffers"},
	{"writev", "libevent's buffers"},
	{"read", "libevent, signals"},
	{"write", "the log"},
	{"accept4", "VMs, the daemon"},
	{"setsockopt", "sizes of buffers"},
	{"getsockopt", "libevent"},
	{"fcntl", "flags of descriptors"},
	{"shutdown", "ending a connection"},
	{"close", "ending a connection"},
	{"epoll_wait", "the event loop"},
	{"epoll_pwait2", "the event loop"},
	{"epoll_ctl", "the event loop"},
	{"timerfd_settime", "the event loop"},
	{"clock_gettime", "time, where the vDSO cannot"},
	{"getpid", "hello"},
	{"futex", "the C library's locks"},
	{"brk", "memory"},
	{"munmap", "memory"},
	{"mremap", "memory"},
	{"madvise", "memory"},
	{"getrandom", "hash tables of JSON objects"},
	{"rt_sigprocmask", "the end"},
	{"rt_sigreturn", "signals"},
	{"restart_syscall", "after a signal"},
	{"unlink", "own sockets at the end"},
	{"exit_group", "the end"},
};

static int fill(scmp_filter_ctx ctx)
{
	static const unsigned long ioctls[] = {0x541b /* FIONREAD */, 0x5421 /* FIONBIO */};
	int rc = 0;

	for (size_t i = 0; !rc && i < ARRAY_SIZE(allowed); i++) {
		int nr = seccomp_syscall_resolve_name(allowed[i].name);

		rc = nr == __NR_SCMP_ERROR ? 0 : seccomp_rule_add(ctx, SCMP_ACT_ALLOW, nr, 0);
	}
	for (size_t i = 0; !rc && i < ARRAY_SIZE(ioctls); i++)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				      SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffffu, ioctls[i]));
	if (!rc)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (!rc)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	return rc;
}

int sandbox_enter(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2] = {{0}};
	const struct rlimit no_core = {0, 0};
	scmp_filter_ctx ctx;
	int rc;

	/* A core would hold guests' frames. */
	if (setrlimit(RLIMIT_CORE, &no_core) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    syscall(SYS_capset, &header, none) < 0)
		return -errno;
	ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
	if (!ctx)
		return -ENOMEM;
	rc = fill(ctx);
	if (!rc)
		rc = seccomp_load(ctx);
	seccomp_release(ctx);
	return rc;
}

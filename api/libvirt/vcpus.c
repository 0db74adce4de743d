/* Virtual processors: where they run, and where they may. */
#include "api/libvirt/handlers.h"
#include "api/libvirt/host.h"
#include "api/libvirt/private.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#define MAP_BYTES (HOST_CPUS_MAX / 8)

static void get_map(int tid, unsigned char *map, size_t bytes)
{
	cpu_set_t set;

	memset(map, 0, bytes);
	if (sched_getaffinity(tid, sizeof(set), &set) < 0)
		return;
	for (size_t i = 0; i < bytes * 8 && i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, &set))
			map[i / 8] |= (unsigned char)(1u << i % 8);
}

static int thread_of(const struct daemon_vm_info *info, unsigned vcpu)
{
	char name[16];

	snprintf(name, sizeof(name), "vcpu%u", vcpu);
	return host_find_thread(info->pid, name);
}

static unsigned vcpus_of(const struct daemon_vm_info *info)
{
	return info->running_def ? info->running_def->vcpus : info->def->vcpus;
}

static bool sizes_fit(struct lv_call *call, int64_t count, int64_t maplen)
{
	if (count >= 0 && maplen >= 0 && count <= 16384 && maplen <= MAP_BYTES)
		return true;
	lv_fail(call, VIR_ERR_INVALID_ARG, "%lld processors with %lld bytes each are out of range", (long long)count,
		(long long)maplen);
	return false;
}

void lv_domain_get_vcpus(struct lv_call *call, struct vm *vm)
{
	int64_t max = call->args[1].i, maplen = call->args[2].i;
	unsigned char maps[VMDEF_VCPUS_MAX * MAP_BYTES];
	struct daemon_vm_info info;
	unsigned n;

	if (!sizes_fit(call, max, maplen))
		return;
	daemon_vm_inspect(vm, &info);
	n = vcpus_of(&info) < max ? vcpus_of(&info) : (unsigned)max;
	xdr_put_u32(&call->out, n);
	for (unsigned i = 0; i < n; i++) {
		struct host_times times = {.cpu = -1};
		int tid = thread_of(&info, i);

		if (tid)
			host_process_times(info.pid, tid, &times);
		get_map(tid, maps + i * maplen, (size_t)maplen);
		xdr_put_u32(&call->out, i);
		xdr_put_i32(&call->out, VIR_VCPU_RUNNING);
		xdr_put_u64(&call->out, times.total);
		xdr_put_i32(&call->out, times.cpu);
	}
	xdr_put_opaque(&call->out, maps, n * (size_t)maplen);
	lv_reply(call);
}

void lv_domain_get_vcpu_pin_info(struct lv_call *call, struct vm *vm)
{
	int64_t max = call->args[1].i, maplen = call->args[2].i;
	unsigned char maps[VMDEF_VCPUS_MAX * MAP_BYTES];
	struct daemon_vm_info info;
	struct host_topology t;
	unsigned n;

	if (!sizes_fit(call, max, maplen) ||
	    !lv_flags(call, call->args[3].u, VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG))
		return;
	daemon_vm_inspect(vm, &info);
	if (call->args[3].u & VIR_DOMAIN_AFFECT_LIVE && !info.active) {
		lv_fail(call, VIR_ERR_OPERATION_INVALID, "domain is not running");
		return;
	}
	n = vcpus_of(&info) < max ? vcpus_of(&info) : (unsigned)max;
	host_topology(&t);
	for (unsigned i = 0; i < n; i++) {
		int tid = info.active && !(call->args[3].u & VIR_DOMAIN_AFFECT_CONFIG) ? thread_of(&info, i) : 0;

		get_map(tid, maps + i * maplen, (size_t)maplen);
		/* Of one that does not run: nothing is stored, so it may run anywhere. */
		for (unsigned c = 0; !tid && c < t.possible && c < (size_t)maplen * 8; c++)
			maps[i * maplen + c / 8] |= (unsigned char)(1u << c % 8);
	}
	xdr_put_opaque(&call->out, maps, n * (size_t)maplen);
	xdr_put_i32(&call->out, (int32_t)n);
	lv_reply(call);
}

static void pin(struct lv_call *call, struct vm *vm, uint64_t flags)
{
	const unsigned char *map = (const unsigned char *)call->args[2].text;
	struct daemon_vm_info info;
	cpu_set_t set;
	int tid;

	daemon_vm_inspect(vm, &info);
	if (flags & VIR_DOMAIN_AFFECT_CONFIG) {
		lv_fail(call, VIR_ERR_OPERATION_UNSUPPORTED, "pinning is not stored: pin the running domain");
		return;
	}
	if (!info.active) {
		lv_fail(call, VIR_ERR_OPERATION_INVALID, "domain is not running");
		return;
	}
	tid = call->args[1].u < vcpus_of(&info) ? thread_of(&info, (unsigned)call->args[1].u) : 0;
	if (!tid) {
		lv_fail(call, VIR_ERR_INVALID_ARG, "vcpu %llu is out of range of live cpu count %u",
			(unsigned long long)call->args[1].u, vcpus_of(&info));
		return;
	}
	CPU_ZERO(&set);
	for (size_t i = 0; i < call->args[2].bytes * 8 && i < CPU_SETSIZE; i++)
		if (map[i / 8] & 1u << i % 8)
			CPU_SET(i, &set);
	if (sched_setaffinity(tid, sizeof(set), &set) < 0)
		lv_fail(call, errno == EINVAL ? VIR_ERR_INVALID_ARG : VIR_ERR_SYSTEM_ERROR, "cannot pin vcpu %llu: %s",
			(unsigned long long)call->args[1].u, strerror(errno));
	else
		lv_reply(call);
}

void lv_domain_pin_vcpu(struct lv_call *call, struct vm *vm)
{
	pin(call, vm, VIR_DOMAIN_AFFECT_LIVE);
}

void lv_domain_pin_vcpu_flags(struct lv_call *call, struct vm *vm)
{
	if (lv_flags(call, call->args[3].u, VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG))
		pin(call, vm, call->args[3].u);
}

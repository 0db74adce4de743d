/* What domains use: processors, memory, disks, one at a time and all together. */
#include "api/libvirt/handlers.h"
#include "api/libvirt/host.h"
#include "api/libvirt/interface.h"
#include "api/libvirt/params.h"
#include "api/libvirt/private.h"
#include "api/libvirt/xml.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <endian.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <time.h>
#include <unistd.h>

/* ---- disks -------------------------------------------------------------------------------- */

struct disk {
	enum vmdef_format format;
	char target[32];
	const char *path;
	unsigned index;
};

static const struct vmdef *current_def(const struct daemon_vm_info *info)
{
	return info->running_def ? info->running_def : info->def;
}

/* The disks' names in the XML, vda and so on; as many as there are. */
static unsigned list_disks(const struct daemon_vm_info *info, struct disk disks[VMDEF_DISKS_MAX])
{
	const struct vmdef *def = current_def(info);
	char error[100], *xml = def->disk_count ? lv_xml_format(info, 0) : NULL;
	xmlDoc *doc = xml ? lv_xml_read(xml, error, sizeof(error)) : NULL;
	xmlNode *devices = doc ? lv_xml_child(xmlDocGetRootElement(doc), "devices") : NULL;
	unsigned number = 0;

	for (unsigned i = 0; i < def->disk_count; i++) {
		disks[i] = (struct disk){.path = def->disks[i].path, .format = def->disks[i].format, .index = UINT_MAX};
		/* A CD-ROM drive counts nothing, and is not counted. */
		if (def->disks[i].device == VMDEF_DEVICE_DISK)
			disks[i].index = number++;
		snprintf(disks[i].target, sizeof(disks[i].target), "vd%c", 'a' + (int)i);
		for (xmlNode *e = lv_xml_child(devices, "disk"); e; e = lv_xml_next(e, "disk")) {
			xmlNode *source = lv_xml_child(e, "source");
			char *name = lv_xml_attribute(lv_xml_child(e, "target"), "dev");

			if (name && source && (lv_xml_attribute_is(source, "file", disks[i].path) ||
					       lv_xml_attribute_is(source, "dev", disks[i].path)))
				snprintf(disks[i].target, sizeof(disks[i].target), "%s", name);
			xmlFree(name);
		}
	}
	xmlFreeDoc(doc);
	free(xml);
	return def->disk_count;
}

/* By target or path. False: the call was failed. */
static bool find_disk(struct lv_call *call, const struct daemon_vm_info *info, const char *name, struct disk *ret)
{
	struct disk disks[VMDEF_DISKS_MAX];
	unsigned n = list_disks(info, disks);

	for (unsigned i = 0; i < n; i++)
		if (!strcmp(disks[i].target, name) || !strcmp(disks[i].path, name)) {
			*ret = disks[i];
			return true;
		}
	lv_fail(call, VIR_ERR_INVALID_ARG, "invalid path: %.300s", name);
	return false;
}

struct extent {
	uint64_t capacity, allocation, physical;
};

/* What the guest sees of an image: all of a raw one; a qcow2 one says it in its header, big-endian at byte 24. */
static uint64_t capacity_of(int fd, enum vmdef_format format, uint64_t bytes)
{
	uint64_t size;

	if (format == VMDEF_FORMAT_QCOW2 && pread(fd, &size, sizeof(size), 24) == (ssize_t)sizeof(size))
		return be64toh(size);
	return bytes;
}

static bool look_at(const char *path, enum vmdef_format format, struct extent *ret)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;
	uint64_t bytes = 0;
	bool ok = fd >= 0 && fstat(fd, &st) == 0;

	if (ok && S_ISBLK(st.st_mode))
		ok = ioctl(fd, BLKGETSIZE64, &bytes) == 0;
	else if (ok)
		bytes = (uint64_t)st.st_size;
	if (ok)
		*ret = (struct extent){.capacity = capacity_of(fd, format, bytes),
				       .allocation = S_ISBLK(st.st_mode) ? bytes : (uint64_t)st.st_blocks * 512,
				       .physical = S_ISBLK(st.st_mode) ? bytes : (uint64_t)st.st_size};
	if (fd >= 0)
		close(fd);
	return ok;
}

enum {
	DISK_READS,
	DISK_WRITES,
	DISK_READ_BYTES,
	DISK_WRITTEN_BYTES,
	DISK_READ_NS,
	DISK_WRITE_NS,
	DISK_FLUSHES,
	DISK_FLUSH_NS,
	DISK_ERRORS,
	DISK_COUNTERS
};

uint64_t lv_device_counter(json_object *stats, const char *kind, unsigned number, const char *counter)
{
	static const char *const buses[] = {"virtio", "xen"};
	json_object *machine = NULL, *value;

	if (!stats || !json_object_object_get_ex(stats, "machine", &machine))
		return 0;
	for (size_t i = 0; i < sizeof(buses) / sizeof(buses[0]); i++) {
		char name[80];

		snprintf(name, sizeof(name), "%s_%s%u_%s", buses[i], kind, number, counter);
		if (json_object_object_get_ex(machine, name, &value))
			return (uint64_t)json_object_get_int64(value);
	}
	return 0;
}

static void disk_counters(json_object *stats, unsigned index, uint64_t ret[DISK_COUNTERS])
{
	static const char *const names[] = {"reads",	"writes",  "read_bytes", "written_bytes", "read_ns",
					    "write_ns", "flushes", "flush_ns",	 "errors"};

	for (unsigned i = 0; i < DISK_COUNTERS; i++)
		ret[i] = lv_device_counter(stats, "blk", index, names[i]);
}

static void done_block_stats(void *opaque, const struct daemon_error *error, json_object *stats)
{
	struct lv_call *call = opaque;
	struct vm *vm = daemon_find(call->daemon, call->uuid);
	bool with_flags = call->args[2].present;
	struct daemon_vm_info info;
	uint64_t c[DISK_COUNTERS];
	struct lv_params p;
	struct disk disk;

	if (error || !vm) {
		if (error)
			lv_fail_daemon(call, error);
		else
			lv_fail(call, VIR_ERR_NO_DOMAIN, "no domain with matching uuid '%s'", call->uuid);
		return;
	}
	daemon_vm_inspect(vm, &info);
	if (!find_disk(call, &info, call->args[1].text, &disk))
		return;
	disk_counters(stats, disk.index, c);
	if (!with_flags) {
		xdr_put_u64(&call->out, c[DISK_READS]);
		xdr_put_u64(&call->out, c[DISK_READ_BYTES]);
		xdr_put_u64(&call->out, c[DISK_WRITES]);
		xdr_put_u64(&call->out, c[DISK_WRITTEN_BYTES]);
		xdr_put_u64(&call->out, c[DISK_ERRORS]);
		lv_reply(call);
		return;
	}
	p = lv_params_begin(&call->out);
	LV_PUT_I64(&p, c[DISK_READ_BYTES], VIR_DOMAIN_BLOCK_STATS_READ_BYTES);
	LV_PUT_I64(&p, c[DISK_READS], VIR_DOMAIN_BLOCK_STATS_READ_REQ);
	LV_PUT_I64(&p, c[DISK_WRITTEN_BYTES], VIR_DOMAIN_BLOCK_STATS_WRITE_BYTES);
	LV_PUT_I64(&p, c[DISK_WRITES], VIR_DOMAIN_BLOCK_STATS_WRITE_REQ);
	LV_PUT_I64(&p, c[DISK_READ_NS], VIR_DOMAIN_BLOCK_STATS_READ_TOTAL_TIMES);
	LV_PUT_I64(&p, c[DISK_WRITE_NS], VIR_DOMAIN_BLOCK_STATS_WRITE_TOTAL_TIMES);
	LV_PUT_I64(&p, c[DISK_FLUSHES], VIR_DOMAIN_BLOCK_STATS_FLUSH_REQ);
	LV_PUT_I64(&p, c[DISK_FLUSH_NS], VIR_DOMAIN_BLOCK_STATS_FLUSH_TOTAL_TIMES);
	LV_PUT_I64(&p, c[DISK_ERRORS], VIR_DOMAIN_BLOCK_STATS_ERRS);
	lv_params_end(&p);
	xdr_put_i32(&call->out, (int32_t)p.n);
	lv_reply(call);
}

void lv_domain_block_stats(struct lv_call *call, struct vm *vm)
{
	enum { ROWS = 9 };
	struct daemon_vm_info info;
	struct disk disk;

	if (call->args[3].present && !lv_flags(call, call->args[3].u, VIR_TYPED_PARAM_STRING_OKAY))
		return;
	daemon_vm_inspect(vm, &info);
	if (!find_disk(call, &info, call->args[1].text, &disk))
		return;
	if (call->args[2].present && !call->args[2].i) { /* how many there are */
		xdr_put_u32(&call->out, 0);
		xdr_put_i32(&call->out, ROWS);
		lv_reply(call);
	} else if (call->args[2].present && call->args[2].i < ROWS) {
		lv_fail(call, VIR_ERR_INVALID_ARG, "nparams %lld is less than %d", (long long)call->args[2].i, ROWS);
	} else {
		daemon_stats(call->daemon, vm, done_block_stats, call);
	}
}

void lv_domain_get_block_info(struct lv_call *call, struct vm *vm)
{
	struct daemon_vm_info info;
	struct extent extent;
	struct disk disk;

	if (!lv_flags(call, call->args[2].u, 0))
		return;
	daemon_vm_inspect(vm, &info);
	if (!find_disk(call, &info, call->args[1].text, &disk))
		return;
	if (!look_at(disk.path, disk.format, &extent)) {
		lv_fail(call, VIR_ERR_SYSTEM_ERROR, "cannot look at %.300s: %m", disk.path);
		return;
	}
	xdr_put_u64(&call->out, extent.allocation);
	xdr_put_u64(&call->out, extent.capacity);
	xdr_put_u64(&call->out, extent.physical);
	lv_reply(call);
}

/* ---- memory and processors --------------------------------------------------------------------- */

/* The guest's own figures: libvirt's number and name, and the daemon's. */
static const struct {
	int tag;
	const char *key, *name;
} memory_rows[] = {
	{VIR_DOMAIN_MEMORY_STAT_SWAP_IN, "swap_in_kib", "swap_in"},
	{VIR_DOMAIN_MEMORY_STAT_SWAP_OUT, "swap_out_kib", "swap_out"},
	{VIR_DOMAIN_MEMORY_STAT_MAJOR_FAULT, "major_faults", "major_fault"},
	{VIR_DOMAIN_MEMORY_STAT_MINOR_FAULT, "minor_faults", "minor_fault"},
	{VIR_DOMAIN_MEMORY_STAT_UNUSED, "unused_kib", "unused"},
	{VIR_DOMAIN_MEMORY_STAT_AVAILABLE, "total_kib", "available"},
	{VIR_DOMAIN_MEMORY_STAT_USABLE, "available_kib", "usable"},
	{VIR_DOMAIN_MEMORY_STAT_DISK_CACHES, "disk_caches_kib", "disk_caches"},
};

/* A figure of what vm.balloon answers. False: the guest has not told it. */
static bool memory_figure(json_object *balloon, size_t row, uint64_t *ret)
{
	json_object *stats = NULL, *value = NULL;

	if (!balloon || !json_object_object_get_ex(balloon, "stats", &stats) || !json_object_object_get_ex(stats, memory_rows[row].key, &value))
		return false;
	*ret = (uint64_t)json_object_get_int64(value);
	return true;
}

static bool memory_update(json_object *balloon, uint64_t *ret)
{
	json_object *age = NULL;

	if (!balloon || !json_object_object_get_ex(balloon, "stats_age_seconds", &age))
		return false;
	*ret = (uint64_t)((double)time(NULL) - json_object_get_double(age));
	return true;
}

static void put_memory_row(struct lv_call *call, uint32_t *n, uint32_t max, int tag, uint64_t value)
{
	if (*n >= max)
		return;
	++*n;
	xdr_put_i32(&call->out, tag);
	xdr_put_u64(&call->out, value);
}

static void done_memory(void *opaque, const struct daemon_error *error, json_object *balloon)
{
	struct lv_call *call = opaque;
	struct vm *vm = daemon_find(call->daemon, call->uuid);
	uint32_t max = (uint32_t)call->args[1].u, n = 0;
	size_t at = call->out.used;
	struct daemon_vm_info info = {0};
	uint64_t value;

	if (!vm) {
		lv_fail(call, VIR_ERR_OPERATION_INVALID, "domain is not running");
		return;
	}
	/* One without a balloon is answered too. */
	if (error)
		balloon = NULL;
	daemon_vm_inspect(vm, &info);
	xdr_put_u32(&call->out, 0);
	for (size_t i = 0; i < sizeof(memory_rows) / sizeof(memory_rows[0]); i++)
		if (memory_figure(balloon, i, &value))
			put_memory_row(call, &n, max, memory_rows[i].tag, value);
	if (memory_update(balloon, &value))
		put_memory_row(call, &n, max, VIR_DOMAIN_MEMORY_STAT_LAST_UPDATE, value);
	put_memory_row(call, &n, max, VIR_DOMAIN_MEMORY_STAT_ACTUAL_BALLOON, info.memory_kib);
	put_memory_row(call, &n, max, VIR_DOMAIN_MEMORY_STAT_RSS, host_process_rss(info.pid));
	xdr_patch_u32(&call->out, at, n);
	lv_reply(call);
}

void lv_domain_memory_stats(struct lv_call *call, struct vm *vm)
{
	if (lv_flags(call, call->args[2].u, 0))
		daemon_inspect(call->daemon, vm, DAEMON_BALLOON, json_object_new_object(), 0, done_memory, call);
}

/* Of the whole domain (start -1). Linux tells no process's times by processor without a control group of its own. */
void lv_domain_get_cpu_stats(struct lv_call *call, struct vm *vm)
{
	enum { ROWS = 3 };
	uint64_t nparams = call->args[1].u, ncpus = call->args[3].u;
	struct host_times times;
	int64_t start = call->args[2].i;
	struct daemon_vm_info info;
	struct host_topology t;
	struct lv_params p;

	if (!lv_flags(call, call->args[4].u, VIR_TYPED_PARAM_STRING_OKAY))
		return;
	if (start != -1 && (nparams || ncpus)) {
		lv_fail(call, VIR_ERR_OPERATION_UNSUPPORTED, "times by host processor are not known; those of the whole domain are");
		return;
	}
	daemon_vm_inspect(vm, &info);
	p = lv_params_begin(&call->out);
	if (!nparams) {
		host_topology(&t);
		xdr_put_i32(&call->out, start == -1 ? ROWS : (int32_t)t.possible);
		lv_reply(call);
		return;
	}
	host_process_times(info.pid, 0, &times);
	if (nparams > 0)
		LV_PUT_U64(&p, times.total, VIR_DOMAIN_CPU_STATS_CPUTIME);
	if (nparams > 1)
		LV_PUT_U64(&p, times.user, VIR_DOMAIN_CPU_STATS_USERTIME);
	if (nparams > 2)
		LV_PUT_U64(&p, times.system, VIR_DOMAIN_CPU_STATS_SYSTEMTIME);
	lv_params_end(&p);
	xdr_put_i32(&call->out, (int32_t)p.n);
	lv_reply(call);
}

#define STATS_KNOWN \
	(VIR_DOMAIN_STATS_STATE | VIR_DOMAIN_STATS_CPU_TOTAL | VIR_DOMAIN_STATS_BALLOON | VIR_DOMAIN_STATS_VCPU | \
	 VIR_DOMAIN_STATS_INTERFACE | VIR_DOMAIN_STATS_BLOCK)

/* Each process is a question and an answer: whoever wants everything gets the guest's figures where it tells them anyway. */
static bool wants_balloon(uint64_t groups, const struct vmdef *def)
{
	return groups & VIR_DOMAIN_STATS_BALLOON && def->balloon.device == VMDEF_BALLOON_VIRTIO &&
	       ((groups & STATS_KNOWN) != STATS_KNOWN || def->balloon.stats_seconds);
}

/* Of vm.stats; NULL: none. */
static void put_balloon(struct lv_params *p, json_object *stats)
{
	json_object *memory = NULL, *balloon = NULL;
	uint64_t value;

	if (!stats || !json_object_object_get_ex(stats, "memory", &memory) || !json_object_object_get_ex(memory, "balloon", &balloon))
		return;
	for (size_t i = 0; i < sizeof(memory_rows) / sizeof(memory_rows[0]); i++)
		if (memory_figure(balloon, i, &value))
			LV_PUT_U64(p, value, "balloon.%s", memory_rows[i].name);
	if (memory_update(balloon, &value))
		LV_PUT_U64(p, value, "balloon.last-update");
}

/* ---- everything of many domains ------------------------------------------------------------------ */

#define STATS_FLAGS \
	(VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT | VIR_CONNECT_GET_ALL_DOMAINS_STATS_BACKING | \
	 VIR_CONNECT_GET_ALL_DOMAINS_STATS_ENFORCE_STATS)

/* One call, gathered from the processes of many domains at once. */
struct gather {
	struct lv_call *call;
	unsigned groups, missing, count;
	bool asking; /* answers may come before all were asked */
	struct gathered {
		struct gather *gather;
		char uuid[VMDEF_UUID_BYTES];
		json_object *stats;
	} domains[];
};

static void put_vcpus(struct lv_params *p, const struct daemon_vm_info *info)
{
	unsigned n = current_def(info)->vcpus;
	struct host_thread threads[64];
	unsigned count = info->active ? host_threads(info->pid, threads, 64) : 0;

	LV_PUT_U32(p, n, "vcpu.current");
	LV_PUT_U32(p, n, "vcpu.maximum");
	for (unsigned i = 0; i < n && info->active; i++) {
		struct host_times times = {0};
		char name[16];

		snprintf(name, sizeof(name), "vcpu%u", i);
		for (unsigned j = 0; j < count; j++)
			if (!strcmp(threads[j].name, name))
				host_process_times(info->pid, threads[j].tid, &times);
		LV_PUT_I32(p, VIR_VCPU_RUNNING, "vcpu.%u.state", i);
		LV_PUT_U64(p, times.total, "vcpu.%u.time", i);
	}
}

static void put_blocks(struct lv_params *p, const struct daemon_vm_info *info, json_object *stats)
{
	struct disk disks[VMDEF_DISKS_MAX];
	unsigned n = list_disks(info, disks);
	struct extent extent;
	uint64_t c[DISK_COUNTERS];

	LV_PUT_U32(p, n, "block.count");
	for (unsigned i = 0; i < n; i++) {
		LV_PUT_TEXT(p, disks[i].target, "block.%u.name", i);
		LV_PUT_TEXT(p, disks[i].path, "block.%u.path", i);
		if (stats) {
			disk_counters(stats, disks[i].index, c);
			LV_PUT_U64(p, c[DISK_READS], "block.%u.rd.reqs", i);
			LV_PUT_U64(p, c[DISK_READ_BYTES], "block.%u.rd.bytes", i);
			LV_PUT_U64(p, c[DISK_READ_NS], "block.%u.rd.times", i);
			LV_PUT_U64(p, c[DISK_WRITES], "block.%u.wr.reqs", i);
			LV_PUT_U64(p, c[DISK_WRITTEN_BYTES], "block.%u.wr.bytes", i);
			LV_PUT_U64(p, c[DISK_WRITE_NS], "block.%u.wr.times", i);
			LV_PUT_U64(p, c[DISK_FLUSHES], "block.%u.fl.reqs", i);
			LV_PUT_U64(p, c[DISK_FLUSH_NS], "block.%u.fl.times", i);
			LV_PUT_U64(p, c[DISK_ERRORS], "block.%u.errors", i);
		}
		if (!look_at(disks[i].path, disks[i].format, &extent))
			continue;
		LV_PUT_U64(p, extent.allocation, "block.%u.allocation", i);
		LV_PUT_U64(p, extent.capacity, "block.%u.capacity", i);
		LV_PUT_U64(p, extent.physical, "block.%u.physical", i);
	}
}

static void put_interfaces(struct lv_params *p, const struct vmdef *def, json_object *stats)
{
	static const char *const names[] = {"rx.bytes", "rx.pkts", "rx.errs", "rx.drop", "tx.bytes", "tx.pkts", "tx.errs", "tx.drop"};
	char device[VMDEF_INTERFACE_BYTES];
	uint64_t c[LV_NIC_COUNTERS];

	LV_PUT_U32(p, def->nic_count, "net.count");
	for (unsigned i = 0; i < def->nic_count; i++) {
		lv_interface_device(&def->nics[i], i, device);
		LV_PUT_TEXT(p, device, "net.%u.name", i);
		lv_interface_counters(stats, i, c);
		for (unsigned k = 0; stats && k < LV_NIC_COUNTERS; k++)
			LV_PUT_U64(p, c[k], "net.%u.%s", i, names[k]);
	}
}

static void put_record(struct xdr_writer *out, struct vm *vm, unsigned groups, json_object *stats)
{
	struct host_times times;
	struct daemon_vm_info info;
	struct lv_params p;
	int reason = 0;

	daemon_vm_inspect(vm, &info);
	lv_put_domain(out, vm);
	p = lv_params_begin(out);
	if (groups & VIR_DOMAIN_STATS_STATE) {
		LV_PUT_I32(&p, lv_domain_state(&info, &reason), "state.state");
		LV_PUT_I32(&p, reason, "state.reason");
	}
	if (groups & VIR_DOMAIN_STATS_CPU_TOTAL && info.active &&
	    host_process_times(info.pid, 0, &times)) {
		LV_PUT_U64(&p, times.total, "cpu.time");
		LV_PUT_U64(&p, times.user, "cpu.user");
		LV_PUT_U64(&p, times.system, "cpu.system");
	}
	if (groups & VIR_DOMAIN_STATS_BALLOON) {
		LV_PUT_U64(&p, info.active ? info.memory_kib : (uint64_t)current_def(&info)->memory_mib * 1024, "balloon.current");
		LV_PUT_U64(&p, (uint64_t)current_def(&info)->memory_mib * 1024, "balloon.maximum");
		if (info.active)
			LV_PUT_U64(&p, host_process_rss(info.pid), "balloon.rss");
		put_balloon(&p, stats);
	}
	if (groups & VIR_DOMAIN_STATS_VCPU)
		put_vcpus(&p, &info);
	if (groups & VIR_DOMAIN_STATS_INTERFACE && info.active)
		put_interfaces(&p, current_def(&info), stats);
	if (groups & VIR_DOMAIN_STATS_BLOCK)
		put_blocks(&p, &info, stats);
	lv_params_end(&p);
}

static void gather_finish(struct gather *g)
{
	struct lv_call *call = g->call;
	size_t at = call->out.used;
	uint32_t n = 0;

	xdr_put_u32(&call->out, 0);
	for (unsigned i = 0; i < g->count; i++) {
		struct vm *vm = daemon_find(call->daemon, g->domains[i].uuid);

		/* One that went meanwhile has no statistics any more. */
		if (vm) {
			put_record(&call->out, vm, g->groups, g->domains[i].stats);
			n++;
		}
		json_object_put(g->domains[i].stats);
	}
	xdr_patch_u32(&call->out, at, n);
	free(g);
	lv_reply(call);
}

static void on_stats(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct gathered *d = opaque;
	struct gather *g = d->gather;

	/* A process that does not answer: what the host knows of it is told all the same. */
	if (!error)
		d->stats = json_object_get(result);
	if (!--g->missing && !g->asking)
		gather_finish(g);
}

static bool choose(struct lv_call *call, struct gather *g, uint64_t filter)
{
	const struct xdr_value *list = &call->args[0];
	struct daemon_vm_info info;
	struct vm *vm = NULL;

	for (unsigned i = 0; i < list->count; i++) {
		vm = lv_find_domain(call, &list->items[i]);
		if (!vm)
			return false;
		daemon_vm_inspect(vm, &info);
		snprintf(g->domains[g->count++].uuid, VMDEF_UUID_BYTES, "%s", info.uuid);
	}
	while (!list->count && (vm = daemon_next(call->daemon, vm))) {
		daemon_vm_inspect(vm, &info);
		if (lv_domain_listed(&info, filter))
			snprintf(g->domains[g->count++].uuid, VMDEF_UUID_BYTES, "%s", info.uuid);
	}
	return true;
}

void lv_connect_get_all_domain_stats(struct lv_call *call, struct vm *unused)
{
	uint64_t groups = call->args[1].u, flags = call->args[2].u;
	unsigned room = call->args[0].count;
	struct daemon_vm_info info;
	struct gather *g;

	if (!lv_flags(call, flags, 0xffff | STATS_FLAGS))
		return;
	if (flags & VIR_CONNECT_GET_ALL_DOMAINS_STATS_ENFORCE_STATS && groups & ~(uint64_t)STATS_KNOWN) {
		lv_fail(call, VIR_ERR_ARGUMENT_UNSUPPORTED, "Stats types bits 0x%llx are not supported by this daemon",
			(unsigned long long)(groups & ~(uint64_t)STATS_KNOWN));
		return;
	}
	for (struct vm *vm = NULL; !call->args[0].count && (vm = daemon_next(call->daemon, vm));)
		room++;
	g = calloc(1, sizeof(*g) + room * sizeof(g->domains[0]));
	if (!g) {
		lv_fail(call, VIR_ERR_NO_MEMORY, "out of memory");
		return;
	}
	g->call = call;
	g->groups = groups ? (unsigned)groups : STATS_KNOWN;
	if (!choose(call, g, flags & 0xffff)) {
		free(g);
		return;
	}
	g->asking = true;
	for (unsigned i = 0; i < g->count && g->groups & (VIR_DOMAIN_STATS_BLOCK | VIR_DOMAIN_STATS_INTERFACE | VIR_DOMAIN_STATS_BALLOON); i++) {
		struct vm *vm = daemon_find(call->daemon, g->domains[i].uuid);

		daemon_vm_inspect(vm, &info);
		g->domains[i].gather = g;
		if (!info.active || !((g->groups & VIR_DOMAIN_STATS_BLOCK && current_def(&info)->disk_count) ||
				      (g->groups & VIR_DOMAIN_STATS_INTERFACE && current_def(&info)->nic_count) ||
				      wants_balloon(g->groups, current_def(&info))))
			continue;
		g->missing++;
		daemon_stats(call->daemon, vm, on_stats, &g->domains[i]);
	}
	g->asking = false;
	if (!g->missing)
		gather_finish(g);
}

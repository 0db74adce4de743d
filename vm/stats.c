/* What a VM did and used, as `stats` and result.json tell it. */
#include "vm/private.h"

#include "proto/file.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static void put_u64(struct json_object *to, const char *key, uint64_t value)
{
	json_object_object_add(to, key, json_object_new_int64((int64_t)value));
}

static void put_seconds(struct json_object *to, const char *key, double seconds)
{
	char text[32];
	snprintf(text, sizeof(text), "%.6f", seconds);
	json_object_object_add(to, key, json_object_new_double_s(seconds, text));
}

double vm_boot_seconds(const struct vm *vm)
{
	uint64_t ns = vm->engine ? vm->mode->first_user_ns(vm->engine) : 0;
	return ns ? (double)(ns - vm->start_ns) / 1e9 : -1;
}

/* The number behind `key` (with its colon) in a /proc file, in KiB; 0 when it is not there. */
static uint64_t proc_kib(const char *path, const char *key)
{
	FILE *f = fopen(path, "re");
	if (!f)
		return 0;
	char line[256];
	uint64_t kib = 0;
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, key, strlen(key))) {
			kib = strtoull(line + strlen(key), NULL, 10);
			break;
		}
	fclose(f);
	return kib;
}

/*
 * Proportional set size, because the code cache is mapped twice and counts twice as resident. Guest RAM is what its
 * memfd has allocated.
 */
static struct json_object *memory_json(struct vm *vm)
{
	struct json_object *m = json_object_new_object();
	uint64_t pss = proc_kib("/proc/self/smaps_rollup", "Pss:");
	put_u64(m, "resident_kib", proc_kib("/proc/self/status", "VmRSS:"));
	put_u64(m, "proportional_kib", pss);
	struct stat st;
	if (vm->machine && fstat(machine_ram_fd(vm->machine), &st) == 0) {
		uint64_t guest = (uint64_t)st.st_blocks / 2;
		put_u64(m, "guest_ram_kib", guest);
		put_u64(m, "overhead_kib", pss > guest ? pss - guest : 0);
	}
	struct json_object *balloon = vm_balloon_json(vm);
	if (balloon)
		json_object_object_add(m, "balloon", balloon);
	return m;
}

static const char *after_prefix(const char *name, const char *prefix)
{
	size_t n = strlen(prefix);
	return strncmp(name, prefix, n) ? NULL : name + n;
}

/* What makes an engine leave translated (or native) guest code, among what it counts. */
static bool is_exit(const char *name)
{
	static const char *const kinds[] = {
		"pio", "mmio", "exceptions", "interrupts", "syscalls", "rdmsr", "wrmsr", "tlb_miss", "lookups", "polls", "smc",
	};
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (!strcmp(kinds[i], name))
			return true;
	return false;
}

/* Rows named exit_X are exits of kind X too; guest_instructions has a place of its own; the rest is the engine's. */
static void put_engine(struct vm *vm, struct json_object *stats, struct json_object *exits)
{
	struct mode_stat rows[MODE_STATS_MAX];
	size_t n = vm->mode->stats(vm->engine, rows, MODE_STATS_MAX);
	struct json_object *engine = json_object_new_object();
	for (size_t i = 0; i < n; i++) {
		const char *kind = after_prefix(rows[i].name, "exit_");
		if (kind || is_exit(rows[i].name))
			put_u64(exits, kind ? kind : rows[i].name, rows[i].value);
		else if (!strcmp(rows[i].name, "guest_instructions"))
			put_u64(stats, rows[i].name, rows[i].value);
		else
			put_u64(engine, rows[i].name, rows[i].value);
	}
	json_object_object_add(stats, "engine", engine);
}

static void put_machine(struct vm *vm, struct json_object *stats, struct json_object *exits)
{
	struct machine_stat rows[384]; /* a disk has eleven, a NIC seven */
	size_t n = machine_stats(vm->machine, rows, ARRAY_SIZE(rows));
	struct json_object *machine = json_object_new_object();
	for (size_t i = 0; i < n; i++) {
		const char *kind = after_prefix(rows[i].name, "exit_");
		if (kind)
			put_u64(exits, kind, rows[i].value);
		else
			put_u64(machine, rows[i].name, rows[i].value);
	}
	json_object_object_add(stats, "machine", machine);
}

struct json_object *vm_stats_json(struct vm *vm)
{
	struct json_object *stats = json_object_new_object(), *exits = json_object_new_object();
	json_object_object_add(stats, "mode", json_object_new_string(vm->mode ? vm->mode->name : vm->options.mode));
	if (vm->variant[0])
		json_object_object_add(stats, "variant", json_object_new_string(vm->variant));
	json_object_object_add(stats, "mode_reason", json_object_new_string(vm->options.mode_reason));
	put_seconds(stats, "wall_seconds", (double)(vm_now_ns() - vm->start_ns) / 1e9);
	double boot = vm_boot_seconds(vm);
	if (boot >= 0)
		put_seconds(stats, "boot_seconds", boot);
	else
		json_object_object_add(stats, "boot_seconds", NULL);
	json_object_object_add(stats, "guest_instructions", NULL); /* stays null where the engine does not count them */
	struct rusage ru;
	getrusage(RUSAGE_SELF, &ru);
	put_seconds(stats, "cpu_user_seconds", (double)ru.ru_utime.tv_sec + (double)ru.ru_utime.tv_usec / 1e6);
	put_seconds(stats, "cpu_system_seconds", (double)ru.ru_stime.tv_sec + (double)ru.ru_stime.tv_usec / 1e6);
	put_u64(stats, "resets", vm->resets);
	uint64_t halts = 0, interruptions = 0;
	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		halts += atomic_load_explicit(&vm->vcpus[i].halts, memory_order_relaxed);
		interruptions += atomic_load_explicit(&vm->vcpus[i].interruptions, memory_order_relaxed);
	}
	put_u64(exits, "halt", halts);
	put_u64(exits, "interrupted", interruptions);
	if (vm->engine)
		put_engine(vm, stats, exits);
	if (vm->machine)
		put_machine(vm, stats, exits);
	json_object_object_add(stats, "exits", exits);
	if (vm->profile) {
		struct json_object *samples = json_object_new_object();
		json_object_object_add(samples, "where", vm_profile_where_json(vm));
		json_object_object_add(samples, "helpers", vm_profile_helpers_json(vm));
		json_object_object_add(stats, "samples", samples);
	}
	if (vm->console)
		json_object_object_add(stats, "console", vm_console_json(vm));
	json_object_object_add(stats, "memory", memory_json(vm));
	return stats;
}

/* In which mode the first vCPU ended: 16, 32 or 64; 0 where the engine cannot tell. Only once vCPUs have stopped. */
static unsigned guest_bits(struct vm *vm)
{
	struct cpu_state *cs;
	unsigned bits = 0;

	if (!vm->vcpu_count || vm->vcpus[0].has_thread || !vm->vcpus[0].engine ||
	    !(vm->mode->capabilities & MODE_CAP_STATE))
		return 0;
	cs = vm_state_alloc();
	if (cs && !vm->mode->get_state(vm->vcpus[0].engine, cs))
		bits = cs->efer & 0x400 /* LMA */ ? 64 : cs->cr0 & 1 /* PE */ ? 32 : 16;
	free(cs);
	return bits;
}

int vm_write_result(struct vm *vm)
{
	struct json_object *r = json_object_new_object();
	json_object_object_add(r, "protocol", json_object_new_int(CONTROL_VERSION));
	if (vm->def) {
		json_object_object_add(r, "uuid", json_object_new_string(vm->def->uuid));
		json_object_object_add(r, "name", json_object_new_string(vm->def->name));
	}
	json_object_object_add(r, "state", json_object_new_string(vm_state_name(vm->state)));
	json_object_object_add(r, "reason", json_object_new_string(vm->reason));
	json_object_object_add(r, "exit_code", json_object_new_int(vm->exit_code));
	json_object_object_add(r, "started", json_object_new_double(vm->started));
	json_object_object_add(r, "ended", json_object_new_double(vm->ended));
	put_seconds(r, "paused_seconds", (double)vm->paused_ns / 1e9);
	struct json_object *stats = vm_stats_json(vm);
	unsigned bits = guest_bits(vm);
	if (bits)
		json_object_object_add(stats, "guest_bits", json_object_new_int((int)bits));
	json_object_object_add(r, "stats", stats);
	size_t bytes;
	const char *text = json_object_to_json_string_length(
		r, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE, &bytes);
	char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s/" CONTROL_FILE_RESULT, vm->options.dir);
	int rc = text ? file_write_atomic(path, text, bytes, 0600) : -ENOMEM;
	json_object_put(r);
	return rc;
}

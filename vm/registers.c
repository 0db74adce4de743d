/* A vCPU's registers as JSON. Numbers are hexadecimal strings: JSON's own lose bits beyond 53. */
#include "vm/private.h"

#include "vm/gdb_registers.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <string.h>

static void put_hex(struct json_object *to, const char *key, uint64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "0x%" PRIx64, value);
	json_object_object_add(to, key, json_object_new_string(text));
}

static void put_text(struct json_object *to, const char *key, const char *text)
{
	json_object_object_add(to, key, json_object_new_string(text));
}

/* Rows of a table: a name and where the value is. */
struct row {
	const char *name;
	size_t offset;
};
#define ROW(name, member) {name, offsetof(struct cpu_state, member)}

static const struct row general[] = {
	ROW("rax", gpr[GPR_RAX]), ROW("rbx", gpr[GPR_RBX]), ROW("rcx", gpr[GPR_RCX]), ROW("rdx", gpr[GPR_RDX]),
	ROW("rsi", gpr[GPR_RSI]), ROW("rdi", gpr[GPR_RDI]), ROW("rbp", gpr[GPR_RBP]), ROW("rsp", gpr[GPR_RSP]),
	ROW("r8", gpr[GPR_R8]),	  ROW("r9", gpr[GPR_R9]),   ROW("r10", gpr[GPR_R10]), ROW("r11", gpr[GPR_R11]),
	ROW("r12", gpr[GPR_R12]), ROW("r13", gpr[GPR_R13]), ROW("r14", gpr[GPR_R14]), ROW("r15", gpr[GPR_R15]),
	ROW("rip", rip),	  ROW("rflags", rflags),
};
static const struct row control[] = {
	ROW("cr0", cr0), ROW("cr2", cr2), ROW("cr3", cr3), ROW("cr4", cr4), ROW("xcr0", xcr0),
};
static const struct row debug[] = {
	ROW("dr0", dr[0]), ROW("dr1", dr[1]), ROW("dr2", dr[2]), ROW("dr3", dr[3]), ROW("dr6", dr6), ROW("dr7", dr7),
};
static const struct row msrs[] = {
	ROW("efer", efer), ROW("star", star), ROW("lstar", lstar), ROW("cstar", cstar), ROW("sfmask", sfmask),
	ROW("kernel_gs_base", kernel_gs_base), ROW("sysenter_cs", sysenter_cs), ROW("sysenter_esp", sysenter_esp),
	ROW("sysenter_eip", sysenter_eip), ROW("pat", pat), ROW("tsc_aux", tsc_aux), ROW("misc_enable", misc_enable),
	ROW("spec_ctrl", spec_ctrl), ROW("xss", xss), ROW("mtrr_def_type", mtrr_def_type), ROW("tsc_offset", tsc_offset),
	ROW("tsc_adjust", tsc_adjust), ROW("kvm_system_time", kvm_system_time), ROW("kvm_wall_clock", kvm_wall_clock),
};

static struct json_object *rows_json(const struct cpu_state *cs, const struct row *rows, size_t n)
{
	struct json_object *o = json_object_new_object();

	for (size_t i = 0; i < n; i++) {
		uint64_t value;
		memcpy(&value, (const char *)cs + rows[i].offset, sizeof(value));
		put_hex(o, rows[i].name, value);
	}
	return o;
}

static struct json_object *segments_json(const struct cpu_state *cs)
{
	static const struct {
		const char *name;
		size_t offset;
	} segments[] = {
		ROW("cs", seg[SEG_CS]), ROW("ss", seg[SEG_SS]), ROW("ds", seg[SEG_DS]), ROW("es", seg[SEG_ES]),
		ROW("fs", seg[SEG_FS]), ROW("gs", seg[SEG_GS]), ROW("ldtr", ldtr),	ROW("tr", tr),
	};
	struct json_object *o = json_object_new_object();

	for (size_t i = 0; i < ARRAY_SIZE(segments); i++) {
		struct json_object *s = json_object_new_object();
		struct cpu_segment seg;
		memcpy(&seg, (const char *)cs + segments[i].offset, sizeof(seg));
		put_hex(s, "selector", seg.selector);
		put_hex(s, "base", seg.base);
		put_hex(s, "limit", seg.limit);
		put_hex(s, "access", seg.access);
		json_object_object_add(o, segments[i].name, s);
	}
	return o;
}

static struct json_object *table_json(const struct cpu_dtable *table)
{
	struct json_object *o = json_object_new_object();

	put_hex(o, "base", table->base);
	put_hex(o, "limit", table->limit);
	return o;
}

/* The set ones, from the highest down, as people write them. */
static void put_flags(struct json_object *to, uint64_t rflags)
{
	static const struct {
		const char *name;
		unsigned bit;
	} bits[] = {{"ID", 21}, {"VIP", 20}, {"VIF", 19}, {"AC", 18}, {"VM", 17}, {"RF", 16}, {"NT", 14}, {"OF", 11}, {"DF", 10},
		    {"IF", 9},  {"TF", 8},   {"SF", 7},	  {"ZF", 6},  {"AF", 4},  {"PF", 2},  {"CF", 0}};
	char text[96] = "";
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(bits); i++)
		if (rflags >> bits[i].bit & 1)
			n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%s", n ? " " : "", bits[i].name);
	put_text(to, "flags", text);
}

static const char *mode_of(const struct cpu_state *cs)
{
	if (!(cs->cr0 & 1))
		return "real";
	if (cs->rflags >> 17 & 1)
		return "virtual 8086";
	if (cs->efer & 0x400)
		return cs->seg[SEG_CS].access & SEG_ACCESS_L ? "64-bit" : "compatibility";
	return cs->seg[SEG_CS].access & SEG_ACCESS_DB ? "32-bit" : "16-bit";
}

/* By the names that the debugger knows them by; bytes from the highest down. */
static struct json_object *vector_json(const struct cpu_state *cs)
{
	struct json_object *o = json_object_new_object();
	const struct gdb_extra extra = {0};

	for (unsigned i = 0; i < gdb_register_count(GDB_64); i++) {
		const char *name = gdb_register_name(GDB_64, i);
		uint8_t bytes[GDB_REGISTER_BYTES];
		size_t n = gdb_register_read(GDB_64, i, cs, &extra, bytes);
		char text[2 * GDB_REGISTER_BYTES + 3] = "0x";
		if (!gdb_register_is_vector(GDB_64, i))
			continue;
		for (size_t k = 0; k < n; k++)
			snprintf(text + 2 + 2 * k, 3, "%02x", bytes[n - 1 - k]);
		put_text(o, name, text);
	}
	return o;
}

static struct json_object *vcpu_json(struct vm *vm, unsigned index, const struct cpu_state *cs, bool vector)
{
	static const char *const activities[] = {
		[CPU_RUNNING] = "running", [CPU_HALTED] = "halted", [CPU_WAIT_SIPI] = "not started", [CPU_SHUTDOWN] = "shut down"};
	struct json_object *o = json_object_new_object(), *c;

	json_object_object_add(o, "vcpu", json_object_new_int((int)index));
	put_text(o, "activity", cs->activity < ARRAY_SIZE(activities) ? activities[cs->activity] : "unknown");
	put_text(o, "mode", mode_of(cs));
	json_object_object_add(
		o, "cpl", json_object_new_int(cs->cr0 & 1 ? cs->seg[SEG_SS].access >> SEG_ACCESS_DPL_SHIFT & 3 : 0));
	put_flags(o, cs->rflags);
	json_object_object_add(o, "general", rows_json(cs, general, ARRAY_SIZE(general)));
	json_object_object_add(o, "segments", segments_json(cs));
	json_object_object_add(o, "gdtr", table_json(&cs->gdtr));
	json_object_object_add(o, "idtr", table_json(&cs->idtr));
	c = rows_json(cs, control, ARRAY_SIZE(control));
	put_hex(c, "cr8", machine_tpr_get(vm->machine, index));
	json_object_object_add(o, "control", c);
	json_object_object_add(o, "debug", rows_json(cs, debug, ARRAY_SIZE(debug)));
	json_object_object_add(o, "msrs", rows_json(cs, msrs, ARRAY_SIZE(msrs)));
	if (vector)
		json_object_object_add(o, "vector", vector_json(cs));
	return o;
}

int vm_registers_json(struct vm *vm, int vcpu, bool vector, struct json_object **ret)
{
	bool was_halted = vm->halted;
	struct json_object *list;
	struct cpu_state *cs;
	int rc;

	if (vm->state != VM_RUNNING && vm->state != VM_PAUSED)
		return -EBUSY;
	if (!(vm->mode->capabilities & MODE_CAP_STATE))
		return -ENOTSUP;
	if (vcpu >= (int)vm->vcpu_count)
		return -ERANGE;
	cs = vm_state_alloc();
	if (!cs)
		return -ENOMEM;
	rc = vm_halt(vm);
	if (rc) {
		free(cs);
		return rc;
	}
	list = json_object_new_array();
	for (unsigned i = 0; i < vm->vcpu_count; i++)
		if ((vcpu < 0 || (unsigned)vcpu == i) && !vm->mode->get_state(vm->vcpus[i].engine, cs))
			json_object_array_add(list, vcpu_json(vm, i, cs, vector));
	if (!was_halted)
		vm_go(vm);
	free(cs);
	*ret = list;
	return 0;
}

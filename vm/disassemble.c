/*
 * Guest code, and its translation, as text. Capstone looks at bytes that a guest chose: it does so here, in the VM's own
 * process behind its sandbox, and nowhere else.
 */
#include "vm/private.h"

#include <capstone/capstone.h>
#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <string.h>
#include <unistd.h>

#define TRANSLATIONS_MAX 8
#define HOST_BYTES_MAX 16384u

static void put_hex(struct json_object *to, const char *key, uint64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "0x%" PRIx64, value);
	json_object_object_add(to, key, json_object_new_string(text));
}

static void put_bytes(struct json_object *to, const char *key, const uint8_t *bytes, size_t n)
{
	char text[2 * 256 + 1] = "";

	for (size_t i = 0; i < n && i < 256; i++)
		snprintf(text + 2 * i, 3, "%02x", bytes[i]);
	json_object_object_add(to, key, json_object_new_string(text));
}

size_t vm_disassemble(const uint8_t *bytes, size_t n, uint64_t address, unsigned bits, size_t max,
		      void (*fn)(void *opaque, uint64_t address, const uint8_t *bytes, size_t n, const char *text), void *opaque)
{
	cs_mode mode = bits == 64 ? CS_MODE_64 : bits == 32 ? CS_MODE_32 : CS_MODE_16;
	size_t done = 0, count = 0;
	cs_insn *insn;
	char text[256];
	csh cs;

	if (cs_open(CS_ARCH_X86, mode, &cs) != CS_ERR_OK)
		return 0;
	insn = cs_malloc(cs);
	while (insn && done < n && count < max) {
		const uint8_t *at = bytes + done;
		size_t left = n - done;
		uint64_t next = address + done;
		size_t length = 1;
		if (cs_disasm_iter(cs, &at, &left, &next, insn)) {
			length = insn->size;
			snprintf(text, sizeof(text), "%s%s%s", insn->mnemonic, insn->op_str[0] ? " " : "", insn->op_str);
		} else {
			snprintf(text, sizeof(text), ".byte 0x%02x", bytes[done]);
		}
		fn(opaque, address + done, bytes + done, length, text);
		done += length;
		count++;
	}
	if (insn)
		cs_free(insn, 1);
	cs_close(&cs);
	return done;
}

static void add_line(void *opaque, uint64_t address, const uint8_t *bytes, size_t n, const char *text)
{
	struct json_object *line = json_object_new_object();

	put_hex(line, "address", address);
	put_bytes(line, "bytes", bytes, n);
	json_object_object_add(line, "text", json_object_new_string(text));
	json_object_array_add(opaque, line);
}

struct json_object *vm_disassemble_json(const uint8_t *bytes, size_t n, uint64_t address, unsigned bits, size_t max)
{
	struct json_object *list = json_object_new_array();

	vm_disassemble(bytes, n, address, bits, max, add_line, list);
	return list;
}

/* ---- translations ---- */

struct host_lines {
	struct json_object *list;
	const struct mode_translation *t;
	gva_t gva;
	unsigned at; /* in t->map */
};

/* As add_line, with the guest instruction it is for. */
static void add_host_line(void *opaque, uint64_t address, const uint8_t *bytes, size_t n, const char *text)
{
	struct host_lines *h = opaque;
	uint64_t offset = address - (uint64_t)(uintptr_t)h->t->host;
	struct json_object *line;

	while (h->at + 1 < h->t->map_count && h->t->map[h->at + 1].host <= offset)
		h->at++;
	add_line(h->list, address, bytes, n, text);
	line = json_object_array_get_idx(h->list, json_object_array_length(h->list) - 1);
	if (h->at < h->t->map_count && h->t->map[h->at].host <= offset)
		put_hex(line, "guest", h->gva + h->t->map[h->at].guest);
}

static void add_translation(void *opaque, const struct mode_translation *t)
{
	struct json_object *list = opaque, *o;
	struct host_lines lines = {.t = t, .gva = t->gva};

	if (json_object_array_length(list) >= TRANSLATIONS_MAX)
		return;
	o = json_object_new_object();
	put_hex(o, "address", t->gva);
	put_hex(o, "physical", t->gpa);
	json_object_object_add(o, "guest_bytes", json_object_new_int(t->guest_bytes));
	json_object_object_add(o, "instructions", json_object_new_int(t->instructions));
	json_object_object_add(o, "bits", json_object_new_int(t->bits));
	json_object_object_add(o, "cpl", json_object_new_int(t->cpl));
	json_object_object_add(o, "host_bytes", json_object_new_int64(t->host_bytes));
	lines.list = json_object_new_array();
	vm_disassemble(t->host, t->host_bytes < HOST_BYTES_MAX ? t->host_bytes : HOST_BYTES_MAX, (uintptr_t)t->host, 64, SIZE_MAX,
		       add_host_line, &lines);
	json_object_object_add(o, "code", lines.list);
	json_object_array_add(list, o);
}

static unsigned bits_of(const struct cpu_state *cs)
{
	if (cs->efer & 0x400 && cs->seg[SEG_CS].access & SEG_ACCESS_L)
		return 64;
	return cs->seg[SEG_CS].access & SEG_ACCESS_DB ? 32 : 16;
}

static int fill(struct vm *vm, const struct cpu_state *cs, const uint64_t *address, unsigned count, unsigned bits,
		struct json_object *to)
{
	bool long_code = bits_of(cs) == 64;
	gva_t at = address ? *address : long_code ? cs->rip : (uint32_t)(cs->seg[SEG_CS].base + cs->rip);
	struct json_object *code, *translated = json_object_new_array();
	struct vm_translation where;
	uint8_t bytes[VM_DISASSEMBLE_MAX * 15];
	size_t n = vm_read_linear(vm, cs, at, bytes, count * 15);

	json_object_object_add(to, "translations", translated);
	if (!n || !vm_translate(vm, cs, at, &where))
		return -EFAULT;
	bits = bits ? bits : bits_of(cs);
	code = vm_disassemble_json(bytes, n, at, bits, count);
	put_hex(to, "address", at);
	put_hex(to, "physical", where.gpa);
	json_object_object_add(to, "bits", json_object_new_int((int)bits));
	json_object_object_add(to, "code", code);
	/* What was disassembled, as far as it lies in one page. */
	size_t used = 0, lines = json_object_array_length(code);
	for (size_t i = 0; i < lines; i++)
		used += strlen(json_object_get_string(json_object_object_get(json_object_array_get_idx(code, i), "bytes"))) / 2;
	if (used > 4096 - (where.gpa & 4095))
		used = 4096 - (where.gpa & 4095);
	if (vm->mode->capabilities & MODE_CAP_PROFILE)
		vm->mode->translations(vm->engine, where.gpa, used, add_translation, translated);
	return 0;
}

int vm_disassembly_json(struct vm *vm, unsigned vcpu, const uint64_t *address, unsigned count, unsigned bits,
			struct json_object *to)
{
	bool was_halted = vm->halted;
	struct cpu_state *cs;
	int rc;

	if (vm->state != VM_RUNNING && vm->state != VM_PAUSED)
		return -EBUSY;
	if (!(vm->mode->capabilities & MODE_CAP_STATE))
		return -ENOTSUP;
	cs = vm_state_alloc();
	rc = cs ? vm_halt(vm) : -ENOMEM;
	if (!rc) {
		rc = vm->mode->get_state(vm->vcpus[vcpu].engine, cs);
		if (!rc)
			rc = fill(vm, cs, address, count, bits, to);
		if (!was_halted)
			vm_go(vm);
	}
	free(cs);
	return rc;
}

/* ---- for perf(1) ---- */

static void write_symbol(void *opaque, const struct mode_translation *t)
{
	/* perf map files: start and size in hexadecimal, then the name. */
	fprintf(opaque, "%" PRIxPTR " %x guest_%s_%016" PRIx64 "\n", (uintptr_t)t->host, t->host_bytes, t->cpl == 3 ? "user" : "kernel",
		t->gva);
}

int vm_write_perf_map(struct vm *vm, char *ret_path, size_t bytes)
{
	bool was_halted = vm->halted;
	FILE *f;
	int rc;

	if (!(vm->mode->capabilities & MODE_CAP_PROFILE))
		return -ENOTSUP;
	rc = vm_halt(vm);
	if (rc)
		return rc;
	snprintf(ret_path, bytes, "%s/" CONTROL_FILE_PERF_MAP, vm->options.dir);
	unlink(ret_path);
	f = fopen(ret_path, "wxe"); /* made anew: the sandbox allows no other writing */
	if (f) {
		vm->mode->translations(vm->engine, 0, 0, write_symbol, f);
		bool cut = ferror(f);
		if (fclose(f) || cut)
			rc = errno ? -errno : -EIO;
		/* A part of it would mislead perf, and may be what fills the directory. */
		if (rc)
			unlink(ret_path);
	} else {
		rc = -errno;
	}
	if (!was_halted)
		vm_go(vm);
	return rc;
}

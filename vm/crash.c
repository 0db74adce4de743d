/* What a crashed vCPU looked like, into the log: registers, the code it was at and the top of its stack. */
#include "vm/private.h"

#include <inttypes.h>
#include <string.h>

static void log_bytes(struct vm *vm, const struct cpu_state *cs)
{
	uint8_t code[16];
	char text[64] = "";
	size_t n = vm_read_linear(vm, cs, cs->seg[SEG_CS].base + cs->rip, code, sizeof(code));
	for (size_t i = 0; i < n; i++)
		snprintf(text + 3 * i, sizeof(text) - 3 * i, "%02x ", code[i]);
	vm_log("  code at rip: %s", n ? text : "not mapped");
}

static void log_stack(struct vm *vm, const struct cpu_state *cs)
{
	uint64_t words[16];
	gva_t top = cs->seg[SEG_SS].base + cs->gpr[GPR_RSP];
	size_t n = vm_read_linear(vm, cs, top, words, sizeof(words)) / 8;
	for (size_t i = 0; i < n; i += 4) {
		char text[96] = "";
		for (size_t j = i; j < n && j < i + 4; j++)
			snprintf(text + strlen(text), sizeof(text) - strlen(text), " %016" PRIx64, words[j]);
		vm_log("  stack %016" PRIx64 ":%s", top + i * 8, text);
	}
	if (!n)
		vm_log("  stack at %016" PRIx64 " is not mapped", top);
}

void vm_log_crash(struct vm *vm, unsigned index)
{
	static const char *const names[GPR_COUNT] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
						     "r8 ", "r9 ", "r10", "r11", "r12", "r13", "r14", "r15"};
	static const char *const segments[SEG_COUNT] = {"es", "cs", "ss", "ds", "fs", "gs"};
	struct cpu_state *cs = vm_state_alloc();
	if (!cs || !(vm->mode->capabilities & MODE_CAP_STATE) || vm->mode->get_state(vm->vcpus[index].engine, cs)) {
		free(cs);
		return;
	}
	vm_log("vCPU %u: rip %016" PRIx64 " rflags %" PRIx64, index, cs->rip, cs->rflags);
	for (unsigned i = 0; i < GPR_COUNT; i += 4)
		vm_log("  %s %016" PRIx64 " %s %016" PRIx64 " %s %016" PRIx64 " %s %016" PRIx64, names[i], cs->gpr[i],
		       names[i + 1], cs->gpr[i + 1], names[i + 2], cs->gpr[i + 2], names[i + 3], cs->gpr[i + 3]);
	vm_log("  cr0 %" PRIx64 " cr2 %016" PRIx64 " cr3 %" PRIx64 " cr4 %" PRIx64 " efer %" PRIx64, cs->cr0, cs->cr2,
	       cs->cr3, cs->cr4, cs->efer);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		vm_log("  %s %04x base %016" PRIx64 " limit %08x access %04x", segments[i], cs->seg[i].selector,
		       cs->seg[i].base, cs->seg[i].limit, cs->seg[i].access);
	vm_log("  gdt %016" PRIx64 "+%x idt %016" PRIx64 "+%x tr %04x base %016" PRIx64, cs->gdtr.base, cs->gdtr.limit,
	       cs->idtr.base, cs->idtr.limit, cs->tr.selector, cs->tr.base);
	log_bytes(vm, cs);
	log_stack(vm, cs);
	free(cs);
}

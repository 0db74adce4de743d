/* GDB's `monitor` commands. */
#include "vm/gdb.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* A part of the command's output. */
__attribute__((format(printf, 2, 3))) static void say(struct gdb_client *c, const char *format, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, format);
	int n = vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	if (n < 0)
		return;
	if ((size_t)n >= sizeof(text))
		n = sizeof(text) - 1;
	c->out[0] = 'O';
	gdb_hex(c->out + 1, text, (size_t)n);
	gdb_reply(c, c->out, 1 + 2 * (size_t)n);
}

static bool address(struct gdb_client *c, const char *text, uint64_t *ret)
{
	char *end;

	if (text && *text) {
		*ret = strtoull(text, &end, 0);
		if (!*end)
			return true;
	}
	say(c, "an address is wanted, such as 0x1000\n");
	return false;
}

static void cmd_regs(struct gdb_client *c, char *argument)
{
	static const char *const names[GPR_COUNT] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
						     "r8 ", "r9 ", "r10", "r11", "r12", "r13", "r14", "r15"};
	static const char *const segments[SEG_COUNT] = {"es", "cs", "ss", "ds", "fs", "gs"};
	const struct cpu_state *cs = c->state;
	struct gdb_extra extra;

	if (!gdb_get_state(c, c->general, &extra))
		return;
	say(c, "vCPU %u: rip %016" PRIx64 " rflags %08" PRIx64 " cr8 %x\n", c->general, cs->rip, cs->rflags, extra.cr8);
	for (unsigned i = 0; i < GPR_COUNT; i += 4)
		say(c, "%s %016" PRIx64 " %s %016" PRIx64 " %s %016" PRIx64 " %s %016" PRIx64 "\n", names[i], cs->gpr[i],
		    names[i + 1], cs->gpr[i + 1], names[i + 2], cs->gpr[i + 2], names[i + 3], cs->gpr[i + 3]);
	say(c, "cr0 %08" PRIx64 " cr2 %016" PRIx64 " cr3 %016" PRIx64 " cr4 %08" PRIx64 " efer %" PRIx64 "\n", cs->cr0, cs->cr2,
	    cs->cr3, cs->cr4, cs->efer);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		say(c, "%s  %04x base %016" PRIx64 " limit %08x access %04x\n", segments[i], cs->seg[i].selector, cs->seg[i].base,
		    cs->seg[i].limit, cs->seg[i].access);
	say(c, "ldt %04x base %016" PRIx64 " limit %08x\ntr  %04x base %016" PRIx64 " limit %08x\n", cs->ldtr.selector,
	    cs->ldtr.base, cs->ldtr.limit, cs->tr.selector, cs->tr.base, cs->tr.limit);
	say(c, "gdt      base %016" PRIx64 " limit %04x\nidt      base %016" PRIx64 " limit %04x\n", cs->gdtr.base, cs->gdtr.limit,
	    cs->idtr.base, cs->idtr.limit);
}

static void cmd_translate(struct gdb_client *c, char *argument)
{
	struct vm_translation t;
	struct gdb_extra extra;
	uint64_t gva;

	if (!address(c, argument, &gva) || !gdb_get_state(c, c->general, &extra))
		return;
	if (!vm_translate(c->vm, c->state, gva, &t)) {
		say(c, "0x%" PRIx64 " is not mapped\n", gva);
		return;
	}
	say(c, "0x%" PRIx64 " -> 0x%" PRIx64 " (%" PRIu64 " KiB page, %s, %s, %s)\n", gva, t.gpa, t.page_bytes >> 10,
	    t.user ? "user" : "supervisor", t.writable ? "writable" : "read-only", t.executable ? "executable" : "no-execute");
}

static void cmd_physical(struct gdb_client *c, char *argument)
{
	if (!strcmp(argument, "on") || !strcmp(argument, "off"))
		c->physical = !strcmp(argument, "on");
	else if (*argument)
		say(c, "physical: on or off is wanted\n");
	say(c, "addresses are %s\n", c->physical ? "physical" : "linear");
}

static void cmd_xp(struct gdb_client *c, char *argument)
{
	char *second = strchr(argument, ' ');
	uint64_t at, count = 64;
	uint8_t bytes[16];

	if (second) {
		*second++ = 0;
		if (!address(c, second, &count))
			return;
	}
	if (!address(c, argument, &at))
		return;
	for (uint64_t end = at + (count < 4096 ? count : 4096); at < end; at += 16) {
		char text[16 * 3 + 1] = "";
		size_t n = vm_read_physical(c->vm, at, bytes, end - at < 16 ? end - at : 16);
		for (size_t i = 0; i < n; i++)
			snprintf(text + 3 * i, 4, " %02x", bytes[i]);
		say(c, "0x%" PRIx64 ":%s\n", at, n ? text : " neither RAM nor ROM");
		if (!n)
			break;
	}
}

static void cmd_reset(struct gdb_client *c, char *argument)
{
	vm_reset(c->vm);
	say(c, "the VM is at its first instruction; tell GDB by: maintenance flush register-cache\n");
}

static void cmd_nmi(struct gdb_client *c, char *argument)
{
	machine_inject_nmi(c->vm->machine);
	say(c, "every vCPU takes an NMI when it goes on\n");
}

static void cmd_status(struct gdb_client *c, char *argument)
{
	say(c, "VM %s, mode %s, %u vCPU%s, described as %s; %u breakpoint%s and watchpoints\n", c->vm->def->name, c->vm->mode->name,
	    c->vm->vcpu_count, c->vm->vcpu_count > 1 ? "s" : "", gdb_architecture_name(c->width), c->point_count,
	    c->point_count == 1 ? "" : "s");
}

static void cmd_architecture(struct gdb_client *c, char *argument)
{
	static const char *const names[] = {"auto", "i8086", "i386", "x86-64"};

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(names[i], argument)) {
			vm_gdb_set_architecture(c->vm, (enum vmdef_gdb_architecture)i);
			say(c, "holds from the next connection on: disconnect, then target remote again\n");
			return;
		}
	say(c, "architecture: i8086, i386, x86-64 or auto is wanted\n");
}

static void cmd_help(struct gdb_client *c, char *argument);

static const struct {
	const char *name, *arguments, *summary;
	void (*run)(struct gdb_client *c, char *argument);
} commands[] = {
	{"help", "", "this list", cmd_help},
	{"status", "", "the VM in one line", cmd_status},
	{"regs", "", "the selected vCPU's registers, descriptor tables included", cmd_regs},
	{"translate", "ADDRESS", "where the selected vCPU's tables map it", cmd_translate},
	{"physical", "[on|off]", "whether GDB's memory accesses are physical", cmd_physical},
	{"xp", "ADDRESS [BYTES]", "physical memory", cmd_xp},
	{"architecture", "i8086|i386|x86-64|auto", "what the next connection is told", cmd_architecture},
	{"nmi", "", "an NMI to every vCPU", cmd_nmi},
	{"reset", "", "power-on again; breakpoints stay", cmd_reset},
};

static void cmd_help(struct gdb_client *c, char *argument)
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		char left[64];
		snprintf(left, sizeof(left), "%s %s", commands[i].name, commands[i].arguments);
		say(c, "%-38s %s\n", left, commands[i].summary);
	}
}

void gdb_monitor(struct gdb_client *c, char *line)
{
	size_t n = strcspn(line, " ");
	char *argument = line + n + strspn(line + n, " ");

	line[n] = 0;
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (!strcmp(commands[i].name, line)) {
			commands[i].run(c, argument);
			if (!vm_state_is_final(c->vm->state))
				gdb_reply(c, "OK", 2);
			return;
		}
	say(c, "there is no command \"%.40s\"; monitor help lists them\n", line);
	gdb_reply(c, "OK", 2);
}

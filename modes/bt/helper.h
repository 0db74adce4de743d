/* What the C helpers of system.c, segment.c, far.c, fault.c, msr.c, string.c, legacy.c and xstate.c share. */
#ifndef BT_HELPER_H
#define BT_HELPER_H

#include "modes/bt/private.h"

/* ---- operands ------------------------------------------------------------------------- */

static inline uint64_t bt_size_mask(unsigned bytes)
{
	return bytes >= 8 ? ~0ull : (1ull << bytes * 8) - 1;
}

static inline uint64_t bt_gpr(const struct bt_vcpu *v, unsigned n, unsigned bytes)
{
	return v->cs.gpr[n] & bt_size_mask(bytes);
}

/* A 32-bit result clears the upper half; 8 and 16 bits leave the rest alone. */
static inline void bt_gpr_set(struct bt_vcpu *v, unsigned n, unsigned bytes, uint64_t value)
{
	uint64_t mask = bt_size_mask(bytes);

	if (bytes >= 4)
		v->cs.gpr[n] = value & mask;
	else
		v->cs.gpr[n] = (v->cs.gpr[n] & ~mask) | (value & mask);
}

/* r/m operand of general registers or memory. */
static inline uint64_t bt_rm(struct bt_vcpu *v, const struct bt_insn *insn, unsigned bytes)
{
	if (insn->flags & BT_I_MEM)
		return bt_load(v, bt_operand_gva(v, insn, bytes, false), bytes);
	return bt_gpr(v, insn->modrm_rm, bytes);
}

static inline void bt_rm_set(struct bt_vcpu *v, const struct bt_insn *insn, unsigned bytes, uint64_t value)
{
	if (insn->flags & BT_I_MEM)
		bt_store(v, bt_operand_gva(v, insn, bytes, true), value, bytes);
	else
		bt_gpr_set(v, insn->modrm_rm, bytes, value);
}

/* ---- instruction pointer, privilege ----------------------------------------------------- */

static inline uint64_t bt_next_rip(const struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint64_t next = v->cs.rip + insn->len;

	return bt_code64(v) ? next : (uint32_t)next;
}

/* Continue behind the instruction, through the dispatcher: the mode or what may interrupt has changed. */
BT_NORETURN static inline void bt_resume_next(struct bt_vcpu *v, const struct bt_insn *insn)
{
	v->cs.rip = bt_next_rip(v, insn);
	bt_resume(v);
}

static inline void bt_need_cpl0(struct bt_vcpu *v)
{
	if (v->cpl)
		bt_raise_error(v, VEC_GP, 0);
}

static inline unsigned bt_iopl(const struct bt_vcpu *v)
{
	return v->cs.rflags >> 12 & 3;
}

/* 48-bit linear addresses: LA57 is not modelled. */
static inline bool bt_canonical(uint64_t address)
{
	return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

static inline bool bt_protected(const struct bt_vcpu *v)
{
	return (v->cs.cr0 & CR0_PE) && !(v->cs.rflags & RFLAGS_VM);
}

/* ---- the stack ------------------------------------------------------------------------------ */

/* Which part of rsp is the stack pointer, in the present mode. */
static inline uint64_t bt_sp_mask(const struct bt_vcpu *v)
{
	if (bt_code64(v))
		return ~0ull;
	return v->cs.seg[SEG_SS].access & SEG_ACCESS_DB ? 0xffffffffull : 0xffffull;
}

static inline void bt_sp_set(struct bt_vcpu *v, uint64_t mask, uint64_t sp)
{
	if (mask == 0xffffull)
		v->cs.gpr[GPR_RSP] = (v->cs.gpr[GPR_RSP] & ~mask) | (sp & mask);
	else
		v->cs.gpr[GPR_RSP] = sp & mask;
}

/* ---- descriptors (SDM vol. 3, 3.4.5) ----------------------------------------------------------- */

struct bt_desc {
	uint32_t lo, hi;
	uint32_t base_hi; /* system descriptors in long mode */
};

#define DESC_P 0x8000u
#define DESC_S 0x1000u
#define DESC_DPL(d) ((d).hi >> 13 & 3)
#define DESC_TYPE(d) ((d).hi >> 8 & 15)
#define DESC_CODE 0x0800u       /* with S */
#define DESC_CONFORMING 0x0400u /* with CODE */
#define DESC_RW 0x0200u         /* readable code, writable data */
#define DESC_ACCESSED 0x0100u
#define DESC_L 0x00200000u
#define DESC_DB 0x00400000u
#define DESC_G 0x00800000u

enum {
	TYPE_TSS16_AVAILABLE = 1, TYPE_LDT = 2, TYPE_TSS16_BUSY = 3, TYPE_CALL_GATE16 = 4, TYPE_TASK_GATE = 5,
	TYPE_INT_GATE16 = 6, TYPE_TRAP_GATE16 = 7, TYPE_TSS_AVAILABLE = 9, TYPE_TSS_BUSY = 11, TYPE_CALL_GATE = 12,
	TYPE_INT_GATE = 14, TYPE_TRAP_GATE = 15,
};

static inline uint64_t bt_desc_base(struct bt_desc d)
{
	return (d.hi & 0xff000000u) | (d.hi & 0xff) << 16 | d.lo >> 16;
}

static inline uint32_t bt_desc_limit(struct bt_desc d)
{
	uint32_t limit = (d.hi & 0xf0000) | (d.lo & 0xffff);

	return d.hi & DESC_G ? limit << 12 | 0xfff : limit;
}

/* As in struct cpu_segment; the limit's bits within are not part of it. */
static inline uint16_t bt_desc_access(struct bt_desc d)
{
	return d.hi >> 8 & 0xf0ff;
}

static inline bool bt_null(unsigned selector)
{
	return !(selector & 0xfffc);
}

static inline void bt_seg_fill(struct cpu_segment *seg, uint16_t selector, struct bt_desc d)
{
	seg->selector = selector;
	seg->base = bt_desc_base(d);
	seg->limit = bt_desc_limit(d);
	seg->access = bt_desc_access(d);
}

static inline void bt_seg_null(struct cpu_segment *seg, uint16_t selector)
{
	seg->selector = selector;
	seg->base = 0;
	seg->limit = 0;
	seg->access = 0;
}

/* segment.c */
/* Where the selector's descriptor is; false: outside its table. */
bool bt_desc_find(struct bt_vcpu *v, uint16_t selector, gva_t *ret_gva);
/* Reads it, or raises `vector` (selector | ext). */
struct bt_desc bt_desc_read(struct bt_vcpu *v, uint16_t selector, enum bt_vector vector, unsigned ext);
/* Sets the accessed bit of a code or data descriptor, in memory and in *d. */
void bt_desc_accessed(struct bt_vcpu *v, uint16_t selector, struct bt_desc *d);
/* Checks the selector for a stack at privilege cpl: raises `vector` (TS or GP) or SS with the selector. */
struct bt_desc bt_desc_stack(struct bt_vcpu *v, uint16_t selector, unsigned cpl, enum bt_vector vector, unsigned ext);
/* Is [offset, offset + bytes) within the segment (not for 64-bit mode)? */
bool bt_seg_contains(const struct cpu_segment *seg, uint32_t offset, uint32_t bytes);
/* Loads a data or stack segment register in any mode, with every check. */
void bt_sreg_load(struct bt_vcpu *v, enum cpu_seg which, uint16_t selector);
/* Offset of insn's memory operand in its segment: base, index and displacement at the address size. */
uint64_t bt_operand_offset(const struct bt_vcpu *v, const struct bt_insn *insn);
/* Linear address of offset in segment, checked for `bytes`; raises #SS(0) or #GP(0). */
gva_t bt_seg_gva(struct bt_vcpu *v, enum cpu_seg which, uint64_t offset, unsigned bytes, bool write);
/* After an inter-privilege return: data segments the new privilege may not have become null. */
void bt_segs_outer(struct bt_vcpu *v, unsigned cpl);
/* Can code run at offset in a segment so described? (canonical, or within the limit) */
bool bt_code_offset_ok(const struct bt_vcpu *v, struct bt_desc cs, uint64_t offset);

/* ---- stack accesses at the present privilege; no register changes but as said -------------------- */

static inline gva_t bt_stack_gva(struct bt_vcpu *v, uint64_t sp, unsigned bytes, bool write)
{
	return bt_seg_gva(v, SEG_SS, sp & bt_sp_mask(v), bytes, write);
}

static inline void bt_push(struct bt_vcpu *v, unsigned bytes, uint64_t value)
{
	uint64_t sp = v->cs.gpr[GPR_RSP] - bytes;

	bt_store(v, bt_stack_gva(v, sp, bytes, true), value, bytes);
	bt_sp_set(v, bt_sp_mask(v), sp);
}

/* fault.c: the same as bt_deliver, faults raised as usual; for int n and its kin. */
void bt_deliver_now(struct bt_vcpu *v, unsigned vector, bool has_error, uint32_t error, bool soft,
		    uint64_t return_rip);

/* far.c: for a monitor: cs and ss for a return to privilege 3. Raises what iret would. */
void bt_return_outer(struct bt_vcpu *v, uint16_t cs, uint16_t ss);

/*
 * task.c: leaves the present task at *return_rip for the one whose TSS `selector` names; *return_rip is then where that
 * one goes on, also when it faults on its way in.
 */
enum bt_task_cause { BT_TASK_JMP, BT_TASK_CALL, BT_TASK_INT, BT_TASK_IRET };
void bt_task_switch(struct bt_vcpu *v, uint16_t selector, enum bt_task_cause cause, uint64_t *return_rip);

/* system.c: after IF went from 0 to 1, or the TPR fell: lets what waited in. */
bool bt_interrupt_waits(struct bt_vcpu *v);
/* Raises unless the I/O privilege level or the TSS's bitmap allows [port, port + bytes). */
void bt_io_check(struct bt_vcpu *v, uint16_t port, unsigned bytes);
/* Whether an access of `bytes` is one to that port of VMware's backdoor; its registers, and how they become the vCPU's. */
bool bt_backdoor_get(const struct bt_vcpu *v, uint16_t port, unsigned bytes, uint32_t r[VMWARE_REGISTERS]);
void bt_backdoor_set(struct bt_vcpu *v, const uint32_t r[VMWARE_REGISTERS]);
/* Changes of RFLAGS that popf and iret may make at this privilege (SDM vol. 2, POPF, table 4-19). */
uint64_t bt_flags_writable(const struct bt_vcpu *v, unsigned bytes);
/* mov cr0: checks and side effects; raises #GP(0). */
void bt_cr0_write(struct bt_vcpu *v, uint64_t value);

/* msr.c: false: #GP. */
bool bt_msr_read(struct bt_vcpu *v, uint32_t msr, uint64_t *ret_value);
bool bt_msr_write(struct bt_vcpu *v, uint32_t msr, uint64_t value);

#endif

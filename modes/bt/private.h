/*
 * What the files of modes/bt share. Nobody outside modes/bt includes this.
 *
 * C code that translated code may call ("helpers": tlb.c, mem.c, walk.c, system.c, segment.c, fault.c, string.c, msr.c)
 * is compiled with -mgeneral-regs-only and must not call libc (its memcpy uses AVX): the guest's vector and x87 state is
 * live in the host's registers meanwhile. Where a helper must reach other code (devices in machine/), it brackets the
 * call with bt_fpu_leave() and bt_fpu_enter().
 */
#ifndef BT_PRIVATE_H
#define BT_PRIVATE_H

#include "machine/cpu_state.h"
#include "machine/machine.h"
#include "machine/types.h"
#include "machine/vmware/vmware.h"
#include "modes/bt/debug.h"
#include "modes/bt/decode.h"
#include "modes/mode.h"

/*
 * Functions that do not return run on the helpers' stack, and AddressSanitizer, before it calls such a function, looks
 * for the end of a stack that it does not know. It is not told there.
 */
#ifdef __SANITIZE_ADDRESS__
#define BT_NORETURN
#else
#define BT_NORETURN __attribute__((noreturn))
#endif

/* CR0, CR4, EFER, RFLAGS bits (SDM vol. 3, 2.5 and 2.3). */
#define CR0_PE (1u << 0)
#define CR0_MP (1u << 1)
#define CR0_EM (1u << 2)
#define CR0_TS (1u << 3)
#define CR0_ET (1u << 4)
#define CR0_NE (1u << 5)
#define CR0_WP (1u << 16)
#define CR0_AM (1u << 18)
#define CR0_NW (1u << 29)
#define CR0_CD (1u << 30)
#define CR0_PG (1u << 31)
#define CR4_VME (1u << 0)
#define CR4_PVI (1u << 1)
#define CR4_TSD (1u << 2)
#define CR4_DE (1u << 3)
#define CR4_PSE (1u << 4)
#define CR4_PAE (1u << 5)
#define CR4_MCE (1u << 6)
#define CR4_PGE (1u << 7)
#define CR4_PCE (1u << 8)
#define CR4_OSFXSR (1u << 9)
#define CR4_OSXMMEXCPT (1u << 10)
#define CR4_UMIP (1u << 11)
#define CR4_LA57 (1u << 12)
#define CR4_FSGSBASE (1u << 16)
#define CR4_PCIDE (1u << 17)
#define CR4_OSXSAVE (1u << 18)
#define CR4_SMEP (1u << 20)
#define CR4_SMAP (1u << 21)
#define EFER_SCE (1u << 0)
#define EFER_LME (1u << 8)
#define EFER_LMA (1u << 10)
#define EFER_NXE (1u << 11)
#define RFLAGS_TF (1u << 8)
#define RFLAGS_IF (1u << 9)
#define RFLAGS_DF (1u << 10)
#define RFLAGS_IOPL (3u << 12)
#define RFLAGS_NT (1u << 14)
#define RFLAGS_RF (1u << 16)
#define RFLAGS_VM (1u << 17)
#define RFLAGS_AC (1u << 18)
#define RFLAGS_VIF (1u << 19)
#define RFLAGS_VIP (1u << 20)
#define RFLAGS_ID (1u << 21)

enum bt_vector {
	VEC_DE = 0, VEC_DB = 1, VEC_NMI = 2, VEC_BP = 3, VEC_OF = 4, VEC_BR = 5, VEC_UD = 6, VEC_NM = 7, VEC_DF = 8,
	VEC_TS = 10, VEC_NP = 11, VEC_SS = 12, VEC_GP = 13, VEC_PF = 14, VEC_MF = 16, VEC_AC = 17, VEC_MC = 18, VEC_XM = 19,
};

/* Page-fault error code bits. */
#define PF_P 1u
#define PF_W 2u
#define PF_U 4u
#define PF_RSVD 8u
#define PF_I 16u

/*
 * The software TLB: one table for each memory mode, direct-mapped by page number. A tag is the negated guest page
 * address, so that (address + tag) is the offset in the page on a hit and huge otherwise. An invalid tag is the negated
 * address of a page with another index (bt_tlb_invalid_tag), which cannot hit.
 */
#ifndef BT_TLB_BITS
#define BT_TLB_BITS 12
#endif
#define BT_TLB_ENTRIES (1u << BT_TLB_BITS)
enum bt_mmu { BT_MMU_KERNEL, BT_MMU_USER, BT_MMU_KERNEL_SMAP, BT_MMU_GUEST, BT_MMU_COUNT };
/*
 * GUEST: the kernel of a monitor's guest (monitor.h), at privilege 3: all as for USER, but in another space.
 * KERNEL_SMAP: supervisor with CR4.SMAP set: user pages are out of reach while RFLAGS.AC is clear. Translated code goes to
 * this table whatever AC says, and the slow path looks at bt_vcpu.mmu, which follows AC: so stac and clac are two stores.
 */

struct bt_tlb_entry {
	uint64_t read;  /* tag for reads */
	uint64_t write; /* tag for writes: invalid while the page is clean, read-only, holds code, or is MMIO */
	uint8_t *host;  /* host address of the page */
	uint64_t info;  /* gpa of the page | BT_TLB_* bits */
};
#define BT_TLB_GLOBAL 1u
#define BT_TLB_LARGE 2u
#define BT_TLB_LISTED 4u        /* on the list of entries that a CR3 write drops */
#define BT_TLB_USER 16u         /* user code may reach it: not through the SMAP table */
#define BT_TLB_LISTED_GLOBAL 8u /* on the list of the others */

/*
 * In front of the TLB: the last page reached through each base register, for reads and for writes; for the stack, and for
 * user code in blocks that jump back to their own start (emit_mem.c says why not elsewhere). A slot is filled only
 * from a TLB hit and emptied with every flush. An empty slot's tag is hit by the first page of the non-canonical half
 * alone, and then leads to host memory that faults, which becomes the guest's #GP.
 */
#define BT_SLOT_INDEX 16 /* operands without a base register */
#define BT_SLOTS 17
#define BT_SLOT_EMPTY 0x8000000000000000ull
struct bt_slot {
	uint64_t tag;
	uint8_t *host;
};

#define BT_LOOP_STREAMS 8 /* emit_loop.c */

struct bt_vm;
struct bt_tb;
struct bt_profile;
struct bt_tail;

/* Code pages currently mapped, by hash of their linear page number: holds bt_code_page.id (cache.c). */
#define BT_ITLB_BITS 14 /* gcc's cc1 runs from thousands of pages */
#define BT_ITLB_ENTRIES (1u << BT_ITLB_BITS)
#define BT_ITLB_LISTED 4096u

#define BT_PROTECT_MAX 16

/* Address spaces remembered for each vCPU; Linux uses six PCIDs. */
#define BT_CONTEXTS 8
#define BT_CONTEXT_ENTRIES 1024
#define BT_CONTEXT_LOCAL 1024

struct bt_vcpu {
	struct cpu_state cs; /* first: while translated code runs, the host's rsp points here */

	/*
	 * The guest's arithmetic flags as lahf and seto leave them in AX (AH: SF ZF 0 AF 0 PF 1 CF, AL: OF), valid
	 * whenever C code runs; the arithmetic bits of cs.rflags are stale then. Use bt_rflags and bt_set_rflags.
	 */
	uint64_t flags_ax;
	/* Points at readable memory; kicking a vCPU makes it point at memory that faults (see cache.c: poll). */
	uint64_t *volatile poll;
	uint64_t poll_word; /* what it points at */

	struct bt_vm *vm;
	struct machine *machine;
	unsigned index;
	uint8_t cpl;
	uint8_t mmu;     /* enum bt_mmu of data accesses now */
	uint32_t tb_key; /* mode bits that select a translation; kept by bt_mode_changed */
	volatile uint32_t kicked;  /* events to look at */
	volatile bool map_changed; /* host pointers in the TLB may be wrong: bt_map_sync */
	volatile uint32_t stop;    /* leave run */

	/* Between vCPUs (sync.c). */
	volatile uint8_t running, safe, parked;
	bool holds_lock;
	volatile int protect_lock;
	volatile uint32_t protect_count; /* above BT_PROTECT_MAX: more than fitted */
	gpa_t protect[BT_PROTECT_MAX];

	uint64_t host_rsp; /* of the C code that entered translated code */
	uint64_t fpu_live; /* the guest's vector state is in the host's registers */

	/* Slow path of memory accesses (mem.c). */
	uint8_t bounce[64] __attribute__((aligned(64)));
	uint64_t bounce_gva;
	uint32_t bounce_bytes;
	uint8_t bounce_mmu;
	uint8_t *bounce_host; /* the commit goes here, under the lock that code_write or across_locked took */
	uint8_t *bounce_host2; /* and from its byte bounce_first on there, if that is less than bounce_bytes */
	uint32_t bounce_first;
	const struct bt_insn *op_insn; /* of the helper that runs */
	bool code_hit;         /* a store of C code's went to a page with translations */
	const uint8_t *site;   /* non-NULL while a slow path runs: its return address, from which rip is found */
	uint64_t tmp[4];       /* of translated code, within one instruction */
	uint8_t exit_reason;   /* enum bt_exit_reason: why translated code was left */
	bool in_code;          /* helpers run on top of translated code: bt_raise leaves through the thunk */
	void **guard;          /* else it jumps here (bt_guard) */
	const char *fail_message;
	bool user_seen;
	bool guest_kernel;     /* of a monitor's guest: it is in its kernel */
	bool one_active;       /* it is being run: leave behind it */
	bool no_trap;          /* the instruction ended in an interrupt, which cleared TF: no single-step trap behind it */
	bool want_flush;       /* the cache is full and whoever noticed cannot flush where it is */
	bool run_one;          /* the next TB is to hold a single instruction */
	bool translating;      /* for samples */
	int tid;               /* of the thread that runs it, once it has */
	struct bt_profile *profile;
	struct bt_debug_vcpu debug;

	struct bt_slot slot[BT_MMU_COUNT][2][BT_SLOTS]; /* [..][0] reads, [..][1] writes */
	/* Of the loop that runs: how far each stream's register may go, and the stream's place in host memory. */
	struct bt_loop_stream {
		uint64_t limit, host;
	} loop[BT_LOOP_STREAMS];
	uint32_t loop_warm; /* turns of plain loops until one is made fast */
	uint64_t slot_gva, slot_rax;  /* of the slot thunks */
	/* Outside 64-bit code: bytes from offset 0 that may be read [0] or written [1]; 0: bt_segment_check looks closer. */
	uint64_t seg_span[SEG_COUNT][2];
	uint64_t seg_offset; /* for bt_segment_check */
	uint32_t seg_access;
	uint32_t slot_budget;         /* misses until bt_slot_trouble looks at their rate */
	uint64_t slot_tsc;
	uint32_t itlb[BT_ITLB_ENTRIES]; /* lower half: supervisor, upper half: user */
	uint16_t itlb_local[BT_ITLB_LISTED]; /* slots that a CR3 write empties */
	uint32_t itlb_local_count;           /* above BT_ITLB_LISTED: more than fitted */
	uint32_t itlb_key[2]; /* the tb_key that each half's entries are for */
	struct bt_tlb_entry tlb[BT_MMU_COUNT][BT_TLB_ENTRIES] __attribute__((aligned(64)));
	/*
	 * Filled entries since the last flush, so that flushing costs what was used: [0] those that a CR3 write drops, [1]
	 * global ones. BT_TLB_LISTED* in an entry tells where it stands; an entry on both lists belongs to the first.
	 */
	uint16_t tlb_used[BT_MMU_COUNT][2][BT_TLB_ENTRIES];
	uint32_t tlb_used_count[BT_MMU_COUNT][2];
	uint64_t tlb_large_regions; /* bit gva >> 30 & 63: a large page there may have entries */
	/* What other address spaces (PCIDs) had in the TLB and the itlb when they were left. */
	struct bt_context {
		uint16_t pcid;
		bool valid;
		uint32_t age, count, local_count;
		struct {
			uint16_t index;
			uint8_t mmu;
			struct bt_tlb_entry e;
		} entry[BT_CONTEXT_ENTRIES];
		struct {
			uint16_t slot;
			uint32_t id;
		} local[BT_CONTEXT_LOCAL]; /* of the itlb */
	} context[BT_CONTEXTS];
	uint32_t context_age;
	/* Of a monitor: accesses to this page go to redirect_host, which is not the guest's, if that is set. */
	gva_t redirect_gva;
	uint8_t *redirect_host;
	volatile bool flush_asked; /* by another vCPU (sync.c) */
	uint32_t pauses; /* of pause instructions, with other vCPUs about */
#define BT_PAUSES_TO_YIELD 256u

	/* What helpers need often; filled by bt_system_init. */
	struct bt_system {
		const struct cpuid_model *cpuid;
		uint8_t *ram_host; /* host memory of [ram_gpa, ram_gpa + ram_bytes): RAM that nothing is ever mapped over */
		gpa_t ram_gpa;
		uint64_t ram_bytes;
		uint64_t phys_mask; /* address bits a page-table entry may hold: below MAXPHYADDR, page-aligned */
		uint64_t tsc_delta; /* what the guest's writes of its TSC added to the machine's offset */
		uint64_t cr4_allowed, efer_allowed; /* bits the model lets a guest set */
		uint32_t xsave_features; /* CPUID 0xd.1 EAX */
		uint32_t unknown_msrs; /* accesses that ended in #GP, and the last such MSR */
		uint32_t unknown_msr_last;
		bool invpcid;
		bool backdoor;	    /* the machine has VMware's ports */
		uint32_t kvm_features; /* of the CPUID model's KVM leaf; 0: it has none */
		bool amd; /* the CPUID model's vendor (else Intel) */
	} sys;
	/* Of KVM's paravirtual interfaces (paravirt.c). */
	struct bt_paravirt {
		bool eoi; /* the guest may end its interrupt by clearing a bit; or has, and we have not looked */
		bool unhalted; /* kicked: the next halt is none */
		uint64_t looked_tsc, entered_tsc, run_tsc; /* steal time: the last look, the present entry, ticks in the engine before it */
		uint64_t cpu_ns; /* the thread's, at the last look */
	} pv;

	struct bt_stats {
		uint64_t tlb_miss, tlb_flush, tlb_flush_page, mmio, pio, hypercalls, pv_flushes, pv_eois, smc, exceptions, interrupts, helpers, syscalls,
			page_faults, pcid_hits, walks, halts, tbs, tb_insns, cache_flush, polls, lookups, links, slots_given_up, loops, string_bytes, wrmsr, rdmsr,
			slow_fill, slow_mmio, slow_code, slow_across, slow_watch, tlb_flush_all, cache_flush_map;
	} stats;
};

enum bt_exit_reason { BT_EXIT_NONE, BT_EXIT_EXCEPTION, BT_EXIT_RESUME, BT_EXIT_FAIL, BT_EXIT_HALT };

/*
 * gcc may turn assignments and initializers into calls of these: in this component they are versions that leave the
 * vector registers alone (run.c).
 */
void *memcpy(void *dst, const void *src, size_t n) __asm__("bt_memcpy");
void *memset(void *dst, int byte, size_t n) __asm__("bt_memset");
void *memmove(void *dst, const void *src, size_t n) __asm__("bt_memmove");
int memcmp(const void *a, const void *b, size_t n) __asm__("bt_memcmp");

/* ---- leaving a helper (run.c) -------------------------------------------------------- */

/*
 * Guest state is complete in v->cs (and flags_ax) whenever a helper runs, cs.rip being the address of the instruction
 * that called it. These do not return; the instruction has had no effect beyond what the helper stored.
 */
BT_NORETURN void bt_raise(struct bt_vcpu *v, enum bt_vector vector);
BT_NORETURN void bt_raise_error(struct bt_vcpu *v, enum bt_vector vector, uint32_t error);
BT_NORETURN void bt_raise_pf(struct bt_vcpu *v, gva_t gva, uint32_t error); /* sets CR2 */
/* Run the instruction that took the slow path again from its start, through the run loop. */
BT_NORETURN void bt_restart(struct bt_vcpu *v);
/* Continue at cs.rip (as the helper has set it) through the dispatcher. */
BT_NORETURN void bt_resume(struct bt_vcpu *v);
/* hlt: cs.rip is behind it already. */
BT_NORETURN void bt_halt(struct bt_vcpu *v);
/* The engine cannot go on: run returns MODE_EXIT_ERROR with this message. */
BT_NORETURN void bt_fail(struct bt_vcpu *v, const char *message);

/* ---- flags ----------------------------------------------------------------------------- */

static inline uint64_t bt_rflags(const struct bt_vcpu *v)
{
	uint64_t ah = v->flags_ax >> 8 & 0xd5; /* SF ZF AF PF CF */
	uint64_t of = v->flags_ax & 1;
	return (v->cs.rflags & ~(uint64_t)BT_FLAGS_ARITH) | ah | of << 11 | 2;
}

static inline void bt_set_rflags(struct bt_vcpu *v, uint64_t rflags)
{
	v->cs.rflags = rflags | 2;
	v->flags_ax = (rflags & 0xd5) << 8 | (rflags >> 11 & 1);
}

/* Call after any change of CPL, CS, SS size, CR0, CR4, EFER, XCR0, RFLAGS.{TF,VM,AC}: recomputes tb_key, cpl, mmu. */
void bt_mode_changed(struct bt_vcpu *v);

static inline bool bt_long_mode(const struct bt_vcpu *v) { return v->cs.efer & EFER_LMA; }
static inline bool bt_code64(const struct bt_vcpu *v)
{
	return bt_long_mode(v) && (v->cs.seg[SEG_CS].access & SEG_ACCESS_L);
}
static inline bool bt_real_mode(const struct bt_vcpu *v) { return !(v->cs.cr0 & CR0_PE); }
static inline bool bt_vm86(const struct bt_vcpu *v)
{
	return (v->cs.cr0 & CR0_PE) && (v->cs.rflags & RFLAGS_VM);
}

/* ---- guest memory from C (mem.c): linear addresses; raise #PF, #GP or #SS themselves ------ */

/* As the current CPL and SMAP state allow. Any size 1..64, any alignment, MMIO too. Little endian. */
uint64_t bt_load(struct bt_vcpu *v, gva_t gva, unsigned bytes);
void bt_store(struct bt_vcpu *v, gva_t gva, uint64_t value, unsigned bytes);
void bt_load_buf(struct bt_vcpu *v, gva_t gva, void *buf, unsigned bytes);
void bt_store_buf(struct bt_vcpu *v, gva_t gva, const void *buf, unsigned bytes);
/* As supervisor whatever the CPL: descriptor tables, TSS, exception frames. SMAP applies to explicit accesses only. */
uint64_t bt_load_sys(struct bt_vcpu *v, gva_t gva, unsigned bytes);
void bt_store_sys(struct bt_vcpu *v, gva_t gva, uint64_t value, unsigned bytes);
/* Raises what a store of [gva, gva+bytes) would, without storing. */
void bt_probe_store(struct bt_vcpu *v, gva_t gva, unsigned bytes);
void bt_probe_store_sys(struct bt_vcpu *v, gva_t gva, unsigned bytes);
/*
 * Host address for [gva, gva+bytes) within one page when direct access is allowed (RAM; for writes: no code in it and
 * dirty), NULL when the access must go through bt_load and bt_store (MMIO, a page with debug points). Raises faults.
 * `bytes` must not cross the page.
 */
void *bt_host(struct bt_vcpu *v, gva_t gva, unsigned bytes, bool write);

/*
 * Where alignment is checked (KEY_AC): what the address of an access of so many bytes is to be a multiple of. The manuals
 * leave that of vectors to the processor; this is what AMD's do.
 */
static inline unsigned bt_alignment(unsigned bytes)
{
	if (bytes == 10)
		return 8;
	return bytes == 32 ? 16 : bytes <= 16 && !(bytes & (bytes - 1)) ? bytes : 1;
}
/* #AC, if alignment is checked now and gva is no multiple of `align`. (mem.c) */
void bt_check_alignment(struct bt_vcpu *v, gva_t gva, unsigned align);

/* Plain byte copies that use no vector register. */
static inline void bt_copy(void *dst, const void *src, size_t n)
{
	__asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
}
static inline void bt_fill(void *dst, int byte, size_t n)
{
	__asm__ volatile("rep stosb" : "+D"(dst), "+c"(n) : "a"(byte) : "memory");
}

/* ---- page walk (walk.c) ------------------------------------------------------------------ */

enum bt_want { BT_WANT_READ = 0, BT_WANT_WRITE = 1, BT_WANT_EXEC = 2 };
struct bt_walk {
	gpa_t gpa;           /* of the page (4 KiB granule that holds gva) */
	bool writable;       /* a write at this privilege needs no further walk: permission there and D already set */
	bool user;           /* U/S allows user access */
	bool global, large;
	bool executable;     /* NX, SMEP and U/S allow execution at this privilege */
	uint32_t error;      /* page-fault error code, when bt_walk returned false */
};
/*
 * Walks the guest's page tables as `mmu` for `want`; sets A (and D for a write) with atomic updates, as hardware does.
 * False: a page fault with ret->error (P, W, U, RSVD, I as the manual says). The address must be canonical.
 * With paging off: identity. Covers 4-level, PAE and 32-bit paging, large and 1 GiB pages, NX, WP, SMEP, SMAP.
 */
bool bt_walk(struct bt_vcpu *v, gva_t gva, enum bt_want want, enum bt_mmu mmu, struct bt_walk *ret);

/* ---- TLB (tlb.c) --------------------------------------------------------------------------- */

void bt_tlb_flush(struct bt_vcpu *v, bool globals_too);
/* One table alone, global entries too, and the code pages that go with it. */
void bt_tlb_flush_mmu(struct bt_vcpu *v, enum bt_mmu mmu);
void bt_tlb_flush_page(struct bt_vcpu *v, gva_t gva);
/* From address space `from` to `to` (PCIDs, which may be the same): puts away what the one had, unless it is forgotten. */
void bt_tlb_switch(struct bt_vcpu *v, unsigned from, unsigned to, bool forget_to);
/* Drops what is put away for a PCID; -1: for all. */
void bt_tlb_forget(struct bt_vcpu *v, int pcid);
/* Writes to the page at gpa take the slow path from now on: it holds code. */
void bt_tlb_protect(struct bt_vcpu *v, gpa_t gpa);
void bt_tlb_protect_all(struct bt_vcpu *v);

/* ---- segments, faults, system instructions: called by translated code with the decoded instruction ------ */

/*
 * A helper runs with cs.rip at the instruction. Returning means: done, go on behind it (the caller advances). An
 * instruction that changes rip, or the mode, sets cs.rip itself and leaves by bt_resume. All are listed by name in
 * opcodes.def (`handler`) and expand to bt_op_NAME.
 */
typedef void bt_op_fn(struct bt_vcpu *v, const struct bt_insn *insn);
extern bt_op_fn *const bt_op_table[]; /* indexed by insn->handler (enum bt_handler) */

/* paravirt.c */
/* A host pointer to what a guest asked us to fill; NULL: not in RAM, or not at a multiple of 4. */
void *bt_guest_struct(struct bt_vcpu *v, gpa_t gpa, unsigned bytes);
void bt_hypercall(struct bt_vcpu *v);
/* MSRs; false: #GP. */
bool bt_steal_write(struct bt_vcpu *v, uint64_t value);
bool bt_pv_eoi_write(struct bt_vcpu *v, uint64_t value);
/* Entering and leaving the engine, and once in a while in it. */
void bt_pv_enter(struct bt_vcpu *v);
void bt_pv_leave(struct bt_vcpu *v);
void bt_pv_look(struct bt_vcpu *v);
/* An interrupt is delivered; whether the guest has ended it; the LAPIC must be as the guest thinks it is. */
void bt_pv_eoi_offer(struct bt_vcpu *v, unsigned vector);
void bt_pv_eoi_look(struct bt_vcpu *v);
void bt_pv_eoi_settle(struct bt_vcpu *v);

/* Fills v->sys from the machine; once, when the vCPU is made. (system.c) */
void bt_system_init(struct bt_vcpu *v);
/* cs.tsc_offset anew from the machine's: on entry to run, since a pause moves it. (msr.c) */
void bt_tsc_update(struct bt_vcpu *v);
/* v->cs was replaced: its TSC offset counts, and kvmclock's page is ours to fill. */
void bt_tsc_loaded(struct bt_vcpu *v);

/*
 * Fills seg_span for the segments as they are; returns the key bits that say what of ds, es, ss and cs needs no check.
 * Outside 64-bit code. (segment.c)
 */
uint32_t bt_segments_key(struct bt_vcpu *v);
/* Called by translated code where an inline check failed: raises, unless the segment allows the access after all. */
void bt_segment_check(struct bt_vcpu *v, const struct bt_insn *insn);
#define BT_SEG_ACCESS(seg, write, fpu, bytes) ((uint32_t)(seg) | (uint32_t)(write) << 4 | (uint32_t)(fpu) << 5 | (uint32_t)(bytes) << 8)

/* The linear address of insn's memory operand (base + index + disp + segment), checked: #GP/#SS on limit or canonicality. */
gva_t bt_operand_gva(struct bt_vcpu *v, const struct bt_insn *insn, unsigned bytes, bool write);

/* fault.c */
/*
 * Delivers exception or interrupt `vector` through the IDT (or the IVT in real mode): stack switch, IST, TSS, error code.
 * `soft`: int n, int3, into. Faults during delivery turn into double and triple faults inside; false: shutdown.
 * Called from the run loop, never from inside translated code.
 */
bool bt_deliver(struct bt_vcpu *v, unsigned vector, bool has_error, uint32_t error, bool soft, uint64_t return_rip);

/* Runs fn(v, arg) so that a bt_raise inside comes back here: 0 or 1 with cs.exception_* set. (run.c) */
int bt_guard(struct bt_vcpu *v, void (*fn)(struct bt_vcpu *v, void *arg), void *arg);

/* ---- vector state (run.c) -------------------------------------------------------------------- */

/* Saves the guest's x87/SSE/AVX state to cs.xsave, gives C a clean MXCSR. Idempotent. */
void bt_fpu_leave(struct bt_vcpu *v);
/* Puts it back. Idempotent. */
void bt_fpu_enter(struct bt_vcpu *v);
/* Whether an unmasked x87 exception waits for the next x87 instruction. While the state is live. */
bool bt_fpu_pending(void);

#endif

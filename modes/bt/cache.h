/*
 * The code cache: translations (TBs), how they are found, linked to each other, and dropped.
 *
 * One memfd mapped twice: `rw` is written through, `exec` is run. Running code is changed only by aligned 4-byte
 * stores, so that other vCPUs see the old or the new field, never a mixture. Space is handed out upwards and taken back
 * all at once (bt_cache_flush), when no vCPU is in translated code.
 *
 * All functions that change the cache run under bt_vm.lock.
 */
#ifndef BT_CACHE_H
#define BT_CACHE_H

#include "modes/bt/large.h"
#include "modes/bt/private.h"

/* Overridable, so that a test build can flush all the time. */
#ifndef BT_CACHE_BYTES
#define BT_CACHE_BYTES (128u << 20)
#endif
/* The first part has what runs, the rest what rarely does: stubs, slow paths. */
#define BT_HOT_BYTES (BT_CACHE_BYTES / 32 * 15)
#define BT_META_BYTES (192u << 20)
#define BT_HASH_BITS 18
#define BT_CODE_PAGES_MAX (1u << 20)

/* tb_key: what a translation depends on besides its bytes and address. */
#define KEY_BITS64 0x0001u
#define KEY_BITS32 0x0002u /* neither: 16-bit code */
#define KEY_SS32 0x0004u   /* stack pointer width outside 64-bit code: esp, else sp */
#define KEY_CPL_SHIFT 3
#define KEY_CPL 0x0018u
#define KEY_MMU_SHIFT 5
#define KEY_MMU 0x0060u
#define KEY_FPU_NM 0x0080u  /* CR0.TS or CR0.EM: x87 traps */
#define KEY_SSE_OFF 0x0100u /* CR0.EM or no CR4.OSFXSR */
#define KEY_AVX_OFF 0x0200u /* XCR0 or CR4.OSXSAVE forbid AVX */
#define KEY_FLAT 0x0400u    /* all of cs, ds, es, ss: base 0, limit 4 GiB (always in 64-bit code) */
#define KEY_ONE 0x0800u     /* a single instruction, then back to the run loop (TF, interrupt shadow) */
#define KEY_VM86 0x1000u
#define KEY_REAL 0x2000u
#define KEY_IOPL_OK 0x4000u /* CPL <= IOPL: cli and sti are allowed */
#define KEY_TS 0x8000u      /* CR0.TS: SSE traps with #NM */
/* Segments outside 64-bit code (emit_segment.c). Neither of the first two: ds, es and ss are checked one by one. */
#define KEY_BIG 0x10000u      /* ds, es, ss: writable, from 0 to 4 GiB, so nothing to check (KEY_FLAT implies it) */
#define KEY_64K 0x20000u      /* ds, es, ss: writable, limit 0xffff */
#define KEY_CS_64K 0x40000u   /* cs: limit 0xffff */
#define KEY_AC 0x100000u      /* CR0.AM and RFLAGS.AC at privilege 3: data must be aligned */
#define KEY_CS_LIMIT 0x80000u /* cs: a limit that is neither that nor 4 GiB: in the TB */

struct bt_tb;

/* A mapping of a linear code page to a physical one; `id` (its index) is what itlb entries and guards hold. */
struct bt_code_page {
	gva_t gva;
	gpa_t gpa;
	const uint8_t *host;
	uint32_t next; /* hash chain */
	uint32_t key;  /* tb_key, so that one comparison of ids covers the mode as well */
	uint32_t points; /* bt_debug_vcpu.id if there are execution points in it; else 0 */
};

/* A way out of a TB to a constant address. */
struct bt_exit {
	uint8_t *patch;      /* the jump's rel32 field, in rw */
	uint8_t *guard;      /* across pages: the guard's imm32, in rw; NULL inside a page */
	const uint8_t *stub; /* where the field points while unlinked, in exec */
	struct bt_tb *tb, *target;
	uint32_t guard_id;       /* the only page a guarded exit is ever linked to: a vCPU may be behind the guard */
	struct bt_exit *next_in; /* other exits with the same target */
	uint64_t rip;        /* where it goes */
};

#define BT_NO_GUARD 0xffffffffu

/* Which host bytes are which guest instruction; flags below. */
struct bt_insn_map {
	uint16_t host; /* first host byte, from tb->exec or tb->cold */
	uint8_t guest; /* guest bytes from tb->rip */
	uint8_t flags;
};
#define BT_MAP_FLAGS_HOST 1u /* the guest's flags are in the host's */
#define BT_MAP_POLL 2u       /* not an instruction: a poll; `guest` is the exit's number */
#define BT_MAP_POLL_HERE (BT_MAP_POLL | 4u) /* a poll in front of the instruction, which is to run again */
#define BT_MAP_PARKED_SHIFT 2u /* two numbers of 3 bits, 0 none: registers whose guest values are in tmp[0] and tmp[1] */

struct bt_tb {
	uint64_t rip;     /* of its first instruction: an offset in CS */
	uint64_t cs_base; /* 0 in flat code */
	uint32_t cs_limit;
	uint32_t key;
	uint32_t page_id, page_id2; /* page_id2: of the page its last byte is in, if another; else 0 */
	uint8_t *exec;    /* indirect entry: r15 = rip, flags in flags_ax; verifies itself */
	uint32_t bytes;
	uint8_t *cold;    /* its stubs and slow paths */
	uint32_t cold_bytes;
	uint16_t mem_entry, direct_entry; /* offsets: flags in flags_ax; flags in the host */
	uint16_t loop_entry; /* for its own jumps back, if it has a fast copy for the turns to come; else 0 */
	uint16_t guest_bytes;
	uint16_t dep_first, dep_end; /* bytes of its first page that it relies on: its own, and what liveness looked at */
	uint16_t live_in; /* flags read before they are written */
	uint8_t insns, map_count, exit_count;
	uint8_t map_hot; /* so many entries of the map are of `exec`, the others of `cold` */
	bool dead;
	struct bt_tb *hash_next;
	struct bt_tb *page_next[2];
	struct bt_exit *in;
	struct bt_exit *exits;
	struct bt_insn_map *map;
	uint32_t *id_field; /* the indirect entry's guard, in rw: cleared when the TB dies */
};

/* A copied tail for an access that needs a bounce buffer (mem.c). */
struct bt_tail {
	const uint8_t *site; /* return address of the slow-path call */
	uint8_t *exec;
	uint32_t bytes;
	struct bt_tail *next;
};

#define BT_TAIL_HASH 1024

struct bt_cache {
	uint8_t *rw, *exec;
	uint8_t *next;      /* in rw */
	uint8_t *first;     /* behind the thunks */
	uint8_t *cold_next; /* in rw, from BT_HOT_BYTES on */
	uint8_t *hot_large, *cold_large; /* so far large pages were asked for */
	uint8_t *meta, *meta_next;
	struct bt_tb **order; /* all TBs by address */
	uint32_t order_count, order_max;
	struct bt_tb *hash[1u << BT_HASH_BITS];
	struct bt_code_page *pages; /* [BT_CODE_PAGES_MAX], 0 unused */
	uint32_t page_count;
	uint32_t page_hash[1u << 14];
	struct bt_tail *tails[BT_TAIL_HASH];
	/* By guest page frame: does it hold translated code, which 64-byte chunks, and the TBs there. */
	uint64_t pfn_count;
	uint8_t *has_code;
	uint64_t *chunks;
	struct bt_tb **page_tbs;
	uint64_t flushes;
	uint64_t **hints; /* by page frame: instructions whose operands keep changing page, a bit per byte offset */
};

/* Entry points of the thunks, in exec (thunks.c). */
struct bt_thunks {
	void (*enter)(struct bt_vcpu *v, const void *code);
	void (*reenter)(struct bt_vcpu *v, const void *code) BT_NORETURN;
	void (*leave)(struct bt_vcpu *v) BT_NORETURN; /* back to the caller of enter; state is in cs already */
	const uint8_t *op;     /* r15: struct bt_insn *, r14: function */
	const uint8_t *mem;    /* slow path of a memory access; a struct bt_site follows the call */
	const uint8_t *commit; /* end of a bounced write */
	const uint8_t *link;   /* r14: struct bt_exit *; flags in flags_ax */
	const uint8_t *slot[BT_MMU_COUNT][2][BT_SLOTS]; /* call: r15 = address + slot tag; TLB lookup, fills the slot */
	const uint8_t *lookup[2]; /* r15: rip; flags in flags_ax; [1]: of user code */
	const uint8_t *save_exit; /* registers live: save them and leave */
};

/* Follows `call thunks.mem`: describes the access and where its fast path goes on. */
struct bt_site {
	int32_t back;       /* from the descriptor's own address to the code behind the check: r14 + r15 = host address */
	uint16_t tail;      /* bytes from there to the end of the access */
	uint8_t bytes;
	uint8_t access;     /* enum bt_access | mmu << 4 | 0x40: stack | BT_SITE_ALIGNED */
} __attribute__((packed));
#define BT_SITE_FPU 0x04u     /* a pending x87 exception comes before any fault of the access */
#define BT_SITE_STACK 0x40u   /* a non-canonical address is #SS */
#define BT_SITE_ALIGNED 0x80u /* #GP unless aligned to its size, before any page fault */

#define BT_NOWHERE_BYTES (4 * GUEST_PAGE_SIZE)

#define BT_WRITTEN_MAX 64
struct bt_written {
	volatile int lock;
	volatile uint32_t count;
	uint32_t base; /* counts entries taken out */
	struct bt_ram_change {
		gpa_t gpa;
		uint64_t bytes;
	} changes[BT_WRITTEN_MAX];
	volatile bool all;
};

struct bt_vm {
	struct machine *machine;
	struct bt_vcpu *vcpu[MACHINE_MAX_VCPUS];
	unsigned vcpus;
	struct bt_cache cache;
	struct bt_thunks thunk;
	uint8_t *nowhere; /* never accessible: where empty slots lead; the second half is for the stack's registers (#SS) */
	volatile int lock;
	volatile int flushing;
	volatile uint64_t first_user_ns;
	bool has_bmi2;
	uint32_t host_7b, host_7c; /* CPUID 7.0 EBX and ECX */
	bool precise_flags; /* for tests: no flag counts as dead, so that faults show them all */
	uint64_t low_ram_bytes;
	struct bt_large large; /* guest RAM's */
	struct bt_written written;
	struct bt_debug_vm debug;
	const struct bt_monitor *monitor; /* NULL: the guest has the processor to itself */
	void *monitor_data;
};

int bt_cache_init(struct bt_vm *vm);
void bt_cache_finish(struct bt_vm *vm);
/* Forgets every translation. Between bt_flush_begin and bt_flush_end (sync.h). */
void bt_cache_flush(struct bt_vm *vm);
static inline uint64_t bt_cache_used(const struct bt_cache *c)
{
	return (uint64_t)(c->next - c->rw) + (uint64_t)(c->cold_next - (c->rw + BT_HOT_BYTES));
}
/* Whether a TB of the largest size fits. */
bool bt_cache_room(const struct bt_vm *vm);
/* Zeroed memory that lives until the next flush. */
void *bt_meta_alloc(struct bt_vm *vm, size_t bytes);

/* The id of the code page at gva for the present privilege, filling the itlb: raises #PF, #GP. */
uint32_t bt_code_page(struct bt_vcpu *v, gva_t gva);
/* Drops itlb entries. */
void bt_itlb_flush(struct bt_vcpu *v, bool globals_too);
void bt_itlb_flush_half(struct bt_vcpu *v, bool user);
void bt_itlb_flush_page(struct bt_vcpu *v, gva_t gva);

static inline unsigned bt_itlb_slot(gva_t gva, bool user)
{
	return (unsigned)(gva >> GUEST_PAGE_SHIFT & (BT_ITLB_ENTRIES / 2 - 1)) | (user ? BT_ITLB_ENTRIES / 2 : 0);
}

/* The translation for v's present rip and key, made if needed; raises what fetching raises. */
struct bt_tb *bt_tb_get(struct bt_vcpu *v);
void bt_tb_insert(struct bt_vm *vm, struct bt_tb *tb);
void bt_tb_kill(struct bt_vm *vm, struct bt_tb *tb);
/* The TB that holds a host address, NULL if none does. Async-signal-safe against the calling thread. */
struct bt_tb *bt_tb_of(struct bt_vm *vm, const uint8_t *host);
/* Links exit to tb (same page, or guarded), for the next time. */
void bt_link(struct bt_vm *vm, struct bt_exit *exit, struct bt_tb *tb);

/* Marks the page of gpa as holding code in [off, off+n): from now on writes to it take the slow path. */
void bt_code_mark(struct bt_vcpu *v, gpa_t gpa, unsigned n);
/* Guest RAM [gpa, gpa+n) is about to change (or has): drops what was translated from it. True if any was. */
bool bt_code_written(struct bt_vm *vm, gpa_t gpa, uint64_t n);
static inline bool bt_page_has_code(const struct bt_vm *vm, gpa_t gpa)
{
	uint64_t pfn = gpa >> GUEST_PAGE_SHIFT;
	return pfn < vm->cache.pfn_count && vm->cache.has_code[pfn];
}

/* Whether the instruction at gpa had better look its operands up in the TLB itself. */
static inline bool bt_hint(const struct bt_vm *vm, gpa_t gpa)
{
	const uint64_t *h = vm->cache.hints[gpa >> GUEST_PAGE_SHIFT];
	return h && h[(gpa & 0xfff) >> 6] >> (gpa & 63) & 1;
}

/* Builds the thunks at the start of the cache. */
void bt_thunks_make(struct bt_vm *vm);

/* Translates at v's rip. The caller has room in the cache. Raises fetch faults. (translate.c) */
struct bt_tb *bt_translate(struct bt_vcpu *v, uint32_t page_id);

/* mem.c: called by thunks. */
struct bt_mem_result {
	uint8_t *host;
	const uint8_t *resume;
};
struct bt_mem_result bt_mem_slow(struct bt_vcpu *v, gva_t gva, const struct bt_site *site);
void bt_mem_commit(struct bt_vcpu *v);
/* Called by a slot thunk after BT_SLOT_BUDGET misses: if they came fast, the site behind `ret` gives its slot up. */
#define BT_SLOT_BUDGET 64
void bt_slot_trouble(struct bt_vcpu *v, const uint8_t *ret);
/* A helper stored to translated code: goes on behind its instruction through the dispatcher. (run.c) */
BT_NORETURN void bt_code_changed(struct bt_vcpu *v);
/* run.c: called by thunks; return the host address to go on at. */
const void *bt_do_link(struct bt_vcpu *v, struct bt_exit *exit);
const void *bt_do_lookup(struct bt_vcpu *v, uint64_t rip);

/*
 * Jump cache: host pointers by the low 16 bits of rip; each TB verifies itself, so entries need no flushing. What a TB cannot
 * see is who jumps to it: its half of the itlb is right whichever half is in use. So there is one for supervisor code and one
 * for user code, and neither leads to the other's TBs.
 */
#define BT_JC_ENTRIES 65536u
/*
 * Behind it, for targets that are a multiple of 64 KiB apart and evict each other for ever: by a hash of all of rip,
 * asked by the lookup thunk, which puts what it finds into the jump cache.
 */
#define BT_JC2_BITS 14
#define BT_JC2_ENTRIES (1u << BT_JC2_BITS)
#define BT_JC2_FACTOR 0x2545f491u
#define BT_JC2_SHIFT 28
struct bt_jc2 {
	uint64_t rip;
	const uint8_t *exec;
};
#define BT_JC2_EMPTY 0x8000000000000000ull /* no canonical address */

/* The vCPU with what only this header's users need; allocated with a stack below it for helpers. */
struct bt_vcpu_block {
	struct bt_vcpu v;
	const uint8_t *jc[2][BT_JC_ENTRIES]; /* [1]: user code's */
	struct bt_jc2 jc2[2][BT_JC2_ENTRIES];
};
/* Which half of the itlb, and whose jump cache, code that v runs now belongs to. */
static inline bool bt_user_half(const struct bt_vcpu *v) { return v->mmu == BT_MMU_USER; }
static inline struct bt_jc2 *bt_jc2(struct bt_vcpu *v, uint64_t rip)
{
	return &((struct bt_vcpu_block *)v)->jc2[bt_user_half(v)][rip * BT_JC2_FACTOR >> BT_JC2_SHIFT & (BT_JC2_ENTRIES - 1)];
}
/* Both forget everything. */
void bt_jc_clear(struct bt_vcpu *v);
static inline const uint8_t **bt_jc(struct bt_vcpu *v) { return ((struct bt_vcpu_block *)v)->jc[bt_user_half(v)]; }

#endif

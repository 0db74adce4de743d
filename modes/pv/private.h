/*
 * What the files of modes/pv share. Nobody outside includes this.
 *
 * A domain is a Xen PV guest on the translator (modes/bt/monitor.h). Hypercalls run on the vCPU's thread while the guest's
 * vector state is in the host's registers: the files of libpvcore.a are compiled with -mgeneral-regs-only and call no libc;
 * where they must (devices, timers, the store), pv_outside_begin and pv_outside_end bracket it.
 */
#ifndef PV_PRIVATE_H
#define PV_PRIVATE_H

#include "machine/cpu_state.h"
#include "machine/lock.h"
#include "machine/machine.h"
#include "machine/paravirt.h"
#include "modes/bt/monitor.h"
#include "modes/pv/xen_abi.h"

#define PV_DOMAIN_ID 1u /* the guest's own number; back ends are domain 0 */

typedef uint64_t mfn_t; /* a machine frame: guest-physical to the machine */
#define MFN_NONE UINT64_MAX

/* The reserved part of the address space (xen-x86_64.h): slots of the top-level table, and what lies where. */
#define PV_SLOT_FIRST 256u
#define PV_SLOT_LAST 271u
#define PV_SLOT_M2P 256u
#define PV_SLOT_TABLES 260u
#define PV_TABLES_VA 0xffff820000000000ull /* for each vCPU: 16 pages of GDT, 16 of LDT */
#define PV_TABLES_VCPU_SHIFT 17
#define PV_GDT_PAGES 16u
#define PV_LDT_PAGES 16u

/* Page-table entries. */
#define PTE_P 1ull
#define PTE_W 2ull
#define PTE_U 4ull
#define PTE_A 0x20ull
#define PTE_D 0x40ull
#define PTE_PS 0x80ull
#define PTE_G 0x100ull
#define PTE_NX (1ull << 63)
#define PTE_FRAME 0x000ffffffffff000ull

/* What a frame is used as; a frame has one type at a time, for as long as somebody uses it so. */
enum pv_type {
	PV_TYPE_NONE,
	PV_TYPE_L1, PV_TYPE_L2, PV_TYPE_L3, PV_TYPE_L4, /* a validated page table */
	PV_TYPE_SEGDESC,  /* part of a descriptor table */
	PV_TYPE_WRITABLE, /* mapped writable, or granted so */
};

static inline bool pv_is_table(enum pv_type type) { return type >= PV_TYPE_L1 && type <= PV_TYPE_L4; }

struct pv_frame {
	uint32_t uses;  /* mappings, pins, tables that name it */
	uint32_t typed; /* of those, the ones that need its type */
	uint8_t type;   /* enum pv_type */
	bool guest;     /* the domain's own; else the monitor's, or no memory */
	bool pinned;
	bool free;      /* the domain may have it (again) */
	bool given_up;  /* it is free once nobody uses it any more */
	bool shared;    /* the domain's to map, but not part of its memory: shared_info, grant table */
};

#define PV_GRANT_FRAMES 64u
#define PV_PORTS EVTCHN_2L_NR_CHANNELS
struct pv_port {
	uint8_t state; /* EVTCHNSTAT_* */
	uint8_t vcpu;
	uint16_t remote_domain;
	uint32_t number; /* of the VIRQ, or the peer's port */
	/* Interdomain with a back end in this process: told of a send, outside. */
	void (*notify)(void *opaque);
	void *opaque;
};

struct pv_vcpu {
	struct pv_domain *domain;
	struct bt_vcpu *v;
	unsigned index;
	volatile vcpu_info_t *info;
	mfn_t info_mfn; /* where the guest has put it; 0: in shared_info */
	struct vcpu_guest_context *context; /* VCPUOP_initialise's argument */
	bool in_kernel;
	uint64_t flags; /* VGCF_* */
	struct trap_info trap[256];
	uint64_t event_callback, failsafe_callback, syscall_callback, syscall32_callback, sysenter_callback, nmi_callback;
	bool syscall32_masks, sysenter_masks;
	uint64_t kernel_sp;
	mfn_t kernel_root, user_root; /* top-level tables; 0: none */
	uint64_t gs_other; /* the GS base of the mode it is not in */
	uint64_t cr4; /* as the guest has set it */
	mfn_t gdt_frame[FIRST_RESERVED_GDT_PAGE];
	uint32_t virq_port[NR_VIRQS];
	/* An emulated store to a page table (ptwr.c). */
	struct pv_table_store {
		uint64_t before[512], after[512];
		bool active;
		gva_t gva;
		mfn_t mfn;
		uint64_t gpr[GPR_COUNT], rip, rflags; /* before the instruction */
	} *store; /* page-aligned */
	bool online;        /* VCPUOP_up */
	bool blocks;        /* this hypercall ends in sleep */
	bool polling;       /* SCHEDOP_poll: until one of these is pending, or then */
	unsigned polls;
	evtchn_port_t poll_port[128];
	uint64_t poll_until;
	bool initialised;
	volatile bool started; /* another vCPU has just put it on line */
	struct machine_timer *timer; /* singleshot */
	struct machine_timer *periodic;
	struct machine_timer *poll_timer;
	uint64_t period;
	uint64_t runstate_gva, time_gva;
	struct vcpu_runstate_info runstate;
	uint64_t hypercalls;
};

struct pv_domain {
	struct machine *machine;
	struct mode_vm *vm;
	volatile int lock; /* of frames, ports and whatever else vCPUs share */
	unsigned vcpus;
	struct pv_vcpu *vcpu[MACHINE_MAX_VCPUS];

	struct ram_region region[4];
	unsigned regions;
	mfn_t frames;           /* one more than the last there is */
	struct pv_frame *frame; /* of each */
	mfn_t pool_next, pool_end; /* the monitor's own frames, handed out once */
	mfn_t m2p_frame;
	uint64_t *m2p; /* entry of each frame */
	uint64_t m2p_bytes;
	mfn_t m2p_l3, tables_l3, tables_l1;
	mfn_t gdt_page; /* the reserved part of every GDT */

	mfn_t free_hint;
	uint64_t pages, max_pages; /* the domain's now; what it may have */
	mfn_t shared_mfn;
	volatile struct shared_info *shared;
	volatile struct xencons_interface *console;
	volatile struct xenstore_domain_interface *store_ring;
	uint32_t console_port, store_port;
	struct pv_port port[PV_PORTS];
	struct {
		mfn_t frame[PV_GRANT_FRAMES];
		unsigned frames;
		/* Of each reference: our mappings of it, and those of them that write. Under `lock`. */
		struct pv_grant_uses {
			uint16_t all, writers;
		} *uses;
	} grants;
	struct pv_store *xenstore;
	struct pv_store_ring *store_reader;
	struct mlock console_lock;

	uint64_t vm_assist;
	bool ended;
	char message[200];
	struct {
		uint64_t hypercalls, mmu_updates, page_table_stores, events, upcalls, emulated;
	} stats;
};

static inline struct pv_vcpu *pv_vcpu_of(struct bt_vcpu *v)
{
	struct pv_domain *d = bt_monitor_vm(v);

	return d->vcpu[bt_monitor_index(v)];
}

static inline void pv_lock(struct pv_vcpu *p) { bt_monitor_lock(p->v, &p->domain->lock); }
static inline void pv_unlock(struct pv_vcpu *p) { bt_monitor_unlock(&p->domain->lock); }
/* The same on other threads. */
void pv_lock_outside(struct pv_domain *d);
static inline void pv_unlock_outside(struct pv_domain *d) { bt_monitor_unlock(&d->lock); }

static inline void pv_outside_begin(struct pv_vcpu *p) { bt_fpu_leave(p->v); }
static inline void pv_outside_end(struct pv_vcpu *p) { bt_fpu_enter(p->v); }

/* ---- frames (mmu.c) -------------------------------------------------------------- */

/* Host memory of a frame, NULL if there is none. Any frame: who may have it is the caller's to know. */
uint8_t *pv_frame_host(const struct pv_domain *d, mfn_t mfn);
static inline struct pv_frame *pv_frame_of(struct pv_domain *d, mfn_t mfn)
{
	return mfn < d->frames && d->frame[mfn].guest ? &d->frame[mfn] : NULL;
}

/* A frame of the monitor's own, zeroed; `shared`: for the guest to map. There are enough for all that is ever asked. */
mfn_t pv_pool_take(struct pv_domain *d, bool shared);

/* ---- memory management (mmu.c): the domain's lock is held; 0 or -XEN_E* ------------------ */

/* One use more, or less, of a frame of the domain's. */
int pv_get_frame(struct pv_vcpu *p, mfn_t mfn);
void pv_put_frame(struct pv_domain *d, mfn_t mfn);
/* The domain gives a frame of its own up: at once, or when its last use ends. */
int pv_give_up(struct pv_domain *d, mfn_t mfn);
/* The same as a type: validates a table that is none yet. */
int pv_get_typed(struct pv_vcpu *p, mfn_t mfn, enum pv_type type);
void pv_put_typed(struct pv_vcpu *p, mfn_t mfn);
/* Makes one entry of a table (of which `mfn` is one) what is asked for, all checks and counts. */
int pv_set_entry(struct pv_vcpu *p, mfn_t table, unsigned index, uint64_t value, bool keep_ad);
/* The level-1 entry that maps gva in the guest kernel's space: its table and index. False: none. */
bool pv_find_l1(struct pv_vcpu *p, gva_t gva, mfn_t *ret_table, unsigned *ret_index);
/* What a level-1 entry may be: its frame's use, counted. */
int pv_get_l1e(struct pv_vcpu *p, uint64_t entry);
void pv_put_l1e(struct pv_vcpu *p, uint64_t entry);
/* Xen's slots of a top-level table. */
void pv_fill_root(struct pv_domain *d, mfn_t mfn);
int pv_mmuext_one(struct pv_vcpu *p, const struct mmuext_op *op);

/* Hypercalls. */
long pv_mmu_update(struct pv_vcpu *p, gva_t requests, uint64_t count, gva_t done, uint64_t domain);
long pv_mmuext_op(struct pv_vcpu *p, gva_t ops, uint64_t count, gva_t done, uint64_t domain);
long pv_update_va_mapping(struct pv_vcpu *p, gva_t gva, uint64_t entry, uint64_t flags);
long pv_update_va_mapping_other(struct pv_vcpu *p, gva_t gva, uint64_t entry, uint64_t flags, uint64_t domain);

/* cr3 of whichever mode it is in. */
void pv_load_root(struct pv_vcpu *p);

/* ---- stores to page tables (ptwr.c) ------------------------------------------------------ */

/* A write fault at gva: if it is a store to a page table, it is being done, and the instruction is to run again. */
bool pv_store_begin(struct pv_vcpu *p, gva_t gva);
/* The instruction has run: what it wrote is checked and counted. False: refused; the fault is the guest's. */
bool pv_store_end(struct pv_vcpu *p);
void pv_store_drop(struct pv_vcpu *p);

/* ---- descriptors (descriptor.c) ------------------------------------------------------------ */

/* The domain's lock is held. Whether the guest may have this descriptor; its privilege is raised to 3. */
bool pv_descriptor_ok(uint64_t *descriptor);
int pv_set_gdt_frames(struct pv_vcpu *p, const uint64_t *frames, unsigned n);
/* The same for a vCPU that does not run yet. */
int pv_set_gdt_frames_of(struct pv_vcpu *p, struct pv_vcpu *of, const uint64_t *frames, unsigned n);
void pv_map_gdt(struct pv_vcpu *p);
static inline gva_t pv_tables_va(const struct pv_vcpu *p) { return PV_TABLES_VA + ((gva_t)p->index << PV_TABLES_VCPU_SHIFT); }
long pv_set_gdt(struct pv_vcpu *p, gva_t list, uint64_t entries);
long pv_update_descriptor(struct pv_vcpu *p, uint64_t address, uint64_t descriptor);
int pv_set_ldt(struct pv_vcpu *p, gva_t gva, uint64_t entries);

/* ---- entering and leaving the guest's kernel (trap.c) ------------------------------------------ */

extern const struct bt_monitor pv_monitor;

struct pv_frame_entry {
	uint64_t address;
	bool mask;      /* events are off in the handler */
	bool has_error;
	uint32_t error;
	bool failsafe;  /* data segments too */
};
/* Builds the frame and enters. False: the guest has no stack for it, and is past help (message set). */
bool pv_enter_kernel(struct pv_vcpu *p, const struct pv_frame_entry *e);
/* One of its trap handlers. */
bool pv_enter_trap(struct pv_vcpu *p, unsigned vector, bool has_error, uint32_t error);
void pv_switch_mode(struct pv_vcpu *p, bool kernel);
/* HYPERVISOR_iret. False: past help. */
bool pv_iret(struct pv_vcpu *p);
/* The flat segments at privilege 3. */
void pv_flat_segments(struct cpu_state *cs);
/* Says why the domain cannot go on. Always false. */
bool pv_hopeless(struct pv_vcpu *p, const char *why);

/* emulate.c: a privileged instruction of the guest kernel. True: done, rip moved. */
bool pv_emulate_privileged(struct pv_vcpu *p);
/* ud2, "xen", instruction: True: done. */
bool pv_emulate_forced(struct pv_vcpu *p);
/* What cpuid answers. */
void pv_cpuid(struct pv_vcpu *p, uint32_t leaf, uint32_t subleaf, uint32_t ret_regs[4]);

/* ---- hypercalls (hypercall.c, others) ----------------------------------------------------------- */

void pv_system_call(struct bt_vcpu *v, uint64_t next);
long pv_memory_op(struct pv_vcpu *p, unsigned cmd, gva_t arg);
long pv_sched_op(struct pv_vcpu *p, unsigned cmd, gva_t arg);
long pv_sched_op_compat(struct pv_vcpu *p, unsigned cmd, uint64_t arg);
long pv_vcpu_op(struct pv_vcpu *p, unsigned cmd, unsigned vcpu, gva_t arg);
long pv_set_timer(struct pv_vcpu *p, uint64_t when);
long pv_event_op(struct pv_vcpu *p, unsigned cmd, gva_t arg);
long pv_grant_op(struct pv_vcpu *p, unsigned cmd, gva_t arg, unsigned count);
long pv_physdev_op(struct pv_vcpu *p, unsigned cmd, gva_t arg);
long pv_set_debugreg(struct pv_vcpu *p, unsigned reg, uint64_t value);

/* ---- event channels (evtchn.c) --------------------------------------------------------------------- */

/* A port's event happens. Any thread. */
void pv_event_raise(struct pv_domain *d, uint32_t port);
/* A virtual interrupt of a vCPU's, if it is bound. Any thread. */
void pv_virq(struct pv_vcpu *p, unsigned virq);
/* A port that is connected to a back end of ours from the start. 0: there is none left. Before the guest runs. */
uint32_t pv_event_connect(struct pv_domain *d, void (*notify)(void *opaque), void *opaque);
/* The same for one that the guest left unbound for domain 0. False: it is none. Any thread. */
bool pv_event_bind(struct pv_domain *d, uint32_t port, void (*notify)(void *opaque), void *opaque);
/* Unbound again, if it is a back end's. Any thread. */
void pv_event_unbind(struct pv_domain *d, uint32_t port, void *opaque);
/* Makes a vCPU look. Any thread. */
void pv_wake(struct pv_vcpu *p);
static inline bool pv_upcall_due(const struct pv_vcpu *p)
{
	return p->info->evtchn_upcall_pending && !p->info->evtchn_upcall_mask;
}

/* Of a vCPU in SCHEDOP_poll: whether it need not wait on. */
bool pv_poll_over(struct pv_vcpu *p);

/* ---- time (time.c) ------------------------------------------------------------------------------------ */

void pv_time_publish(struct pv_vcpu *p);
void pv_wallclock_publish(struct pv_domain *d);
void pv_runstate(struct pv_vcpu *p, int state);

/* On a vCPU's own thread: what VCPUOP_initialise was given counts now. */
void pv_apply_context(struct pv_vcpu *p);

/* ---- devices (backend.c), outside ----------------------------------------------------------------------- */

/* The machine's disks and NICs appear in the store. Before the guest runs. */
int pv_devices_start(struct pv_domain *d);

/* ---- console (console.c), outside ---------------------------------------------------------------------- */

int pv_console_start(struct pv_domain *d);
/* Bytes that the guest has put into its ring go to whoever reads the VM's console. */
void pv_console_drain(struct pv_domain *d);

/* Registers at a vCPU's start: flat segments, paging, its root loaded. Vector state is left alone. (trap.c) */
void pv_first_state(struct pv_vcpu *p, struct cpu_state *cs);

#endif

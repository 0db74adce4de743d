/*
 * Debug points: addresses at which a vCPU stops before an instruction, or behind one that reads or writes them. The guest's
 * own debug registers and a debugger outside share this one mechanism. (debug.c)
 *
 * Execution: pages with points have code pages (and so translations) of their own, whose blocks end in front of each point;
 * no translation begins at one, so whoever arrives there leaves for the run loop, which asks bt_debug_here.
 * Data: the TLB never gets a tag for pages with points, so each access takes the slow path, which asks bt_debug_access; an
 * instruction that hits is run alone, and the run loop finds debug.hits set behind it.
 */
#ifndef BT_DEBUG_H
#define BT_DEBUG_H

#include "machine/types.h"

#include <stdbool.h>
#include <stdint.h>

struct bt_vm;
struct bt_vcpu;

/* Bits of a point's kind. */
#define BT_DEBUG_EXEC 1u
#define BT_DEBUG_READ 2u
#define BT_DEBUG_WRITE 4u
#define BT_DEBUG_PORT 8u

struct bt_debug_point {
	gva_t gva; /* linear */
	uint32_t bytes;
	uint32_t kind; /* 0: unused */
};

/* Bits of bt_debug_vcpu.hits and of what bt_debug_here returns: as B0 to B3 of DR6, and the debugger. */
#define BT_HIT_GUEST 0x0fu
#define BT_HIT_DEBUGGER 0x10u

#define BT_DEBUG_POINTS_MAX 256

/* Of a vCPU. Written on its own thread, or while it is not in run. */
struct bt_debug_vcpu {
	bool exec, data;    /* there are such points, of anybody */
	bool step;          /* the debugger wants one instruction and no interrupts */
	bool stepped;       /* and got it */
	uint32_t id;        /* of the present set of points: code pages with execution points are known by it */
	uint32_t hits;      /* data points hit by the instruction that runs, BT_HIT_* */
	struct bt_debug_point guest[4]; /* DR0 to DR3 as far as enabled */
	bool io;            /* some of those are ports (CR4.DE) */
	struct bt_debug_point hit;      /* the debugger's, and the address that was touched */
	gva_t hit_gva;
};

/* The debugger's, for all vCPUs: changes while none is in run. */
struct bt_debug_vm {
	struct bt_debug_point point[BT_DEBUG_POINTS_MAX];
	uint32_t count;
	uint32_t id; /* of vCPUs that have no execution points of their own */
	uint32_t last_id;
};

/*
 * Whether an execution point lies at linear address gva: BT_HIT_* bits, 0 if none. The guest's are left out while RF is
 * set. Cheap when there are no points.
 */
unsigned bt_debug_exec_at(const struct bt_vcpu *v, gva_t gva);
/* Any execution point in the page of gva, or at gva, whether RF is set or not. */
bool bt_debug_exec_in_page(const struct bt_vcpu *v, gva_t gva);
bool bt_debug_exec_point(const struct bt_vcpu *v, gva_t gva);
/* Which accesses to the page of gva must not get a TLB tag: BT_DEBUG_READ | BT_DEBUG_WRITE. */
unsigned bt_debug_data_in_page(const struct bt_vcpu *v, gva_t gva);
/* The access hits a point: BT_HIT_* bits, which are not noted. `kind`: BT_DEBUG_READ and/or BT_DEBUG_WRITE. */
unsigned bt_debug_match(const struct bt_vcpu *v, gva_t gva, uint64_t bytes, unsigned kind);
/* As that, and notes it in debug.hits: the vCPU comes to the run loop behind the instruction that runs. */
void bt_debug_access(struct bt_vcpu *v, gva_t gva, uint64_t bytes, unsigned kind);

/* The guest's debug registers, CR4.DE or the whole state may have changed. True: as for bt_debug_changed. */
bool bt_debug_registers(struct bt_vcpu *v);
/* in, out: notes the points that ports [port, port + bytes) hit. */
void bt_debug_port(struct bt_vcpu *v, unsigned port, unsigned bytes);

/* Linear address of the instruction at cs.rip. */
gva_t bt_debug_rip(const struct bt_vcpu *v);

/*
 * The points have changed (debug.guest of v, or the VM's): forgets what relied on them. On v's thread, which then must not
 * go on in the translation it came from (bt_resume), or while v is not in run.
 */
void bt_debug_changed(struct bt_vcpu *v);

#endif

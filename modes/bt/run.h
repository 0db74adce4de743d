/* The run loop and what the mode's front (bt.c) and the signal handlers share with it. */
#ifndef BT_RUN_H
#define BT_RUN_H

#include "modes/bt/cache.h"

/* Runs guest code on this thread until something in enum mode_exit_reason happens; v->fail_message goes with ERROR. */
enum mode_exit_reason bt_run(struct bt_vcpu *v);
/* The instruction (or poll) that host address `host` belongs to. False: it is in no TB. */
bool bt_rip_of(struct bt_vm *vm, const uint8_t *host, struct bt_tb **ret_tb, const struct bt_insn_map **ret_map);
/* Notes the time of the first user-mode instruction. */
void bt_note_first_user(struct bt_vm *vm);
/* Drops translations of RAM that devices wrote since the last call (bt.c queues them). */
void bt_take_ram_changes(struct bt_vcpu *v);

/* signal.c: handlers for faults in translated code, and this thread's alternate stack. */
int bt_signals_install(void);
int bt_signals_thread(struct bt_vcpu *v);

#endif

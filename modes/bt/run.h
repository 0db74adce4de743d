/* The run loop and what the mode's front (bt.c) and the signal handlers share with it. */
#ifndef BT_RUN_H
#define BT_RUN_H

#include "modes/bt/cache.h"

/* Runs guest code on this thread until something in enum mode_exit_reason happens; v->fail_message goes with ERROR. */
enum mode_exit_reason bt_run(struct bt_vcpu *v);
/* The instruction (or poll) that host address `host` belongs to. False: it is in no TB. */
bool bt_rip_of(struct bt_vm *vm, const uint8_t *host, struct bt_tb **ret_tb, const struct bt_insn_map **ret_map);

/* ---- written.c: these run, as the loop does, while the host's vector registers are the guest's ---- */

/* From any thread: n bytes at gpa were written that translations are of; n 0: any, or the map changed. Kicks all vCPUs. */
void bt_written_note(struct bt_vm *vm, gpa_t gpa, uint64_t n);
/* Drops the translations of what was noted since the last call. */
void bt_written_take(struct bt_vcpu *v);
/* Notes the time of the first user-mode instruction. */
void bt_note_first_user(struct bt_vm *vm);

/* profile.c: samples, taken by a signal to the vCPU's thread. */
int bt_profile_create(struct bt_vcpu *v);
void bt_profile_destroy(struct bt_vcpu *v);
/* In the signal's handler: pc is where the thread was. */
void bt_profile_note(struct bt_vcpu *v, const uint8_t *pc);
void bt_profile_ask(struct bt_vcpu *v);
size_t bt_profile_take(struct bt_vm *vm, struct mode_sample *ret, size_t max);
void bt_profile_translations(struct bt_vm *vm, gpa_t gpa, uint64_t bytes, mode_translation_fn *fn, void *opaque);
/* An address in a copied tail stands for the access's own place. (signal.c) */
const uint8_t *bt_untail(struct bt_vm *vm, const uint8_t *pc);
#define BT_PROFILE_SIGNAL SIGPROF

/* signal.c: handlers for faults in translated code, and this thread's alternate stack. */
int bt_signals_install(void);
int bt_signals_thread(struct bt_vcpu *v);

#endif

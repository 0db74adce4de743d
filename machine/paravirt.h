/*
 * What an engine needs of the machine that brings devices of its own for its guests (mode pv): the console, timers in
 * virtual time, and telling the VM's owner of what the guest did. Any thread; they take the machine lock themselves.
 */
#ifndef MACHINE_PARAVIRT_H
#define MACHINE_PARAVIRT_H

#include "machine/machine.h"

/* Bytes for whoever reads the first serial port. */
void machine_serial_output(struct machine *machine, const void *bytes, size_t n);
/*
 * Bytes typed into the first serial port go to fn from now on, under the machine lock; it takes as many as it returns, and
 * is offered the rest again. NULL: to the port.
 */
void machine_serial_divert(struct machine *machine, size_t (*fn)(void *opaque, const void *bytes, size_t n), void *opaque);

void machine_report(struct machine *machine, enum machine_event event, unsigned code);

/* A timer; fn is called on the clock thread, under the machine lock, and may arm it again by machine_timer_set_locked. */
struct machine_timer;
struct machine_timer *machine_timer_create(struct machine *machine, void (*fn)(void *opaque), void *opaque);
void machine_timer_destroy(struct machine_timer *timer);
/* At machine_clock_ns() == deadline, or soon after, once; UINT64_MAX: not at all. Replaces what was set before. */
void machine_timer_set(struct machine_timer *timer, uint64_t deadline);
void machine_timer_set_locked(struct machine_timer *timer, uint64_t deadline);

/* ns = (ticks << shift) * mul >> 32, for ticks of a clock of khz: how pvclock, Xen's and KVM's, has it. */
void machine_tsc_scale(uint64_t khz, uint32_t *ret_mul, int8_t *ret_shift);

/*
 * The kernel that a file holds, as an ELF image in memory of the caller's (free): unpacked if it is gzipped, or a bzImage
 * with a payload that is known. 0 or -errno with *ret_error as of machine_boot.
 */
int machine_kernel_image(const struct machine *machine, const char *path, uint8_t **ret_data, size_t *ret_bytes, const char **ret_error);
/* All of a file, unpacked no further. */
int machine_boot_file(const struct machine *machine, const char *what, const char *path, uint8_t **ret_data, size_t *ret_bytes,
		      const char **ret_error);

#endif

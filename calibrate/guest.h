/* Inside the calibration guest. */
#ifndef CALIBRATE_GUEST_H
#define CALIBRATE_GUEST_H

/*
 * Ring 3 calls the kernel by ud2: even a KVM that emulates neither a system call nor int can deliver an exception, and
 * then tells what else it can.
 */
#define VECTOR_UNDEFINED 6
#define UNDEFINED_BYTES 2

#ifndef __ASSEMBLER__

#include "calibrate/measure.h"

static inline void outb(uint16_t port, uint8_t value)
{
	__asm__ __volatile__("outb %0, %1" ::"a"(value), "Nd"(port));
}
static inline uint8_t inb(uint16_t port)
{
	uint8_t value;

	__asm__ __volatile__("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}
static inline void outl(uint16_t port, uint32_t value)
{
	__asm__ __volatile__("outl %0, %1" ::"a"(value), "Nd"(port));
}
static inline uint32_t inl(uint16_t port)
{
	uint32_t value;

	__asm__ __volatile__("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

/* Runs fn(argument) in ring 3. */
uint64_t in_user(uint64_t (*fn)(uint64_t argument), uint64_t argument);

/* ---- guest_disk.c ---- */

const char *virtio_prepare(void);
uint64_t virtio_run(uint64_t operations);

#endif
#endif

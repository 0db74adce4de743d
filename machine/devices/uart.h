/* 16550A serial port. */
#ifndef MACHINE_DEVICES_UART_H
#define MACHINE_DEVICES_UART_H

#include "machine/bus.h"
#include "machine/clock.h"

struct machine;

#define UART_FIFO 16
#define UART_INPUT_BYTES 4096

struct uart {
	struct machine *machine;
	struct bus_range range;
	unsigned port, irq;
	uint8_t ier, fcr, lcr, mcr, msr, scr, lsr_errors;
	uint16_t divisor;
	bool thre_pending; /* the THRE interrupt has not been seen yet */
	bool irq_level;
	uint8_t rx[UART_FIFO];
	unsigned rx_head, rx_count;
	/* Typed by the user, not yet in the FIFO. */
	uint8_t input[UART_INPUT_BYTES];
	unsigned input_head, input_count;
	uint64_t tx_bytes, rx_bytes;
};

void uart_init(struct machine *machine, struct uart *uart, unsigned port, uint16_t base, unsigned irq);
void uart_reset(struct uart *uart);
/* Under the machine lock; how many bytes were taken. */
size_t uart_input(struct uart *uart, const uint8_t *bytes, size_t n);

#endif

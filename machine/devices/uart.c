/* 16550A: bytes leave at once, arrive from a queue as the guest makes room, and interrupts follow the data sheet. */
#include <string.h>

#include "machine/private.h"

enum { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR };
#define IER_RDA 0x01u
#define IER_THRE 0x02u
#define IER_LINE 0x04u
#define IER_MODEM 0x08u
#define IIR_NONE 0x01u
#define IIR_MODEM 0x00u
#define IIR_THRE 0x02u
#define IIR_RDA 0x04u
#define IIR_LINE 0x06u
#define IIR_TIMEOUT 0x0cu
#define IIR_FIFO 0xc0u
#define FCR_ENABLE 0x01u
#define FCR_CLEAR_RX 0x02u
#define LCR_DLAB 0x80u
#define MCR_DTR 0x01u
#define MCR_RTS 0x02u
#define MCR_OUT1 0x04u
#define MCR_OUT2 0x08u
#define MCR_LOOP 0x10u
#define LSR_DR 0x01u
#define LSR_OE 0x02u
#define LSR_THRE 0x20u
#define LSR_TEMT 0x40u
#define LSR_ERRORS 0x1eu
#define MSR_CTS 0x10u
#define MSR_DSR 0x20u
#define MSR_RI 0x40u
#define MSR_DCD 0x80u

static bool fifo_on(const struct uart *u) { return u->fcr & FCR_ENABLE; }
static unsigned fifo_depth(const struct uart *u) { return fifo_on(u) ? UART_FIFO : 1; }

static unsigned trigger_level(const struct uart *u)
{
	static const uint8_t level[4] = { 1, 4, 8, 14 };
	return fifo_on(u) ? level[u->fcr >> 6] : 1;
}

/* The interrupt of highest priority, without side effects. */
static uint8_t iir(const struct uart *u)
{
	if ((u->ier & IER_LINE) && (u->lsr_errors & LSR_ERRORS))
		return IIR_LINE;
	if ((u->ier & IER_RDA) && u->rx_count)
		/* A FIFO below its trigger reports a timeout; nothing more is on the way, so at once. */
		return u->rx_count >= trigger_level(u) ? IIR_RDA : IIR_TIMEOUT;
	if ((u->ier & IER_THRE) && u->thre_pending)
		return IIR_THRE;
	if ((u->ier & IER_MODEM) && (u->msr & 0x0f))
		return IIR_MODEM;
	return IIR_NONE;
}

/* OUT2 gates the interrupt onto the bus, as on every PC. */
static void update_irq(struct uart *u)
{
	bool level = iir(u) != IIR_NONE && (u->mcr & MCR_OUT2) && !(u->mcr & MCR_LOOP);
	if (level == u->irq_level)
		return;
	u->irq_level = level;
	irq_isa_set(u->machine, u->irq, IRQ_SOURCE_ISA, level);
}

static void rx_put(struct uart *u, uint8_t byte)
{
	if (u->rx_count == fifo_depth(u)) {
		u->lsr_errors |= LSR_OE;
		return;
	}
	u->rx[(u->rx_head + u->rx_count) % UART_FIFO] = byte;
	u->rx_count++;
}

/* From the user's queue into the FIFO, as far as there is room. In loopback the line is cut. */
static void refill(struct uart *u)
{
	if (u->mcr & MCR_LOOP)
		return;
	while (u->input_count && u->rx_count < fifo_depth(u)) {
		rx_put(u, u->input[u->input_head]);
		u->input_head = (u->input_head + 1) % UART_INPUT_BYTES;
		u->input_count--;
	}
}

size_t uart_input(struct uart *u, const uint8_t *bytes, size_t n)
{
	size_t room = UART_INPUT_BYTES - u->input_count;
	if (n > room)
		n = room;
	for (size_t i = 0; i < n; i++)
		u->input[(u->input_head + u->input_count++) % UART_INPUT_BYTES] = bytes[i];
	refill(u);
	update_irq(u);
	return n;
}

/* Modem inputs: a terminal that is always there, or in loopback our own outputs. */
static uint8_t modem_lines(const struct uart *u)
{
	if (!(u->mcr & MCR_LOOP))
		return MSR_DCD | MSR_DSR | MSR_CTS;
	return (uint8_t)((u->mcr & MCR_RTS ? MSR_CTS : 0) | (u->mcr & MCR_DTR ? MSR_DSR : 0) |
			 (u->mcr & MCR_OUT1 ? MSR_RI : 0) | (u->mcr & MCR_OUT2 ? MSR_DCD : 0));
}

static void update_modem(struct uart *u)
{
	uint8_t now = modem_lines(u), old = u->msr & 0xf0, changed = now ^ old;
	uint8_t delta = (uint8_t)((changed & MSR_CTS ? 1 : 0) | (changed & MSR_DSR ? 2 : 0) |
				  ((old & MSR_RI) && !(now & MSR_RI) ? 4 : 0) | (changed & MSR_DCD ? 8 : 0));
	u->msr = now | (u->msr & 0x0f) | delta;
}

static void transmit(struct uart *u, uint8_t byte)
{
	u->thre_pending = false;
	update_irq(u); /* down, so that the THRE that follows is an edge */
	if (u->mcr & MCR_LOOP) {
		rx_put(u, byte);
	} else {
		u->tx_bytes++;
		if (u->machine->config.on_output)
			u->machine->config.on_output(u->machine->config.opaque, u->port, &byte, 1);
	}
	u->thre_pending = true;
}

static uint8_t receive(struct uart *u)
{
	if (!u->rx_count)
		return 0;
	uint8_t byte = u->rx[u->rx_head];
	u->rx_head = (u->rx_head + 1) % UART_FIFO;
	u->rx_count--;
	u->rx_bytes++;
	refill(u);
	return byte;
}

static void write_fcr(struct uart *u, uint8_t value)
{
	bool switched = (value ^ u->fcr) & FCR_ENABLE;
	u->fcr = value & (FCR_ENABLE | 0xc8);
	if (!(value & FCR_ENABLE))
		u->fcr = 0;
	if (switched || (value & FCR_CLEAR_RX)) {
		u->rx_head = u->rx_count = 0;
		refill(u);
	}
}

static uint64_t port_read(void *opaque, uint64_t offset, unsigned size)
{
	struct uart *u = opaque;
	uint8_t value;
	switch (offset) {
	case REG_DATA: value = u->lcr & LCR_DLAB ? (uint8_t)u->divisor : receive(u); break;
	case REG_IER: value = u->lcr & LCR_DLAB ? (uint8_t)(u->divisor >> 8) : u->ier; break;
	case REG_IIR_FCR:
		value = iir(u);
		if (value == IIR_THRE)
			u->thre_pending = false;
		value |= fifo_on(u) ? IIR_FIFO : 0;
		break;
	case REG_LCR: value = u->lcr; break;
	case REG_MCR: value = u->mcr; break;
	case REG_LSR:
		value = LSR_THRE | LSR_TEMT | u->lsr_errors | (u->rx_count ? LSR_DR : 0);
		u->lsr_errors = 0;
		break;
	case REG_MSR:
		value = u->msr;
		u->msr &= 0xf0;
		break;
	default: value = u->scr;
	}
	update_irq(u);
	return value;
}

static void port_write(void *opaque, uint64_t offset, uint64_t wide, unsigned size)
{
	struct uart *u = opaque;
	uint8_t value = (uint8_t)wide;
	switch (offset) {
	case REG_DATA:
		if (u->lcr & LCR_DLAB)
			u->divisor = (u->divisor & 0xff00) | value;
		else
			transmit(u, value);
		break;
	case REG_IER:
		if (u->lcr & LCR_DLAB) {
			u->divisor = (uint16_t)((u->divisor & 0xff) | value << 8);
			break;
		}
		/* Enabling it while the holding register is empty asks at once. */
		if ((value & IER_THRE) && !(u->ier & IER_THRE))
			u->thre_pending = true;
		u->ier = value & 0x0f;
		break;
	case REG_IIR_FCR: write_fcr(u, value); break;
	case REG_LCR: u->lcr = value; break;
	case REG_MCR:
		u->mcr = value & 0x1f;
		update_modem(u);
		refill(u);
		break;
	case REG_SCR: u->scr = value; break;
	default: break; /* LSR and MSR are for factory tests */
	}
	update_irq(u);
}

static const struct bus_ops uart_ops = { .read = port_read, .write = port_write, .max = 1 };

void uart_reset(struct uart *u)
{
	u->ier = u->fcr = u->lcr = u->mcr = u->scr = u->lsr_errors = 0;
	u->divisor = 12; /* 9600 */
	u->thre_pending = u->irq_level = false;
	u->rx_head = u->rx_count = 0;
	u->msr = MSR_DCD | MSR_DSR | MSR_CTS;
}

void uart_init(struct machine *machine, struct uart *u, unsigned port, uint16_t base, unsigned irq)
{
	u->machine = machine;
	u->port = port;
	u->irq = irq;
	u->range = (struct bus_range){ .name = port ? "io_uart1" : "io_uart0", .ops = &uart_ops, .opaque = u };
	bus_map_pio(machine, &u->range, base, 8);
	uart_reset(u);
}

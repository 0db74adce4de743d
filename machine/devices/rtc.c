/* MC146818: time of day from the host's clock, periodic, alarm and update interrupts on IRQ 8, CMOS RAM. */
#include <string.h>
#include <time.h>

#include "machine/private.h"

enum {
	REG_SECONDS, REG_SECONDS_ALARM, REG_MINUTES, REG_MINUTES_ALARM, REG_HOURS, REG_HOURS_ALARM, REG_WEEKDAY, REG_DAY,
	REG_MONTH, REG_YEAR, REG_A, REG_B, REG_C, REG_D, REG_CENTURY = 0x32
};
#define A_UIP 0x80u
#define B_SET 0x80u
#define B_PIE 0x40u
#define B_AIE 0x20u
#define B_UIE 0x10u
#define B_BINARY 0x04u
#define B_24H 0x02u
#define C_IRQF 0x80u
#define C_PF 0x40u
#define C_AF 0x20u
#define C_UF 0x10u
#define D_VALID 0x80u
#define SECOND_NS 1000000000ll
#define UIP_NS 244000ll
#define PERIODIC_MIN_NS 100000u

static int64_t host_real_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t)ts.tv_sec * SECOND_NS + ts.tv_nsec;
}

static int64_t rtc_now(const struct rtc *rtc) { return host_real_ns() + rtc->offset_ns; }

static int64_t floor_div(int64_t a, int64_t b)
{
	int64_t q = a / b;
	return q - (a % b < 0);
}

static uint8_t encode(const struct rtc *rtc, int n)
{
	return (uint8_t)(rtc->cmos[REG_B] & B_BINARY ? n : n % 10 | n / 10 % 10 << 4);
}

static int decode(const struct rtc *rtc, uint8_t n)
{
	return rtc->cmos[REG_B] & B_BINARY ? n : (n & 15) + (n >> 4) * 10;
}

static uint8_t encode_hour(const struct rtc *rtc, int hour)
{
	if (rtc->cmos[REG_B] & B_24H)
		return encode(rtc, hour);
	return encode(rtc, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? 0x80 : 0);
}

static int decode_hour(const struct rtc *rtc, uint8_t n)
{
	if (rtc->cmos[REG_B] & B_24H)
		return decode(rtc, n);
	return decode(rtc, n & 0x7f) % 12 + (n & 0x80 ? 12 : 0);
}

/* Fills the time registers from the clock. */
static void refresh(struct rtc *rtc)
{
	if (rtc->set_mode)
		return;
	time_t t = (time_t)floor_div(rtc_now(rtc), SECOND_NS);
	struct tm tm;
	if (!gmtime_r(&t, &tm))
		return;
	rtc->cmos[REG_SECONDS] = encode(rtc, tm.tm_sec);
	rtc->cmos[REG_MINUTES] = encode(rtc, tm.tm_min);
	rtc->cmos[REG_HOURS] = encode_hour(rtc, tm.tm_hour);
	rtc->cmos[REG_WEEKDAY] = encode(rtc, tm.tm_wday + 1);
	rtc->cmos[REG_DAY] = encode(rtc, tm.tm_mday);
	rtc->cmos[REG_MONTH] = encode(rtc, tm.tm_mon + 1);
	rtc->cmos[REG_YEAR] = encode(rtc, (tm.tm_year + 1900) % 100);
	rtc->cmos[REG_CENTURY] = encode(rtc, (tm.tm_year + 1900) / 100 % 100);
}

/* Sets the clock from the time registers, as the guest left them; what is no date and time changes nothing. */
static void adopt(struct rtc *rtc)
{
	const uint8_t *r = rtc->cmos;
	int century = decode(rtc, r[REG_CENTURY]), year = decode(rtc, r[REG_YEAR]);
	struct tm tm = { .tm_sec = decode(rtc, r[REG_SECONDS]), .tm_min = decode(rtc, r[REG_MINUTES]),
			 .tm_hour = decode_hour(rtc, r[REG_HOURS]), .tm_mday = decode(rtc, r[REG_DAY]),
			 .tm_mon = decode(rtc, r[REG_MONTH]) - 1, .tm_year = century * 100 + year - 1900 };
	/* Nanoseconds since 1970 fit until 2262. */
	if (tm.tm_sec > 59 || tm.tm_min > 59 || tm.tm_hour > 23 || tm.tm_mday < 1 || tm.tm_mday > 31 || tm.tm_mon < 0 ||
	    tm.tm_mon > 11 || year > 99 || century < 19 || century > 21)
		return;
	rtc->offset_ns = (int64_t)timegm(&tm) * SECOND_NS - host_real_ns();
}

/* ---- interrupts ---------------------------------------------------------------- */

static void raise_flags(struct rtc *rtc, uint8_t flags)
{
	uint8_t *c = &rtc->cmos[REG_C];
	*c |= flags;
	/* The enable bits of B and the flags of C have the same positions. */
	bool level = *c & rtc->cmos[REG_B] & (C_PF | C_AF | C_UF);
	if (level)
		*c |= C_IRQF;
	else
		*c &= ~C_IRQF;
	irq_isa_set(rtc->machine, ISA_IRQ_RTC, IRQ_SOURCE_ISA, level);
}

static bool alarm_matches(struct rtc *rtc)
{
	static const uint8_t time_reg[] = { REG_SECONDS, REG_MINUTES, REG_HOURS };
	refresh(rtc);
	for (unsigned i = 0; i < 3; i++) {
		uint8_t alarm = rtc->cmos[time_reg[i] + 1];
		if ((alarm & 0xc0) != 0xc0 && alarm != rtc->cmos[time_reg[i]])
			return false;
	}
	return true;
}

/* The update timer runs only while somebody wants its interrupts. */
static void update_schedule(struct rtc *rtc)
{
	clock_timer_cancel(rtc->machine, &rtc->update);
	if (rtc->set_mode || !(rtc->cmos[REG_B] & (B_UIE | B_AIE)))
		return;
	int64_t into = rtc_now(rtc) - floor_div(rtc_now(rtc), SECOND_NS) * SECOND_NS;
	clock_timer_arm(rtc->machine, &rtc->update, machine_clock_ns(rtc->machine) + (uint64_t)(SECOND_NS - into));
}

static void update_fire(void *opaque)
{
	struct rtc *rtc = opaque;
	rtc->last_update = floor_div(rtc_now(rtc), SECOND_NS);
	raise_flags(rtc, C_UF | (alarm_matches(rtc) ? C_AF : 0));
	update_schedule(rtc);
}

static void periodic_schedule(struct rtc *rtc)
{
	unsigned rate = rtc->cmos[REG_A] & 15;
	clock_timer_cancel(rtc->machine, &rtc->periodic);
	rtc->periodic_ns = 0;
	if (!rate || !(rtc->cmos[REG_B] & B_PIE))
		return;
	if (rate < 3) /* rates 1 and 2 are 256 and 128 Hz */
		rate += 7;
	rtc->periodic_ns = clock_ticks_to_ns(1u << (rate - 1), 32768);
	if (rtc->periodic_ns < PERIODIC_MIN_NS)
		rtc->periodic_ns = PERIODIC_MIN_NS;
	rtc->periodic_next = machine_clock_ns(rtc->machine) + rtc->periodic_ns;
	clock_timer_arm(rtc->machine, &rtc->periodic, rtc->periodic_next);
}

static void periodic_fire(void *opaque)
{
	struct rtc *rtc = opaque;
	uint64_t now = machine_clock_ns(rtc->machine);
	if (!rtc->periodic_ns)
		return;
	raise_flags(rtc, C_PF);
	uint64_t missed = now > rtc->periodic_next ? (now - rtc->periodic_next) / rtc->periodic_ns : 0;
	rtc->periodic_next += (missed + 1) * rtc->periodic_ns;
	clock_timer_arm(rtc->machine, &rtc->periodic, rtc->periodic_next);
}

/* ---- registers -------------------------------------------------------------------- */

static bool is_time(unsigned reg)
{
	return reg == REG_CENTURY || reg == REG_SECONDS || reg == REG_MINUTES || (reg >= REG_HOURS && reg <= REG_YEAR &&
	       reg != REG_HOURS_ALARM);
}

static uint8_t cmos_read(struct rtc *rtc, unsigned reg)
{
	uint8_t value;
	int64_t now;
	if (is_time(reg))
		refresh(rtc);
	switch (reg) {
	case REG_A:
		now = rtc_now(rtc);
		value = rtc->cmos[REG_A] & ~A_UIP;
		if (!rtc->set_mode && SECOND_NS - (now - floor_div(now, SECOND_NS) * SECOND_NS) <= UIP_NS)
			value |= A_UIP;
		return value;
	case REG_C:
		/* An update that no timer watched for shows here. */
		now = floor_div(rtc_now(rtc), SECOND_NS);
		if (!rtc->set_mode && now != rtc->last_update)
			rtc->cmos[REG_C] |= C_UF;
		rtc->last_update = now;
		value = rtc->cmos[REG_C];
		rtc->cmos[REG_C] = 0;
		irq_isa_set(rtc->machine, ISA_IRQ_RTC, IRQ_SOURCE_ISA, false);
		return value;
	case REG_D: return D_VALID;
	default: return rtc->cmos[reg];
	}
}

static void write_b(struct rtc *rtc, uint8_t value)
{
	bool setting = value & B_SET;
	if (setting && !rtc->set_mode)
		refresh(rtc); /* the registers hold still from here on */
	if (setting)
		value &= ~B_UIE;
	bool leaves = !setting && rtc->set_mode;
	/* What was written is in the format that B has now. */
	if (leaves) {
		rtc->cmos[REG_B] = value;
		adopt(rtc);
	}
	rtc->cmos[REG_B] = value;
	rtc->set_mode = setting;
	periodic_schedule(rtc);
	update_schedule(rtc);
	raise_flags(rtc, 0);
}

static void cmos_write(struct rtc *rtc, unsigned reg, uint8_t value)
{
	switch (reg) {
	case REG_A:
		rtc->cmos[REG_A] = value & ~A_UIP;
		periodic_schedule(rtc);
		return;
	case REG_B: write_b(rtc, value); return;
	case REG_C: case REG_D: return;
	default: break;
	}
	if (!is_time(reg)) {
		rtc->cmos[reg] = value;
		return;
	}
	refresh(rtc);
	rtc->cmos[reg] = value;
	if (!rtc->set_mode)
		adopt(rtc);
}

static uint64_t port_read(void *opaque, uint64_t offset, unsigned size)
{
	struct rtc *rtc = opaque;
	switch (offset) {
	case 1: return cmos_read(rtc, rtc->index);
	case 3: return rtc->index_high < 128 ? rtc->cmos[128 + rtc->index_high] : 0xff;
	default: return 0xff;
	}
}

static void port_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct rtc *rtc = opaque;
	switch (offset) {
	case 0: rtc->index = value & 0x7f; break; /* bit 7 gates NMI, which has no source here */
	case 1: cmos_write(rtc, rtc->index, (uint8_t)value); break;
	case 2: rtc->index_high = value & 0x7f; break;
	default: rtc->cmos[128 + rtc->index_high] = (uint8_t)value;
	}
}

static const struct bus_ops rtc_ops = { .read = port_read, .write = port_write, .max = 1 };

void rtc_cmos_set(struct machine *machine, unsigned index, uint8_t value)
{
	BUG_ON(index <= REG_D || index > 0xff);
	machine->rtc.cmos[index] = value;
}

void rtc_reset(struct rtc *rtc)
{
	clock_timer_cancel(rtc->machine, &rtc->periodic);
	clock_timer_cancel(rtc->machine, &rtc->update);
	rtc->index = rtc->index_high = 0;
	/* The battery keeps time and RAM; only interrupts are off (MC146818, "RESET"). */
	rtc->cmos[REG_A] = 0x26;
	rtc->cmos[REG_B] = B_24H;
	rtc->cmos[REG_C] = 0;
	rtc->set_mode = false;
	rtc->periodic_ns = 0;
	rtc->last_update = floor_div(rtc_now(rtc), SECOND_NS);
}

/* What a PC's firmware reads to size memory; loaders may overwrite it. */
static void memory_bytes(struct rtc *rtc, const struct machine_ram *ram)
{
	uint64_t ext = (ram->low_bytes - 0x100000) / 1024;
	uint64_t above16 = ram->low_bytes > 0x1000000 ? (ram->low_bytes - 0x1000000) / 0x10000 : 0;
	uint64_t high = ram->high_bytes / 0x10000;
	if (ext > 0xffff)
		ext = 0xffff;
	rtc->cmos[0x15] = 640 & 0xff;
	rtc->cmos[0x16] = 640 >> 8;
	rtc->cmos[0x17] = rtc->cmos[0x30] = (uint8_t)ext;
	rtc->cmos[0x18] = rtc->cmos[0x31] = (uint8_t)(ext >> 8);
	rtc->cmos[0x34] = (uint8_t)above16;
	rtc->cmos[0x35] = (uint8_t)(above16 >> 8);
	rtc->cmos[0x5b] = (uint8_t)high;
	rtc->cmos[0x5c] = (uint8_t)(high >> 8);
	rtc->cmos[0x5d] = (uint8_t)(high >> 16);
}

void rtc_init(struct machine *machine, struct rtc *rtc)
{
	rtc->machine = machine;
	clock_timer_init(&rtc->periodic, periodic_fire, rtc);
	clock_timer_init(&rtc->update, update_fire, rtc);
	memory_bytes(rtc, &machine->ram);
	rtc->cmos[0x14] = 0x06; /* equipment: coprocessor, PS/2 mouse port */
	rtc->cmos[0x5f] = (uint8_t)(machine->config.vcpus - 1);
	rtc->ports = (struct bus_range){ .name = "io_rtc", .ops = &rtc_ops, .opaque = rtc };
	bus_map_pio(machine, &rtc->ports, 0x70, 4);
	rtc_reset(rtc);
}

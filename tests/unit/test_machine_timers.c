/* Virtual time, LAPIC timers, 8254, RTC, PM timer, and vCPUs that wait. Orderings, not durations. */
#include <pthread.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "machine/devices/lapic_private.h"
#include "tests/unit/machine_fixture.h"

static void sleep_ms(long ms)
{
	struct timespec ts = { ms / 1000, ms % 1000 * 1000000 };
	nanosleep(&ts, NULL);
}

static uint64_t guest_tsc(struct fixture *f) { return __rdtsc() + machine_tsc_offset(f->machine); }

/* ---- time --------------------------------------------------------------------------- */

static void test_tsc_rate(void **state)
{
	struct fixture *f = *state;
	uint64_t tsc = __rdtsc(), ns = clock_host_ns();
	sleep_ms(60);
	tsc = __rdtsc() - tsc;
	ns = clock_host_ns() - ns;
	uint64_t expected = (uint64_t)((unsigned __int128)ns * machine_tsc_khz(f->machine) / 1000000);
	uint64_t off = tsc > expected ? tsc - expected : expected - tsc;
	/* 1 in 1000: a preemption between the two reads, not the rate, is the largest error here. */
	assert_true(off < expected / 1000 + 1);
}

static void test_pause_stops_time(void **state)
{
	struct fixture *f = *state;
	uint64_t before = machine_clock_ns(f->machine);
	assert_true(before <= machine_clock_ns(f->machine));
	machine_pause(f->machine);
	uint64_t stopped = machine_clock_ns(f->machine);
	machine_pause(f->machine);
	sleep_ms(5);
	assert_int_equal(machine_clock_ns(f->machine), stopped);
	uint64_t tsc = f->machine->clock.tsc_stopped_at;
	machine_resume(f->machine);
	assert_true(guest_tsc(f) >= tsc);
	/* The pause is not in it: 5 ms would be more than a quarter of that in ticks. */
	assert_true(machine_clock_ns(f->machine) >= stopped);
	sleep_ms(1);
	assert_true(machine_clock_ns(f->machine) > stopped);
}

struct fired {
	struct clock_timer timer;
	_Atomic unsigned count;
	_Atomic uint64_t at;
	struct machine *machine;
};

static void on_fire(void *opaque)
{
	struct fired *fired = opaque;
	fired->count++;
	fired->at = machine_clock_ns(fired->machine);
}

static void test_timers(void **state)
{
	struct fixture *f = *state;
	struct machine *m = f->machine;
	struct fired a = { .machine = m }, b = { .machine = m };
	clock_timer_init(&a.timer, on_fire, &a);
	clock_timer_init(&b.timer, on_fire, &b);
	machine_lock(m);
	uint64_t now = machine_clock_ns(m);
	clock_timer_arm(m, &a.timer, now + 8000000);
	clock_timer_arm(m, &b.timer, now + 3000000000ull);
	clock_timer_arm(m, &b.timer, now + 2000000); /* moved to an earlier time */
	assert_true(clock_timer_armed(&a.timer));
	machine_unlock(m);
	for (int i = 0; i < 1000 && !a.count; i++)
		sleep_ms(5);
	assert_int_equal(a.count, 1);
	assert_int_equal(b.count, 1);
	assert_true(b.at >= now + 2000000);
	assert_true(a.at >= now + 8000000);
	machine_lock(m);
	assert_false(clock_timer_armed(&a.timer));
	clock_timer_arm(m, &a.timer, machine_clock_ns(m) + 5000000);
	clock_timer_cancel(m, &a.timer);
	machine_unlock(m);
	sleep_ms(15);
	assert_int_equal(a.count, 1);
	/* While paused nothing fires. */
	machine_lock(m);
	clock_timer_arm(m, &a.timer, machine_clock_ns(m) + 3000000);
	machine_unlock(m);
	machine_pause(m);
	sleep_ms(15);
	unsigned paused = a.count;
	machine_resume(m);
	for (int i = 0; i < 1000 && a.count < 2; i++)
		sleep_ms(5);
	assert_true(paused <= 2);
	assert_int_equal(a.count, 2);
	machine_lock(m);
	clock_timer_cancel(m, &a.timer);
	clock_timer_cancel(m, &b.timer);
	machine_unlock(m);
}

/* ---- LAPIC timer --------------------------------------------------------------------------- */

static void test_lapic_oneshot(void **state)
{
	struct fixture *f = *state;
	lapic_on(f, 0);
	mmio32_set(f, 0, LAPIC_AT(0x3e0), 0xb); /* divide by 1: ns */
	mmio32_set(f, 0, LAPIC_AT(0x320), 0x70);
	mmio32_set(f, 0, LAPIC_AT(0x380), 2000000000);
	uint32_t first = mmio32(f, 0, LAPIC_AT(0x390));
	assert_in_range(first, 1, 2000000000);
	sleep_ms(2);
	assert_true(mmio32(f, 0, LAPIC_AT(0x390)) < first);
	/* A new count replaces the old. */
	mmio32_set(f, 0, LAPIC_AT(0x380), 1000000);
	unsigned kicks = f->kicks[0];
	assert_true(await(f, 0));
	assert_true(f->kicks[0] > kicks);
	assert_int_equal(take(f, 0), 0x70);
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	sleep_ms(5);
	assert_int_equal(take(f, 0), -1);
	assert_int_equal(mmio32(f, 0, LAPIC_AT(0x390)), 0);
	/* Masked: runs out, interrupts nobody. */
	mmio32_set(f, 0, LAPIC_AT(0x320), 0x10070);
	mmio32_set(f, 0, LAPIC_AT(0x380), 1000000);
	sleep_ms(5);
	assert_int_equal(take(f, 0), -1);
	assert_int_equal(mmio32(f, 0, LAPIC_AT(0x390)), 0);
	/* A count of 0 stops it. */
	mmio32_set(f, 0, LAPIC_AT(0x320), 0x70);
	mmio32_set(f, 0, LAPIC_AT(0x380), 4000000);
	mmio32_set(f, 0, LAPIC_AT(0x380), 0);
	sleep_ms(10);
	assert_int_equal(take(f, 0), -1);
}

static void test_lapic_periodic(void **state)
{
	struct fixture *f = *state;
	lapic_on(f, 1);
	mmio32_set(f, 1, LAPIC_AT(0x3e0), 0x3); /* divide by 16 */
	mmio32_set(f, 1, LAPIC_AT(0x320), 0x20071);
	mmio32_set(f, 1, LAPIC_AT(0x380), 1000000 / 16);
	for (int i = 0; i < 5; i++) {
		assert_true(await(f, 1));
		assert_int_equal(take(f, 1), 0x71);
		mmio32_set(f, 1, LAPIC_AT(0xb0), 0);
	}
	mmio32_set(f, 1, LAPIC_AT(0x380), 0);
	sleep_ms(2);
	take(f, 1);
	mmio32_set(f, 1, LAPIC_AT(0xb0), 0);
	sleep_ms(5);
	assert_int_equal(take(f, 1), -1);
	/* An absurd rate does not drown the host. */
	uint64_t wakeups = f->machine->clock.wakeups;
	mmio32_set(f, 1, LAPIC_AT(0x380), 1);
	sleep_ms(10);
	assert_true(f->machine->clock.wakeups - wakeups < 5000);
	assert_int_equal(take(f, 1), 0x71);
	mmio32_set(f, 1, LAPIC_AT(0x380), 0);
}

static void test_tsc_deadline(void **state)
{
	struct fixture *f = *state;
	struct machine *m = f->machine;
	uint64_t value = 1;
	lapic_on(f, 0);
	/* Not in that mode: ignored. */
	assert_true(machine_apic_msr_write(m, 0, 0x6e0, guest_tsc(f)));
	assert_int_equal(take(f, 0), -1);
	mmio32_set(f, 0, LAPIC_AT(0x320), 0x40072);
	uint64_t deadline = guest_tsc(f) + machine_tsc_khz(m) * 3;
	assert_true(machine_apic_msr_write(m, 0, 0x6e0, deadline));
	assert_true(machine_apic_msr_read(m, 0, 0x6e0, &value));
	assert_int_equal(value, deadline);
	assert_true(await(f, 0));
	/* Never early by more than the error of the measured rate. */
	assert_true(guest_tsc(f) + machine_tsc_khz(m) / 100 >= deadline);
	assert_int_equal(take(f, 0), 0x72);
	assert_true(machine_apic_msr_read(m, 0, 0x6e0, &value));
	assert_int_equal(value, 0);
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	/* In the past: at once. */
	assert_true(machine_apic_msr_write(m, 0, 0x6e0, 1));
	assert_int_equal(take(f, 0), 0x72);
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	/* Disarmed by 0, and by a far deadline never reached. */
	assert_true(machine_apic_msr_write(m, 0, 0x6e0, guest_tsc(f) + machine_tsc_khz(m) * 5));
	assert_true(machine_apic_msr_write(m, 0, 0x6e0, 0));
	assert_true(machine_apic_msr_write(m, 0, 0x6e0, UINT64_MAX));
	sleep_ms(10);
	assert_int_equal(take(f, 0), -1);
	assert_int_equal(mmio32(f, 0, LAPIC_AT(0x390)), 0);
}

/* ---- waiting ---------------------------------------------------------------------------------- */

struct waiter {
	struct fixture *f;
	unsigned vcpu;
	_Atomic int vector;
	_Atomic bool returned;
};

static void *wait_thread(void *opaque)
{
	struct waiter *w = opaque;
	machine_vcpu_wait(w->f->machine, w->vcpu);
	w->vector = take(w->f, w->vcpu);
	w->returned = true;
	return NULL;
}

static void test_wait_fires_own_timer(void **state)
{
	struct fixture *f = *state;
	struct machine *m = f->machine;
	lapic_on(f, 0);
	mmio32_set(f, 0, LAPIC_AT(0x320), 0x40073);
	uint64_t deadline = guest_tsc(f) + machine_tsc_khz(m) * 30;
	assert_true(machine_apic_msr_write(m, 0, 0x6e0, deadline));
	uint64_t wakeups = m->clock.wakeups;
	machine_vcpu_wait(m, 0);
	assert_true(guest_tsc(f) + machine_tsc_khz(m) / 100 >= deadline);
	assert_int_equal(take(f, 0), 0x73);
	/* The clock thread slept through it. */
	assert_int_equal(m->clock.wakeups, wakeups);
	/* With something pending it does not sleep at all; a wake before the wait is not lost. */
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	mmio32_set(f, 0, LAPIC_AT(0x300), 0x40055);
	machine_vcpu_wait(m, 0);
	assert_int_equal(take(f, 0), 0x55);
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	machine_vcpu_wake(m, 0);
	machine_vcpu_wait(m, 0);
}

static void test_wait_woken(void **state)
{
	struct fixture *f = *state;
	struct waiter w = { .f = f, .vcpu = 1, .vector = -2 };
	pthread_t thread;
	lapic_on(f, 1);
	assert_int_equal(pthread_create(&thread, NULL, wait_thread, &w), 0);
	sleep_ms(10);
	assert_false(w.returned);
	machine_msi(f->machine, 0xfee01000, 0x58);
	pthread_join(thread, NULL);
	assert_int_equal(w.vector, 0x58);
	mmio32_set(f, 1, LAPIC_AT(0xb0), 0);
	/* Woken from outside, with nothing pending; and by an NMI. */
	w = (struct waiter){ .f = f, .vcpu = 1, .vector = -2 };
	assert_int_equal(pthread_create(&thread, NULL, wait_thread, &w), 0);
	sleep_ms(5);
	machine_vcpu_wake(f->machine, 1);
	pthread_join(thread, NULL);
	assert_int_equal(w.vector, -1);
	w = (struct waiter){ .f = f, .vcpu = 1, .vector = -2 };
	assert_int_equal(pthread_create(&thread, NULL, wait_thread, &w), 0);
	sleep_ms(5);
	machine_msi(f->machine, 0xfee01000, 0x400);
	pthread_join(thread, NULL);
	assert_int_equal(machine_vcpu_take_events(f->machine, 1, NULL), MACHINE_VCPU_NMI);
}

static void *masked_wait_thread(void *opaque)
{
	struct waiter *w = opaque;
	machine_vcpu_wait_for(w->f->machine, w->vcpu, false);
	w->returned = true;
	return NULL;
}

static void test_wait_without_interrupts(void **state)
{
	struct fixture *f = *state;
	struct waiter w = { .f = f, .vcpu = 1 };
	pthread_t thread;
	lapic_on(f, 1);
	machine_msi(f->machine, 0xfee01000, 0x58);
	assert_int_equal(pthread_create(&thread, NULL, masked_wait_thread, &w), 0);
	sleep_ms(10);
	assert_false(w.returned);
	mmio32_set(f, 0, LAPIC_AT(0x310), 1u << 24);
	mmio32_set(f, 0, LAPIC_AT(0x300), 0x4500);
	pthread_join(thread, NULL);
	assert_int_equal(machine_vcpu_take_events(f->machine, 1, NULL), MACHINE_VCPU_INIT);
}

/* A vCPU that waits with its timer armed, woken by a device, still gets the timer while it runs. */
static void test_timer_after_wait(void **state)
{
	struct fixture *f = *state;
	struct waiter w = { .f = f, .vcpu = 1, .vector = -2 };
	pthread_t thread;
	lapic_on(f, 1);
	mmio32_set(f, 1, LAPIC_AT(0x3e0), 0xb);
	mmio32_set(f, 1, LAPIC_AT(0x320), 0x90);
	mmio32_set(f, 1, LAPIC_AT(0x380), 60000000);
	assert_int_equal(pthread_create(&thread, NULL, wait_thread, &w), 0);
	sleep_ms(5);
	machine_msi(f->machine, 0xfee01000, 0x58);
	pthread_join(thread, NULL);
	assert_int_equal(w.vector, 0x58);
	assert_true(await(f, 1));
	assert_int_equal(take(f, 1), 0x90);
}

struct player {
	struct fixture *f;
	unsigned vcpu, rounds, timers;
};

/*
 * Waits for the other's interrupt, answers with one, with its timer armed ever so shortly: a wake-up that got lost
 * between the clock thread, the other vCPU and the wait would end the game early.
 */
static void *play(void *opaque)
{
	struct player *p = opaque;
	struct machine *m = p->f->machine;
	for (unsigned i = 0; i < p->rounds;) {
		machine_apic_msr_write(m, p->vcpu, 0x6e0, guest_tsc(p->f) + machine_tsc_khz(m) / 1000 * (i * 7 % 150));
		machine_vcpu_wait(m, p->vcpu);
		for (int vector; (vector = take(p->f, p->vcpu)) >= 0;) {
			machine_apic_msr_write(m, p->vcpu, 0x80b, 0);
			if (vector == 0x73) {
				p->timers++;
				continue;
			}
			i++;
			machine_apic_msr_write(m, p->vcpu, 0x830, (uint64_t)(1 - p->vcpu) << 32 | 0x58);
		}
	}
	return NULL;
}

static void test_wait_ping_pong(void **state)
{
	struct fixture *f = *state;
	struct player player[2];
	pthread_t thread[2];
	for (unsigned v = 0; v < 2; v++) {
		player[v] = (struct player){ .f = f, .vcpu = v, .rounds = 4000 };
		assert_true(machine_apic_msr_write(f->machine, v, 0x1b, 0xfee00c00 | (v ? 0 : 0x100)));
		assert_true(machine_apic_msr_write(f->machine, v, 0x80f, 0x1ff));
		assert_true(machine_apic_msr_write(f->machine, v, 0x832, 0x40073));
	}
	for (unsigned v = 0; v < 2; v++)
		assert_int_equal(pthread_create(&thread[v], NULL, play, &player[v]), 0);
	machine_msi(f->machine, 0xfee00000, 0x58);
	for (unsigned v = 0; v < 2; v++)
		pthread_join(thread[v], NULL);
	assert_true(player[0].timers + player[1].timers > 0);
}

/* ---- 8254 ------------------------------------------------------------------------------------------ */

static uint16_t pit_count(struct fixture *f, unsigned channel)
{
	out8(f, 0x43, channel << 6);
	uint16_t low = in8(f, 0x40 + channel);
	return low | in8(f, 0x40 + channel) << 8;
}

static void test_pit_channel2_calibration(void **state)
{
	struct fixture *f = *state;
	/* What Linux does: gate on, speaker off, mode 0, wait for the output. */
	out8(f, 0x61, (in8(f, 0x61) & ~2u) | 1);
	out8(f, 0x43, 0xb0);
	uint64_t start = machine_clock_ns(f->machine);
	out8(f, 0x42, 0x9c);
	assert_false(in8(f, 0x61) & 0x20);
	out8(f, 0x42, 0x2e); /* 11932 ticks: 10 ms */
	while (!(in8(f, 0x61) & 0x20))
		assert_true(machine_clock_ns(f->machine) - start < 5000000000ull);
	assert_true(machine_clock_ns(f->machine) - start >= 9900000);
	/* Gate off holds the count. */
	out8(f, 0x43, 0xb0);
	out8(f, 0x42, 0xff);
	out8(f, 0x42, 0xff);
	out8(f, 0x61, 0);
	out8(f, 0x43, 0xb4); /* mode 2 */
	out8(f, 0x42, 0x00);
	out8(f, 0x42, 0x10);
	uint16_t held = pit_count(f, 2);
	sleep_ms(1);
	assert_int_equal(pit_count(f, 2), held);
	out8(f, 0x61, 1);
	sleep_ms(1);
	assert_int_not_equal(pit_count(f, 2), 0);
	assert_true(pit_count(f, 2) <= 0x1000);
}

static void test_pit_readback(void **state)
{
	struct fixture *f = *state;
	out8(f, 0x43, 0x34); /* channel 0, both bytes, mode 2 */
	out8(f, 0x43, 0xe2); /* status of channel 0 */
	assert_int_equal(in8(f, 0x40) & 0x7f, 0x40 | 0x30 | 0x04); /* null count, access, mode */
	out8(f, 0x40, 0xff);
	out8(f, 0x40, 0xff);
	out8(f, 0x43, 0xc2); /* count and status: status first */
	assert_int_equal(in8(f, 0x40) & 0x7f, 0x30 | 0x04);
	uint16_t latched = in8(f, 0x40);
	latched |= in8(f, 0x40) << 8;
	sleep_ms(1);
	assert_int_not_equal(latched, pit_count(f, 0));
	/* A latch is kept until it is read. */
	out8(f, 0x43, 0x00);
	out8(f, 0x43, 0x00);
	in8(f, 0x40);
	in8(f, 0x40);
	/* BCD counts. */
	out8(f, 0x43, 0xb1 | 0x04);
	out8(f, 0x61, 1);
	out8(f, 0x42, 0x00);
	out8(f, 0x42, 0x10);
	for (int i = 0; i < 200; i++) {
		uint16_t bcd = pit_count(f, 2);
		for (unsigned d = 0; d < 16; d += 4)
			assert_true((bcd >> d & 15) < 10);
		assert_true(bcd <= 0x1000);
	}
}

static void test_pit_irq0(void **state)
{
	struct fixture *f = *state;
	lapic_on(f, 0);
	ioapic_route(f, 2, 0x30);
	out8(f, 0x43, 0x34);
	out8(f, 0x40, 0xa9);
	out8(f, 0x40, 0x04); /* 1193: 1 kHz */
	for (int i = 0; i < 3; i++) {
		assert_true(await(f, 0));
		assert_int_equal(take(f, 0), 0x30);
		mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	}
	/* One-shot: a single edge. */
	out8(f, 0x43, 0x30);
	take(f, 0);
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	out8(f, 0x40, 0xa9);
	out8(f, 0x40, 0x04);
	assert_true(await(f, 0));
	assert_int_equal(take(f, 0), 0x30);
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	sleep_ms(5);
	assert_int_equal(take(f, 0), -1);
	/* The shortest period does not drown the host. */
	uint64_t wakeups = f->machine->clock.wakeups;
	out8(f, 0x43, 0x34);
	out8(f, 0x40, 1);
	out8(f, 0x40, 0);
	sleep_ms(10);
	assert_true(f->machine->clock.wakeups - wakeups < 2000);
}

/* ---- RTC, PM timer ------------------------------------------------------------------------------------ */

static uint8_t cmos(struct fixture *f, unsigned reg)
{
	out8(f, 0x70, reg);
	return (uint8_t)in8(f, 0x71);
}

static void cmos_set(struct fixture *f, unsigned reg, unsigned value)
{
	out8(f, 0x70, reg);
	out8(f, 0x71, value);
}

static void test_rtc_time(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(cmos(f, 0x0d), 0x80);
	assert_int_equal(cmos(f, 0x0b), 0x02);
	cmos_set(f, 0x0b, 0x06); /* binary */
	time_t t = time(NULL);
	struct tm tm;
	gmtime_r(&t, &tm);
	/* Near midnight on New Year's Eve the year may turn: allow the next. */
	unsigned year = cmos(f, 0x32) * 100u + cmos(f, 0x09);
	assert_in_range(year, tm.tm_year + 1900, tm.tm_year + 1901);
	/* Set the clock, as hwclock does, and see it go on. */
	cmos_set(f, 0x0b, 0x86);
	static const struct { uint8_t reg, value; } set[] = { { 0, 58 }, { 2, 59 }, { 4, 23 }, { 7, 28 }, { 8, 2 },
							      { 9, 24 }, { 0x32, 20 } };
	for (unsigned i = 0; i < ARRAY_SIZE(set); i++)
		cmos_set(f, set[i].reg, set[i].value);
	sleep_ms(5);
	assert_int_equal(cmos(f, 0), 58); /* held */
	cmos_set(f, 0x0b, 0x06);
	assert_in_range(cmos(f, 0), 58, 59);
	assert_int_equal(cmos(f, 4), 23);
	assert_int_equal(cmos(f, 6), 4); /* a Wednesday */
	cmos_set(f, 0x0b, 0x00); /* BCD, 12 hours */
	assert_int_equal(cmos(f, 4), 0x91);
	assert_int_equal(cmos(f, 9), 0x24);
	cmos_set(f, 0x0b, 0x02);
	assert_int_equal(cmos(f, 4), 0x23);
	/* CMOS RAM, both banks; memory sizes. */
	cmos_set(f, 0x0f, 0x0a);
	assert_int_equal(cmos(f, 0x0f), 0x0a);
	assert_int_equal(cmos(f, 0x34) | cmos(f, 0x35) << 8, (64 - 16) * 16);
	out8(f, 0x72, 5);
	out8(f, 0x73, 0x77);
	assert_int_equal(in8(f, 0x73), 0x77);
	machine_reset(f->machine);
	assert_int_equal(cmos(f, 0x0f), 0x0a); /* a battery keeps it */
}

static void test_rtc_interrupts(void **state)
{
	struct fixture *f = *state;
	lapic_on(f, 0);
	ioapic_route(f, 8, 0x38);
	cmos(f, 0x0c);
	cmos_set(f, 0x0a, 0x26); /* 1024 Hz */
	cmos_set(f, 0x0b, 0x42);
	for (int i = 0; i < 3; i++) {
		assert_true(await(f, 0));
		assert_int_equal(take(f, 0), 0x38);
		mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
		assert_int_equal(cmos(f, 0x0c) & 0xc0, 0xc0);
	}
	cmos_set(f, 0x0b, 0x02);
	cmos(f, 0x0c);
	take(f, 0);
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	cmos_set(f, 0x0b, 0x12); /* update-ended */
	assert_true(await(f, 0));
	assert_int_equal(take(f, 0), 0x38);
	assert_int_equal(cmos(f, 0x0c) & 0x90, 0x90);
	assert_int_equal(cmos(f, 0x0c), 0);
}

/*
 * The clock thread's turn and the guest's write, each coming while the other is half done: the test is the other. Who waits
 * shows in the lock's state (2: somebody sleeps), so nothing depends on time.
 */
struct timer_write {
	struct lapic *lapic;
	void (*write)(struct lapic *l);
	_Atomic bool done;
};

static void writes_initial(struct lapic *l) { lapic_timer_write_initial(l, 0); }
static void writes_mask(struct lapic *l) { lapic_timer_write_lvt(l, l->lvt_timer | LVT_MASKED); }
static void writes_deadline_mode(struct lapic *l) { lapic_timer_write_lvt(l, 0x40050); }
static void writes_divide(struct lapic *l) { lapic_timer_write_divide(l, 0); }
static void goes_through_init(struct lapic *l) { lapic_reset(l, true); }
static void clock_turn(struct lapic *l) { lapic_timer_check(l, CLOCK_NEVER - 1); }

static void *do_write(void *arg)
{
	struct timer_write *w = arg;

	w->write(w->lapic);
	w->done = true;
	return NULL;
}

/* Starts `write` on a thread of its own; it has to wait for the timer's lock, which the caller holds. */
static pthread_t write_waits(struct timer_write *w)
{
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, do_write, w), 0);
	while (!w->done && w->lapic->timer_lock.state != 2)
		sleep_ms(1);
	assert_false(w->done);
	return thread;
}

static void arm_for_long(struct fixture *f)
{
	mmio32_set(f, 0, LAPIC_AT(0x3e0), 0xb); /* divide by 1 */
	mmio32_set(f, 0, LAPIC_AT(0x320), 0x50);
	mmio32_set(f, 0, LAPIC_AT(0x380), UINT32_MAX);
}

/* An interrupt whose deadline was taken before the guest's write is there when the write is done. */
static void test_lapic_timer_fires_before_a_write(void **state)
{
	static void (*const writes[])(struct lapic *) = { writes_initial, writes_mask, writes_deadline_mode, writes_divide };
	struct fixture *f = *state;
	struct lapic *l = &f->machine->lapic[0];

	lapic_on(f, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(writes); i++) {
		struct timer_write w = { .lapic = l, .write = writes[i] };
		arm_for_long(f);
		mlock_lock(&l->timer_lock);
		atomic_store(&l->timer_deadline, CLOCK_NEVER); /* the clock thread has taken it */
		pthread_t thread = write_waits(&w);
		lapic_accept(l, 0x50, false);
		mlock_unlock(&l->timer_lock);
		pthread_join(thread, NULL);
		assert_int_equal(take(f, 0), 0x50);
		mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	}
	/* An INIT throws it away, even so late. */
	struct timer_write w = { .lapic = l, .write = goes_through_init };
	arm_for_long(f);
	mlock_lock(&l->timer_lock);
	pthread_t thread = write_waits(&w);
	lapic_accept(l, 0x50, false);
	mlock_unlock(&l->timer_lock);
	pthread_join(thread, NULL);
	assert_int_equal(take(f, 0), -1);
}

/* And a clock thread that found the deadline past, but comes after the guest's write, fires nothing. */
static void test_lapic_timer_is_stopped_in_time(void **state)
{
	struct fixture *f = *state;
	struct lapic *l = &f->machine->lapic[0];
	struct timer_write w = { .lapic = l, .write = clock_turn };

	lapic_on(f, 0);
	arm_for_long(f);
	uint64_t fires = l->timer_fires;
	mlock_lock(&l->timer_lock);
	pthread_t thread = write_waits(&w);
	atomic_store(&l->timer_deadline, CLOCK_NEVER); /* as lapic_timer_stop does */
	mlock_unlock(&l->timer_lock);
	pthread_join(thread, NULL);
	assert_int_equal(l->timer_fires, fires);
	assert_int_equal(take(f, 0), -1);
	/* The same turn fires a timer that nobody stopped. */
	arm_for_long(f);
	clock_turn(l);
	assert_int_equal(l->timer_fires, fires + 1);
	assert_int_equal(take(f, 0), 0x50);
}

static void test_pm_timer(void **state)
{
	struct fixture *f = *state;
	uint32_t a = in32(f, 0x608);
	uint64_t ns = machine_clock_ns(f->machine);
	sleep_ms(20);
	uint32_t b = in32(f, 0x608);
	ns = machine_clock_ns(f->machine) - ns;
	assert_true(a <= 0xffffff && b <= 0xffffff);
	uint64_t ticks = (b - a) & 0xffffff, expected = ns * PM_TIMER_HZ / 1000000000u;
	/* The reads are within the measured time, give or take a preemption. */
	assert_true(ticks + expected / 4 >= expected && ticks <= expected + expected / 4);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		T(test_tsc_rate), T(test_pause_stops_time), T(test_timers), T(test_lapic_oneshot), T(test_lapic_periodic),
		T(test_tsc_deadline), T(test_wait_fires_own_timer), T(test_wait_woken), T(test_wait_without_interrupts),
		T(test_timer_after_wait), T(test_wait_ping_pong), T(test_pit_channel2_calibration),
		T(test_pit_readback), T(test_pit_irq0),
		T(test_rtc_time), T(test_rtc_interrupts), T(test_lapic_timer_fires_before_a_write), T(test_lapic_timer_is_stopped_in_time), T(test_pm_timer),
	};
	alarm(300); /* a lost wake-up would wait for ever */
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Serial ports, keyboard controller, power management, fw_cfg, PCI, RAM map: what firmware and kernels do with them. */
#include <endian.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/machine_fixture.h"

/* ---- 16550 ---------------------------------------------------------------------------- */

static void test_uart_detection(void **state)
{
	struct fixture *f = *state;
	/* As Linux's 8250 driver autodetects. */
	out8(f, 0x3f9, 0);
	assert_int_equal(in8(f, 0x3f9) & 0x0f, 0);
	out8(f, 0x3f9, 0x0f);
	assert_int_equal(in8(f, 0x3f9) & 0x0f, 0x0f);
	out8(f, 0x3f9, 0);
	out8(f, 0x3fc, 0x1a); /* loopback: RTS and OUT2 come back as CTS and DCD */
	assert_int_equal(in8(f, 0x3fe) & 0xf0, 0x90);
	out8(f, 0x3fc, 0);
	out8(f, 0x3fa, 1);
	assert_int_equal(in8(f, 0x3fa), 0xc1); /* a working FIFO: 16550A */
	out8(f, 0x3fb, 0x83);
	out8(f, 0x3f8, 1);
	out8(f, 0x3f9, 0);
	assert_int_equal(in16(f, 0x3f8), 0x0001);
	out8(f, 0x3fb, 0x03);
	out8(f, 0x3ff, 0x5a);
	assert_int_equal(in8(f, 0x3ff), 0x5a);
	assert_int_equal(in8(f, 0x3fd), 0x60);
	/* Loopback of data does not leave. */
	out8(f, 0x3fc, 0x10);
	out8(f, 0x3f8, 'x');
	assert_int_equal(in8(f, 0x3fd), 0x61);
	assert_int_equal(in8(f, 0x3f8), 'x');
	assert_int_equal(f->output_bytes[0], 0);
}

static void test_uart_transmit_interrupts(void **state)
{
	struct fixture *f = *state;
	lapic_on(f, 0);
	ioapic_route(f, 4, 0x34);
	out8(f, 0x3fa, 1);
	out8(f, 0x3f9, 2);
	assert_int_equal(take(f, 0), -1); /* OUT2 gates it */
	out8(f, 0x3fc, 0x0b);
	assert_int_equal(take(f, 0), 0x34);
	assert_int_equal(in8(f, 0x3fa), 0xc2);
	assert_int_equal(in8(f, 0x3fa), 0xc1); /* reading took it away */
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	/* Each write ends in another edge. */
	for (const char *p = "hello"; *p; p++) {
		out8(f, 0x3f8, (uint8_t)*p);
		assert_int_equal(take(f, 0), 0x34);
		mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	}
	assert_string_equal(f->output[0], "hello");
	/* Switching the enable off and on asks again, as drivers rely on. */
	in8(f, 0x3fa);
	out8(f, 0x3f9, 0);
	out8(f, 0x3f9, 2);
	assert_int_equal(take(f, 0), 0x34);
	out8(f, 0x2f8, '!');
	assert_string_equal(f->output[1], "!");
}

static void test_uart_receive(void **state)
{
	struct fixture *f = *state;
	char text[UART_INPUT_BYTES + 100];
	memset(text, 'a', sizeof(text));
	lapic_on(f, 0);
	ioapic_route(f, 4, 0x34);
	out8(f, 0x3fa, 0x81); /* trigger at 8 */
	out8(f, 0x3fc, 0x0b);
	out8(f, 0x3f9, 1);
	assert_int_equal(machine_serial_input(f->machine, 0, "abc", 3), 3);
	assert_int_equal(take(f, 0), 0x34);
	assert_int_equal(in8(f, 0x3fa), 0xcc); /* below the trigger: timeout */
	assert_int_equal(in8(f, 0x3fd), 0x61);
	assert_int_equal(in8(f, 0x3f8), 'a');
	assert_int_equal(in8(f, 0x3f8), 'b');
	assert_int_equal(in8(f, 0x3f8), 'c');
	assert_int_equal(in8(f, 0x3fd), 0x60);
	assert_int_equal(in8(f, 0x3fa), 0xc1);
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	/* More than fits is not taken, and nothing of what is taken is lost. */
	size_t taken = machine_serial_input(f->machine, 0, text, sizeof(text));
	assert_true(taken < sizeof(text));
	assert_int_equal(in8(f, 0x3fa), 0xc4);
	size_t got = 0;
	while (in8(f, 0x3fd) & 1) {
		assert_int_equal(in8(f, 0x3f8), 'a');
		got++;
	}
	assert_true(got >= taken);
	assert_int_equal(machine_serial_input(f->machine, 2, "x", 1), 0);
	/* Without FIFO one byte at a time. */
	out8(f, 0x3fa, 0);
	machine_serial_input(f->machine, 0, "yz", 2);
	assert_int_equal(in8(f, 0x3fa), 0x04);
	assert_int_equal(in8(f, 0x3f8), 'y');
	assert_int_equal(in8(f, 0x3f8), 'z');
}

/* ---- i8042, A20, resets ----------------------------------------------------------------- */

static uint8_t kbd_byte(struct fixture *f)
{
	assert_true(in8(f, 0x64) & 1);
	return (uint8_t)in8(f, 0x60);
}

static void test_i8042(void **state)
{
	struct fixture *f = *state;
	lapic_on(f, 0);
	ioapic_route(f, 1, 0x31);
	assert_int_equal(in8(f, 0x64) & 1, 0);
	out8(f, 0x64, 0xaa);
	assert_int_equal(kbd_byte(f), 0x55);
	out8(f, 0x64, 0xab);
	assert_int_equal(kbd_byte(f), 0x00);
	out8(f, 0x64, 0x60);
	out8(f, 0x60, 0x45);
	out8(f, 0x64, 0x20);
	assert_int_equal(kbd_byte(f), 0x45);
	take(f, 0);
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	/* Keyboard: reset, identify, echo. */
	out8(f, 0x60, 0xff);
	assert_int_equal(take(f, 0), 0x31);
	assert_int_equal(kbd_byte(f), 0xfa);
	assert_int_equal(kbd_byte(f), 0xaa);
	out8(f, 0x60, 0xf2);
	assert_int_equal(kbd_byte(f), 0xfa);
	assert_int_equal(kbd_byte(f), 0xab);
	assert_int_equal(kbd_byte(f), 0x83);
	out8(f, 0x60, 0xf0);
	assert_int_equal(kbd_byte(f), 0xfa);
	out8(f, 0x60, 0x00);
	assert_int_equal(kbd_byte(f), 0xfa);
	assert_int_equal(kbd_byte(f), 0x02);
	out8(f, 0x60, 0x99);
	assert_int_equal(kbd_byte(f), 0xfe);
	/* The probe for a mouse port fails at once. */
	out8(f, 0x64, 0xd3);
	out8(f, 0x60, 0x5a);
	assert_int_equal(in8(f, 0x64) & 0x21, 0x01);
	assert_int_equal(kbd_byte(f), 0x5a);
	out8(f, 0x64, 0xa9);
	assert_int_equal(kbd_byte(f), 0x01);
	/* A guest that never reads cannot overflow it. */
	for (int i = 0; i < 200; i++)
		out8(f, 0x60, 0xee);
	unsigned n = 0;
	for (; (in8(f, 0x64) & 1) && n < 1000; n++)
		in8(f, 0x60);
	assert_in_range(n, 2, I8042_QUEUE + 1);
}

static void test_a20(void **state)
{
	struct fixture *f = *state;
	assert_true(machine_a20(f->machine));
	unsigned changes = f->map_changes;
	out8(f, 0x92, 0);
	assert_false(machine_a20(f->machine));
	assert_true(f->map_changes > changes);
	out8(f, 0x64, 0xd1);
	out8(f, 0x60, 0xdf);
	assert_true(machine_a20(f->machine));
	out8(f, 0x64, 0xdd);
	assert_int_equal(in8(f, 0x92), 0);
	out8(f, 0x64, 0xdf);
	assert_int_equal(in8(f, 0x92), 2);
	assert_int_equal(f->events[MACHINE_EVENT_RESET], 0);
}

static void test_resets(void **state)
{
	struct fixture *f = *state;
	_Atomic unsigned *resets = &f->events[MACHINE_EVENT_RESET];
	out8(f, 0x64, 0xfe);
	assert_int_equal(*resets, 1);
	out8(f, 0x92, 3);
	assert_int_equal(*resets, 2);
	out8(f, 0xcf9, 2);
	assert_int_equal(*resets, 2);
	out8(f, 0xcf9, 6);
	assert_int_equal(*resets, 3);
	/* A PCI configuration address written as a doubleword is no reset. */
	out32(f, 0xcf8, 0x8000f6fcu);
	assert_int_equal(in32(f, 0xcf8), 0x8000f6fcu);
	assert_int_equal(*resets, 3);
}

static void test_events_and_debug_ports(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(in8(f, 0x402), 0xe9);
	assert_int_equal(in8(f, 0xe9), 0xe9);
	out8(f, 0x402, 'a');
	out8(f, 0xe9, 'b');
	assert_string_equal(f->output[2], "ab");
	assert_int_equal(in8(f, 0x505), 3);
	out8(f, 0x505, 4);
	assert_int_equal(f->events[MACHINE_EVENT_PANIC], 0);
	out8(f, 0x505, 1);
	assert_int_equal(f->events[MACHINE_EVENT_PANIC], 1);
	out32(f, 0xf4, 0x12345678);
	assert_int_equal(f->event_code, 0x12345678);
	assert_int_equal(f->events[MACHINE_EVENT_DEBUG_EXIT], 1);
	out8(f, 0x80, 0x42);
	assert_int_equal(in8(f, 0x80), 0x42);
	/* Nobody there. */
	assert_int_equal(in8(f, 0x3e8), 0xff);
	assert_int_equal(in16(f, 0x1234), 0xffff);
	assert_int_equal(in32(f, 0xfffe), 0xffffffff);
}

/* ---- ACPI hardware -------------------------------------------------------------------------- */

static void test_power_button(void **state)
{
	struct fixture *f = *state;
	lapic_on(f, 0);
	ioapic_route(f, 9, 0x8000 | 0x39);
	machine_power_button(f->machine);
	assert_int_equal(in16(f, 0x600), 0x100);
	assert_int_equal(take(f, 0), -1); /* not enabled */
	out16(f, 0x602, 0x100);
	assert_int_equal(take(f, 0), 0x39);
	out16(f, 0x600, 0x100);
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	assert_int_equal(take(f, 0), -1);
	/* Out of ACPI mode the button does not reach the SCI. */
	out8(f, 0xb2, PM_ACPI_DISABLE);
	assert_int_equal(in16(f, 0x604) & 1, 0);
	machine_power_button(f->machine);
	assert_int_equal(take(f, 0), -1);
	out8(f, 0xb2, PM_ACPI_ENABLE);
	assert_int_equal(take(f, 0), 0x39);
}

static void test_s5_and_blocks(void **state)
{
	struct fixture *f = *state;
	out16(f, 0x604, 1 << 10 | 0x2001); /* S1: not there */
	out16(f, 0x604, 5 << 10 | 1);
	assert_int_equal(f->events[MACHINE_EVENT_POWEROFF], 0);
	assert_int_equal(in16(f, 0x604), 5 << 10 | 1);
	out16(f, 0x604, 5 << 10 | 0x2001);
	assert_int_equal(f->events[MACHINE_EVENT_POWEROFF], 1);
	/* GPE0: enables hold, statuses clear. Bytes and words. */
	out8(f, 0x628, 0xff);
	out16(f, 0x62a, 0xaa55);
	assert_int_equal(in32(f, 0x628), 0xaa5500ff);
	assert_int_equal(in32(f, 0x620), 0);
	assert_true(in32(f, 0x630) & 0x20);
	out32(f, 0x630, 0);
	assert_true(in32(f, 0x630) & 0x20);
	assert_int_equal(in16(f, 0x664), 0); /* TCO status */
	out16(f, 0x672, 0x1234);
	assert_int_equal(in16(f, 0x672), 0x1234);
	/* Moved and switched off by firmware. */
	pci_put(f, 31, 0x40, 0xb001);
	assert_int_equal(in16(f, 0x604), 0xffff);
	assert_int_equal(in16(f, 0xb004) & 1, 1);
	pci_put(f, 31, 0x44, 0);
	assert_int_equal(in16(f, 0xb004), 0xffff);
}

/* ---- fw_cfg ------------------------------------------------------------------------------------ */

struct fw_request {
	uint32_t control, length;
	uint64_t address;
};

static uint32_t fw_dma(struct fixture *f, uint32_t control, uint32_t length, uint64_t address)
{
	struct fw_request request = { htobe32(control), htobe32(length), htobe64(address) };
	assert_true(machine_dma_write(f->machine, 0x5000, &request, sizeof(request)));
	out32(f, 0x514, 0);
	out32(f, 0x518, htobe32(0x5000));
	assert_true(machine_dma_read(f->machine, 0x5000, &request, sizeof(request)));
	return be32toh(request.control);
}

static void test_fw_cfg(void **state)
{
	struct fixture *f = *state;
	char text[16] = { 0 };
	out16(f, 0x510, FW_CFG_SIGNATURE);
	for (int i = 0; i < 4; i++)
		text[i] = (char)in8(f, 0x511);
	assert_string_equal(text, "QEMU");
	assert_int_equal(in8(f, 0x511), 0); /* beyond the end */
	assert_int_equal(in32(f, 0x514), htobe32(0x51454d55));
	assert_int_equal(in32(f, 0x518), htobe32(0x20434647));
	assert_int_equal(fw_cfg_add_file(f->machine, "opt/test", "0123456789", 10), 0);
	assert_int_equal(fw_cfg_add_file(f->machine, "etc/other", "abc", 3), 0);
	assert_int_equal(fw_cfg_add_file(f->machine, "opt/test", "9876543210", 10), 0);
	assert_int_equal(fw_cfg_add_file(f->machine, "", "x", 1), -EINVAL);
	/* The directory names them. */
	assert_int_equal(fw_dma(f, FW_CFG_FILE_DIR << 16 | 0x0a, 4 + 64, 0x6000), 0);
	const uint8_t *dir = machine_dma_map(f->machine, 0x6000, 68);
	assert_int_equal(dir[3], 2);
	assert_int_equal(dir[7], 10);
	assert_string_equal((const char *)dir + 12, "opt/test");
	unsigned key = dir[8] << 8 | dir[9];
	/* Select and skip, then read across the end: zeros. */
	assert_int_equal(fw_dma(f, key << 16 | 0x0c, 4, 0), 0);
	assert_int_equal(fw_dma(f, 0x02, 8, 0x7000), 0);
	assert_true(machine_dma_read(f->machine, 0x7000, text, 8));
	assert_memory_equal(text, "543210\0\0", 8);
	/* Errors are reported, and nothing is written outside RAM. */
	assert_int_equal(fw_dma(f, 0x10, 4, 0x7000), 1);
	assert_int_equal(fw_dma(f, key << 16 | 0x0a, 4, 0xfffffffffffffff0ull), 1);
	assert_int_equal(fw_dma(f, key << 16 | 0x0a, 0xffffffff, 0x7000), 1);
	assert_int_equal(fw_dma(f, 0xffffu << 16 | 0x0a, 4, 0x7000), 0);
	for (unsigned i = 0; i < FW_CFG_FILES - 2; i++) {
		char name[16];
		snprintf(name, sizeof(name), "f%u", i);
		assert_int_equal(fw_cfg_add_file(f->machine, name, "x", 1), 0);
	}
	assert_int_equal(fw_cfg_add_file(f->machine, "one-too-many", "x", 1), -ENOSPC);
}

/* ---- RAM map -------------------------------------------------------------------------------------- */

static void test_ram_map(void **state)
{
	struct fixture *f = *state;
	struct machine *m = f->machine;
	const struct ram_region *r = machine_ram_find(m, 0);
	assert_non_null(r);
	assert_int_equal(r->bytes, 0xa0000);
	assert_null(machine_ram_find(m, 0xa0000));
	assert_non_null(machine_ram_find(m, 0xc0000)); /* plain RAM: no ROM */
	assert_false(machine_ram_find(m, 0xf0000)->readonly);
	assert_non_null(machine_ram_find(m, (64 << 20) - 1));
	assert_null(machine_ram_find(m, 64 << 20));
	assert_null(machine_ram_find(m, 0xfee00000));
	assert_null(machine_ram_find(m, UINT64_MAX));
	char buf[16] = "";
	assert_false(machine_dma_read(m, (64 << 20) - 8, buf, 16));
	assert_true(machine_dma_write(m, (64 << 20) - 16, "0123456789abcdef", 16));
	assert_int_equal(f->ram_written, 16);
	assert_false(machine_dma_write(m, 0x9fff8, buf, 16));
	assert_false(machine_dma_write(m, UINT64_MAX - 4, buf, 16));
	assert_null(machine_dma_map(m, 0x1000, UINT64_MAX));
}

static void test_ram_high(void **state)
{
	struct fixture *f = fixture_new(0x90000000ull, 1);
	assert_non_null(f);
	struct machine *m = f->machine;
	assert_null(machine_ram_find(m, 0x80000000ull));
	const struct ram_region *r = machine_ram_find(m, 0x100000000ull);
	assert_non_null(r);
	assert_int_equal(r->bytes, 0x10000000);
	assert_non_null(machine_ram_find(m, 0x10fffffffull));
	assert_null(machine_ram_find(m, 0x110000000ull));
	/* The memfd's offsets follow the header's promise. */
	assert_true(machine_dma_write(m, 0x100000000ull, "high", 4));
	char buf[4];
	assert_int_equal(pread(machine_ram_fd(m), buf, 4, 0x80000000ll), 4);
	assert_memory_equal(buf, "high", 4);
	assert_true(pci_window64_base(m) >= 0x110000000ull);
	fixture_free(f);
	struct machine_config bad = { .ram_bytes = 4096, .vcpus = 1 };
	assert_int_equal(machine_create(&bad, &m), -EINVAL);
	bad = (struct machine_config){ .ram_bytes = 1 << 20, .vcpus = MACHINE_MAX_VCPUS + 1 };
	assert_int_equal(machine_create(&bad, &m), -EINVAL);
}

/* SeaBIOS' shadowing: write-enable, copy ROM to itself, then read from RAM, at last read-only. */
static void test_pam_shadow(void **state)
{
	struct fixture *f = *state;
	struct machine *m = f->machine;
	static uint8_t rom[256 << 10];
	for (unsigned i = 0; i < sizeof(rom); i++)
		rom[i] = (uint8_t)(i * 7 >> 3);
	assert_int_equal(machine_rom_add(m, rom, 1000), -EINVAL);
	assert_int_equal(machine_rom_add(m, rom, sizeof(rom)), 0);
	const struct ram_region *top = machine_ram_find(m, 0xfffffff0);
	assert_true(top && top->readonly);
	assert_int_equal(top->host[0xfffffff0 - top->gpa], rom[sizeof(rom) - 16]);
	const struct ram_region *seg = machine_ram_find(m, 0xf0000);
	assert_true(seg && seg->readonly);
	assert_int_equal(seg->host[0x123], rom[0x30123]);
	assert_null(machine_ram_find(m, 0xc0000));
	assert_int_equal(pci_get(f, 0, 0x90) & 0x30, 0);
	/* Writes are dropped now... */
	uint8_t byte = 0xee;
	machine_mmio_write(m, 0, 0xf0123, &byte, 1);
	assert_int_equal(*(uint8_t *)machine_dma_map(m, 0xf0123, 1), 0);
	/* ...and reach RAM when PAM says so, while reads still see the ROM. */
	unsigned changes = f->map_changes;
	pci_put(f, 0, 0x90, 0x20 | 0x2200);
	assert_true(f->map_changes > changes);
	machine_mmio_write(m, 0, 0xf0123, &byte, 1);
	assert_int_equal(machine_ram_find(m, 0xf0000)->host[0x123], rom[0x30123]);
	assert_int_equal(*(uint8_t *)machine_dma_map(m, 0xf0123, 1), 0xee);
	pci_put(f, 0, 0x90, 0x33333330);
	seg = machine_ram_find(m, 0xf0000);
	assert_false(seg->readonly);
	assert_int_equal(seg->host[0x123], 0xee);
	assert_non_null(machine_ram_find(m, 0xc0000));
	pci_put(f, 0, 0x90, 0x33333310);
	assert_true(machine_ram_find(m, 0xf0000)->readonly);
	machine_mmio_write(m, 0, 0xf0123, "x", 1);
	assert_int_equal(machine_ram_find(m, 0xf0000)->host[0x123], 0xee);
	machine_reset(m);
	assert_int_equal(machine_ram_find(m, 0xf0000)->host[0x123], rom[0x30123]);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		T(test_uart_detection), T(test_uart_transmit_interrupts), T(test_uart_receive), T(test_i8042), T(test_a20),
		T(test_resets), T(test_events_and_debug_ports), T(test_power_button), T(test_s5_and_blocks), T(test_fw_cfg),
		T(test_ram_map), cmocka_unit_test(test_ram_high), T(test_pam_shadow),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

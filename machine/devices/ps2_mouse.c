/* A PS/2 mouse, with a wheel and five buttons for drivers that know how to ask for them. */
#include <string.h>

#include "machine/devices/i8042.h"

#define ACK 0xfau
#define RESEND 0xfeu
#define SELF_TEST_PASSED 0xaau
#define ID_WHEEL 3u
#define ID_BUTTONS 4u
#define STATUS_REMOTE 0x40u
#define STATUS_REPORTING 0x20u
#define STATUS_SCALING 0x10u

static void defaults(struct ps2_mouse *m)
{
	m->reporting = m->wrapping = m->remote = m->scaling = false;
	m->command = 0;
	m->rate = 100;
	m->resolution = 2;
	m->dx = m->dy = m->dz = 0;
	m->packet_bytes = m->packet_at = 0;
	memset(m->rates, 0, sizeof(m->rates));
}

void ps2_mouse_reset(struct ps2_mouse *mouse)
{
	defaults(mouse);
	mouse->id = 0;
	mouse->buttons = mouse->told = 0;
}

/* As much of a movement as fits `bits` with sign; the rest stays for the next packet. */
static int take(int *amount, int limit)
{
	int n = *amount > limit ? limit : *amount < -limit - 1 ? -limit - 1 : *amount;
	*amount -= n;
	return n;
}

static void make_packet(struct ps2_mouse *m)
{
	int up = -m->dy, dx = take(&m->dx, 255), dy = take(&up, 255); /* the mouse's y goes up */
	unsigned n = 3;

	m->dy = -up;
	m->packet[0] = (uint8_t)((m->buttons & 7) | 8 | (dx < 0 ? 0x10 : 0) | (dy < 0 ? 0x20 : 0));
	m->packet[1] = (uint8_t)dx;
	m->packet[2] = (uint8_t)dy;
	if (m->id == ID_WHEEL || m->id == ID_BUTTONS) {
		int dz = -take(&m->dz, 7); /* towards the user is positive */
		m->packet[n++] = m->id == ID_WHEEL ? (uint8_t)dz : (uint8_t)((dz & 15) | (m->buttons >> 3 & 3) << 4);
	}
	m->dz = n == 3 ? 0 : m->dz;
	m->told = m->buttons;
	m->packet_bytes = (uint8_t)n;
	m->packet_at = 0;
}

int ps2_mouse_next(struct ps2_mouse *m)
{
	if (!m->reporting || m->remote || m->wrapping)
		return -1;
	if (m->packet_at == m->packet_bytes) {
		if (!m->dx && !m->dy && !m->dz && m->buttons == m->told)
			return -1;
		make_packet(m);
	}
	return m->packet[m->packet_at++];
}

/* Rates of 200, 100, 80 in turn ask for a wheel; then 200, 200, 80 for two buttons more. */
static void set_rate(struct ps2_mouse *m, uint8_t rate)
{
	m->rate = rate;
	m->rates[0] = m->rates[1];
	m->rates[1] = m->rates[2];
	m->rates[2] = rate;
	if (m->rates[0] != 200 || m->rates[2] != 80)
		return;
	if (m->rates[1] == 100)
		m->id = ID_WHEEL;
	else if (m->rates[1] == 200 && m->id == ID_WHEEL)
		m->id = ID_BUTTONS;
}

static void argument(struct ps2_mouse *m, uint8_t value)
{
	if (m->command == 0xf3)
		set_rate(m, value);
	else
		m->resolution = value & 3;
	m->command = 0;
}

void ps2_mouse_write(struct ps2_mouse *m, uint8_t value, void (*answer)(void *opaque, uint8_t byte), void *opaque)
{
	/* A command breaks off what it was telling. */
	m->packet_bytes = m->packet_at = 0;
	if (m->wrapping && value != 0xec && value != 0xff) {
		answer(opaque, value);
		return;
	}
	if (m->command) {
		argument(m, value);
		answer(opaque, ACK);
		return;
	}
	if (value < 0xe6 || value == 0xf7 || value == 0xf1 || value == 0xef || value == 0xed || (value >= 0xf8 && value <= 0xfd)) {
		answer(opaque, RESEND);
		return;
	}
	if (value != 0xfe)
		answer(opaque, ACK);
	switch (value) {
	case 0xe6: case 0xe7: m->scaling = value == 0xe7; break;
	case 0xe8: case 0xf3: m->command = value; break;
	case 0xe9:
		answer(opaque, (uint8_t)((m->remote ? STATUS_REMOTE : 0) | (m->reporting ? STATUS_REPORTING : 0) |
					 (m->scaling ? STATUS_SCALING : 0) | (m->buttons & 1) << 2 | (m->buttons & 4) >> 1 |
					 (m->buttons & 2) >> 1));
		answer(opaque, m->resolution);
		answer(opaque, m->rate);
		break;
	case 0xea: case 0xf0: m->remote = value == 0xf0; break;
	case 0xeb:
		make_packet(m);
		for (unsigned i = 0; i < m->packet_bytes; i++)
			answer(opaque, m->packet[i]);
		m->packet_bytes = m->packet_at = 0;
		break;
	case 0xec: case 0xee: m->wrapping = value == 0xee; break;
	case 0xf2: answer(opaque, m->id); break;
	case 0xf4: m->reporting = true; break;
	case 0xf5: m->reporting = false; break;
	case 0xf6: defaults(m); break;
	case 0xff:
		ps2_mouse_reset(m);
		answer(opaque, SELF_TEST_PASSED);
		answer(opaque, m->id);
		break;
	default: break;
	}
}

/* What keys of a PS/2 keyboard send. */
#include "machine/devices/i8042.h"

#define PAUSE 0xe11d

/* Nearly all keys, by Linux's code. */
static const struct {
	uint16_t set1; /* with its prefix */
	uint8_t set2;
} keys[] = {
#define KEY(name, code, set1, set2, usb, keysym, other) [code] = { set1, set2 },
#include "proto/keys.def"
#undef KEY
};

/* It sends all it has to say when it goes down. */
static unsigned pause_bytes(bool down, unsigned set, uint8_t *to)
{
	static const uint8_t set1[] = { 0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5 };
	static const uint8_t set2[] = { 0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77 };
	unsigned n = !down ? 0 : set == 1 ? sizeof(set1) : sizeof(set2);

	for (unsigned i = 0; i < n; i++)
		to[i] = set == 1 ? set1[i] : set2[i];
	return n;
}

unsigned ps2_key_bytes(unsigned code, bool down, unsigned set, uint8_t ret_bytes[PS2_KEY_BYTES])
{
	unsigned n = 0;

	if (code >= ARRAY_SIZE(keys) || !keys[code].set1)
		return 0;
	if (keys[code].set1 == PAUSE)
		return pause_bytes(down, set, ret_bytes);
	if (keys[code].set1 >> 8)
		ret_bytes[n++] = (uint8_t)(keys[code].set1 >> 8);
	if (set == 1) {
		ret_bytes[n++] = (uint8_t)(keys[code].set1 | (down ? 0 : 0x80));
		return n;
	}
	if (!down)
		ret_bytes[n++] = 0xf0;
	ret_bytes[n++] = keys[code].set2;
	return n;
}

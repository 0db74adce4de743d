/* The keys of a PC's keyboard. (keys.h) */
#include "proto/keys.h"

#include <string.h>
#include <strings.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const struct key {
	const char *name;
	uint8_t code;
	uint16_t set1;
	uint8_t set2, usb;
	uint32_t keysym, other;
} keys[] = {
#define KEY(name, code, set1, set2, usb, keysym, other) {#name, code, set1, set2, usb, keysym, other},
#include "proto/keys.def"
#undef KEY
};

/* How people call them. */
static const struct {
	const char *name, *key;
} aliases[] = {
	{"ctrl", "LEFTCTRL"}, {"control", "LEFTCTRL"}, {"alt", "LEFTALT"},	{"altgr", "RIGHTALT"},	{"shift", "LEFTSHIFT"},
	{"win", "LEFTMETA"},  {"meta", "LEFTMETA"},    {"super", "LEFTMETA"},	{"del", "DELETE"},	{"ins", "INSERT"},
	{"return", "ENTER"},  {"escape", "ESC"},       {"pgup", "PAGEUP"},	{"pgdn", "PAGEDOWN"},	{"print", "SYSRQ"},
	{"menu", "COMPOSE"},  {"break", "PAUSE"},
};

static unsigned number_of(const struct key *k, enum key_set set)
{
	switch (set) {
	case KEY_SET_LINUX: return k->code;
	case KEY_SET_1: return k->set1;
	case KEY_SET_2: return (k->set1 & 0xff00u) | k->set2;
	case KEY_SET_USB: return k->usb;
	case KEY_SET_QNUM: return k->set1 >> 8 ? (k->set1 & 0x7fu) | 0x80 : k->set1;
	}
	return 0;
}

unsigned key_from(enum key_set set, unsigned number)
{
	for (size_t i = 0; number && i < COUNT(keys); i++)
		if (number_of(&keys[i], set) == number)
			return keys[i].code;
	return 0;
}

unsigned key_by_name(const char *name)
{
	if (!strncasecmp(name, "KEY_", 4))
		name += 4;
	for (size_t i = 0; i < COUNT(aliases); i++)
		if (!strcasecmp(aliases[i].name, name))
			name = aliases[i].key;
	for (size_t i = 0; i < COUNT(keys); i++)
		if (!strcasecmp(keys[i].name, name))
			return keys[i].code;
	return 0;
}

unsigned key_by_keysym(uint32_t keysym, bool *ret_shift)
{
	for (size_t i = 0; keysym && i < COUNT(keys); i++) {
		if (keys[i].keysym != keysym && keys[i].other != keysym)
			continue;
		/* Of other keys (SysRq, the keypad's arrows) it is another name. */
		*ret_shift = keys[i].other == keysym && keysym < 0x80;
		return keys[i].code;
	}
	return 0;
}

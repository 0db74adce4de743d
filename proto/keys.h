/* The keys of a PC's keyboard, by their names and by the numbers that others have for them. All are Linux's codes here. */
#ifndef PROTO_KEYS_H
#define PROTO_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KEYS_AT_ONCE 16u /* in one stroke */

enum key_set {
	KEY_SET_LINUX, /* input-event-codes.h */
	KEY_SET_1,     /* scan codes of an XT, or after 0xe0 in the upper byte */
	KEY_SET_2,     /* of an AT, the same */
	KEY_SET_USB,   /* HID usages */
	KEY_SET_QNUM,  /* set 1 in one byte: with bit 7 for those after 0xe0 */
};

/* Each gives a code, or 0: there is no such key. */
unsigned key_from(enum key_set set, unsigned number);
/* "KEY_LEFTCTRL", "leftctrl" or such a name as people have for it: "ctrl", "alt", "shift", "win", "del", "return". */
unsigned key_by_name(const char *name);
/* X's, on a US keyboard. *ret_shift: Shift is what makes it this one. */
unsigned key_by_keysym(uint32_t keysym, bool *ret_shift);

#endif

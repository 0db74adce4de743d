/* A walk over the x86 opcode space, for tests of the decoder. */
#ifndef TESTS_BT_OPSPACE_H
#define TESTS_BT_OPSPACE_H

#include "modes/bt/decode.h"

/*
 * Calls fn with 15 readable bytes for: every opcode of the four maps, with each of 14 sets of prefixes, every ModRM.reg and
 * nine forms of ModRM.rm and SIB; then every opcode under VEX, with each pp, L, W and some vvvv. About 2.8 million in 64-bit mode.
 */
typedef void opspace_fn(void *arg, const uint8_t *code, enum bt_bits bits);
void opspace_each(enum bt_bits bits, opspace_fn *fn, void *arg);

/* A byte string of 15 that looks more like code than noise does: prefixes, an escape now and then, then random bytes. */
void opspace_random(uint64_t *seed, uint8_t code[16]);
uint64_t opspace_random64(uint64_t *seed);

#endif

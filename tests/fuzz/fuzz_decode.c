/* libFuzzer target: any bytes, in each code size, decode without a stray access and to an answer that is consistent. */
#include <stdlib.h>
#include <string.h>

#include "modes/bt/decode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(cond)             \
	do {                    \
		if (!(cond))    \
			abort(); \
	} while (0)

/* What holds for every instruction that decodes. */
static void check_ok(const struct bt_insn *in, size_t n, enum bt_bits bits)
{
	CHECK(in->len >= 1 && in->len <= 15 && in->len <= n);
	CHECK(in->cls != BT_CLASS_INVALID && in->name);
	CHECK(in->opcode_off < in->len && in->bytes[in->opcode_off] == in->opcode);
	CHECK(in->disp_off + in->disp_bytes <= in->len && in->imm_off + in->imm_bytes <= in->len);
	CHECK(in->opsize == 1 || in->opsize == 2 || in->opsize == 4 || (in->opsize == 8 && bits == BT_BITS_64));
	CHECK(!(in->flags_killed & ~in->flags_written));
	CHECK(!((in->flags_read | in->flags_written) & ~BT_FLAGS_ARITH));
	CHECK(bits == BT_BITS_64 || !((in->gpr_read | in->gpr_written) & 0xff00) || in->handler == BT_OP_syscall ||
	      in->handler == BT_OP_sysret);
	CHECK(!(in->flags & BT_I_LOCK) || ((in->flags & BT_I_LOCK_OK) && (in->flags & BT_I_MEM)));
	CHECK((in->flags & BT_I_MEM) || (!in->access && !in->mem_bytes));
	CHECK(!in->access == (!in->mem_bytes && !(in->flags & BT_I_WIDE_MEM)) || !(in->flags & BT_I_MEM));
	CHECK(in->base == 0xff || in->base < 16);
	CHECK(in->index == 0xff || in->index < 16);
	CHECK(in->handler < BT_OP_COUNT);
	CHECK(in->cls != BT_CLASS_SYSTEM || in->handler != BT_OP_NONE);
}

/* The same bytes without the ones behind the instruction say the same; with one less, that they are too few. */
static void check_prefixes(const uint8_t *data, const struct bt_insn *in, enum bt_bits bits)
{
	uint8_t *exact = malloc(in->len);
	struct bt_insn again;

	memcpy(exact, data, in->len);
	CHECK(bt_decode(exact, in->len, bits, &again) == BT_DECODE_OK && again.len == in->len && again.name == in->name);
	exact = realloc(exact, in->len > 1 ? in->len - 1u : 1);
	CHECK(bt_decode(exact, in->len - 1u, bits, &again) == BT_DECODE_SHORT);
	free(exact);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const enum bt_bits sizes[] = { BT_BITS_16, BT_BITS_32, BT_BITS_64 };

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct bt_insn insn;
		enum bt_decode_result result = bt_decode(data, size, sizes[i], &insn);

		if (result == BT_DECODE_OK) {
			check_ok(&insn, size, sizes[i]);
			check_prefixes(data, &insn, sizes[i]);
		} else {
			CHECK(insn.cls == BT_CLASS_INVALID || result != BT_DECODE_INVALID);
			CHECK(result != BT_DECODE_SHORT || size < 15);
		}
	}
	return 0;
}

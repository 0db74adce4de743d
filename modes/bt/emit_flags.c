/*
 * Moving the guest's arithmetic flags between the host's flags register and memory. A translation does it at most once
 * for each stretch in which flags are live across code of our own that clobbers them.
 */
#include "modes/bt/translate.h"

void bt_flags_to_mem(struct trans *t)
{
	struct emit *e = &t->e;

	unsigned keep = t->grouped ? H_T0 : H_T1;

	if (t->fl == FL_MEM)
		return;
	e_mov_rr(e, keep, H_RAX);
	e8(e, 0x9f); /* lahf */
	e8(e, 0x0f), e8(e, 0x90), e8(e, 0xc0); /* seto al */
	e_store16(e, V_MEM(flags_ax), H_RAX);
	e_mov_rr(e, H_RAX, keep);
	t->fl = FL_MEM;
}

void bt_flags_to_host(struct trans *t)
{
	struct emit *e = &t->e;

	if (t->fl == FL_HOST)
		return;
	e_store(e, V_MEM(tmp[2]), H_RAX);
	e_load16(e, H_RAX, V_MEM(flags_ax));
	e8(e, 0x04), e8(e, 0x7f); /* add al, 0x7f: OF again */
	e8(e, 0x9e);              /* sahf */
	e_load(e, H_RAX, V_MEM(tmp[2]));
	t->fl = FL_HOST;
}

void bt_flags_clobber(struct trans *t, uint16_t live)
{
	if (live)
		bt_flags_to_mem(t);
	else
		t->fl = FL_HOST; /* nothing to keep: whatever the host has will do */
}

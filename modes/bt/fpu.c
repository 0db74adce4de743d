/* Handing the vector and x87 registers over between the guest and C code that may use them. */
#include "modes/bt/private.h"

#define XSAVE_ALL 0x7u /* x87, SSE, AVX: what a guest can have, whatever its XCR0 says now */

void bt_fpu_leave(struct bt_vcpu *v)
{
	uint32_t mxcsr = 0x1f80;

	if (!v->fpu_live)
		return;
	__asm__ volatile("xsave64 %0" : "+m"(v->cs.xsave) : "a"(XSAVE_ALL), "d"(0));
	__asm__ volatile("vzeroupper; fninit; ldmxcsr %0" : : "m"(mxcsr));
	v->fpu_live = 0;
}

bool bt_fpu_pending(void)
{
	uint16_t status;

	__asm__ volatile("fnstsw %0" : "=a"(status));
	return status & 0x80; /* ES */
}

void bt_fpu_enter(struct bt_vcpu *v)
{
	if (v->fpu_live)
		return;
	__asm__ volatile("xrstor64 %0" : : "m"(v->cs.xsave), "a"(XSAVE_ALL), "d"(0));
	v->fpu_live = 1;
}

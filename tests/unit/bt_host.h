/* Runs single instructions on the host's processor, in a traced child, so that tests can ask it what is true. */
#ifndef TESTS_BT_HOST_H
#define TESTS_BT_HOST_H

#include <sched.h>
#include <sys/types.h>
#include <sys/user.h>

#include "modes/bt/decode.h"

/* Where things are in the child. The page behind HOST_CODE's and the one behind HOST_DATA's pages are not mapped. */
#define HOST_BASE 0x10000000ull
#define HOST_CODE HOST_BASE
#define HOST_CODE_END (HOST_CODE + 0x1000)
#define HOST_DATA (HOST_BASE + 0x8000)
#define HOST_DATA_BYTES 0x3000ull
#define HOST_DATA_END (HOST_DATA + HOST_DATA_BYTES)
/* The same pages again, read-only. */
#define HOST_CONST (HOST_BASE + 0xc000)

enum host_outcome {
	HOST_RAN,      /* completed (or was interrupted between iterations) */
	HOST_UD,       /* SIGILL */
	HOST_FETCH,    /* faulted at the first byte behind the code page */
	HOST_FAULT,    /* any other fault */
	HOST_TRAP_GONE /* the child died or the tracer failed: the oracle is lost */
};

struct host {
	pid_t pid;
	cpu_set_t cpus_before;
	uint8_t *code;  /* our view of the code page */
	uint8_t *data;  /* and of the data pages */
	bool has_bits[3];
	struct user_regs_struct base; /* of a fresh child */
	struct user_regs_struct regs; /* in and out of host_step */
	uint8_t xstate[4096];         /* what host_reset_vectors sets */
	size_t xstate_bytes;
	uint64_t fault_address;       /* of HOST_FETCH, HOST_FAULT */
	bool general_protection;      /* of HOST_FAULT: #GP or #SS rather than #PF */
	int signal;                   /* of HOST_UD, HOST_FAULT */
};

/* Returns NULL, or why the oracle cannot be had. */
const char *host_start(struct host *h);
void host_stop(struct host *h);
/* Puts `n` bytes so that they end where the code page does, and sets regs to run them in code of that size. */
void host_place(struct host *h, const uint8_t *code, unsigned n, enum bt_bits bits);
/* Gives the child x87 and vector registers of known, varied values. */
void host_reset_vectors(struct host *h);
/* Runs one instruction from h->regs. */
enum host_outcome host_step(struct host *h);

#endif

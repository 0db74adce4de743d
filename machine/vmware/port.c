/* The backdoor's commands: what it is, the machine's figures, the host's time (backdoor_def.h). */
#include "machine/vmware/private.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
	CMD_GETMHZ = 1,
	CMD_GETVERSION = 10,
	CMD_GETGUIOPTIONS = 13,
	CMD_GETHWVERSION = 17,
	CMD_GETUUID = 19,
	CMD_GETMEMSIZE = 20,
	CMD_GETTIME = 23,
	CMD_MESSAGE = 30,
	CMD_GETHZ = 45,
	CMD_GETTIMEFULL = 46,
	CMD_GETTIMEFULL_WITH_LAG = 55,
	CMD_GET_VCPU_INFO = 68,
};

#define VERSION 6u	    /* of the backdoor: what tools compare with their VERSION_MAGIC */
#define PRODUCT_SERVER 2u   /* VMX_TYPE_SCALABLE_SERVER */
#define HARDWARE_VERSION 13u
#define GUI_SYNC_TIME 0x400u
#define VCPU_LEGACY_X2APIC (1u << 3) /* x2APIC without interrupt remapping: APIC ids are small here */
#define MAX_LAG_US 1000000u	     /* how far off a clock may be before it is set */
#define UNKNOWN 0xffffffffu

/* The host's, in seconds and microseconds. */
static void get_time(uint32_t command, uint32_t r[VMWARE_REGISTERS])
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (command == CMD_GETTIME) {
		r[VMWARE_AX] = (uint32_t)now.tv_sec;
		r[VMWARE_DX] = 0; /* minutes from UTC */
	} else { /* eax stays the magic number: it worked */
		r[VMWARE_SI] = (uint32_t)((uint64_t)now.tv_sec >> 32);
		r[VMWARE_DX] = (uint32_t)now.tv_sec;
		if (command == CMD_GETTIMEFULL_WITH_LAG)
			r[VMWARE_DI] = 0; /* of timer interrupts that are still to come: none are made up */
	}
	r[VMWARE_BX] = (uint32_t)(now.tv_nsec / 1000);
	r[VMWARE_CX] = MAX_LAG_US;
}

static void get_uuid(const struct vmware *w, uint32_t r[VMWARE_REGISTERS])
{
	uint32_t part[4];

	memcpy(part, w->config.uuid, sizeof(part));
	r[VMWARE_AX] = le32toh(part[0]);
	r[VMWARE_BX] = le32toh(part[1]);
	r[VMWARE_CX] = le32toh(part[2]);
	r[VMWARE_DX] = le32toh(part[3]);
}

static void run(struct vmware *w, uint32_t r[VMWARE_REGISTERS])
{
	uint64_t khz = machine_tsc_khz(w->machine);
	uint32_t command = r[VMWARE_CX] & 0xffff;

	switch (command) {
	case CMD_GETMHZ: r[VMWARE_AX] = (uint32_t)(khz / 1000); break;
	case CMD_GETVERSION:
		r[VMWARE_AX] = VERSION;
		r[VMWARE_BX] = VMWARE_MAGIC;
		r[VMWARE_CX] = PRODUCT_SERVER;
		break;
	case CMD_GETGUIOPTIONS: r[VMWARE_AX] = w->sync ? GUI_SYNC_TIME : 0; break;
	case CMD_GETHWVERSION:
		r[VMWARE_AX] = HARDWARE_VERSION;
		r[VMWARE_BX] = VMWARE_MAGIC;
		break;
	case CMD_GETUUID: get_uuid(w, r); break;
	case CMD_GETMEMSIZE: r[VMWARE_AX] = (uint32_t)(machine_ram_bytes(w->machine) >> 20); break;
	case CMD_GETTIME:
	case CMD_GETTIMEFULL:
	case CMD_GETTIMEFULL_WITH_LAG: get_time(command, r); break;
	case CMD_MESSAGE: vmware_message(w, r); break;
	case CMD_GETHZ:
		r[VMWARE_AX] = (uint32_t)(khz * 1000);
		r[VMWARE_BX] = (uint32_t)(khz * 1000 >> 32);
		r[VMWARE_CX] = (uint32_t)LAPIC_BUS_HZ;
		break;
	case CMD_GET_VCPU_INFO: r[VMWARE_AX] = VCPU_LEGACY_X2APIC; break;
	default: r[VMWARE_AX] = UNKNOWN; break;
	}
}

bool machine_has_backdoor(const struct machine *m) { return m->vmware; }

void machine_backdoor(struct machine *m, uint32_t r[VMWARE_REGISTERS])
{
	machine_lock(m);
	m->vmware->calls++;
	run(m->vmware, r);
	machine_unlock(m);
}

/* ---- the machine's part ---------------------------------------------------------------------------------------- */

static void on_reset(void *opaque)
{
	struct vmware *w = opaque;

	for (unsigned i = 0; i < CHANNELS; i++)
		vmware_channel_close(&w->channels[i]);
	vmware_rpc_reset(w);
}

static void on_destroy(void *opaque)
{
	struct vmware *w = opaque;

	on_reset(w);
	vmware_rpc_free(w);
	w->machine->vmware = NULL;
	free(w);
}

static size_t on_stats(void *opaque, struct machine_stat *ret_rows, size_t max)
{
	const struct vmware *w = opaque;
	const struct machine_stat rows[] = {
		{"backdoor_calls", w->calls}, {"backdoor_messages", w->messages}, {"backdoor_refused", w->refused}};
	size_t n = ARRAY_SIZE(rows) < max ? ARRAY_SIZE(rows) : max;

	memcpy(ret_rows, rows, n * sizeof(rows[0]));
	return n;
}

int machine_add_vmware(struct machine *m, const struct vmware_config *config)
{
	struct vmware *w = calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->machine = m;
	w->config = *config;
	SLIST_INIT(&w->variables);
	w->log_purse = LOG_PURSE;
	w->device = (struct machine_device){.name = "vmware", .reset = on_reset, .destroy = on_destroy, .stats = on_stats, .opaque = w};
	m->vmware = w;
	machine_register_device(m, &w->device);
	return 0;
}

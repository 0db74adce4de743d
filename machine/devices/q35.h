/* Q35 host bridge (PAM, PCIEXBAR) and ICH9 LPC bridge with its power management registers. */
#ifndef MACHINE_DEVICES_Q35_H
#define MACHINE_DEVICES_Q35_H

#include "machine/clock.h"
#include "machine/devices/pci.h"

struct machine;

#define Q35_PMBASE 0x600u /* at power-on; firmware may move it, direct boots keep it */
#define Q35_PM_BYTES 0x80u
#define PM_TIMER_HZ 3579545u
/* Offsets from PMBASE, for the FADT. */
#define PM_PM1A_EVT 0x00u  /* 4 bytes */
#define PM_PM1A_CNT 0x04u  /* 2 bytes */
#define PM_TMR 0x08u       /* 4 bytes */
#define PM_GPE0 0x20u      /* 16 bytes: 8 status, 8 enable */
#define PM_SMI_EN 0x30u
#define PM_TCO 0x60u
/* SLP_TYP of S5 for the DSDT's \_S5 package. */
#define PM_SLP_TYP_S5 5u
/* SMI_CMD port and what to write there. */
#define PM_SMI_CMD 0xb2u
#define PM_ACPI_ENABLE 2u
#define PM_ACPI_DISABLE 3u

struct ich9_pm {
	uint16_t pm1_status, pm1_enable, pm1_control;
	uint64_t gpe0_status, gpe0_enable;
	uint32_t smi_enable;
	uint8_t tco[0x20];
	struct clock_timer timer_overflow;
	uint64_t timer_epoch; /* half periods (2^23 ticks) seen */
	struct bus_range range;
	uint8_t smi_cmd, smi_data;
};

struct q35 {
	struct machine *machine;
	struct pci_device mch, lpc;
	struct ich9_pm pm;
	struct bus_range smi_ports, reset_port, rcba;
	uint8_t reset_control;
};

int q35_init(struct machine *machine, struct q35 *q35);
void q35_reset(struct q35 *q35);
/* Under the machine lock. The PIRQx_ROUT register, as firmware would set it. */
void q35_pirq_route(struct q35 *q35, unsigned pirq, uint8_t route);
/* PAM registers at power-on: closed when there is a ROM, else plain RAM. */
void q35_pam_reset(struct q35 *q35);
void q35_power_button(struct q35 *q35);

#endif

/* MC146818 real-time clock and CMOS RAM, ports 0x70..0x73. */
#ifndef MACHINE_DEVICES_RTC_H
#define MACHINE_DEVICES_RTC_H

#include "machine/bus.h"
#include "machine/clock.h"

struct machine;

struct rtc {
	struct machine *machine;
	struct bus_range ports;
	uint8_t index, index_high;
	uint8_t cmos[256];
	int64_t offset_ns;       /* RTC time (ns since 1970) = host CLOCK_REALTIME + this */
	bool set_mode;           /* register B SET: the registers hold still */
	int64_t last_update;     /* second of the last update that was reported */
	uint64_t periodic_ns;    /* 0: off */
	uint64_t periodic_next;
	struct clock_timer periodic, update;
};

void rtc_init(struct machine *machine, struct rtc *rtc);
void rtc_reset(struct rtc *rtc);
/* A byte of CMOS RAM as firmware will find it (0x0e..0xff). Before the guest runs. */
void rtc_cmos_set(struct machine *machine, unsigned index, uint8_t value);

#endif

/*
 * The PC a guest sees, as the engines and the VM process use it. Devices have headers of their own under
 * machine/devices and machine/virtio; nobody outside machine/ needs those.
 *
 * Threads: one vCPU thread for each vCPU, one clock thread (machine/clock.h) that runs timer callbacks, one main
 * (libevent) thread. Device models run under the machine lock, which the functions below take themselves; the
 * functions marked [lock-free] may be called from anywhere at any rate.
 */
#ifndef MACHINE_MACHINE_H
#define MACHINE_MACHINE_H

#include "machine/cpu_state.h"
#include "machine/cpuid.h"
#include "machine/types.h"
#include "proto/smbios.h"

struct machine;
struct lapic;
struct vmware_config;

#define MACHINE_MAX_VCPUS 16

enum machine_event {
	MACHINE_EVENT_POWEROFF, /* ACPI S5 */
	MACHINE_EVENT_RESET,    /* reset register, i8042, port 0xcf9 */
	MACHINE_EVENT_PANIC,    /* pvpanic: the guest's kernel panicked */
	MACHINE_EVENT_DEBUG_EXIT, /* debug-exit port; `code` is what was written */
	MACHINE_EVENT_DISK_ERROR, /* a disk with that wish has stopped; `code` is its number << 16 | errno */
	MACHINE_EVENT_BALLOON, /* the guest has given memory, or taken it back (machine_balloon_get) */
	MACHINE_EVENT_PORT, /* a program in the guest opened or closed a port of the console (machine_port_is_open) */
	MACHINE_EVENT_NVRAM_ERROR, /* what the guest put into its flash is not in the file; `code` is an errno */
};

#define MACHINE_OUTPUT_VIRTIO 3u

/* What it calls itself, beside what it is. */
struct machine_smbios {
	const char *text[SMBIOS_TEXTS]; /* NULL: its own */
	uint8_t uuid[16];		/* as it is written, first byte first */
	const char *oem[SMBIOS_OEM_MAX];
	unsigned oem_count;
};

struct machine_config {
	uint64_t ram_bytes;
	unsigned vcpus;
	/* Told of events, under the machine lock, on any thread: must only note it and wake somebody. */
	void (*on_event)(void *opaque, enum machine_event event, unsigned code);
	/*
	 * Bytes a guest wrote to a serial port (0 or 1), to the debug console (2), or to virtio-console's console (3). Under the
	 * machine lock, but for the latter: on its worker.
	 */
	void (*on_output)(void *opaque, unsigned port, const void *bytes, size_t n);
	void *opaque;
	/* Builds the CPUID model where the mode has an opinion of the processor. NULL: cpuid_model_build. */
	void (*build_cpuid)(struct cpuid_model *ret_model, const struct cpuid_config *config);
	/* 0: none. Otherwise the I/O port (0xf4 by custom, 4 bytes wide) whose writes are MACHINE_EVENT_DEBUG_EXIT. */
	uint16_t debug_exit_port;
	bool xen;     /* disks and NICs are Xen's devices (machine/xen), not virtio's */
	bool display; /* memory for one: machine_add_display follows */
	const struct machine_smbios *smbios; /* or NULL; it and its texts outlive the machine */
	/* NULL, or for each processor feature an enum cpu_feature_wish; as cpuid_features_check allows. Copied. */
	const uint8_t *cpu_features;
	bool no_paravirt; /* neither KVM's signature in CPUID nor what goes with it */
	/* NULL, or VMware's backdoor and its signature in CPUID (machine/vmware/vmware.h). Copied. */
	const struct vmware_config *vmware;
};

/* Allocates RAM (memfd) and every device, in power-on state. 0 or -errno. */
int machine_create(const struct machine_config *config, struct machine **ret_machine);
void machine_destroy(struct machine *machine);
/* Power-on state again, RAM contents kept. All vCPUs must be out of run. */
void machine_reset(struct machine *machine);
unsigned machine_vcpus(const struct machine *machine);

/* ---- RAM ---------------------------------------------------------------- */

/* A run of guest-physical addresses backed by host memory. */
struct ram_region {
	gpa_t gpa;
	uint64_t bytes;
	uint8_t *host;
	bool readonly; /* ROM or PAM-protected: reads are direct, writes go to machine_mmio_write */
};

/* RAM below the PCI hole at 0, RAM above 4 GiB, ROM images. NULL: MMIO or nothing there. [lock-free] */
const struct ram_region *machine_ram_find(const struct machine *machine, gpa_t gpa);
/*
 * All of them as they are now, by ascending address; neighbours that are one run of host memory too are given as one.
 * Returns how many, at most `max` (MACHINE_RAM_REGIONS is always enough). [lock-free]
 */
#define MACHINE_RAM_REGIONS 24
size_t machine_ram_regions(const struct machine *machine, struct ram_region *ret_regions, size_t max);

#define MACHINE_LARGE_PAGE (2u << 20)
/* mmap at an address aligned to a large page, so that one can lie under it; MAP_FAILED and errno as mmap. */
void *machine_map_aligned(size_t bytes, int prot, int flags, int fd);
/*
 * Memory of passed-through devices where the guest has it now, which an engine may map instead of sending accesses to
 * machine_mmio_*. None of it overlaps RAM. Returns how many. Under the machine lock, or before the machine runs.
 */
#define MACHINE_WINDOWS 32
size_t machine_windows(const struct machine *machine, struct ram_region *ret_windows, size_t max);
/*
 * The memfd that backs RAM, and its layout: offset = gpa for low RAM, gpa - 4 GiB + low size above; behind that a display's
 * memory. machine_ram_bytes is what the guest has as RAM, machine_ram_file_bytes all of the file.
 */
int machine_ram_fd(const struct machine *machine);
uint64_t machine_ram_bytes(const struct machine *machine);
uint64_t machine_ram_file_bytes(const struct machine *machine);
/*
 * Device access to guest RAM (DMA). False when any byte is not RAM; then nothing was copied. Writes tell the engine
 * (machine_hooks.ram_written) so that translated code is dropped. [lock-free]
 */
bool machine_dma_read(struct machine *machine, gpa_t gpa, void *buf, uint64_t n);
bool machine_dma_write(struct machine *machine, gpa_t gpa, const void *buf, uint64_t n);
/* Host pointer to [gpa, gpa+n), NULL unless all of it is one writable RAM region. After writing through it call
   machine_dma_written. [lock-free] */
void *machine_dma_map(struct machine *machine, gpa_t gpa, uint64_t n);
void machine_dma_written(struct machine *machine, gpa_t gpa, uint64_t n);
/*
 * Gives the whole pages within [gpa, gpa+n) back to the host: they read as zeros, and take memory again once they are
 * touched. Tells the engine. How many bytes that were; none when any of it is not RAM. [lock-free]
 */
uint64_t machine_ram_discard(struct machine *machine, gpa_t gpa, uint64_t n);

/* ---- what the engine gives the machine ----------------------------------- */

struct machine_hooks {
	/* A vCPU should look at its pending events. [lock-free], async-signal-safe */
	void (*kick)(void *opaque, unsigned vcpu);
	void (*ram_written)(void *opaque, gpa_t gpa, uint64_t n);
	/* These whole pages were given back to the host, and read as zeros. Any thread. NULL: as ram_written. */
	void (*ram_discarded)(void *opaque, gpa_t gpa, uint64_t n);
	/*
	 * ram_find would now answer differently for this range (PAM, ROM, flash), or A20 switched. Under the machine lock; a
	 * vCPU whose access brought it about must see it before its next instruction.
	 */
	void (*map_changed)(void *opaque, gpa_t gpa, uint64_t n);
	/*
	 * An engine that owns the interrupt controllers (machine/irqchip.h) takes what would go to ours: changes of a line into
	 * the 8259 pair or the IOAPIC (under the machine lock) and messages (any thread). NULL: ours.
	 */
	void (*pic_line)(void *opaque, unsigned input, bool level);
	void (*ioapic_line)(void *opaque, unsigned pin, bool level);
	void (*msi)(void *opaque, uint64_t address, uint32_t data);
	/*
	 * Eventfds in the engine's hands (machine/eventfd.h), under the machine lock. 0, or -errno: the machine does it itself.
	 * NULL: it always does. doorbell: from now on, or no longer, a guest's write to gpa signals fd instead of being an
	 * access. irqfd: a signal of fd sends this message; again with another message: from now on that; off: no longer,
	 * and a signal that comes then waits in fd.
	 */
	int (*doorbell)(void *opaque, bool on, gpa_t gpa, int fd);
	int (*irqfd)(void *opaque, int fd, bool on, uint64_t address, uint32_t data);
	/*
	 * The machine has just been paused, devices and clock: such an engine gives the controllers' state to ours, so that a
	 * paused machine has all of it. Virtual time goes on again, devices do not yet: it takes the state back, and moves
	 * whatever clocks it has. NULL: nothing to do. All vCPUs are out of run; not under the machine lock.
	 */
	void (*paused)(void *opaque);
	void (*resumed)(void *opaque);
	void *opaque;
};
/* Before the first vCPU runs. Copies *hooks; NULL takes them away. */
void machine_set_hooks(struct machine *machine, const struct machine_hooks *hooks);

/* ---- I/O from a vCPU thread: take the machine lock ------------------------ */

/* size 1, 2 or 4. Unclaimed ports read as all ones. */
uint32_t machine_pio_read(struct machine *machine, unsigned vcpu, uint16_t port, unsigned size);
void machine_pio_write(struct machine *machine, unsigned vcpu, uint16_t port, uint32_t value, unsigned size);
/* size 1..8 (any alignment) or up to 64 for vector accesses. Unclaimed addresses read as all ones. */
void machine_mmio_read(struct machine *machine, unsigned vcpu, gpa_t gpa, void *buf, unsigned size);
void machine_mmio_write(struct machine *machine, unsigned vcpu, gpa_t gpa, const void *buf, unsigned size);

/*
 * ---- interrupts, seen from a vCPU thread ----------------------------------
 * Nothing from here to the end of the next section touches a vector or x87 register, so an engine may call it with the
 * guest's in the host's (test_machine_interrupts checks it).
 */

/* A maskable interrupt is deliverable now (LAPIC above TPR/PPR, or ExtINT from the 8259). [lock-free], cheap */
bool machine_intr_pending(struct machine *machine, unsigned vcpu);
/* Takes it: IRR to ISR, or the 8259's INTA. The vector, or -1 when it went away meanwhile. */
int machine_intr_ack(struct machine *machine, unsigned vcpu);
/* Other events for a vCPU, as bits; taking clears them. [lock-free] */
#define MACHINE_VCPU_NMI 1u
#define MACHINE_VCPU_INIT 2u
#define MACHINE_VCPU_SIPI 4u
#define MACHINE_VCPU_SMI 8u
#define MACHINE_VCPU_UNHALT 16u /* machine_vcpu_unhalt */
unsigned machine_vcpu_events(struct machine *machine, unsigned vcpu);
unsigned machine_vcpu_take_events(struct machine *machine, unsigned vcpu, uint8_t *ret_sipi_vector);
/* Anything at all that ends a halt: [lock-free] */
bool machine_vcpu_has_work(struct machine *machine, unsigned vcpu);
/*
 * Blocks the calling vCPU thread until machine_vcpu_has_work or machine_vcpu_wake, sleeping no later than its own
 * LAPIC timer's deadline (which it then fires itself, so that no second thread is needed to wake an idle guest).
 */
void machine_vcpu_wait(struct machine *machine, unsigned vcpu);
/* The same for a vCPU that takes no maskable interrupts (hlt with IF clear, waiting for a SIPI): only events end it. */
void machine_vcpu_wait_for(struct machine *machine, unsigned vcpu, bool interrupts);
/* Ends a wait. Any thread, async-signal-safe. */
void machine_vcpu_wake(struct machine *machine, unsigned vcpu);

/*
 * For engines that offer KVM's paravirtual interfaces. An interrupt to each of these APIC ids (first + the place of a bit
 * in lo, then in hi, `bits` wide), as an ICR's low half says; how many took it.
 */
unsigned machine_send_ipis(struct machine *machine, unsigned vcpu, uint32_t first, uint64_t lo, uint64_t hi, unsigned bits,
			   uint32_t icr);
/* Ends a halt, whatever interrupts may do; or the next one. An index that is none is ignored. */
void machine_vcpu_unhalt(struct machine *machine, unsigned vcpu);
/* It does not wait in machine_vcpu_wait. */
bool machine_vcpu_is_running(struct machine *machine, unsigned vcpu);
/* Nothing hangs on when the vCPU ends this interrupt: no other waits, it is no line's (vector 0: only the former). */
bool machine_eoi_may_wait(struct machine *machine, unsigned vcpu, unsigned vector);
void machine_eoi(struct machine *machine, unsigned vcpu);

/* LAPIC registers as MSRs: IA32_APIC_BASE (0x1b), x2APIC 0x800..0x8ff, TSC deadline (0x6e0). False: #GP. */
bool machine_apic_msr_read(struct machine *machine, unsigned vcpu, uint32_t msr, uint64_t *ret_value);
bool machine_apic_msr_write(struct machine *machine, unsigned vcpu, uint32_t msr, uint64_t value);
/* CR8: task priority, 0..15. */
uint8_t machine_tpr_get(struct machine *machine, unsigned vcpu);
void machine_tpr_set(struct machine *machine, unsigned vcpu, uint8_t cr8);
/* A20 gate (port 0x92, i8042): when false, address bit 20 is forced to 0. [lock-free] */
bool machine_a20(const struct machine *machine);

/* ---- time ----------------------------------------------------------------- */

/* ns since the machine started, standing still while it is paused. [lock-free] */
uint64_t machine_clock_ns(const struct machine *machine);
/* Guest TSC = host rdtsc + this, the same for all vCPUs unless a guest writes its TSC. [lock-free] */
uint64_t machine_tsc_offset(const struct machine *machine);
/* Measured once per host boot (CPUID 0x15/0x40000010, or against CLOCK_MONOTONIC_RAW). */
uint64_t machine_tsc_khz(const struct machine *machine);
/* Stop and continue virtual time (pause/resume). All vCPUs must be out of run. */
void machine_pause(struct machine *machine);
/* For good, before the engine and then the machine are destroyed: threads of devices use neither any more. NULL is fine. */
void machine_stop_devices(struct machine *machine);
void machine_resume(struct machine *machine);

/* ---- the VM process's side ------------------------------------------------- */

/* Bytes typed by a user into serial port 0 or 1: queued, fed as the guest reads. Returns how many were taken. */
size_t machine_serial_input(struct machine *machine, unsigned port, const void *bytes, size_t n);
/*
 * Somebody's hands at a machine with a display. A key, by Linux's code (KEY_*), goes down or up; false: there is no such key,
 * or the guest does not read and the keyboard's buffer is full. Counts of a mouse (right, down, the wheel away from the user),
 * buttons as bits left, right, middle, side, extra.
 */
bool machine_key(struct machine *machine, unsigned code, bool down);
void machine_mouse(struct machine *machine, int dx, int dy, int dz, unsigned buttons);
/* ACPI power button. */
void machine_power_button(struct machine *machine);
/* NMI to every vCPU's LINT1 (for debugging a hung guest). */
void machine_inject_nmi(struct machine *machine);

/* How far a guest's write goes before it is told to be done. */
enum machine_cache {
	MACHINE_CACHE_WRITEBACK,    /* the host's page cache; stable when the guest flushes */
	MACHINE_CACHE_WRITETHROUGH, /* stable at once */
	MACHINE_CACHE_DIRECT,	    /* past the page cache; stable when the guest flushes */
	MACHINE_CACHE_DIRECTSYNC,   /* past it, and stable at once */
	MACHINE_CACHE_UNSAFE,	    /* flushes are ignored: fast, and lost with the host */
};

/* When the host fails a request. */
enum machine_on_error {
	MACHINE_ERROR_REPORT,	  /* the guest is told */
	MACHINE_ERROR_PAUSE,	  /* MACHINE_EVENT_DISK_ERROR; tried again when the machine goes on */
	MACHINE_ERROR_PAUSE_FULL, /* that when there is no space left, else the guest is told */
};

enum { MACHINE_DISK_LOCK, MACHINE_DISK_CACHED, MACHINE_DISK_DIRECT, MACHINE_DISK_FDS };
struct machine_disk {
	const char *path; /* of a raw image or a block device; with nbd, for people only */
	bool readonly;
	bool discard; /* what the guest discards is given back to the host */
	enum machine_cache cache;
	enum machine_on_error on_error;
	const char *serial; /* at most 20 characters are seen; NULL: made from the path */
	bool nbd;	    /* the bytes are at nbd_fd, a connected socket to an NBD server, which is taken over */
	int nbd_fd;
	bool no_io_uring; /* threads, as where the kernel has none */
	/* A raw one, opened by somebody else (machine_open_disk): these are taken over, on failure too. */
	bool opened;
	int fds[MACHINE_DISK_FDS]; /* the last one -1 where it is not wanted */
};
/*
 * Opens and locks a raw disk for a machine, perhaps of another process. 0 or -errno, and *ret_error as below. No machine is needed.
 */
int machine_open_disk(const struct machine_disk *disk, int ret_fds[MACHINE_DISK_FDS], const char **ret_error);
/* Before boot. 0 or -errno; *ret_error names the thing and the remedy (static or in a thread-local buffer). */
int machine_add_disk(struct machine *machine, const struct machine_disk *disk, const char **ret_error);
/* The same as a CD-ROM drive with this disc in it (an empty path: none), behind a virtio-scsi adapter of its own; never written. */
int machine_add_cdrom(struct machine *machine, const struct machine_disk *disk, const char **ret_error);
/*
 * Another disc into a drive (by its number among them), or none (NULL). -EBUSY: the guest uses the one that is in; with force it is
 * taken away all the same. Descriptors that the disk brings are taken over in any case.
 */
int machine_change_disc(struct machine *machine, unsigned number, const struct machine_disk *disk, bool force, const char **ret_error);
int machine_add_rng(struct machine *machine, const char **ret_error);
/*
 * A VGA with Bochs' VBE, for a machine made with config.display. rom: its BIOS, such as SeaBIOS's vgabios-stdvga.bin, which
 * firmware runs, and whose font a kernel started without firmware finds.
 */
int machine_add_display(struct machine *machine, const char *rom, const char **ret_error);

#define MACHINE_PORTS_MAX 14
#define MACHINE_PORT_NAME_BYTES 64
/* A named stream of bytes between a program in the guest and the host. */
struct machine_port {
	const char *name; /* how the guest finds it: /dev/virtio-ports/NAME */
	/* The host's end: a listening socket, whose clients have it one after the other, or a connection. The other one is -1. */
	int listener, fd;
};
/*
 * virtio-console with these ports, and a console (hvc0) if wanted. As machine_add_disk; on success the sockets are the
 * machine's own, and on failure, once it was tried, too.
 */
int machine_add_console(struct machine *machine, bool console, const struct machine_port *ports, unsigned count, const char **ret_error);
/* Any thread. What is typed on hvc0; how much was taken. */
size_t machine_console_input(struct machine *machine, const void *bytes, size_t n);
/* Any thread. Its terminal's size. */
void machine_console_resize(struct machine *machine, unsigned columns, unsigned rows);
struct machine_balloon {
	uint64_t guest_bytes; /* what the guest is to have at first; no less than it can live with is the caller's business */
	bool free_page_reporting, deflate_on_oom;
	unsigned stats_seconds; /* 0: when asked only */
};
/* What the driver tells of the guest's memory, by the numbers that virtio 1.2, 5.5.6.4, and Linux give them. */
#define MACHINE_BALLOON_FIGURES 16
struct machine_balloon_figures {
	uint64_t time_ns; /* CLOCK_MONOTONIC; 0: it has told nothing yet */
	uint32_t present; /* 1 << number */
	uint64_t value[MACHINE_BALLOON_FIGURES];
};
struct machine_balloon_state {
	uint64_t guest_bytes, wished_bytes; /* what it has, as it says, and what it is to have */
	struct machine_balloon_figures figures;
};
/* As machine_add_disk. Not beside a passed-through device, for whose sake all of RAM is pinned. */
int machine_add_balloon(struct machine *machine, const struct machine_balloon *config, const char **ret_error);
/* Any thread; the guest follows when and as far as it can. False: there is no balloon. */
bool machine_balloon_set(struct machine *machine, uint64_t guest_bytes);
bool machine_balloon_get(struct machine *machine, struct machine_balloon_state *ret_state);
/* Asks the guest for new figures, now, and from now on every so many seconds (0: no more; -1: as it was). */
bool machine_balloon_ask(struct machine *machine, int period_s);

/* Any thread. Whether a program in the guest has ports[number] open. */
bool machine_port_is_open(struct machine *machine, unsigned number);
struct machine_vsock {
	uint64_t cid; /* of the guest: 3 or more */
	/* Both the machine's on success. */
	int listener;  /* programs of the host connect to it */
	int connector; /* packets: a question goes out for each stream that the guest wants to the host, an answer comes back */
};
struct machine_vsock_question {
	uint32_t id, port;
};
/* With the socket's descriptor beside it (SCM_RIGHTS), or without one: nobody listens. */
struct machine_vsock_answer {
	uint32_t id;
};
struct machine_share {
	const char *tag; /* at most 35 characters */
	int socket; /* connected to a vhost-user server of virtiofs; the machine's on success */
	bool readonly; /* nothing that could change a file reaches the server */
};
/* As machine_add_disk. Waits for the server's answers. */
int machine_add_share(struct machine *machine, const struct machine_share *share, const char **ret_error);
int machine_add_vsock(struct machine *machine, const struct machine_vsock *vsock, const char **ret_error);

#define MACHINE_UPLINKS_MAX 8
enum machine_nic_type {
	MACHINE_NIC_USER, /* libslirp, in this process */
	MACHINE_NIC_SWITCH, /* a port of a virtual switch */
	MACHINE_NIC_TEAM, /* a network device of the host (tap, macvtap, others by packet socket), or several as one */
};

struct machine_nic_forward {
	bool udp;
	const char *host_address, *guest_address; /* IPv4; NULL: the loopback, and the guest's by DHCP */
	uint16_t host_port, guest_port;
};

/* What may change while the machine runs. Rates are bytes a second (0: no limit), bursts bytes (0: a fitting one). */
struct machine_nic_change {
	bool link; /* the cable is plugged in */
	uint64_t receive_rate, receive_burst, transmit_rate, transmit_burst; /* as the guest sees it */
};

struct machine_nic {
	enum machine_nic_type type;
	uint8_t mac[6];
	bool own_mac_only; /* frames of the guest that come from another address are dropped */
	unsigned mtu; /* told to the guest; 0: what the back end carries */
	struct machine_nic_change change;
	struct {
		const char *const *uplinks; /* names */
		unsigned count;
		bool balance; /* flows are spread over all; else one works, and others stand by */
		const char *bridge; /* of a single one that is made first, a tap on this bridge, and goes with the NIC; or NULL */
	} team;
	int fd; /* switch: the connection, greeted (proto/switch.h); the NIC's own on success */
	struct {
		uint32_t subnet; /* 0x0a000200: 10.0.2.0 */
		unsigned subnet_bits;
		bool restricted, hide_host;
		const char *hostname; /* or NULL */
		const struct machine_nic_forward *forwards;
		unsigned forward_count;
	} user;
};
/* What a macvtap is made of: a network device of the host, an address, MACVLAN_MODE_*. */
struct machine_macvtap {
	const char *device;
	uint8_t mac[6];
	unsigned mode;
};
/*
 * Makes one, which takes root. It is there until *ret_keeper (the end of a pipe, the caller's) is closed, if only because this
 * process ends: a process of its own waits for that. 0, or -errno and *ret_error, as below. Best called before there are threads.
 */
int machine_make_macvtap(const char *name, const struct machine_macvtap *macvtap, int *ret_keeper, const char **ret_error);
/* As machine_add_disk. What the network needs of the host (sockets, devices) is opened here. */
int machine_add_nic(struct machine *machine, const struct machine_nic *nic, const char **ret_error);
/* Any thread; takes effect soon. `number`: in the order in which they were added. 0 or -ENOENT. */
int machine_nic_set(struct machine *machine, unsigned number, const struct machine_nic_change *change);

struct machine_module {
	const char *path;
	const char *cmdline; /* or NULL */
};

struct machine_boot {
	const char *kernel;   /* bzImage, Multiboot, or ELF with a PVH note (the latter two also gzipped); or NULL */
	const char *initrd;   /* or NULL */
	const char *cmdline;  /* or NULL */
	const char *firmware; /* ROM image mapped below 4 GiB (SeaBIOS), when kernel is NULL or for fw_cfg kernels */
	const char *nvram;    /* flash with that firmware's variables, mapped below it and written by it; or NULL */
	const struct machine_module *modules; /* for a Multiboot or PVH kernel, in order */
	unsigned module_count;
	unsigned menu_ms; /* how long the firmware waits for the key to its boot menu; 0: no menu */
};
/*
 * Loads what is to boot into RAM, builds tables (ACPI, e820/zero page), and fills the boot processor's state.
 * 0 or -errno with *ret_error saying what is wrong with which file and what to do.
 */
int machine_boot(struct machine *machine, const struct machine_boot *boot, struct cpu_state *ret_bsp,
		 const char **ret_error);

/* The CPUID model of this VM; owned by the machine, constant while it runs. */
const struct cpuid_model *machine_cpuid(const struct machine *machine);

#define MACHINE_SCREEN_WIDTH_MAX 2560u
#define MACHINE_SCREEN_HEIGHT_MAX 1600u
#define MACHINE_SCREEN_PIXELS ((size_t)MACHINE_SCREEN_WIDTH_MAX * MACHINE_SCREEN_HEIGHT_MAX)

/* A picture: rows of `width` pixels without gaps, each 0x00RRGGBB. */
struct machine_screen {
	unsigned width, height; /* 0: nothing yet */
	uint32_t *pixels;	/* room for MACHINE_SCREEN_PIXELS */
};
/*
 * Makes it what the display shows now. changed (or NULL) is called for each rectangle that is not what it was before, for
 * all of it when the size is another. Any thread, one at a time for each picture. False: there is no display.
 */
bool machine_screen_update(struct machine *machine, struct machine_screen *screen,
			   void (*changed)(void *opaque, unsigned x, unsigned y, unsigned width, unsigned height), void *opaque);

/* Exits by kind and the like, as name/value rows; returns how many. */
struct machine_stat {
	const char *name;
	uint64_t value;
};
size_t machine_stats(struct machine *machine, struct machine_stat *ret_rows, size_t max);

#endif

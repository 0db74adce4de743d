/* Guest-physical memory: one memfd for RAM, a copy of the ROM, PAM segments that switch between the two. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "machine/private.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008u
#endif

#define LEGACY_ROM_BASE 0xe0000u
#define RAM_MAX_BYTES (1ull << 40)

static gpa_t pam_base(unsigned segment) { return PAM_BASE + (gpa_t)segment * 0x4000; }
static uint64_t pam_bytes(unsigned segment) { return segment == PAM_SEGMENTS - 1 ? 0x10000 : 0x4000; }

static unsigned pam_segment(gpa_t gpa)
{
	unsigned n = (unsigned)((gpa - PAM_BASE) / 0x4000);
	return n < PAM_SEGMENTS ? n : PAM_SEGMENTS - 1;
}

/* Kernels before 6.3 do not know MFD_NOEXEC_SEAL; where vm.memfd_noexec=2 they refuse a memfd without it. */
static int ram_memfd(uint64_t bytes)
{
	int fd = memfd_create("guest-ram", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
	if (fd < 0 && errno == EINVAL)
		fd = memfd_create("guest-ram", MFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)bytes) < 0) {
		int rc = -errno;
		close(fd);
		return rc;
	}
	return fd;
}

/* Where large pages can lie under it. */
void *machine_map_aligned(size_t bytes, int prot, int flags, int fd)
{
	size_t reserved = bytes + MACHINE_LARGE_PAGE;
	uint8_t *p = mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), *at;

	if (p == MAP_FAILED)
		return MAP_FAILED;
	at = (uint8_t *)(((uintptr_t)p + MACHINE_LARGE_PAGE - 1) & ~(uintptr_t)(MACHINE_LARGE_PAGE - 1));
	if (mmap(at, bytes, prot, flags | MAP_FIXED, fd, 0) == MAP_FAILED) {
		int e = errno;
		munmap(p, reserved);
		errno = e;
		return MAP_FAILED;
	}
	size_t page_end = (bytes + 4095) & ~(size_t)4095;
	if (at > p)
		munmap(p, (size_t)(at - p));
	munmap(at + page_end, reserved - (size_t)(at - p) - page_end);
	return at;
}

/* The four states of each segment, from what RAM and ROM there is. */
static void pam_build(struct machine_ram *ram)
{
	for (unsigned s = 0; s < PAM_SEGMENTS; s++) {
		gpa_t base = pam_base(s);
		bool have_ram = base + pam_bytes(s) <= ram->low_bytes;
		uint8_t *rom = NULL;
		/* The ROM's tail, as the chipset decodes it at 0xe0000..0xfffff too. */
		uint64_t from_end = PAM_END - base;
		if (ram->rom && base >= LEGACY_ROM_BASE && from_end <= ram->rom_bytes)
			rom = ram->rom + ram->rom_bytes - from_end;
		for (unsigned attr = 0; attr < 4; attr++) {
			struct ram_region *r = &ram->pam_state[s][attr];
			*r = (struct ram_region){ .gpa = base, .bytes = pam_bytes(s) };
			if (attr & PAM_READ) {
				r->host = have_ram ? ram->host + base : NULL;
				r->readonly = !(attr & PAM_WRITE);
			} else {
				r->host = rom;
				r->readonly = true;
			}
			if (!r->host)
				r->bytes = 0;
		}
	}
}

static void pam_init(struct machine_ram *ram)
{
	unsigned attr = ram->rom ? 0 : PAM_READ | PAM_WRITE;
	for (unsigned s = 0; s < PAM_SEGMENTS; s++) {
		ram->pam_attr[s] = (uint8_t)attr;
		atomic_store_explicit(&ram->pam[s], &ram->pam_state[s][attr], memory_order_release);
	}
}

static void video_build(struct machine_ram *ram)
{
	ram->video_host = ram->host + ram->bytes;
	for (unsigned i = 0; i < ARRAY_SIZE(ram->video_at); i++)
		ram->video_at[i] = (struct ram_region){
			.gpa = (gpa_t)i * RAM_VIDEO_BYTES, .bytes = RAM_VIDEO_BYTES, .host = ram->video_host };
}

int ram_init(struct machine_ram *ram, uint64_t bytes, bool video)
{
	ram->fd = -1;
	if (bytes < 0x100000 || bytes > RAM_MAX_BYTES || bytes % GUEST_PAGE_SIZE)
		return -EINVAL;
	ram->bytes = bytes;
	ram->low_bytes = bytes < RAM_LOW_MAX ? bytes : RAM_LOW_MAX;
	ram->high_bytes = bytes - ram->low_bytes;
	ram->file_bytes = bytes + (video ? RAM_VIDEO_BYTES : 0);
	int fd = ram_memfd(ram->file_bytes);
	if (fd < 0)
		return fd;
	void *host = machine_map_aligned(ram->file_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd);
	if (host == MAP_FAILED) {
		int rc = -errno;
		close(fd);
		return rc;
	}
	ram->fd = fd;
	ram->host = host;
	ram->slot[RAM_SLOT_BASE] = (struct ram_region){ .gpa = 0, .bytes = RAM_VGA_BASE, .host = ram->host };
	ram->slot[RAM_SLOT_EXTENDED] = (struct ram_region){
		.gpa = PAM_END, .bytes = ram->low_bytes - PAM_END, .host = ram->host + PAM_END };
	ram->slot[RAM_SLOT_HIGH] = (struct ram_region){
		.gpa = RAM_HIGH_BASE, .bytes = ram->high_bytes, .host = ram->host + ram->low_bytes };
	pam_build(ram);
	pam_init(ram);
	if (video)
		video_build(ram);
	return 0;
}

void ram_finish(struct machine_ram *ram)
{
	if (ram->host)
		munmap(ram->host, ram->file_bytes);
	if (ram->rom)
		munmap(ram->rom, ram->rom_bytes);
	if (ram->fd >= 0)
		close(ram->fd);
	ram->host = ram->rom = NULL;
	ram->fd = -1;
}

static void ram_map_changed(struct machine *machine, gpa_t gpa, uint64_t n)
{
	if (machine->hooks.map_changed)
		machine->hooks.map_changed(machine->hooks.opaque, gpa, n);
}

int machine_rom_add(struct machine *machine, const void *image, uint64_t bytes)
{
	struct machine_ram *ram = &machine->ram;
	if (!bytes || bytes > ROM_MAX_BYTES || bytes % GUEST_PAGE_SIZE)
		return -EINVAL;
	if (ram->rom)
		return -EBUSY;
	void *rom = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (rom == MAP_FAILED)
		return -errno;
	memcpy(rom, image, bytes);
	mprotect(rom, bytes, PROT_READ);
	machine_lock(machine);
	ram->rom = rom;
	ram->rom_bytes = bytes;
	ram->slot[RAM_SLOT_ROM] = (struct ram_region){
		.gpa = RAM_HIGH_BASE - bytes, .bytes = bytes, .host = rom, .readonly = true };
	pam_build(ram);
	q35_pam_reset(&machine->q35);
	ram_map_changed(machine, 0, RAM_HIGH_BASE);
	machine_unlock(machine);
	return 0;
}

gpa_t machine_rom_base(const struct machine *machine) { return RAM_HIGH_BASE - machine->ram.rom_bytes; }

void ram_pam_set(struct machine *machine, unsigned segment, unsigned attributes)
{
	struct machine_ram *ram = &machine->ram;
	if (segment >= PAM_SEGMENTS)
		return;
	attributes &= PAM_READ | PAM_WRITE;
	if (ram->pam_attr[segment] == attributes)
		return;
	ram->pam_attr[segment] = (uint8_t)attributes;
	atomic_store_explicit(&ram->pam[segment], &ram->pam_state[segment][attributes], memory_order_release);
	ram_map_changed(machine, pam_base(segment), pam_bytes(segment));
}

void ram_flash_set(struct machine *machine, const struct ram_region *region)
{
	const struct ram_region *before = atomic_exchange_explicit(&machine->ram.flash, region, memory_order_acq_rel);
	const struct ram_region *either = region ? region : before;

	if (before != region)
		ram_map_changed(machine, either->gpa, either->bytes);
}

void ram_video_set(struct machine *machine, gpa_t gpa)
{
	struct machine_ram *ram = &machine->ram;
	bool fits = gpa >= ram->low_bytes && gpa % RAM_VIDEO_BYTES == 0 && gpa + RAM_VIDEO_BYTES <= PCI_HOLE_END;
	bool on_config = gpa < PCI_ECAM_BASE + PCI_ECAM_BYTES && gpa + RAM_VIDEO_BYTES > PCI_ECAM_BASE;
	const struct ram_region *now = gpa && fits && !on_config ? &ram->video_at[gpa / RAM_VIDEO_BYTES] : NULL;
	const struct ram_region *before = atomic_exchange_explicit(&ram->video, now, memory_order_acq_rel);

	if (before == now)
		return;
	if (before)
		ram_map_changed(machine, before->gpa, before->bytes);
	if (now)
		ram_map_changed(machine, now->gpa, now->bytes);
}

/* Between RAM and 4 GiB. */
static const struct ram_region *find_in_hole(const struct machine_ram *ram, gpa_t gpa)
{
	const struct ram_region *r = &ram->slot[RAM_SLOT_ROM];
	if (gpa - r->gpa < r->bytes)
		return r;
	r = atomic_load_explicit(&ram->flash, memory_order_acquire);
	if (r && gpa - r->gpa < r->bytes)
		return r;
	return atomic_load_explicit(&ram->video, memory_order_acquire);
}

const struct ram_region *machine_ram_find(const struct machine *machine, gpa_t gpa)
{
	const struct machine_ram *ram = &machine->ram;
	const struct ram_region *r = NULL;
	if (gpa >= PAM_END) {
		r = &ram->slot[RAM_SLOT_EXTENDED];
		if (gpa >= RAM_HIGH_BASE)
			r = &ram->slot[RAM_SLOT_HIGH];
		else if (gpa - r->gpa >= r->bytes)
			r = find_in_hole(ram, gpa);
		if (!r)
			return NULL;
	} else if (gpa >= PAM_BASE) {
		r = atomic_load_explicit(&ram->pam[pam_segment(gpa)], memory_order_acquire);
	} else {
		r = &ram->slot[RAM_SLOT_BASE];
	}
	return gpa - r->gpa < r->bytes ? r : NULL;
}

/* Adds it, or makes the last one longer. */
static size_t region_add(struct ram_region *regions, size_t n, size_t max, const struct ram_region *r)
{
	struct ram_region *last = n ? &regions[n - 1] : NULL;
	if (!r->bytes)
		return n;
	if (last && last->gpa + last->bytes == r->gpa && last->host + last->bytes == r->host &&
	    last->readonly == r->readonly) {
		last->bytes += r->bytes;
		return n;
	}
	if (n < max)
		regions[n++] = *r;
	return n;
}

size_t machine_ram_regions(const struct machine *machine, struct ram_region *ret_regions, size_t max)
{
	const struct machine_ram *ram = &machine->ram;
	size_t n = region_add(ret_regions, 0, max, &ram->slot[RAM_SLOT_BASE]);
	for (unsigned s = 0; s < PAM_SEGMENTS; s++)
		n = region_add(ret_regions, n, max, atomic_load_explicit(&ram->pam[s], memory_order_acquire));
	n = region_add(ret_regions, n, max, &ram->slot[RAM_SLOT_EXTENDED]);
	const struct ram_region *video = atomic_load_explicit(&ram->video, memory_order_acquire);
	if (video)
		n = region_add(ret_regions, n, max, video);
	const struct ram_region *flash = atomic_load_explicit(&ram->flash, memory_order_acquire);
	if (flash)
		n = region_add(ret_regions, n, max, flash);
	n = region_add(ret_regions, n, max, &ram->slot[RAM_SLOT_ROM]);
	return region_add(ret_regions, n, max, &ram->slot[RAM_SLOT_HIGH]);
}

bool ram_readonly_write(struct machine *machine, gpa_t gpa, const void *buf, unsigned size)
{
	struct machine_ram *ram = &machine->ram;
	if (gpa >= RAM_HIGH_BASE - ram->rom_bytes && gpa < RAM_HIGH_BASE)
		return true;
	if (gpa < PAM_BASE || gpa >= PAM_END)
		return false;
	const uint8_t *from = buf;
	bool wrote = false;
	for (unsigned i = 0; i < size && gpa + i < PAM_END; i++) {
		if ((ram->pam_attr[pam_segment(gpa + i)] & PAM_WRITE) && gpa + i < ram->low_bytes) {
			ram->host[gpa + i] = from[i];
			wrote = true;
		}
	}
	if (wrote)
		machine_dma_written(machine, gpa, size);
	return true;
}

void *ram_host(const struct machine_ram *ram, gpa_t gpa, uint64_t n)
{
	if (gpa < ram->low_bytes) {
		if (n > ram->low_bytes - gpa)
			return NULL;
		if (gpa < PAM_BASE && gpa + n > RAM_VGA_BASE)
			return NULL;
		return ram->host + gpa;
	}
	if (gpa >= RAM_HIGH_BASE && gpa - RAM_HIGH_BASE < ram->high_bytes && n <= ram->high_bytes - (gpa - RAM_HIGH_BASE))
		return ram->host + ram->low_bytes + (gpa - RAM_HIGH_BASE);
	return NULL;
}

int machine_ram_fd(const struct machine *machine) { return machine->ram.fd; }
uint64_t machine_ram_bytes(const struct machine *machine) { return machine->ram.bytes; }
uint64_t machine_ram_file_bytes(const struct machine *machine) { return machine->ram.file_bytes; }

uint64_t machine_ram_discard(struct machine *machine, gpa_t gpa, uint64_t n)
{
	const struct machine_ram *ram = &machine->ram;
	const struct machine_hooks *hooks = &machine->hooks;
	gpa_t from = (gpa + GUEST_PAGE_SIZE - 1) & GUEST_PAGE_MASK, to = (gpa + n) & GUEST_PAGE_MASK;
	uint8_t *host;

	if (gpa + n < gpa || from < gpa || from >= to)
		return 0;
	n = to - from;
	host = ram_host(ram, from, n);
	if (!host || fallocate(ram->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(host - ram->host), (off_t)n) < 0)
		return 0;
	if (hooks->ram_discarded)
		hooks->ram_discarded(hooks->opaque, from, n);
	else
		machine_dma_written(machine, from, n);
	return n;
}

bool machine_dma_read(struct machine *machine, gpa_t gpa, void *buf, uint64_t n)
{
	const void *host = ram_host(&machine->ram, gpa, n);
	if (!host)
		return false;
	memcpy(buf, host, n);
	return true;
}

bool machine_dma_write(struct machine *machine, gpa_t gpa, const void *buf, uint64_t n)
{
	void *host = ram_host(&machine->ram, gpa, n);
	if (!host)
		return false;
	memcpy(host, buf, n);
	machine_dma_written(machine, gpa, n);
	return true;
}

void *machine_dma_map(struct machine *machine, gpa_t gpa, uint64_t n)
{
	return ram_host(&machine->ram, gpa, n);
}

void machine_dma_written(struct machine *machine, gpa_t gpa, uint64_t n)
{
	if (n && machine->hooks.ram_written)
		machine->hooks.ram_written(machine->hooks.opaque, gpa, n);
}

/* Guest memory as KVM's slots: they follow the machine's regions, and log what is written. */
#include "modes/hvm/private.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

static bool same(const struct hvm_slot *s, const struct ram_region *r)
{
	return s->gpa == r->gpa && s->bytes == r->bytes && s->host == r->host && s->readonly == r->readonly;
}

static bool is_logged(const struct hvm_slot *s) { return s->bytes && !s->readonly && !s->device; }

/* bytes 0 takes the slot away. */
static int tell_kvm(const struct mode_vm *vm, unsigned n, uint64_t bytes)
{
	const struct hvm_slot *s = &vm->slot[n];
	struct kvm_userspace_memory_region r = {
		.slot = n,
		.guest_phys_addr = s->gpa,
		.memory_size = bytes,
		.userspace_addr = (uint64_t)(uintptr_t)s->host,
	};

	if (s->readonly)
		r.flags = KVM_MEM_READONLY;
	else if (vm->dirty_log && !s->device)
		r.flags = KVM_MEM_LOG_DIRTY_PAGES;
	return ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &r) < 0 ? -errno : 0;
}

static bool wanted(const struct hvm_slot *s, const struct ram_region *regions, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (same(s, &regions[i]))
			return true;
	return false;
}

static struct hvm_slot *slot_of(struct mode_vm *vm, const struct ram_region *r)
{
	for (unsigned n = 0; n < HVM_SLOTS; n++)
		if (vm->slot[n].bytes && same(&vm->slot[n], r))
			return &vm->slot[n];
	return NULL;
}

static int collect_slot(struct mode_vm *vm, unsigned n, uint64_t *bits, size_t words);

static int add(struct mode_vm *vm, const struct ram_region *r, bool device)
{
	for (unsigned n = 0; n < HVM_SLOTS; n++) {
		if (vm->slot[n].bytes)
			continue;
		vm->slot[n] = (struct hvm_slot){r->gpa, r->bytes, r->host, r->readonly, device};
		int rc = tell_kvm(vm, n, r->bytes);
		if (rc)
			vm->slot[n].bytes = 0;
		return rc;
	}
	BUG_ON(true); /* as many slots as there can be regions */
}

/* Under slot_lock. What the log of a slot that goes knows is kept. */
static int remove_slot(struct mode_vm *vm, unsigned n)
{
	uint64_t *kept = vm->dirty_log ? atomic_load(&vm->dma_dirty) : NULL;

	if (kept && is_logged(&vm->slot[n]))
		collect_slot(vm, n, kept, (machine_ram_file_bytes(vm->machine) / GUEST_PAGE_SIZE + 63) / 64);
	int rc = tell_kvm(vm, n, 0);
	if (!rc)
		vm->slot[n].bytes = 0;
	return rc;
}

/*
 * Between taking a slot away and putting its successor there, other vCPUs find nothing: an access comes to us as MMIO,
 * which hvm_mmio takes to RAM, and an instruction fetch fails, which run.c tries again because slot_changes moved.
 */
int hvm_memory_sync(struct mode_vm *vm)
{
	struct ram_region regions[HVM_SLOTS];
	int rc = 0;

	pthread_mutex_lock(&vm->slot_lock);
	size_t ram = machine_ram_regions(vm->machine, regions, MACHINE_RAM_REGIONS);
	size_t count = ram + machine_windows(vm->machine, regions + ram, MACHINE_WINDOWS);
	atomic_fetch_add(&vm->slot_changes, 1);
	for (unsigned n = 0; n < HVM_SLOTS && !rc; n++)
		if (vm->slot[n].bytes && !wanted(&vm->slot[n], regions, count))
			rc = remove_slot(vm, n);
	for (size_t i = 0; i < ram && !rc; i++)
		if (!slot_of(vm, &regions[i]))
			rc = add(vm, &regions[i], false);
	/* A device's memory that KVM does not take is MMIO. */
	for (size_t i = ram; i < count && !rc; i++)
		if (!slot_of(vm, &regions[i]))
			add(vm, &regions[i], true);
	atomic_fetch_add(&vm->slot_changes, 1);
	pthread_mutex_unlock(&vm->slot_lock);
	return rc;
}

/* ---- accesses that miss the slots --------------------------------------------------------------- */

void hvm_mmio(struct mode_vcpu *vcpu, gpa_t gpa, uint8_t *data, unsigned size, bool write)
{
	struct machine *m = vcpu->vm->machine;
	const struct ram_region *r = machine_ram_find(m, gpa);

	if (r && size <= r->bytes - (gpa - r->gpa) && !(write && r->readonly)) {
		uint8_t *host = r->host + (gpa - r->gpa);

		memcpy(write ? host : data, write ? data : host, size);
		if (write)
			hvm_memory_written(vcpu->vm, gpa, size);
	} else if (write) {
		machine_mmio_write(m, vcpu->index, gpa, data, size);
	} else {
		machine_mmio_read(m, vcpu->index, gpa, data, size);
	}
}

/* ---- what was written ------------------------------------------------------------------------------- */

/* The first byte of RAM: offsets in the RAM file are from there. */
static const uint8_t *ram_base(const struct mode_vm *vm) { return machine_ram_find(vm->machine, 0)->host; }

static void set_bits(uint64_t *bits, uint64_t first, uint64_t last)
{
	for (uint64_t page = first; page <= last; page++)
		__atomic_fetch_or(&bits[page / 64], 1ull << page % 64, __ATOMIC_RELAXED);
}

void hvm_memory_written(struct mode_vm *vm, gpa_t gpa, uint64_t bytes)
{
	uint64_t *bits = atomic_load_explicit(&vm->dma_dirty, memory_order_acquire);
	const uint64_t four_gib = 1ull << 32;

	if (!bits || !bytes)
		return;
	/* RAM above 4 GiB follows what is below the hole; the display's memory, which the guest may move, is the last. */
	uint64_t offset = gpa;
	const struct ram_region *r = machine_ram_find(vm->machine, gpa < four_gib ? gpa : four_gib);
	if (gpa >= four_gib)
		offset = (uint64_t)(r->host - ram_base(vm)) + (gpa - four_gib);
	else if (r && !r->readonly && bytes <= r->bytes - (gpa - r->gpa))
		offset = (uint64_t)(r->host - ram_base(vm)) + (gpa - r->gpa);
	set_bits(bits, offset / GUEST_PAGE_SIZE, (offset + bytes - 1) / GUEST_PAGE_SIZE);
}

/* Under slot_lock: KVM's log of one slot, into the bits of RAM's pages. */
static int collect_slot(struct mode_vm *vm, unsigned n, uint64_t *bits, size_t words)
{
	const struct hvm_slot *s = &vm->slot[n];
	uint64_t pages = s->bytes / GUEST_PAGE_SIZE, at = (uint64_t)(s->host - ram_base(vm)) / GUEST_PAGE_SIZE;
	uint64_t *log = calloc((pages + 63) / 64, 8);
	struct kvm_dirty_log request = {.slot = n, .dirty_bitmap = log};
	int rc = 0;

	if (!log)
		return -ENOMEM;
	if (ioctl(vm->fd, KVM_GET_DIRTY_LOG, &request) < 0)
		rc = -errno;
	for (uint64_t p = 0; !rc && p < pages; p++)
		if (log[p / 64] >> p % 64 & 1 && (at + p) / 64 < words)
			set_bits(bits, at + p, at + p);
	free(log);
	return rc;
}

static int set_log(struct mode_vm *vm, bool on)
{
	int rc = 0;

	vm->dirty_log = on;
	for (unsigned n = 0; n < HVM_SLOTS && !rc; n++)
		if (is_logged(&vm->slot[n]))
			rc = tell_kvm(vm, n, vm->slot[n].bytes);
	return rc;
}

int hvm_dirty_start(struct mode_vm *vm)
{
	size_t words = (machine_ram_file_bytes(vm->machine) / GUEST_PAGE_SIZE + 63) / 64;
	int rc = 0;

	pthread_mutex_lock(&vm->slot_lock);
	uint64_t *bits = atomic_load(&vm->dma_dirty);
	if (vm->dirty_log)
		rc = -EALREADY;
	else if (bits)
		memset(bits, 0, words * 8);
	else
		atomic_store(&vm->dma_dirty, bits = calloc(words, 8));
	if (!rc)
		rc = bits ? set_log(vm, true) : -ENOMEM;
	if (rc && rc != -EALREADY)
		set_log(vm, false);
	pthread_mutex_unlock(&vm->slot_lock);
	return rc;
}

void hvm_dirty_stop(struct mode_vm *vm)
{
	pthread_mutex_lock(&vm->slot_lock);
	/* dma_dirty stays until the VM goes: a device may be about to set a bit. */
	if (vm->dirty_log)
		set_log(vm, false);
	pthread_mutex_unlock(&vm->slot_lock);
}

int hvm_dirty_collect(struct mode_vm *vm, uint64_t *bits, size_t words)
{
	uint64_t *ours = atomic_load(&vm->dma_dirty);
	size_t have = (machine_ram_file_bytes(vm->machine) / GUEST_PAGE_SIZE + 63) / 64;
	int rc = 0;

	pthread_mutex_lock(&vm->slot_lock);
	if (!vm->dirty_log)
		rc = -EINVAL;
	for (unsigned n = 0; n < HVM_SLOTS && !rc; n++)
		if (is_logged(&vm->slot[n]))
			rc = collect_slot(vm, n, bits, words);
	for (size_t i = 0; i < have && i < words && !rc; i++)
		bits[i] |= __atomic_exchange_n(&ours[i], 0, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&vm->slot_lock);
	return rc;
}

/* Passing a device of the host through: who may be, getting hold of it, and what the guest sees; on a make-believe host. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "tests/unit/fake_vfio.h"
#include "machine/vfio/private.h"
#include "tests/unit/machine_fixture.h"

#define SLOT 1u
#define BAR0_GPA 0xc4000000u

/* ---- who may be passed through ------------------------------------------------------------------------ */

static void who_may(void **state)
{
	static const struct {
		const char *tree, *addresses[3];
		const char *words[3]; /* none: it may */
	} cases[] = {
		{"desktop", {"0000:05:00.0"}, {NULL}},
		{"desktop", {"0000:06:00.0"}, {NULL}},
		{"desktop", {"0000:07:00.0"}, {NULL}},
		{"desktop", {"0000:01:00.0", "0000:01:00.1"}, {NULL}},
		{"desktop", {"0000:01:00.0"}, {"shares IOMMU group 1", "0000:01:00.1", "snd_hda_intel"}},
		{"desktop", {"0000:00:01.0"}, {"is a bridge"}},
		{"desktop", {"0000:03:00.0"}, {"network interface enp3s0", "ip link set enp3s0 down"}},
		{"desktop", {"0000:04:00.0"}, {"storage controller", "nvme/unbind"}},
		{"desktop", {"0000:00:14.2"}, {"behind no IOMMU"}},
		{"desktop", {"0000:09:00.0"}, {"no PCI device 0000:09:00.0", "lspci"}},
		{"no-iommu", {"0000:00:03.0"}, {"no IOMMU in use", "intel_iommu=on"}},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct fake_vfio *f = fake_vfio_new(cases[i].tree);
		char all[3][PCI_ADDRESS_BYTES], text[VFIO_ERROR_BYTES] = "";
		struct vfio_found found;
		unsigned n = 0;

		for (; n < 3 && cases[i].addresses[n]; n++)
			assert_true(pci_address_parse(cases[i].addresses[n], all[n]));
		int rc = vfio_find(&f->host, all[0], all, n, &found, text);
		if (cases[i].words[0] ? !rc : rc)
			fail_msg("%s %s: %d %s", cases[i].tree, all[0], rc, text);
		for (unsigned k = 0; k < 3 && cases[i].words[k]; k++)
			if (!strstr(text, cases[i].words[k]))
				fail_msg("%s: no \"%s\" in: %s", all[0], cases[i].words[k], text);
		if (!rc)
			assert_string_equal(found.address, all[0]);
		fake_vfio_free(f);
	}
}

/* ---- getting hold of them --------------------------------------------------------------------------------- */

static void taken_and_given_back(void **state)
{
	struct fake_vfio *f = fake_vfio_new("desktop");
	const char *address = "05:00.0"; /* as people write it */
	struct vfio_claim *claim = NULL;
	char text[VFIO_ERROR_BYTES] = "", driver[64];

	if (vfio_claim_create(&f->host, &address, 1, &claim, text))
		fail_msg("%s", text);
	assert_int_equal(claim->device[0].found.group, 14);
	assert_int_equal(claim->device[0].fd, FAKE_DEVICE);
	vfio_driver(&f->host, "0000:05:00.0", driver, sizeof(driver));
	assert_string_equal(driver, "vfio-pci");
	assert_string_equal(f->log, "bus/pci/devices/0000:05:00.0/driver_override=vfio-pci\n"
				    "bus/pci/drivers/xhci_hcd/unbind=0000:05:00.0\n"
				    "bus/pci/drivers_probe=0000:05:00.0\n"
				    "device 0000:05:00.0\n");
	f->log[0] = '\0';
	vfio_claim_destroy(claim);
	vfio_driver(&f->host, "0000:05:00.0", driver, sizeof(driver));
	assert_string_equal(driver, "xhci_hcd");
	/* Descriptors first: a driver waits for them. */
	assert_string_equal(f->log, "close 1100\nclose 1001\nclose 1000\n"
				    "bus/pci/devices/0000:05:00.0/driver_override=\n"
				    "bus/pci/drivers/vfio-pci/unbind=0000:05:00.0\n"
				    "bus/pci/drivers_probe=0000:05:00.0\n");
	fake_vfio_free(f);
}

/* One that nobody drove gets no driver afterwards. */
static void left_without_a_driver(void **state)
{
	struct fake_vfio *f = fake_vfio_new("desktop");
	const char *address = "0000:06:00.0";
	struct vfio_claim *claim = NULL;
	char text[VFIO_ERROR_BYTES] = "", driver[64];

	if (vfio_claim_create(&f->host, &address, 1, &claim, text))
		fail_msg("%s", text);
	vfio_driver(&f->host, address, driver, sizeof(driver));
	assert_string_equal(driver, "vfio-pci");
	vfio_claim_destroy(claim);
	vfio_driver(&f->host, address, driver, sizeof(driver));
	assert_string_equal(driver, "");
	fake_vfio_free(f);
}

static void refused(const char *tree, const char *address, void (*spoil)(struct fake_vfio *), const char *word)
{
	struct fake_vfio *f = fake_vfio_new(tree);
	struct vfio_claim *claim = NULL;
	char text[VFIO_ERROR_BYTES] = "", before[64], after[64], full[PCI_ADDRESS_BYTES];
	bool parses = pci_address_parse(address, full);

	if (parses)
		vfio_driver(&f->host, full, before, sizeof(before));
	if (spoil)
		spoil(f);
	assert_int_not_equal(vfio_claim_create(&f->host, &address, 1, &claim, text), 0);
	assert_null(claim);
	if (!strstr(text, word))
		fail_msg("no \"%s\" in: %s", word, text);
	if (parses && !f->refuse_bind) {
		vfio_driver(&f->host, full, after, sizeof(after));
		assert_string_equal(before, after);
	}
	fake_vfio_free(f);
}

static void no_container(struct fake_vfio *f) { f->open_container = -ENOENT; }
static void no_type1(struct fake_vfio *f) { f->no_type1 = true; }
static void group_busy(struct fake_vfio *f) { f->open_group = -EBUSY; }
static void group_denied(struct fake_vfio *f) { f->open_group = -EACCES; }
static void not_viable(struct fake_vfio *f) { f->not_viable = true; }
static void no_remapping(struct fake_vfio *f) { f->set_iommu = -EPERM; }
static void denied(struct fake_vfio *f) { f->deny_writes = -EACCES; }
static void not_bound(struct fake_vfio *f) { f->refuse_bind = true; }

static void refusals_name_the_remedy(void **state)
{
	static const struct {
		const char *tree;
		void (*spoil)(struct fake_vfio *);
		const char *word;
	} cases[] = {
		{"desktop", no_container, "modprobe vfio-pci"},
		{"desktop", no_type1, "vfio_iommu_type1"},
		{"desktop", group_busy, "another VM has a device of it"},
		{"desktop", group_denied, "give it to the daemon's user"},
		{"desktop", not_viable, "not viable"},
		{"desktop", no_remapping, "does not remap interrupts"},
		{"desktop", denied, "needs root"},
		{"desktop", not_bound, "did not take it"},
		{"no-driver", NULL, "modprobe vfio-pci"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		refused(cases[i].tree, "0000:05:00.0", cases[i].spoil, cases[i].word);
	refused("desktop", "05:00", NULL, "no PCI address");
	refused("desktop", "0000:05:20.0", NULL, "no PCI address");
}

/* ---- the device in the machine --------------------------------------------------------------------------------- */

struct rig {
	struct fixture *f;
	struct fake_vfio *kernel;
	struct vfio_claim *claim;
};

static void rig_up(struct rig *r, uint64_t ram)
{
	const char *address = "0000:05:00.0";
	char text[VFIO_ERROR_BYTES] = "";

	r->f = fixture_new(ram, 1);
	r->kernel = fake_vfio_new("desktop");
	assert_non_null(r->f);
	if (vfio_claim_create(&r->kernel->host, &address, 1, &r->claim, text) || vfio_device_add(r->f->machine, r->claim, 0, text))
		fail_msg("%s", text);
}

static void rig_down(struct rig *r)
{
	fixture_free(r->f);
	/* Nothing of it interrupts any more, and it does no DMA. */
	assert_int_equal(r->kernel->intx, -1);
	assert_int_equal(r->kernel->msi, -1);
	assert_int_equal(r->kernel->msix[0], -1);
	assert_int_equal(r->kernel->config[4] & 4, 0);
	vfio_claim_destroy(r->claim);
	fake_vfio_free(r->kernel);
}

static void configuration(void **state)
{
	struct rig r;
	struct fixture *f;

	rig_up(&r, 3ull << 30);
	f = r.f;
	assert_true(r.kernel->resets >= 1); /* whatever the host did with it */
	assert_int_equal(pci_get(f, SLOT, 0), 0x10d38086);
	assert_int_equal(pci_get(f, SLOT, 0x2c), 0xa01f8086);
	assert_int_equal(pci_get(f, SLOT, 8) >> 16, 0x0200);
	assert_int_equal(pci_get(f, SLOT, 0x0c) >> 16 & 0xff, 0); /* alone in its slot here */
	/* BARs are this machine's, of the device's sizes. */
	pci_put(f, SLOT, 0x10, 0xffffffff);
	pci_put(f, SLOT, 0x18, 0xffffffff);
	pci_put(f, SLOT, 0x20, 0xffffffff);
	assert_int_equal(pci_get(f, SLOT, 0x10), 0xffff800c);
	assert_int_equal(pci_get(f, SLOT, 0x18), 0xfffff000);
	assert_int_equal(pci_get(f, SLOT, 0x20), 0xffffffe1);
	assert_int_equal(pci_get(f, SLOT, 0x30), 0); /* no ROM */
	assert_int_equal(r.kernel->config[0x12], 0);
	/* The chain is the device's; what would not hold here is changed. */
	assert_int_equal(pci_get(f, SLOT, 0x34) & 0xff, 0xc8);
	assert_int_equal(pci_get(f, SLOT, 0xc8) & 0xffff, 0xd001);
	assert_int_equal(pci_get(f, SLOT, 0xd0), 0x0080e005);	      /* one message, no masks */
	assert_int_equal(pci_get(f, SLOT, 0xe0), 0x0091a010);	      /* of the root complex */
	assert_int_equal(pci_get(f, SLOT, 0xec), 0);		      /* without a link */
	assert_int_equal(pci_get(f, SLOT, 0xa0), 0x00030011);
	assert_int_equal(pci_get(f, SLOT, 0xa4), FAKE_TABLE);
	assert_int_equal(pci_get(f, SLOT, 0xa8), FAKE_PBA);
	/* What is not ours is the device's, in either direction. */
	r.kernel->config[0xcc] = 0x5a;
	assert_int_equal(pci_get(f, SLOT, 0xcc) & 0xff, 0x5a);
	pci_put(f, SLOT, 0xcc, 0x77);
	assert_int_equal(r.kernel->config[0xcc], 0x77);
	pci_put(f, SLOT, 4, 6);
	assert_int_equal(r.kernel->config[4], 6);
	pci_put(f, SLOT, 0x3c, 0x0b);
	assert_int_equal(pci_get(f, SLOT, 0x3c) & 0xffff, 0x010b);
	assert_int_equal(r.kernel->config[0x3c], 0);
	/* Its DMA finds RAM where the guest has it, and nothing in the holes. */
	assert_int_equal(r.kernel->dma[0].iova, 0);
	assert_int_equal(r.kernel->dma[0].bytes, 0xa0000);
	assert_int_equal(r.kernel->dma[1].iova, 0xc0000);
	assert_int_equal(r.kernel->dma[1].bytes, 0x80000000 - 0xc0000);
	assert_int_equal(r.kernel->dma[2].iova, 0x100000000);
	assert_int_equal(r.kernel->dma[2].bytes, 0x40000000);
	assert_int_equal(r.kernel->dma[3].bytes, 0);
	assert_int_equal(r.kernel->dma[2].vaddr, (uintptr_t)machine_dma_map(f->machine, 0x100000000, 4096));
	/* A pause stops its DMA. */
	machine_pause(f->machine);
	assert_int_equal(r.kernel->config[4], 2);
	machine_resume(f->machine);
	assert_int_equal(r.kernel->config[4], 6);
	/* A reset reaches it, too. */
	unsigned resets = r.kernel->resets;
	machine_reset(f->machine);
	assert_int_equal(r.kernel->resets, resets + 1);
	assert_int_equal(r.kernel->config[4], 0);
	rig_down(&r);
}

static void too_little_locked_memory(void **state)
{
	struct rig r = {.f = fixture_new(64 << 20, 1), .kernel = fake_vfio_new("desktop")};
	const char *address = "0000:05:00.0";
	char text[VFIO_ERROR_BYTES] = "";

	r.kernel->map_dma = -ENOMEM;
	assert_int_equal(vfio_claim_create(&r.kernel->host, &address, 1, &r.claim, text), 0);
	assert_int_equal(vfio_device_add(r.f->machine, r.claim, 0, text), -ENOMEM);
	assert_non_null(strstr(text, "64 MiB locked"));
	assert_non_null(strstr(text, "ulimit -l"));
	r.kernel->map_dma = 0;
	memset(&r.kernel->config, 0xff, 4);
	assert_int_equal(vfio_device_add(r.f->machine, r.claim, 0, text), -EIO);
	assert_non_null(strstr(text, "does not answer"));
	fixture_free(r.f);
	vfio_claim_destroy(r.claim);
	fake_vfio_free(r.kernel);
}

/* How much of the BARs the engine may map, and where the first piece is. */
static uint64_t windows(struct fixture *f, gpa_t *ret_first)
{
	struct ram_region w[MACHINE_WINDOWS];
	size_t n = machine_windows(f->machine, w, ARRAY_SIZE(w));
	uint64_t bytes = 0;

	for (size_t i = 0; i < n; i++)
		bytes += w[i].bytes;
	if (ret_first)
		*ret_first = n ? w[0].gpa : 0;
	return bytes;
}

static void memory(void **state)
{
	struct rig r;
	struct fixture *f;
	gpa_t first;

	rig_up(&r, 64 << 20);
	f = r.f;
	assert_int_equal(windows(f, NULL), 0);
	pci_put(f, SLOT, 0x10, BAR0_GPA);
	pci_put(f, SLOT, 0x14, 0);
	pci_put(f, SLOT, 0x18, 0xc5000000);
	pci_put(f, SLOT, 0x20, 0xc100);
	unsigned changes = f->map_changes;
	pci_put(f, SLOT, 4, 7);
	/* All of BAR 0 but the page with the MSI-X table. */
	assert_true(f->map_changes > changes);
	assert_int_equal(windows(f, &first), FAKE_BAR0_BYTES - 0x1000);
	assert_int_equal(first, BAR0_GPA);
	/* Read and written where nothing is mapped. */
	mmio32_set(f, 0, BAR0_GPA + 0x10, 0x12345678);
	assert_int_equal(*(uint32_t *)(void *)(r.kernel->bar0 + 0x10), 0x12345678);
	mmio32_set(f, 0, 0xc5000008, 0xabcd);
	assert_int_equal(r.kernel->bar2[8], 0xcd);
	assert_int_equal(mmio32(f, 0, 0xc5000008), 0xabcd);
	assert_int_equal(mmio32(f, 0, 0xc5000100), 0xffffffff); /* behind its end */
	out8(f, 0xc103, 0x99);
	assert_int_equal(r.kernel->bar4[3], 0x99);
	/* The table is ours. */
	mmio32_set(f, 0, BAR0_GPA + FAKE_TABLE, 0xfee00000);
	assert_int_equal(r.kernel->bar0[FAKE_TABLE + 3], 0);
	/* Moved; laid over RAM, where RAM wins; switched off. */
	pci_put(f, SLOT, 0x10, BAR0_GPA + 0x100000);
	assert_int_equal(windows(f, &first), FAKE_BAR0_BYTES - 0x1000);
	assert_int_equal(first, BAR0_GPA + 0x100000);
	pci_put(f, SLOT, 0x10, 0x200000);
	assert_int_equal(windows(f, NULL), 0);
	pci_put(f, SLOT, 0x10, BAR0_GPA);
	assert_int_equal(windows(f, NULL), FAKE_BAR0_BYTES - 0x1000);
	pci_put(f, SLOT, 4, 0);
	assert_int_equal(windows(f, NULL), 0);
	pci_assign_bars(f->machine);
	assert_int_equal(r.kernel->config[4] & 3, 3);
	assert_int_equal(windows(f, NULL), FAKE_BAR0_BYTES - 0x1000);
	rig_down(&r);
}

static void msix(void **state)
{
	struct rig r;
	struct fixture *f;

	rig_up(&r, 64 << 20);
	f = r.f;
	lapic_on(f, 0);
	pci_put(f, SLOT, 0x10, BAR0_GPA);
	pci_put(f, SLOT, 4, 6);
	pci_put(f, SLOT, 0xa0, 0x80000000);
	assert_int_equal(r.kernel->intx, -1); /* one kind at a time */
	for (unsigned i = 0; i < FAKE_VECTORS; i++) {
		assert_true(r.kernel->msix[i] >= 0);
		mmio32_set(f, 0, BAR0_GPA + FAKE_TABLE + 16 * i, 0xfee00000);
		mmio32_set(f, 0, BAR0_GPA + FAKE_TABLE + 16 * i + 8, 0x81 + i);
	}
	/* Masked: pending. Then sent. */
	eventfd_signal(r.kernel->msix[2]);
	assert_int_equal(mmio32(f, 0, BAR0_GPA + FAKE_PBA), 4);
	assert_int_equal(take(f, 0), -1);
	for (unsigned i = 0; i < FAKE_VECTORS; i++)
		mmio32_set(f, 0, BAR0_GPA + FAKE_TABLE + 16 * i + 12, 0);
	assert_int_equal(take(f, 0), 0x83);
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	eventfd_signal(r.kernel->msix[0]);
	assert_true(await(f, 0));
	assert_int_equal(take(f, 0), 0x81);
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	/* Off: the line again. On, where the host has fewer vectors left: as many as there are. */
	pci_put(f, SLOT, 0xa0, 0);
	assert_int_equal(r.kernel->msix[0], -1);
	assert_true(r.kernel->intx >= 0);
	r.kernel->vectors_left = 2;
	pci_put(f, SLOT, 0xa0, 0x80000000);
	assert_true(r.kernel->msix[1] >= 0);
	assert_int_equal(r.kernel->msix[2], -1);
	machine_reset(f->machine);
	assert_int_equal(r.kernel->msix[0], -1);
	rig_down(&r);
}

static void msi(void **state)
{
	struct rig r;
	struct fixture *f;

	rig_up(&r, 64 << 20);
	f = r.f;
	lapic_on(f, 0);
	pci_put(f, SLOT, 4, 6);
	pci_put(f, SLOT, 0xd4, 0xfee00000);
	pci_put(f, SLOT, 0xd8, 0);
	pci_put(f, SLOT, 0xdc, 0x71);
	assert_int_equal(r.kernel->msi, -1);
	pci_put(f, SLOT, 0xd0, 0x00010000);
	assert_true(r.kernel->msi >= 0);
	assert_int_equal(r.kernel->config[0xd4], 0); /* the address is the guest's affair */
	eventfd_signal(r.kernel->msi);
	assert_true(await(f, 0));
	assert_int_equal(take(f, 0), 0x71);
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	pci_put(f, SLOT, 0xdc, 0x72);
	eventfd_signal(r.kernel->msi);
	assert_true(await(f, 0));
	assert_int_equal(take(f, 0), 0x72);
	pci_put(f, SLOT, 0xd0, 0);
	assert_int_equal(r.kernel->msi, -1);
	rig_down(&r);
}

static void sleep_ms(unsigned ms)
{
	const struct timespec ts = {.tv_nsec = (long)ms * 1000000};

	nanosleep(&ts, NULL);
}

static void line(void **state)
{
	struct rig r;
	struct fixture *f;
	unsigned gsi = 16 + pci_intx_pirq(SLOT, 0);

	rig_up(&r, 64 << 20);
	f = r.f;
	lapic_on(f, 0);
	pci_put(f, SLOT, 0x10, BAR0_GPA);
	pci_put(f, SLOT, 4, 6);
	ioapic_route(f, gsi, 0x8000 | 0x71);
	assert_true(r.kernel->intx >= 0);
	for (unsigned i = 1; i <= 2; i++) {
		eventfd_signal(r.kernel->intx);
		assert_true(await(f, 0));
		assert_int_equal(take(f, 0), 0x71);
		/* While it is up, accesses are seen; the first lowers it and lets the device raise it again. */
		assert_int_equal(windows(f, NULL), 0);
		assert_int_equal(r.kernel->unmasks, i - 1);
		mmio32(f, 0, BAR0_GPA + 0xc0);
		assert_int_equal(r.kernel->unmasks, i);
		mmio32(f, 0, BAR0_GPA + 0xc0);
		assert_int_equal(r.kernel->unmasks, i);
		mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
		assert_int_equal(take(f, 0), -1);
	}
	/* Quiet again, they need not be seen. */
	uint64_t bytes = 0;
	for (unsigned i = 0; i < 2000 && !bytes; i++) {
		machine_lock(f->machine);
		bytes = windows(f, NULL);
		machine_unlock(f->machine);
		sleep_ms(5);
	}
	assert_int_equal(bytes, FAKE_BAR0_BYTES - 0x1000);
	rig_down(&r);
}

/* Any access a guest might make to the device's registers and configuration; whatever it enables, one kind of interrupt is on. */
static void hostile(void **state)
{
	struct rig r;
	uint64_t seed = 20040101;

	rig_up(&r, 64 << 20);
	for (unsigned i = 0; i < 60000; i++) {
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		uint32_t value = (uint32_t)(seed >> 32), at = value >> 8;
		static const uint8_t favourites[] = {4, 4, 0x10, 0x14, 0x18, 0x20, 0xa0, 0xa2, 0xd0, 0xd2, 0xd4, 0xdc, 0xe8, 0xcc};
		unsigned reg = seed >> 20 & 1 ? favourites[at % ARRAY_SIZE(favourites)] : at & 0xff;

		switch (seed >> 16 & 7) {
		case 0:
		case 1:
		case 2: pci_put(r.f, SLOT, reg & 0xfc, value); break;
		case 3:
			out32(r.f, 0xcf8, 0x80000000u | SLOT << 11 | (reg & 0xfc));
			if (seed >> 24 & 1)
				out16(r.f, 0xcfc + (reg & 2), value);
			else
				out8(r.f, 0xcfc + (reg & 3), value);
			break;
		case 4: pci_get(r.f, SLOT, reg & 0xfc); break;
		case 5: pci_put(r.f, SLOT, 0x10, BAR0_GPA + (value & 0xff8000)); break;
		case 6:
			mmio32_set(r.f, 0, r.f->machine->pci.device[SLOT * 8]->bar[0].range.base + (at & 0x7ffc), value);
			break;
		case 7:
			if (r.kernel->intx >= 0 && (seed >> 24 & 7) == 0)
				eventfd_signal(r.kernel->intx);
			if (r.kernel->msix[1] >= 0 && (seed >> 24 & 7) == 1)
				eventfd_signal(r.kernel->msix[1]);
			if ((value & 0xfff) == 0)
				machine_reset(r.f->machine);
			break;
		}
		/* The make-believe kernel refuses what the real one would; nothing may have been refused. */
		machine_lock(r.f->machine);
		struct vfio_device *d = r.f->machine->pci.device[SLOT * 8]->opaque;
		assert_int_equal(d->interrupts_refused, 0);
		machine_unlock(r.f->machine);
	}
	machine_reset(r.f->machine);
	rig_down(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_may), cmocka_unit_test(taken_and_given_back), cmocka_unit_test(left_without_a_driver), cmocka_unit_test(refusals_name_the_remedy),
		cmocka_unit_test(configuration), cmocka_unit_test(too_little_locked_memory), cmocka_unit_test(memory),
		cmocka_unit_test(msix), cmocka_unit_test(msi), cmocka_unit_test(line), cmocka_unit_test(hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

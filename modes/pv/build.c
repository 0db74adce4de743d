/*
 * The domain builder: gives the guest its memory, puts the kernel, its module, the list of its frames, start_info, the rings
 * and its first page tables into it, and makes the first vCPU ready at the kernel's entry (xen.h, "start-of-day").
 */
#include "modes/pv/build.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "modes/pv/store.h"

#define POOL_FIRST 0x100u /* 1 MiB: below it is what a PC has there */
#define LARGE_FRAMES 512u
#define PAD_BYTES (512u << 10)
#define MAP_ALIGN (4ull << 20)
#define ROOM_MIN (8ull << 20)
#define TABLES_MAX 4096u
#define MODULES_MAX 64u

struct builder {
	struct pv_domain *d;
	const struct machine_boot *boot;
	struct pv_image image;
	uint8_t *kernel, *module;
	size_t kernel_bytes, module_bytes;
	mfn_t *p2m; /* of each of the guest's frames; the guest's own list is a copy */
	uint64_t pages;
	/* Where things lie, as frame numbers of the guest's own. */
	uint64_t module_pfn, p2m_pfn, p2m_frames, info_pfn, store_pfn, console_pfn, tables_pfn, stack_pfn, end_pfn;
	unsigned tables, tables_used;
	char *why;
};

__attribute__((format(printf, 3, 4))) static int refuse(struct builder *b, int rc, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(b->why, PV_WHY_BYTES, format, ap);
	va_end(ap);
	return rc;
}

static uint8_t *page(const struct builder *b, uint64_t pfn) { return pv_frame_host(b->d, b->p2m[pfn]); }
static gva_t gva_of(const struct builder *b, uint64_t pfn) { return b->image.virt_base + (pfn << GUEST_PAGE_SHIFT); }
static uint64_t pages_of(uint64_t bytes) { return (bytes + GUEST_PAGE_SIZE - 1) >> GUEST_PAGE_SHIFT; }

/* ---- the monitor's own memory ------------------------------------------------------------- */

static uint64_t *table(const struct pv_domain *d, mfn_t mfn) { return (uint64_t *)(void *)pv_frame_host(d, mfn); }

/* The machine-to-physical list, readable to the guest, by large pages; and a place for descriptor tables. */
static void reserve_space(struct pv_domain *d)
{
	mfn_t l2 = pv_pool_take(d, false);
	uint64_t *gdt;

	d->m2p_l3 = pv_pool_take(d, false);
	table(d, d->m2p_l3)[0] = l2 << GUEST_PAGE_SHIFT | PTE_P | PTE_U | PTE_A;
	for (uint64_t i = 0; i < d->m2p_bytes / MACHINE_LARGE_PAGE; i++)
		table(d, l2)[i] = (d->m2p_frame + i * LARGE_FRAMES) << GUEST_PAGE_SHIFT | PTE_P | PTE_U | PTE_A | PTE_D | PTE_PS | PTE_G | PTE_NX;
	d->tables_l3 = pv_pool_take(d, false);
	l2 = pv_pool_take(d, false);
	d->tables_l1 = pv_pool_take(d, false);
	table(d, d->tables_l3)[0] = l2 << GUEST_PAGE_SHIFT | PTE_P | PTE_W | PTE_A;
	table(d, l2)[0] = d->tables_l1 << GUEST_PAGE_SHIFT | PTE_P | PTE_W | PTE_A;
	d->gdt_page = pv_pool_take(d, false);
	gdt = table(d, d->gdt_page);
	gdt[(FLAT_RING3_CS32 - FIRST_RESERVED_GDT_BYTE) / 8] = 0x00cffb000000ffffull;
	gdt[(FLAT_RING3_DS32 - FIRST_RESERVED_GDT_BYTE) / 8] = 0x00cff3000000ffffull;
	gdt[(FLAT_RING3_CS64 - FIRST_RESERVED_GDT_BYTE) / 8] = 0x00affb000000ffffull;
}

/* Frames by number: the monitor's first, then the guest's. */
static int divide(struct builder *b)
{
	struct pv_domain *d = b->d;
	uint64_t pages = 0;
	mfn_t first;

	memset(d->frame, 0, d->frames * sizeof(d->frame[0]));
	memset(d->m2p, 0xff, d->m2p_bytes);
	d->pool_next = POOL_FIRST;
	d->pool_end = d->m2p_frame;
	first = d->m2p_frame + d->m2p_bytes / GUEST_PAGE_SIZE;
	for (mfn_t mfn = first; mfn < d->frames; mfn++) {
		if (!pv_frame_host(d, mfn))
			continue;
		d->frame[mfn].guest = true;
		d->m2p[mfn] = pages;
		b->p2m[pages++] = mfn;
	}
	b->pages = d->pages = d->max_pages = pages;
	reserve_space(d);
	return 0;
}

/* ---- where things go --------------------------------------------------------------------------- */

/* Tables of one level for [from, to). */
static unsigned tables_for(gva_t from, gva_t to, unsigned shift) { return (unsigned)(((to - 1) >> shift) - (from >> shift)) + 1; }

/* Enough of them: ranges that share a table count it twice. */
static unsigned count_tables(const struct builder *b, gva_t end)
{
	const struct pv_image *i = &b->image;
	unsigned n = 1;

	for (unsigned shift = 21; shift <= 39; shift += 9) {
		n += tables_for(i->virt_base, end, shift);
		if (i->init_p2m)
			n += tables_for(i->init_p2m, i->init_p2m + (b->p2m_frames << GUEST_PAGE_SHIFT), shift);
	}
	return n;
}

static int lay_out(struct builder *b)
{
	const struct pv_image *i = &b->image;
	uint64_t at = pages_of(i->end - i->virt_base);

	b->p2m_frames = pages_of(b->pages * sizeof(uint64_t));
	if (b->module && !i->mod_start_pfn) {
		b->module_pfn = at;
		at += pages_of(b->module_bytes);
	}
	if (!i->init_p2m) {
		b->p2m_pfn = at;
		at += b->p2m_frames;
	}
	b->info_pfn = at++;
	b->store_pfn = at++;
	b->console_pfn = at++;
	b->tables_pfn = at;
	/* The tables map themselves too. */
	for (unsigned n = 0;; n = b->tables) {
		gva_t end = gva_of(b, at + n + 1) + PAD_BYTES;

		end = (end + MAP_ALIGN - 1) & ~(MAP_ALIGN - 1);
		b->tables = count_tables(b, end);
		b->end_pfn = (end - i->virt_base) >> GUEST_PAGE_SHIFT;
		if (b->tables <= n || b->tables > TABLES_MAX) {
			b->tables = n;
			break;
		}
	}
	b->stack_pfn = at + b->tables;
	at = b->end_pfn;
	if (i->init_p2m) {
		b->p2m_pfn = at;
		at += b->p2m_frames;
	}
	if (b->module && i->mod_start_pfn) {
		b->module_pfn = at;
		at += pages_of(b->module_bytes);
	}
	if (i->end < i->virt_base || at + (ROOM_MIN >> GUEST_PAGE_SHIFT) > b->pages)
		return refuse(b, -ENOSPC, "kernel %s needs %llu MiB to begin with, with its module and page tables: give the VM more memory",
			      b->boot->kernel, (unsigned long long)((at << GUEST_PAGE_SHIFT) + ROOM_MIN) >> 20);
	return 0;
}

/* ---- contents -------------------------------------------------------------------------------------- */

static void put_bytes(struct builder *b, uint64_t pfn, uint64_t offset, const uint8_t *from, uint64_t n)
{
	pfn += offset >> GUEST_PAGE_SHIFT;
	offset &= ~GUEST_PAGE_MASK;
	while (n) {
		uint64_t part = GUEST_PAGE_SIZE - offset < n ? GUEST_PAGE_SIZE - offset : n;

		memcpy(page(b, pfn++) + offset, from, part);
		from += part;
		n -= part;
		offset = 0;
	}
}

void pv_hypercall_page(uint8_t *ret_page)
{
	static const uint8_t enter[] = {0x51, 0x41, 0x53}; /* push rcx, push r11 */
	static const uint8_t leave[] = {0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3}; /* syscall, pop r11, pop rcx, ret */

	memset(ret_page, 0xcc, GUEST_PAGE_SIZE);
	for (uint32_t i = 0; i < GUEST_PAGE_SIZE / 32; i++) {
		uint8_t *p = ret_page + i * 32;

		memcpy(p, enter, sizeof(enter));
		p += sizeof(enter);
		if (i == __HYPERVISOR_iret)
			*p++ = 0x50; /* push rax */
		*p++ = 0xb8; /* mov eax, i */
		memcpy(p, &i, sizeof(i));
		p += sizeof(i);
		memcpy(p, leave, i == __HYPERVISOR_iret ? 2 : sizeof(leave));
	}
}

static void put_kernel(struct builder *b)
{
	const struct pv_image *i = &b->image;

	/* Fresh to begin with, and after a reset. */
	for (uint64_t pfn = 0; pfn < b->end_pfn; pfn++)
		memset(page(b, pfn), 0, GUEST_PAGE_SIZE);
	for (unsigned k = 0; k < i->segments; k++)
		put_bytes(b, 0, i->segment[k].gva - i->virt_base, b->kernel + i->segment[k].offset, i->segment[k].filesz);
	if (b->module)
		put_bytes(b, b->module_pfn, 0, b->module, b->module_bytes);
	put_bytes(b, b->p2m_pfn, 0, (const uint8_t *)b->p2m, b->pages * sizeof(uint64_t));
	if (i->hypercall_page)
		pv_hypercall_page(page(b, (i->hypercall_page - i->virt_base) >> GUEST_PAGE_SHIFT));
}

/* ---- page tables --------------------------------------------------------------------------------------- */

static mfn_t new_table(struct builder *b)
{
	BUG_ON(b->tables_used == b->tables);
	return b->p2m[b->tables_pfn + b->tables_used++];
}

static void map(struct builder *b, gva_t gva, uint64_t pfn)
{
	uint64_t *t = table(b->d, b->p2m[b->tables_pfn]);
	bool is_table = pfn >= b->tables_pfn && pfn < b->tables_pfn + b->tables;

	for (unsigned shift = 39; shift > 12; shift -= 9) {
		uint64_t *e = &t[gva >> shift & 511];

		if (!*e)
			*e = new_table(b) << GUEST_PAGE_SHIFT | PTE_P | PTE_W | PTE_U | PTE_A;
		t = table(b->d, (*e & PTE_FRAME) >> GUEST_PAGE_SHIFT);
	}
	t[gva >> 12 & 511] = b->p2m[pfn] << GUEST_PAGE_SHIFT | PTE_P | (is_table ? 0 : PTE_W) | PTE_A | PTE_D;
}

static int put_tables(struct builder *b)
{
	struct pv_vcpu *p = b->d->vcpu[0];
	mfn_t root = new_table(b);
	int rc;

	for (uint64_t pfn = 0; pfn < b->end_pfn; pfn++)
		map(b, gva_of(b, pfn), pfn);
	for (uint64_t i = 0; b->image.init_p2m && i < b->p2m_frames; i++)
		map(b, b->image.init_p2m + (i << GUEST_PAGE_SHIFT), b->p2m_pfn + i);
	rc = pv_get_typed(p, root, PV_TYPE_L4);
	if (!rc)
		rc = pv_get_typed(p, root, PV_TYPE_L4);
	if (rc)
		return refuse(b, -EINVAL, "kernel %s: its address space cannot be built: virtual base %#llx", b->boot->kernel,
			      (unsigned long long)b->image.virt_base);
	b->d->frame[root].pinned = true;
	p->kernel_root = root;
	p->user_root = 0;
	return 0;
}

/* ---- what it is told ---------------------------------------------------------------------------------------- */

static void put_start_info(struct builder *b)
{
	const struct pv_image *i = &b->image;
	struct pv_domain *d = b->d;
	struct start_info *s = (struct start_info *)(void *)page(b, b->info_pfn);

	snprintf(s->magic, sizeof(s->magic), "xen-3.0-x86_64");
	s->nr_pages = b->pages;
	s->shared_info = d->shared_mfn << GUEST_PAGE_SHIFT;
	s->store_mfn = b->p2m[b->store_pfn];
	s->store_evtchn = d->store_port;
	s->console.domU.mfn = b->p2m[b->console_pfn];
	s->console.domU.evtchn = d->console_port;
	s->pt_base = gva_of(b, b->tables_pfn);
	s->nr_pt_frames = b->tables_used;
	s->mfn_list = i->init_p2m ? i->init_p2m : gva_of(b, b->p2m_pfn);
	if (i->init_p2m) {
		s->first_p2m_pfn = b->p2m_pfn;
		s->nr_p2m_frames = b->p2m_frames;
	}
	if (b->module) {
		s->mod_start = i->mod_start_pfn ? b->module_pfn : gva_of(b, b->module_pfn);
		s->mod_len = b->module_bytes;
		s->flags |= i->mod_start_pfn ? SIF_MOD_START_PFN : 0;
		s->flags |= b->boot->module_count ? SIF_MULTIBOOT_MOD : 0;
	}
	snprintf((char *)s->cmd_line, sizeof(s->cmd_line), "%s", b->boot->cmdline ? b->boot->cmdline : "");
}

static void put_shared_info(struct pv_domain *d)
{
	d->shared_mfn = pv_pool_take(d, true);
	d->shared = (volatile struct shared_info *)(volatile void *)pv_frame_host(d, d->shared_mfn);
	for (unsigned i = 0; i < XEN_LEGACY_MAX_VCPUS; i++)
		d->shared->vcpu_info[i].evtchn_upcall_mask = 1;
	for (unsigned i = 0; i < d->vcpus; i++) {
		d->vcpu[i]->info = &d->shared->vcpu_info[i];
		pv_time_publish(d->vcpu[i]);
		pv_map_gdt(d->vcpu[i]);
	}
	pv_wallclock_publish(d);
}

static void start_vcpu(struct builder *b, struct cpu_state *cs)
{
	struct pv_vcpu *p = b->d->vcpu[0];

	pv_first_state(p, cs);
	cs->rip = b->image.entry;
	cs->gpr[GPR_RSI] = gva_of(b, b->info_pfn);
	cs->gpr[GPR_RSP] = gva_of(b, b->stack_pfn + 1);
	p->online = p->initialised = true;
}

/* ---- all of it ---------------------------------------------------------------------------------------------- */

/* Appends to the module, at the next page if `page`; where it lies. -ENOMEM. */
static int append(struct builder *b, const void *bytes, size_t n, bool aligned, uint32_t *ret_at)
{
	size_t at = aligned ? (b->module_bytes + GUEST_PAGE_SIZE - 1) & GUEST_PAGE_MASK : b->module_bytes;
	uint8_t *more = at + n <= UINT32_MAX ? realloc(b->module, at + n) : NULL;

	if (!more)
		return -ENOMEM;
	memset(more + b->module_bytes, 0, at - b->module_bytes);
	memcpy(more + at, bytes, n);
	b->module = more;
	b->module_bytes = at + n;
	*ret_at = (uint32_t)at;
	return 0;
}

/*
 * Multiboot modules: a list with an end mark, the modules' words and the modules behind it, all places counted from the
 * list's start (what PV-GRUB leaves, and GNU Mach reads).
 */
static int read_modules(struct builder *b, const char **ret_error)
{
	struct xen_multiboot_mod_list list[MODULES_MAX + 1] = {0};
	unsigned n = b->boot->module_count;
	uint32_t at;
	int rc;

	if (n > MODULES_MAX)
		return refuse(b, -E2BIG, "%u modules are too many: at most %u", n, MODULES_MAX);
	rc = append(b, list, (n + 1) * sizeof(list[0]), false, &at);
	for (unsigned i = 0; !rc && i < n; i++) {
		const struct machine_module *m = &b->boot->modules[i];
		const char *words = m->cmdline ? m->cmdline : m->path;
		uint8_t *data;
		size_t bytes;

		rc = machine_boot_file(b->d->machine, "module", m->path, &data, &bytes, ret_error);
		if (rc)
			return rc;
		rc = append(b, words, strlen(words) + 1, false, &list[i].cmdline);
		if (!rc)
			rc = append(b, data, bytes, true, &list[i].mod_start);
		list[i].mod_end = list[i].mod_start + (uint32_t)bytes;
		free(data);
	}
	if (rc)
		return refuse(b, rc, "no memory for the guest's modules");
	memcpy(b->module, list, (n + 1) * sizeof(list[0]));
	return 0;
}

static int read_files(struct builder *b, const char **ret_error)
{
	char why[128];
	int rc;

	if (b->boot->firmware || !b->boot->kernel)
		return refuse(b, -EINVAL, "mode pv boots a kernel with Xen's PV entry: give the VM a kernel, and no firmware");
	if (b->boot->module_count && b->boot->initrd)
		return refuse(b, -EINVAL, "mode pv takes an initrd or modules, not both");
	rc = machine_kernel_image(b->d->machine, b->boot->kernel, &b->kernel, &b->kernel_bytes, ret_error);
	if (!rc && b->boot->initrd)
		rc = machine_boot_file(b->d->machine, "initrd", b->boot->initrd, &b->module, &b->module_bytes, ret_error);
	if (!rc && b->boot->module_count)
		rc = read_modules(b, ret_error);
	if (rc)
		return rc;
	rc = pv_image_parse(b->kernel, b->kernel_bytes, &b->image, why, sizeof(why));
	return rc ? refuse(b, rc, "kernel %s cannot run in mode pv: %s", b->boot->kernel, why) : 0;
}

static int build(struct builder *b, struct cpu_state *cs, const char **ret_error)
{
	struct pv_domain *d = b->d;
	int rc = read_files(b, ret_error);

	if (!rc)
		rc = divide(b);
	if (!rc)
		rc = lay_out(b);
	if (rc)
		return rc;
	put_shared_info(d);
	put_kernel(b);
	d->console = (volatile struct xencons_interface *)(volatile void *)page(b, b->console_pfn);
	d->store_ring = (volatile struct xenstore_domain_interface *)(volatile void *)page(b, b->store_pfn);
	rc = pv_console_start(d);
	if (!rc)
		rc = pv_store_ring_start(d, d->xenstore);
	if (!rc)
		rc = pv_devices_start(d);
	if (!rc)
		rc = put_tables(b);
	if (rc)
		return rc;
	put_start_info(b);
	start_vcpu(b, cs);
	return 0;
}

int pv_build(struct pv_domain *d, const struct machine_boot *boot, struct cpu_state *ret_bsp, const char **ret_error)
{
	static _Thread_local char why[PV_WHY_BYTES];
	struct builder b = {.d = d, .boot = boot, .why = why};
	int rc;

	*ret_error = why;
	b.p2m = calloc(machine_ram_bytes(d->machine) >> GUEST_PAGE_SHIFT, sizeof(b.p2m[0]));
	if (!b.p2m)
		return refuse(&b, -ENOMEM, "no memory for the list of the guest's frames");
	rc = build(&b, ret_bsp, ret_error);
	free(b.p2m);
	free(b.kernel);
	free(b.module);
	return rc;
}

int pv_find_memory(struct pv_domain *d)
{
	struct ram_region all[MACHINE_RAM_REGIONS];
	size_t n = machine_ram_regions(d->machine, all, ARRAY_SIZE(all));

	for (size_t i = 0; i < n; i++) {
		if (all[i].readonly || all[i].gpa + all[i].bytes <= POOL_FIRST << GUEST_PAGE_SHIFT || d->regions == ARRAY_SIZE(d->region))
			continue;
		if (all[i].gpa < POOL_FIRST << GUEST_PAGE_SHIFT) {
			uint64_t below = (POOL_FIRST << GUEST_PAGE_SHIFT) - all[i].gpa;

			all[i].gpa += below;
			all[i].host += below;
			all[i].bytes -= below;
		}
		d->region[d->regions++] = all[i];
		d->frames = (all[i].gpa + all[i].bytes) >> GUEST_PAGE_SHIFT;
	}
	d->m2p_frame = LARGE_FRAMES;
	d->m2p_bytes = (d->frames * sizeof(d->m2p[0]) + MACHINE_LARGE_PAGE - 1) & ~(uint64_t)(MACHINE_LARGE_PAGE - 1);
	if (!d->regions || d->region[0].gpa > POOL_FIRST << GUEST_PAGE_SHIFT ||
	    d->region[0].bytes < (1u << 20) + d->m2p_bytes + ROOM_MIN)
		return -ENOSPC;
	d->m2p = (uint64_t *)(void *)pv_frame_host(d, d->m2p_frame);
	d->frame = calloc(d->frames, sizeof(d->frame[0]));
	return d->frame ? 0 : -ENOMEM;
}

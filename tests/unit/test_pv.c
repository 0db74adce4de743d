/* A Xen PV domain without a guest that runs: what its kernel says of itself, how it is built, page types, events, the store. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "modes/mode.h"
#include "modes/pv/build.h"
#include "modes/pv/store.h"

#define BASE 0x40000000ull
#define ENTRIES 512u

/* ---- an image -------------------------------------------------------------------------- */

struct note {
	Elf64_Nhdr header;
	char name[4];
	uint64_t value;
};

/* A kernel of one segment of three pages, with notes or with an old section. */
struct kernel {
	Elf64_Ehdr eh;
	Elf64_Phdr ph[2];
	struct note note[4];
	char guest[80], names[32];
	Elf64_Shdr section[3];
	uint8_t code[3 * 4096];
};

static struct note note(uint32_t type, uint64_t value)
{
	return (struct note){.header = {.n_namesz = 4, .n_descsz = 8, .n_type = type}, .name = "Xen", .value = value};
}

static struct kernel make_kernel(bool notes)
{
	struct kernel k = {.eh = {.e_ident = ELFMAG, .e_type = ET_EXEC, .e_machine = EM_X86_64, .e_version = 1, .e_entry = BASE + 16,
				  .e_phoff = offsetof(struct kernel, ph), .e_ehsize = sizeof(Elf64_Ehdr), .e_phentsize = sizeof(Elf64_Phdr),
				  .e_phnum = notes ? 2 : 1, .e_shoff = offsetof(struct kernel, section), .e_shentsize = sizeof(Elf64_Shdr),
				  .e_shnum = 3, .e_shstrndx = 1}};

	k.eh.e_ident[EI_CLASS] = ELFCLASS64;
	k.eh.e_ident[EI_DATA] = ELFDATA2LSB;
	k.ph[0] = (Elf64_Phdr){.p_type = PT_LOAD, .p_offset = offsetof(struct kernel, code), .p_paddr = BASE, .p_vaddr = BASE,
			       .p_filesz = sizeof(k.code), .p_memsz = sizeof(k.code) + 100};
	k.ph[1] = (Elf64_Phdr){.p_type = PT_NOTE, .p_offset = offsetof(struct kernel, note), .p_filesz = sizeof(k.note)};
	k.note[0] = note(XEN_ELFNOTE_VIRT_BASE, BASE);
	k.note[1] = note(XEN_ELFNOTE_PADDR_OFFSET, BASE);
	k.note[2] = note(XEN_ELFNOTE_ENTRY, BASE + 32);
	k.note[3] = note(XEN_ELFNOTE_HYPERCALL_PAGE, BASE + 4096);
	strcpy(k.guest, "GUEST_OS=Mine,VIRT_BASE=0x40000000,HYPERCALL_PAGE=0x2,LOADER=generic");
	memcpy(k.names, "\0.names\0__xen_guest", 20);
	k.section[1] = (Elf64_Shdr){.sh_type = SHT_STRTAB, .sh_name = 1, .sh_offset = offsetof(struct kernel, names), .sh_size = sizeof(k.names)};
	k.section[2] = (Elf64_Shdr){.sh_type = SHT_PROGBITS, .sh_name = 8, .sh_offset = offsetof(struct kernel, guest), .sh_size = sizeof(k.guest)};
	memset(k.code, 0xf4, sizeof(k.code));
	return k;
}

static int parse(const struct kernel *k, size_t n, struct pv_image *ret, char why[128])
{
	uint8_t *copy = malloc(n ? n : 1); /* a sanitizer sees what is read beyond it */
	int rc;

	memcpy(copy, k, n);
	rc = pv_image_parse(copy, n, ret, why, 128);
	free(copy);
	return rc;
}

static void images(void **state)
{
	struct kernel k = make_kernel(true);
	struct pv_image i;
	char why[128];

	assert_int_equal(parse(&k, sizeof(k), &i, why), 0);
	assert_false(i.legacy);
	assert_true(i.virt_base == BASE && i.entry == BASE + 32 && i.hypercall_page == BASE + 4096);
	assert_true(i.start == BASE && i.end == BASE + sizeof(k.code) + 100 && i.segments == 1);
	k = make_kernel(false);
	assert_int_equal(parse(&k, sizeof(k), &i, why), 0);
	assert_true(i.legacy && i.entry == BASE + 16 && i.hypercall_page == BASE + 2 * 4096 && i.paddr_offset == BASE);
	assert_string_equal(i.os, "Mine");
	/* An owner's notes that are not Xen's are not Xen's. */
	k = make_kernel(true);
	for (unsigned n = 0; n < 4; n++)
		memcpy(k.note[n].name, "nam", 4);
	assert_int_equal(parse(&k, sizeof(k), &i, why), 0);
	assert_true(i.legacy);
}

static void bad_images(void **state)
{
	struct kernel k = make_kernel(true);
	struct pv_image i;
	char why[128];

	for (size_t n = 0; n < sizeof(k); n += n < 1200 ? 1 : 61)
		assert_int_not_equal(parse(&k, n, &i, why), 0);
	k.note[2].value = BASE - 1;
	assert_int_equal(parse(&k, sizeof(k), &i, why), -ENOEXEC);
	assert_non_null(strstr(why, "entry"));
	k = make_kernel(true);
	k.note[3].value = BASE + 100;
	assert_int_equal(parse(&k, sizeof(k), &i, why), -ENOEXEC);
	k = make_kernel(true);
	k.ph[0].p_paddr = 0; /* below the offset */
	assert_int_equal(parse(&k, sizeof(k), &i, why), -ENOEXEC);
	k = make_kernel(true);
	k.eh.e_machine = EM_386;
	assert_int_equal(parse(&k, sizeof(k), &i, why), -ENOEXEC);
	k = make_kernel(false);
	k.names[9] = 'X';
	assert_int_equal(parse(&k, sizeof(k), &i, why), -ENOEXEC);
	assert_non_null(strstr(why, "neither"));
	/* Any byte at all. */
	srand(1);
	for (unsigned round = 0; round < 20000; round++) {
		k = make_kernel(round & 1);
		for (unsigned n = 0; n < 4; n++)
			((uint8_t *)&k)[(size_t)rand() % offsetof(struct kernel, code)] = (uint8_t)rand();
		parse(&k, sizeof(k), &i, why);
	}
}

/* ---- a domain ------------------------------------------------------------------------------ */

struct fixture {
	struct machine *machine;
	struct mode_vm *vm;
	struct mode_vcpu *vcpu[2];
	struct pv_domain *d;
	struct pv_vcpu *p;
	struct cpu_state *bsp;
	char path[64];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	const struct machine_config config = {.ram_bytes = 64u << 20, .vcpus = 2};
	struct kernel k = make_kernel(true);
	struct machine_boot what = {.kernel = f->path, .cmdline = "some words"};
	const char *why = "";
	int fd;

	strcpy(f->path, "/tmp/trivisor-test-pv.XXXXXX");
	fd = mkstemp(f->path);
	assert_true(fd >= 0 && write(fd, &k, sizeof(k)) == (ssize_t)sizeof(k));
	close(fd);
	assert_int_equal(machine_create(&config, &f->machine), 0);
	assert_int_equal(pv_mode.vm_create(f->machine, &f->vm), 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pv_mode.vcpu_create(f->vm, i, &f->vcpu[i]), 0);
	f->bsp = aligned_alloc(64, (sizeof(*f->bsp) + 63) & ~63ul);
	cpu_state_reset(f->bsp, 0);
	if (pv_mode.boot(f->vm, &what, f->bsp, &why))
		fail_msg("%s", why);
	assert_int_equal(pv_mode.set_state(f->vcpu[0], f->bsp), 0);
	f->d = bt_monitor_data(f->vm);
	f->p = f->d->vcpu[0];
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	machine_stop_devices(f->machine);
	for (unsigned i = 0; i < 2; i++)
		pv_mode.vcpu_destroy(f->vcpu[i]);
	pv_mode.vm_destroy(f->vm);
	machine_destroy(f->machine);
	unlink(f->path);
	free(f->bsp);
	free(f);
	return 0;
}

static uint64_t *table(const struct fixture *f, mfn_t mfn) { return (uint64_t *)(void *)pv_frame_host(f->d, mfn); }
static mfn_t frame_in(uint64_t entry) { return (entry & PTE_FRAME) >> GUEST_PAGE_SHIFT; }

/* The level-1 entry of gva. */
static uint64_t *entry_of(const struct fixture *f, gva_t gva)
{
	unsigned index;
	mfn_t l1;

	assert_true(pv_find_l1(f->p, gva, &l1, &index));
	return table(f, l1) + index;
}

static void *at(const struct fixture *f, gva_t gva)
{
	return pv_frame_host(f->d, frame_in(*entry_of(f, gva))) + (gva & ~GUEST_PAGE_MASK);
}

static void start_of_day(void **state)
{
	struct fixture *f = *state;
	const struct start_info *s = at(f, f->bsp->gpr[GPR_RSI]);
	const uint8_t *call = at(f, BASE + 4096 + 32 * __HYPERVISOR_xen_version), *iret = at(f, BASE + 4096 + 32 * __HYPERVISOR_iret);

	assert_true(f->bsp->rip == BASE + 32 && f->bsp->seg[SEG_CS].selector == FLAT_RING3_CS64);
	assert_string_equal(s->magic, "xen-3.0-x86_64");
	assert_string_equal((const char *)s->cmd_line, "some words");
	assert_true(s->nr_pages == f->d->pages && s->nr_pages > 14000 && !s->mod_len && !s->flags);
	assert_true(s->shared_info == f->d->shared_mfn << 12 && s->console.domU.evtchn && s->store_evtchn && s->console.domU.evtchn != s->store_evtchn);
	assert_true(frame_in(f->bsp->cr3) == frame_in(*entry_of(f, s->pt_base)));
	/* Its tables are mapped, and not writable; the rest is. */
	for (uint64_t i = 0; i < s->nr_pt_frames; i++)
		assert_false(*entry_of(f, s->pt_base + i * 4096) & PTE_W);
	assert_true(*entry_of(f, BASE) & PTE_W);
	assert_true(*entry_of(f, f->bsp->gpr[GPR_RSP] - 8) & PTE_W);
	/* The list and its inverse. */
	for (uint64_t pfn = 0; pfn < s->nr_pages; pfn++) {
		mfn_t mfn = *(uint64_t *)at(f, s->mfn_list + pfn * 8);

		assert_true(f->d->frame[mfn].guest && f->d->m2p[mfn] == pfn);
	}
	for (mfn_t mfn = 0; mfn < f->d->frames; mfn++)
		if (!f->d->frame[mfn].guest)
			assert_true(f->d->m2p[mfn] == ~0ull);
	assert_true(*(uint8_t *)at(f, BASE) == 0xf4);
	assert_memory_equal(call, "\x51\x41\x53\xb8\x11\0\0\0\x0f\x05\x41\x5b\x59\xc3", 14);
	assert_memory_equal(iret, "\x51\x41\x53\x50\xb8\x17\0\0\0\x0f\x05", 11);
	assert_true(f->d->shared->vcpu_info[0].evtchn_upcall_mask == 1);
}

/* ---- page types ---------------------------------------------------------------------------------- */

/* Counts from nothing: what tables, pins and roots say. */
static void recount(const struct fixture *f)
{
	uint32_t *uses = calloc(f->d->frames, sizeof(*uses)), *typed = calloc(f->d->frames, sizeof(*typed));

	for (unsigned i = 0; i < 2; i++) {
		const mfn_t root[] = {f->d->vcpu[i]->kernel_root, f->d->vcpu[i]->user_root};

		for (unsigned k = 0; k < 2; k++)
			if (root[k])
				uses[root[k]]++, typed[root[k]]++;
	}
	for (mfn_t mfn = 0; mfn < f->d->frames; mfn++) {
		const struct pv_frame *frame = &f->d->frame[mfn];

		if (frame->pinned)
			uses[mfn]++, typed[mfn]++;
		if (!frame->guest || !frame->typed || !pv_is_table(frame->type))
			continue;
		for (unsigned i = 0; i < ENTRIES; i++) {
			uint64_t e = table(f, mfn)[i];

			if (!(e & PTE_P) || (frame->type == PV_TYPE_L4 && i >= PV_SLOT_FIRST && i <= PV_SLOT_LAST))
				continue;
			mfn_t to = frame_in(e);
			assert_true(to < f->d->frames && f->d->frame[to].guest);
			uses[to]++;
			if (frame->type != PV_TYPE_L1) {
				typed[to]++;
				assert_int_equal(f->d->frame[to].type, frame->type - 1);
			} else if (e & PTE_W) {
				typed[to]++;
				assert_int_equal(f->d->frame[to].type, PV_TYPE_WRITABLE);
			}
		}
	}
	for (mfn_t mfn = 0; mfn < f->d->frames; mfn++) {
		assert_int_equal(f->d->frame[mfn].uses, uses[mfn]);
		assert_int_equal(f->d->frame[mfn].typed, typed[mfn]);
	}
	free(uses);
	free(typed);
}

/* A frame of the domain's that nothing uses. */
static mfn_t unused(const struct fixture *f, mfn_t from)
{
	while (!f->d->frame[from].guest || f->d->frame[from].uses || f->d->frame[from].shared)
		from++;
	return from;
}

#define KERNEL_PTE (PTE_P | PTE_A | PTE_D)

static void page_types(void **state)
{
	struct fixture *f = *state;
	struct pv_vcpu *p = f->p;
	mfn_t l1 = unused(f, 4096), l2, data = unused(f, l1 + 1), root = p->kernel_root;
	gva_t window = BASE + 0x1000;
	uint64_t was = *entry_of(f, window), entry = l1 << 12 | KERNEL_PTE;
	unsigned index;
	mfn_t table_mfn;

	recount(f);
	assert_true(pv_find_l1(p, window, &table_mfn, &index));
	/* A table that is writable somewhere cannot become one; one that is a table cannot be mapped writable. */
	assert_int_equal(pv_set_entry(p, table_mfn, index, entry | PTE_W, false), 0);
	assert_int_not_equal(pv_get_typed(p, l1, PV_TYPE_L1), 0);
	assert_int_equal(pv_set_entry(p, table_mfn, index, entry, false), 0);
	assert_int_equal(pv_get_typed(p, l1, PV_TYPE_L1), 0);
	assert_int_not_equal(pv_set_entry(p, table_mfn, index, entry | PTE_W, false), 0);
	assert_true((*entry_of(f, window) & ~(PV_PTE_GUEST_KERNEL | PTE_U)) == entry);
	/* One level is no other. */
	assert_int_not_equal(pv_get_typed(p, l1, PV_TYPE_L2), 0);
	/* Entries: its own frames only, no large pages, none of the monitor's frames, none beyond memory. */
	assert_int_equal(pv_set_entry(p, l1, 5, data << 12 | KERNEL_PTE | PTE_W, false), 0);
	assert_int_not_equal(pv_set_entry(p, l1, 6, f->d->m2p_frame << 12 | KERNEL_PTE, false), 0);
	assert_int_not_equal(pv_set_entry(p, l1, 6, f->d->gdt_page << 12 | KERNEL_PTE, false), 0);
	assert_int_not_equal(pv_set_entry(p, l1, 6, f->d->frames << 12 | KERNEL_PTE, false), 0);
	assert_int_not_equal(pv_set_entry(p, l1, 6, 0x7ffffffffull << 12 | KERNEL_PTE, false), 0);
	assert_int_not_equal(pv_set_entry(p, l1, 6, KERNEL_PTE, false), 0);
	assert_int_equal(pv_set_entry(p, l1, 6, f->d->shared_mfn << 12 | KERNEL_PTE | PTE_W, false), 0);
	assert_int_not_equal(pv_get_typed(p, f->d->shared_mfn, PV_TYPE_L1), 0);
	l2 = unused(f, data + 1);
	assert_int_equal(pv_get_typed(p, l2, PV_TYPE_L2), 0);
	assert_int_equal(pv_set_entry(p, l2, 0, l1 << 12 | KERNEL_PTE | PTE_W, false), 0);
	assert_int_not_equal(pv_set_entry(p, l2, 1, data << 12 | KERNEL_PTE | PTE_W | PTE_PS, false), 0);
	assert_int_not_equal(pv_set_entry(p, l2, 1, data << 12 | KERNEL_PTE | PTE_W, false), 0); /* writable elsewhere */
	/* Our part of a top-level table is not the guest's. */
	for (index = PV_SLOT_FIRST; index <= PV_SLOT_LAST; index++)
		assert_int_not_equal(pv_set_entry(p, root, index, 0, false), 0);
	/* Taking it all back leaves nothing. */
	pv_put_typed(p, l2);
	assert_int_equal(f->d->frame[data].uses, 1); /* l1 is still one, by its own use */
	pv_put_typed(p, l1);
	assert_int_equal(f->d->frame[data].uses, 0);
	assert_int_equal(pv_set_entry(p, table_mfn, (unsigned)(window >> 12 & 511), was, false), 0);
	recount(f);
}

/* Whatever is asked, in whatever order: the counts are those of what is there. */
static void random_requests(void **state)
{
	struct fixture *f = *state;
	struct pv_vcpu *p = f->p;
	mfn_t first = unused(f, 4096);
	unsigned done = 0;

	srand(2);
	for (unsigned round = 0; round < 60000; round++) {
		mfn_t a = first + (mfn_t)(rand() % 12), b = first + (mfn_t)(rand() % 12);
		struct mmuext_op op = {.arg1.mfn = a};
		uint64_t value = b << 12 | (rand() & 3 ? PTE_P : 0) | (rand() & 1 ? PTE_W : 0) | (rand() % 9 ? 0 : PTE_PS) | PTE_A;
		int rc;

		switch (rand() % 8) {
		case 0: op.cmd = (unsigned)rand() % 4; break; /* pin */
		case 1: op.cmd = MMUEXT_UNPIN_TABLE; break;
		case 2: op.cmd = MMUEXT_NEW_USER_BASEPTR; break;
		case 3:
			op.cmd = rand() & 1 ? MMUEXT_CLEAR_PAGE : MMUEXT_COPY_PAGE;
			op.arg2.src_mfn = b;
			break;
		default:
			rc = pv_set_entry(p, a, (unsigned)rand() % 4 + (rand() & 1 ? 254 : 0), value, rand() & 1);
			done += !rc;
			continue;
		}
		done += !pv_mmuext_one(p, &op);
		if (round % 500 == 0)
			recount(f);
	}
	recount(f);
	assert_true(done > 1000);
}

static void reservation(void **state)
{
	struct fixture *f = *state;
	mfn_t mine = unused(f, 8000), mapped = frame_in(*entry_of(f, BASE));
	uint64_t pages = f->d->pages;

	assert_int_equal(pv_give_up(f->d, mine), 0);
	assert_int_not_equal(pv_give_up(f->d, mine), 0);
	assert_int_equal(f->d->pages, pages - 1);
	assert_int_not_equal(pv_get_frame(f->p, mine), 0);
	/* What is mapped goes when it is not any more. */
	assert_int_equal(pv_give_up(f->d, mapped), 0);
	assert_int_equal(f->d->pages, pages - 1);
	assert_int_equal(pv_update_va_mapping(f->p, BASE, 0, UVMF_INVLPG), 0);
	assert_int_equal(f->d->pages, pages - 2);
	assert_int_not_equal(pv_give_up(f->d, f->d->shared_mfn), 0);
}

static void descriptors(void **state)
{
	uint64_t code = 0x00af9b000000ffffull, gate = 0x00008e0000080000ull, ldt = 0x0000820000000000ull, none = 0x00000e0000080000ull;

	assert_true(pv_descriptor_ok(&code));
	assert_true(code == 0x00affb000000ffffull); /* privilege 3 */
	assert_false(pv_descriptor_ok(&gate));
	assert_false(pv_descriptor_ok(&ldt));
	assert_true(pv_descriptor_ok(&none));
}

/* ---- events --------------------------------------------------------------------------------------------- */

/* A structure in the guest's memory, as a hypercall's argument: its address. */
#define ARGUMENT (BASE + 0x2000)

static long event(const struct fixture *f, unsigned cmd, void *arg, size_t n)
{
	long rc;

	assert_true(bt_monitor_write(f->p->v, ARGUMENT, arg, (unsigned)n));
	rc = pv_event_op(f->p, cmd, ARGUMENT);
	assert_true(bt_monitor_read(f->p->v, ARGUMENT, arg, (unsigned)n));
	return rc;
}

static bool is_pending(const struct fixture *f, uint32_t port) { return f->d->shared->evtchn_pending[port / 64] >> port % 64 & 1; }

static void events(void **state)
{
	struct fixture *f = *state;
	struct evtchn_bind_virq virq = {.virq = VIRQ_TIMER, .vcpu = 1}, again = virq, global = {.virq = VIRQ_CONSOLE};
	struct evtchn_bind_ipi ipi = {.vcpu = 0};
	struct evtchn_send send = {0};
	struct evtchn_unmask unmask = {0};
	struct evtchn_close shut = {0};
	struct evtchn_alloc_unbound open = {.dom = DOMID_SELF, .remote_dom = DOMID_SELF};
	struct evtchn_bind_interdomain both = {.remote_dom = DOMID_SELF};
	volatile struct vcpu_info *info = f->p->info, *other = f->d->vcpu[1]->info;

	info->evtchn_upcall_mask = 0;
	assert_int_equal(event(f, EVTCHNOP_bind_virq, &virq, sizeof(virq)), 0);
	assert_int_equal(event(f, EVTCHNOP_bind_virq, &again, sizeof(again)), -XEN_EEXIST);
	assert_int_equal(event(f, EVTCHNOP_bind_virq, &global, sizeof(global)), -XEN_EINVAL);
	pv_virq(f->d->vcpu[1], VIRQ_TIMER);
	assert_true(is_pending(f, virq.port) && other->evtchn_upcall_pending && !info->evtchn_upcall_pending);
	/* A virtual interrupt is nobody's to send. */
	send.port = virq.port;
	assert_int_equal(event(f, EVTCHNOP_send, &send, sizeof(send)), -XEN_EINVAL);

	assert_int_equal(event(f, EVTCHNOP_bind_ipi, &ipi, sizeof(ipi)), 0);
	f->d->shared->evtchn_mask[ipi.port / 64] |= 1ul << ipi.port % 64;
	send.port = ipi.port;
	assert_int_equal(event(f, EVTCHNOP_send, &send, sizeof(send)), 0);
	assert_true(is_pending(f, ipi.port) && !info->evtchn_upcall_pending);
	unmask.port = ipi.port;
	assert_int_equal(event(f, EVTCHNOP_unmask, &unmask, sizeof(unmask)), 0);
	assert_true(info->evtchn_upcall_pending && info->evtchn_pending_sel >> ipi.port / 64 & 1 && pv_upcall_due(f->p));

	assert_int_equal(event(f, EVTCHNOP_alloc_unbound, &open, sizeof(open)), 0);
	both.remote_port = open.port;
	assert_int_equal(event(f, EVTCHNOP_bind_interdomain, &both, sizeof(both)), 0);
	assert_int_equal(event(f, EVTCHNOP_bind_interdomain, &both, sizeof(both)), -XEN_EINVAL);
	send.port = both.local_port;
	assert_int_equal(event(f, EVTCHNOP_send, &send, sizeof(send)), 0);
	assert_true(is_pending(f, open.port));
	shut.port = both.local_port;
	assert_int_equal(event(f, EVTCHNOP_close, &shut, sizeof(shut)), 0);
	assert_int_equal(event(f, EVTCHNOP_close, &shut, sizeof(shut)), -XEN_EINVAL);
	shut.port = PV_PORTS;
	assert_int_equal(event(f, EVTCHNOP_close, &shut, sizeof(shut)), -XEN_EINVAL);
	shut.port = 0;
	assert_int_equal(event(f, EVTCHNOP_close, &shut, sizeof(shut)), -XEN_EINVAL);
	assert_int_equal(pv_event_op(f->p, EVTCHNOP_send, 0x1000), -XEN_EFAULT);
	assert_int_equal(pv_event_op(f->p, 99, ARGUMENT), -XEN_ENOSYS);
}

/* ---- the store -------------------------------------------------------------------------------------------- */

static struct pv_store *store;
static uint8_t wire[65536];
static size_t wire_bytes;

/* The type of the answer, which is a string (its end is what a second one may follow). */
static unsigned ask_n(unsigned type, unsigned transaction, const char *payload, size_t n, char text[4097])
{
	const struct xsd_sockmsg h = {.type = type, .req_id = 7, .tx_id = transaction, .len = (uint32_t)n};
	char copy[4097] = {0};
	struct xsd_sockmsg answer;

	memcpy(copy, payload, n);
	pv_store_request(store, &h, copy);
	wire_bytes += pv_store_output(store, wire + wire_bytes, sizeof(wire) - wire_bytes);
	assert_true(wire_bytes >= sizeof(answer));
	memcpy(&answer, wire, sizeof(answer));
	memcpy(text, wire + sizeof(answer), answer.len);
	text[answer.len] = '\0';
	wire_bytes -= sizeof(answer) + answer.len;
	memmove(wire, wire + sizeof(answer) + answer.len, wire_bytes);
	return answer.type;
}

#define ask(type, t, payload, text) ask_n(type, t, payload, sizeof(payload), text)

/* The next thing in the answers, which is to be a watch's event for this path. */
static void expect_event(const char *path)
{
	struct xsd_sockmsg h;

	wire_bytes += pv_store_output(store, wire + wire_bytes, sizeof(wire) - wire_bytes);
	assert_true(wire_bytes > sizeof(h));
	memcpy(&h, wire, sizeof(h));
	assert_int_equal(h.type, XS_WATCH_EVENT);
	assert_string_equal((const char *)wire + sizeof(h), path);
	wire_bytes -= sizeof(h) + h.len;
	memmove(wire, wire + sizeof(h) + h.len, wire_bytes);
}

static int store_setup(void **state)
{
	wire_bytes = 0;
	return pv_store_create(&store) || pv_store_set(store, "/local/domain/1/device", true, "%s", "") ||
	       pv_store_set(store, "/local/domain/1/name", false, "guest");
}

static int store_teardown(void **state)
{
	pv_store_destroy(store);
	return 0;
}

static void store_requests(void **state)
{
	char text[4097];

	assert_int_equal(ask(XS_READ, 0, "name", text), XS_READ);
	assert_string_equal(text, "guest");
	assert_int_equal(ask_n(XS_WRITE, 0, "name\0mine", 9, text), XS_ERROR);
	assert_string_equal(text, "EACCES");
	assert_int_equal(ask_n(XS_WRITE, 0, "device/vbd/7\0on", 15, text), XS_WRITE);
	assert_int_equal(ask(XS_READ, 0, "/local/domain/1/device/vbd/7", text), XS_READ);
	assert_string_equal(text, "on");
	assert_int_equal(ask(XS_DIRECTORY, 0, "device", text), XS_DIRECTORY);
	assert_string_equal(text, "vbd");
	assert_int_equal(ask(XS_READ, 0, "device/none", text), XS_ERROR);
	assert_string_equal(text, "ENOENT");
	assert_int_equal(ask(XS_RM, 0, "device/vbd", text), XS_RM);
	assert_int_equal(ask(XS_READ, 0, "device/vbd/7", text), XS_ERROR);
	assert_int_equal(ask(XS_GET_PERMS, 0, "device", text), XS_GET_PERMS);
	assert_string_equal(text, "n1");
	assert_int_equal(ask_n(XS_SET_PERMS, 0, "device\0n0", 10, text), XS_ERROR);
	assert_int_equal(ask(XS_INTRODUCE, 0, "2", text), XS_ERROR);
	assert_int_equal(ask(XS_READ, 0, "de//vice", text), XS_ERROR);
	assert_int_equal(ask(XS_READ, 0, "dev ice", text), XS_ERROR);
	assert_int_equal(ask_n(XS_READ, 0, "device", 6, text), XS_ERROR); /* no end */
	assert_int_equal(ask_n(XS_READ, 0, "", 0, text), XS_ERROR);
	assert_int_equal(ask(99, 0, "x", text), XS_ERROR);
	assert_string_equal(text, "ENOSYS");
	assert_int_equal(ask(XS_READ, 5, "name", text), XS_ERROR);
	assert_string_equal(text, "ENOENT");
}

static unsigned told;
static void on_change(void *opaque, const char *path) { told += !strcmp(path, opaque); }

static void store_watches(void **state)
{
	char text[4097], path[] = "/local/domain/1/device/a";

	assert_int_equal(pv_store_watch(store, "/local/domain/1/device", on_change, path), 0);
	assert_int_equal(ask_n(XS_WATCH, 0, "device\0tok", 11, text), XS_WATCH);
	expect_event("device");
	assert_int_equal(ask_n(XS_WATCH, 0, "device\0tok", 11, text), XS_ERROR);
	assert_string_equal(text, "EEXIST");
	pv_store_set(store, "/local/domain/1/device/a", true, "1");
	expect_event("device/a");
	assert_int_equal(told, 1);
	pv_store_set(store, "/local/domain/1/name", false, "other");
	assert_int_equal(pv_store_output(store, wire, sizeof(wire)), 0);
	assert_int_equal(ask_n(XS_UNWATCH, 0, "device\0tok", 11, text), XS_UNWATCH);
	pv_store_set(store, "/local/domain/1/device/a", true, "2");
	assert_int_equal(pv_store_output(store, wire, sizeof(wire)), 0);
	assert_int_equal(told, 2);
}

static void store_transactions(void **state)
{
	char text[4097];
	unsigned t, u;

	assert_int_equal(ask(XS_TRANSACTION_START, 0, "", text), XS_TRANSACTION_START);
	t = (unsigned)atoi(text);
	assert_int_equal(ask_n(XS_WRITE, t, "device/x\0001", 10, text), XS_WRITE);
	assert_int_equal(ask(XS_READ, 0, "device/x", text), XS_ERROR); /* not yet */
	assert_int_equal(ask(XS_READ, t, "device/x", text), XS_READ);
	assert_int_equal(ask(XS_TRANSACTION_END, t, "T", text), XS_TRANSACTION_END);
	assert_int_equal(ask(XS_READ, 0, "device/x", text), XS_READ);
	/* Somebody else changes something meanwhile. */
	assert_int_equal(ask(XS_TRANSACTION_START, 0, "", text), XS_TRANSACTION_START);
	u = (unsigned)atoi(text);
	assert_int_equal(ask_n(XS_WRITE, u, "device/x\0002", 10, text), XS_WRITE);
	pv_store_set(store, "/local/domain/1/name", false, "third");
	assert_int_equal(ask(XS_TRANSACTION_END, u, "T", text), XS_ERROR);
	assert_string_equal(text, "EAGAIN");
	assert_int_equal(ask(XS_READ, 0, "device/x", text), XS_READ);
	assert_string_equal(text, "1");
	assert_int_equal(ask(XS_TRANSACTION_END, u, "T", text), XS_ERROR);
	for (unsigned i = 0; i < 20; i++)
		t = ask(XS_TRANSACTION_START, 0, "", text);
	assert_int_equal(t, XS_ERROR);
}

static void store_fuzz(void **state)
{
	char text[4097], payload[200];

	srand(3);
	for (unsigned i = 0; i < 30000; i++) {
		size_t n = (size_t)rand() % sizeof(payload);
		static const char alphabet[] = "device/a/b@\0\0\0nr1T /";

		for (size_t k = 0; k < n; k++)
			payload[k] = alphabet[(size_t)rand() % (sizeof(alphabet) - 1)];
		ask_n((unsigned)rand() % XS_TYPE_COUNT, rand() & 1 ? 0 : (unsigned)rand() % 20, payload, n, text);
		while ((wire_bytes = pv_store_output(store, wire, sizeof(wire))) == sizeof(wire))
			;
		wire_bytes = 0;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(images),
		cmocka_unit_test(bad_images),
		cmocka_unit_test_setup_teardown(start_of_day, setup, teardown),
		cmocka_unit_test_setup_teardown(page_types, setup, teardown),
		cmocka_unit_test_setup_teardown(random_requests, setup, teardown),
		cmocka_unit_test_setup_teardown(reservation, setup, teardown),
		cmocka_unit_test(descriptors),
		cmocka_unit_test_setup_teardown(events, setup, teardown),
		cmocka_unit_test_setup_teardown(store_requests, store_setup, store_teardown),
		cmocka_unit_test_setup_teardown(store_watches, store_setup, store_teardown),
		cmocka_unit_test_setup_teardown(store_transactions, store_setup, store_teardown),
		cmocka_unit_test_setup_teardown(store_fuzz, store_setup, store_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The policy over hosts and guests that are made up: what is ruled out, what is chosen, and that the reasons name it.
 */
#include "policy/policy.h"
#include "proto/vmdef.h"

#include <elf.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <zlib.h>

/* A host with nothing but Linux on x86-64. */
static struct policy_host bare_host(void)
{
	return (struct policy_host){
		.cpuid_vmx = POLICY_UNKNOWN,
		.cpuid_svm = POLICY_UNKNOWN,
		.vmx = POLICY_NO,
		.svm = POLICY_NO,
		.kvm_api = -1,
		.kvm_intel = POLICY_NO,
		.kvm_amd = POLICY_NO,
		.kvm_pvm = POLICY_NO,
		.nested = POLICY_UNKNOWN,
		.kvm_hardware = POLICY_NO,
		.cores = 2,
	};
}

static struct policy_host hardware_host(void)
{
	struct policy_host host = bare_host();

	host.svm = host.kvm_amd = host.kvm_hardware = POLICY_YES;
	host.kvm_device = true;
	host.kvm_api = 12;
	return host;
}

/* As the daemon asks, without calibration, constraints or a past. */
static void decide(const struct policy_host *host, const struct policy_guest *guest, const char *wish,
		   struct policy_decision *ret)
{
	struct policy_query query = {.host = host, .guest = guest, .wish = wish};

	policy_decide(&query, ret);
}

static void hvm_reasons(void **state)
{
	struct policy_mode_state judged;
	struct policy_host host = bare_host();

	policy_mode_judge(POLICY_HVM, &host, &judged);
	assert_false(judged.usable);
	assert_non_null(strstr(judged.reason, "no /dev/kvm"));
	assert_non_null(strstr(judged.remedy, "firmware"));

	host.under_hypervisor = true;
	policy_mode_judge(POLICY_HVM, &host, &judged);
	assert_non_null(strstr(judged.remedy, "nested"));

	/* Present, opens, right version, and still emulation: the trap this project is about. */
	host = hardware_host();
	host.kvm_pvm = POLICY_YES;
	host.kvm_hardware = POLICY_NO;
	policy_mode_judge(POLICY_HVM, &host, &judged);
	assert_int_equal(judged.usable, judged.in_build); /* by name it can be had */
	assert_string_equal(judged.variant, "hvm/software");
	assert_non_null(strstr(judged.reason, "kvm_pvm"));

	host = hardware_host();
	host.svm = host.kvm_hardware = POLICY_NO;
	policy_mode_judge(POLICY_HVM, &host, &judged);
	assert_non_null(strstr(judged.reason, "neither vmx nor svm"));

	host = hardware_host();
	host.kvm_open_error = EACCES;
	policy_mode_judge(POLICY_HVM, &host, &judged);
	assert_non_null(strstr(judged.reason, "cannot be opened"));
	assert_non_null(strstr(judged.remedy, "group"));

	host = hardware_host();
	host.kvm_hardware = host.kvm_amd = POLICY_UNKNOWN;
	policy_mode_judge(POLICY_HVM, &host, &judged);
	assert_non_null(strstr(judged.reason, "could not be learned"));
}

static void hardware_alone_is_not_enough(void **state)
{
	struct policy_host host = hardware_host();
	struct policy_mode_state judged;

	policy_mode_judge(POLICY_HVM, &host, &judged);
	/* Usable exactly when this version has an engine for it; the reason says which of the two is missing. */
	assert_int_equal(judged.usable, judged.in_build);
	assert_non_null(strstr(judged.reason, judged.in_build ? "AMD-V" : "not in this version"));
}

static void bt_needs_executable_memory(void **state)
{
	struct policy_host host = bare_host();
	struct policy_guest guest = {.image = POLICY_IMAGE_BZIMAGE, .bits = 64, .xen_pv = POLICY_UNKNOWN};
	struct policy_decision d;

	decide(&host, &guest, "auto", &d);
	assert_true(d.possible);
	assert_int_equal(d.mode, POLICY_BT);
	assert_int_equal(d.candidates[POLICY_BT].verdict, POLICY_CHOSEN);
	assert_true(d.change_count > 0);

	host.exec_memory_error = EPERM;
	decide(&host, &guest, "auto", &d);
	assert_false(d.possible);
	assert_non_null(strstr(d.reason, "executable memory"));
	assert_int_equal(d.candidates[POLICY_BT].verdict, POLICY_RULED_OUT);
	assert_non_null(strstr(d.candidates[POLICY_BT].remedy, "memfd_noexec"));
}

/* The remedy of a fact, "" for none. */
static const char *fact_remedy(json_object *facts, const char *name)
{
	json_object *value = NULL;

	for (size_t i = 0; i < json_object_array_length(facts); i++) {
		json_object *row = json_object_array_get_idx(facts, i);

		if (json_object_object_get_ex(row, "name", &value) && !strcmp(json_object_get_string(value), name))
			return json_object_object_get_ex(row, "remedy", &value) ? json_object_get_string(value) : "";
	}
	fail_msg("no fact %s", name);
	return "";
}

/* Whoever may not open /dev/kvm is told how to, also where what is behind it is software. */
static void permission_has_a_remedy(void **state)
{
	struct policy_host host = hardware_host();
	struct policy_mode_state judged;
	json_object *facts;

	host.kvm_open_error = EACCES;
	snprintf(host.kvm_access, sizeof(host.kvm_access), "root:kvm 0660");
	facts = policy_host_facts(&host);
	assert_non_null(strstr(fact_remedy(facts, "kvm_opens"), "add the daemon's user to the group"));
	assert_null(strstr(fact_remedy(facts, "kvm_opens"), "chmod"));
	json_object_put(facts);
	/* A group that itself may not use it is no help. */
	host.kvm_pvm = POLICY_YES;
	host.kvm_hardware = POLICY_NO;
	snprintf(host.kvm_access, sizeof(host.kvm_access), "root:root 0600");
	policy_mode_judge(POLICY_HVM, &host, &judged);
	assert_non_null(strstr(judged.remedy, "chmod"));
	host.kvm_open_error = 0;
	facts = policy_host_facts(&host);
	assert_string_equal(fact_remedy(facts, "kvm_opens"), "");
	assert_non_null(strstr(fact_remedy(facts, "kvm_is_hardware"), "has a real one"));
	json_object_put(facts);
}

static const char *change_for(const struct policy_decision *d, const char *mode)
{
	char prefix[16];

	snprintf(prefix, sizeof(prefix), "for %s: ", mode);
	for (unsigned i = 0; i < d->change_count; i++)
		if (!strncmp(d->would_change[i], prefix, strlen(prefix)))
			return d->would_change[i];
	return "";
}

/* What would change the answer does change it: a reason that hides behind another is told too. */
static void changes_are_whole(void **state)
{
	struct policy_host host = bare_host();
	struct policy_guest guest = {.image = POLICY_IMAGE_BZIMAGE, .bits = 64, .xen_pv = POLICY_UNKNOWN};
	struct policy_constraints c = {.forbid = 1u << POLICY_BT | 1u << POLICY_HVM};
	struct policy_query query = {.host = &host, .guest = &guest, .constraints = &c, .wish = "auto"};
	struct policy_decision d;

	policy_decide(&query, &d);
	assert_string_equal(change_for(&d, "bt"), "for bt: take it out of policy.forbid");
	assert_non_null(strstr(change_for(&d, "hvm"), "policy.forbid; and then "));
	assert_non_null(strstr(change_for(&d, "hvm"), "firmware"));

	c.kernel_isolation = true;
	policy_decide(&query, &d);
	assert_non_null(strstr(change_for(&d, "bt"), "policy.forbid; and then accept policy.isolation"));

	/* bt never passes a device through: leaving policy.forbid alone would not help. */
	c.passthrough = true;
	policy_decide(&query, &d);
	assert_string_equal(change_for(&d, "bt"), "");
}

/* Programs that use VMware's port run where they can. */
static void vmware_tools(void **state)
{
	struct policy_host host = hardware_host();
	struct policy_guest guest = {.image = POLICY_IMAGE_BZIMAGE, .bits = 64, .xen_pv = POLICY_YES};
	struct policy_constraints c = {.vmware_tools = true};
	struct policy_query query = {.host = &host, .guest = &guest, .constraints = &c, .wish = "auto"};
	struct policy_decision d;

	host.backdoor = POLICY_NO;
	policy_decide(&query, &d);
	assert_true(d.possible && d.mode == POLICY_BT);
	assert_non_null(strstr(d.candidates[POLICY_HVM].remedy, "enable_vmware_backdoor=1"));
	assert_int_equal(d.candidates[POLICY_PV].verdict, POLICY_RULED_OUT);
	host.backdoor = POLICY_YES;
	policy_decide(&query, &d);
	assert_int_not_equal(d.candidates[POLICY_HVM].verdict, POLICY_RULED_OUT);
	c.vmware_tools = false;
	host.backdoor = POLICY_NO;
	policy_decide(&query, &d);
	assert_int_not_equal(d.candidates[POLICY_HVM].verdict, POLICY_RULED_OUT);
}

static void wishes(void **state)
{
	struct policy_host host = bare_host();
	struct policy_guest guest = {.image = POLICY_IMAGE_BZIMAGE, .bits = 64, .xen_pv = POLICY_UNKNOWN};
	struct policy_decision d;

	decide(&host, &guest, "bt", &d);
	assert_true(d.possible && d.mode == POLICY_BT);
	assert_string_equal(d.wish, "bt");
	decide(&host, &guest, "hvm", &d);
	assert_false(d.possible);
	assert_non_null(strstr(d.reason, "hvm was asked for"));
	assert_int_equal(d.candidates[POLICY_BT].verdict,
			 POLICY_POSSIBLE); /* a wish is not replaced behind the user's back */
	decide(&host, &guest, "warp", &d);
	assert_false(d.possible);
	assert_non_null(strstr(d.reason, "warp"));
}

static void elf_without_pvh_is_ruled_out(void **state)
{
	struct policy_host host = bare_host();
	struct policy_guest guest = {.image = POLICY_IMAGE_ELF, .bits = 64, .xen_pv = POLICY_NO};
	struct policy_decision d;

	decide(&host, &guest, "auto", &d);
	assert_false(d.possible);
	assert_non_null(strstr(d.candidates[POLICY_BT].reason, "PVH"));
	guest.pvh = POLICY_YES;
	decide(&host, &guest, "auto", &d);
	assert_true(d.possible);
}

static void decisions_as_json(void **state)
{
	struct policy_host host = bare_host();
	struct policy_guest guest = {.image = POLICY_IMAGE_FIRMWARE, .bits = 16, .xen_pv = POLICY_NO};
	struct policy_decision d;
	json_object *json, *value = NULL;

	decide(&host, &guest, "auto", &d);
	json = policy_decision_json(&d);
	assert_true(json_object_object_get_ex(json, "candidates", &value));
	assert_int_equal(json_object_array_length(value), POLICY_MODE_COUNT);
	assert_true(json_object_object_get_ex(json, "mode", &value));
	assert_string_equal(json_object_get_string(value), "bt");
	json_object_put(json);
	host.exec_memory_error = EPERM;
	decide(&host, &guest, "auto", &d);
	json = policy_decision_json(&d);
	assert_true(json_object_object_get_ex(json, "mode", &value));
	assert_null(value);
	json_object_put(json);
}

static void the_probe_tells_the_truth(void **state)
{
	struct policy_host host;

	policy_probe(&host);
	assert_true(host.cores >= 1);
	assert_true(host.memory_mib > 0 && host.memory_mib >= host.available_mib);
	assert_int_equal(host.kvm_device, access("/dev/kvm", F_OK) == 0);
	assert_true(host.kvm_device || host.kvm_hardware == POLICY_NO);
	assert_true(host.kvm_api < 0 || host.kvm_open_error == 0);
	assert_true(strlen(host.cpu_vendor) == 12);
}

/* ---- images -------------------------------------------------------------------- */

static char dir[] = "/tmp/trivisor-policy-XXXXXX";

static const char *put_file(const char *name, const void *data, size_t n)
{
	static char path[128];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	file = fopen(path, "w");
	assert_non_null(file);
	assert_int_equal(fwrite(data, 1, n, file), n);
	fclose(file);
	return path;
}

static struct policy_guest inspect(const char *kernel)
{
	struct policy_guest guest;
	struct vmdef def = {.boot = {.kernel = (char *)kernel}};

	policy_guest_inspect(&def, &guest);
	return guest;
}

/* A setup header as Documentation/arch/x86/boot.rst has it, with `paragraphs` of 16 bytes announced. */
static void make_bzimage(uint8_t *image, uint32_t paragraphs)
{
	memset(image, 0, 2048);
	image[0x1f1] = 1; /* setup_sects */
	memcpy(image + 0x1f4, &paragraphs, 4);
	memcpy(image + 0x202, "HdrS", 4);
	image[0x206] = 0x0f;
	image[0x207] = 0x02;
	image[0x20e] = 0x00; /* the version string is at 0x100 + 0x200 */
	image[0x20f] = 0x01;
	image[0x236] = 1; /* XLF_KERNEL_64 */
	strcpy((char *)image + 0x300, "6.1.0-test (builder@host) #1");
}

static void bzimages(void **state)
{
	uint8_t image[2048];
	struct policy_guest guest;

	make_bzimage(image, 64);
	guest = inspect(put_file("bz", image, sizeof(image)));
	assert_int_equal(guest.image, POLICY_IMAGE_BZIMAGE);
	assert_int_equal(guest.bits, 64);
	assert_int_equal(guest.boot_protocol, 0x020f);
	assert_string_equal(guest.kernel_version, "6.1.0-test");
	assert_string_equal(guest.problem, "");
	assert_int_equal(guest.xen_pv, POLICY_UNKNOWN);

	make_bzimage(image, 100000);
	guest = inspect(put_file("cut", image, sizeof(image)));
	assert_non_null(strstr(guest.problem, "truncated"));
	/* Cut anywhere: never more than a message. */
	make_bzimage(image, 64);
	for (size_t n = 1; n < sizeof(image); n += 37) {
		guest = inspect(put_file("cut", image, n));
		assert_true(guest.problem[0] != '\0');
	}
}

struct elf_image {
	Elf64_Ehdr ehdr;
	Elf64_Phdr phdr;
	Elf64_Nhdr note;
	char name[4];
	uint32_t value[2];
};

static struct elf_image make_elf(unsigned type)
{
	return (struct elf_image){
		.ehdr = {.e_ident = ELFMAG "\2\1\1",
			 .e_type = ET_EXEC,
			 .e_machine = EM_X86_64,
			 .e_phoff = sizeof(Elf64_Ehdr),
			 .e_phentsize = sizeof(Elf64_Phdr),
			 .e_phnum = 1},
		.phdr = {.p_type = PT_NOTE,
			 .p_offset = offsetof(struct elf_image, note),
			 .p_filesz = sizeof(struct elf_image) - offsetof(struct elf_image, note)},
		.note = {.n_namesz = 4, .n_descsz = 8, .n_type = type},
		.name = "Xen",
	};
}

static void elf_notes(void **state)
{
	struct elf_image elf = make_elf(18);
	struct policy_guest guest = inspect(put_file("elf", &elf, sizeof(elf)));

	assert_true(guest.image == POLICY_IMAGE_ELF && guest.bits == 64 && guest.pvh == POLICY_YES);
	assert_int_equal(guest.xen_pv, POLICY_NO);
	assert_string_equal(guest.problem, "");
	elf = make_elf(1);
	guest = inspect(put_file("elf", &elf, sizeof(elf)));
	assert_true(guest.pvh == POLICY_NO && guest.xen_pv == POLICY_YES);
	elf = make_elf(6);
	guest = inspect(put_file("elf", &elf, sizeof(elf)));
	assert_non_null(strstr(guest.problem, "PVH"));
	/* Xen's texts, which need not end with a NUL. */
	elf = make_elf(10);
	memcpy(elf.value, "!pae|su\x1b", 8);
	guest = inspect(put_file("elf", &elf, sizeof(elf)));
	assert_string_equal(guest.xen_features, "!pae|su?");
	/* Lies about sizes and places are not believed. */
	elf = make_elf(18);
	elf.note.n_namesz = 0xffffffff;
	assert_false(inspect(put_file("elf", &elf, sizeof(elf))).pvh);
	elf = make_elf(18);
	elf.note.n_descsz = 0xfffffff0;
	assert_false(inspect(put_file("elf", &elf, sizeof(elf))).pvh);
	elf = make_elf(18);
	elf.phdr.p_offset = UINT64_MAX - 8;
	assert_false(inspect(put_file("elf", &elf, sizeof(elf))).pvh);
	elf = make_elf(18);
	elf.phdr.p_filesz = UINT64_MAX;
	assert_false(inspect(put_file("elf", &elf, sizeof(elf))).pvh);
	elf = make_elf(18);
	elf.ehdr.e_phoff = UINT64_MAX - 16;
	elf.ehdr.e_shoff = UINT64_MAX - 16;
	elf.ehdr.e_shentsize = sizeof(Elf64_Shdr);
	elf.ehdr.e_shnum = 65535;
	assert_false(inspect(put_file("elf", &elf, sizeof(elf))).pvh);
	for (size_t n = 1; n < sizeof(elf); n += 3) {
		elf = make_elf(18);
		guest = inspect(put_file("elf", &elf, n));
		assert_true(guest.problem[0] != '\0');
	}
}

/* A Multiboot header makes an ELF of any kind bootable, a plain file too, and is seen inside a gzip file. */
static void multiboot_headers(void **state)
{
	struct {
		struct elf_image elf;
		uint32_t header[3];
	} kernel = {.elf = make_elf(6), .header = {0x1badb002, 3, -(0x1badb002u + 3)}};
	struct policy_host host = {.kvm_open_error = ENOENT};
	struct policy_decision decision;
	struct policy_guest guest = inspect(put_file("elf", &kernel, sizeof(kernel)));
	uint8_t packed[512];
	z_stream z = {.next_in = (void *)&kernel, .avail_in = sizeof(kernel), .next_out = packed, .avail_out = sizeof(packed)};

	assert_true(guest.image == POLICY_IMAGE_MULTIBOOT && guest.bits == 32);
	assert_string_equal(guest.problem, "");
	decide(&host, &guest, "bt", &decision);
	assert_true(decision.possible);
	assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	guest = inspect(put_file("gz", packed, z.total_out));
	assert_true(guest.image == POLICY_IMAGE_MULTIBOOT && guest.bits == 32);
	for (size_t n = 1; n < z.total_out; n += 7)
		inspect(put_file("gz", packed, n)); /* whatever it says, it comes back */
	deflateEnd(&z);
	assert_int_equal(inspect(put_file("text", kernel.header, 12)).image, POLICY_IMAGE_MULTIBOOT);
	kernel.header[2]++;
	guest = inspect(put_file("elf", &kernel, sizeof(kernel)));
	assert_int_equal(guest.image, POLICY_IMAGE_ELF);
	assert_non_null(strstr(guest.problem, "Multiboot"));
}

static void no_kernels(void **state)
{
	char path[128];

	assert_non_null(strstr(inspect("/nowhere/at/all").problem, "/nowhere/at/all: No such file"));
	assert_non_null(strstr(inspect(dir).problem, "a directory"));
	assert_non_null(strstr(inspect(put_file("empty", "", 0)).problem, "empty"));
	assert_non_null(strstr(inspect(put_file("text", "hello", 5)).problem, "neither a bzImage nor an ELF"));
	snprintf(path, sizeof(path), "%s/fifo", dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_non_null(strstr(inspect(path).problem, "regular file")); /* and it did not wait for a writer */
}

static int make_dir(void **state)
{
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	static const char *const names[] = {"bz", "cut", "elf", "empty", "text", "fifo", "gz"};
	char path[128];

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		unlink(path);
	}
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hvm_reasons),
		cmocka_unit_test(hardware_alone_is_not_enough),
		cmocka_unit_test(bt_needs_executable_memory),
		cmocka_unit_test(permission_has_a_remedy),
		cmocka_unit_test(changes_are_whole),
		cmocka_unit_test(vmware_tools), cmocka_unit_test(wishes),
		cmocka_unit_test(elf_without_pvh_is_ruled_out),
		cmocka_unit_test(decisions_as_json),
		cmocka_unit_test(the_probe_tells_the_truth),
		cmocka_unit_test(bzimages),
		cmocka_unit_test(elf_notes),
		cmocka_unit_test(multiboot_headers),
		cmocka_unit_test(no_kernels),
	};

	return cmocka_run_group_tests_name("policy", tests, make_dir, remove_dir);
}

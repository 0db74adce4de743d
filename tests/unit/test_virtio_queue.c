/* Virtqueues as a driver lays them out, and as only an attacker would. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/uio.h>

#include <cmocka.h>

#include "machine/machine.h"
#include "machine/virtio/queue.h"

#define DESC 0x10000u
#define AVAIL 0x11000u
#define USED 0x12000u
#define TABLE 0x13000u
#define DATA 0x20000u
#define SIZE 16u
#define RAM_BYTES (4u << 20)

#define NEXT 1
#define WRITE 2
#define INDIRECT 4

struct desc {
	uint64_t gpa;
	uint32_t bytes;
	uint16_t flags, next;
};

static struct machine *machine;
static struct virtq q;
static struct virtq_chain chain;
static struct desc *desc, *table;
static uint16_t *avail, *used;

static void ignore_event(void *opaque, enum machine_event event, unsigned code) {}
static void ignore_output(void *opaque, unsigned port, const void *bytes, size_t n) {}

static int setup(void **state)
{
	const struct machine_config config = {
		.ram_bytes = RAM_BYTES, .vcpus = 1, .on_event = ignore_event, .on_output = ignore_output};

	return machine_create(&config, &machine);
}

static int teardown(void **state)
{
	machine_destroy(machine);
	return 0;
}

static void fresh(bool event_index)
{
	uint8_t *ram = machine_dma_map(machine, DESC, 0x20000);

	assert_non_null(ram);
	memset(ram, 0, 0x20000);
	desc = (void *)ram;
	avail = (void *)(ram + (AVAIL - DESC));
	used = (void *)(ram + (USED - DESC));
	table = (void *)(ram + (TABLE - DESC));
	virtq_reset(&q, machine);
	q.size = SIZE;
	q.desc = DESC;
	q.avail = AVAIL;
	q.used = USED;
	assert_true(virtq_enable(&q, event_index));
}

static void offer(uint16_t head)
{
	avail[2 + avail[1] % SIZE] = head;
	avail[1]++;
}

static void expect_broken(const char *word)
{
	assert_int_equal(virtq_pop(&q, &chain), VIRTQ_BROKEN);
	assert_non_null(q.error);
	if (!strstr(q.error, word))
		fail_msg("want \"%s\", got \"%s\"", word, q.error);
	/* It stays broken. */
	assert_int_equal(virtq_pop(&q, &chain), VIRTQ_BROKEN);
}

static void test_chain(void **state)
{
	char buf[16] = "";

	fresh(false);
	assert_int_equal(virtq_pop(&q, &chain), VIRTQ_EMPTY);
	desc[3] = (struct desc){DATA, 5, NEXT, 7};
	desc[7] = (struct desc){DATA + 0x100, 6, NEXT, 1};
	desc[1] = (struct desc){DATA + 0x200, 9, WRITE, 0};
	memcpy((uint8_t *)desc + (DATA - DESC), "hello", 5);
	memcpy((uint8_t *)desc + (DATA - DESC) + 0x100, ", you!", 6);
	offer(3);
	assert_int_equal(virtq_pop(&q, &chain), VIRTQ_CHAIN);
	assert_int_equal(chain.head, 3);
	assert_int_equal(chain.readable, 2);
	assert_int_equal(chain.writable, 1);
	assert_int_equal(chain.readable_bytes, 11);
	assert_int_equal(virtq_chain_read(&chain, 3, buf, sizeof(buf)), 8);
	assert_memory_equal(buf, "lo, you!", 8);
	/* Writes end where the buffers end. */
	assert_int_equal(virtq_chain_write(machine, &chain, 7, "abcdef", 6), 2);
	assert_memory_equal((uint8_t *)desc + (DATA - DESC) + 0x207, "ab\0", 3);
	virtq_push(&q, 3, 9);
	assert_int_equal(used[1], 1);
	assert_int_equal(((uint32_t *)(used + 2))[0], 3);
	assert_int_equal(((uint32_t *)(used + 2))[1], 9);
	assert_true(virtq_wants_interrupt(&q));
	avail[0] = 1;
	assert_false(virtq_wants_interrupt(&q));
	assert_int_equal(virtq_pop(&q, &chain), VIRTQ_EMPTY);
}

static void test_indirect(void **state)
{
	fresh(true);
	desc[0] = (struct desc){TABLE, 3 * 16, INDIRECT, 0};
	table[0] = (struct desc){DATA, 16, NEXT, 2};
	table[2] = (struct desc){DATA + 16, 512, NEXT | WRITE, 1};
	table[1] = (struct desc){DATA + 1024, 1, WRITE, 0};
	offer(0);
	assert_int_equal(virtq_pop(&q, &chain), VIRTQ_CHAIN);
	assert_int_equal(chain.readable, 1);
	assert_int_equal(chain.writable, 2);
	assert_int_equal(chain.writable_bytes, 513);
	/* The window of an iovec starts and ends inside buffers. */
	struct iovec iov[VIRTQ_SEGMENTS];
	assert_int_equal(virtq_chain_iovec(&chain, true, 500, 13, iov), 2);
	assert_int_equal(iov[0].iov_len, 12);
	assert_int_equal(iov[1].iov_len, 1);
}

/* Indices run round at 65536 and the ring at its size. */
static void test_wrap(void **state)
{
	fresh(false);
	desc[5] = (struct desc){DATA, 1, 0, 0};
	for (unsigned i = 0; i < 70000; i++) {
		offer(5);
		assert_int_equal(virtq_pop(&q, &chain), VIRTQ_CHAIN);
		assert_int_equal(virtq_pop(&q, &chain), VIRTQ_EMPTY);
		virtq_push(&q, 5, i);
		assert_int_equal(used[1], (uint16_t)(i + 1));
		assert_int_equal(((uint32_t *)(used + 2))[2 * (i % SIZE) + 1], i);
	}
}

/* An interrupt exactly when the used index passes the driver's event, batches and wraps included. */
static void test_event_index(void **state)
{
	uint16_t *used_event = &avail[2 + SIZE];
	uint16_t *avail_event = &used[2 + 4 * SIZE];
	unsigned wanted = 0;

	fresh(true);
	desc[0] = (struct desc){DATA, 1, 0, 0};
	for (unsigned i = 0; i < 70000; i++) {
		bool passes;

		if (i % 7 == 0)
			*used_event = (uint16_t)(i + 3);
		offer(0);
		assert_int_equal(virtq_pop(&q, &chain), VIRTQ_CHAIN);
		virtq_push(&q, 0, 0);
		passes = *used_event == (uint16_t)i;
		/* The first answer after a start may be one too many. */
		if (i > 0)
			assert_int_equal(virtq_wants_interrupt(&q), passes);
		else
			(void)virtq_wants_interrupt(&q);
		wanted += passes;
	}
	assert_int_equal(wanted, 10000);
	assert_false(virtq_kicks_on(&q));
	assert_int_equal(*avail_event, (uint16_t)70000);
	offer(0);
	assert_true(virtq_kicks_on(&q));
}

static void test_loops(void **state)
{
	fresh(false);
	desc[0] = (struct desc){DATA, 1, NEXT, 0};
	offer(0);
	expect_broken("loop");

	fresh(false);
	for (unsigned i = 0; i < SIZE; i++)
		desc[i] = (struct desc){DATA, 0, NEXT, (uint16_t)((i + 1) % SIZE)};
	offer(4);
	expect_broken("loop");

	fresh(false);
	desc[0] = (struct desc){TABLE, 2 * 16, INDIRECT, 0};
	table[0] = (struct desc){DATA, 1, NEXT, 1};
	table[1] = (struct desc){DATA, 1, NEXT, 0};
	offer(0);
	expect_broken("loop");
}

static void test_wild(void **state)
{
	static const struct {
		struct desc desc;
		const char *word;
	} cases[] = {
		{{RAM_BYTES - 4, 8, 0, 0}, "not in RAM"},
		{{0xb0000000, 4, WRITE, 0}, "not in RAM"},
		{{UINT64_MAX - 3, 8, 0, 0}, "not in RAM"},
		{{UINT64_MAX, UINT32_MAX, WRITE, 0}, "not in RAM"},
		{{DATA, UINT32_MAX, WRITE, 0}, "not in RAM"},
		{{DATA, 1, NEXT, SIZE}, "leaves its table"},
		{{DATA, 1, NEXT, UINT16_MAX}, "leaves its table"},
		{{TABLE, 8, INDIRECT, 0}, "odd size"},
		{{TABLE, 0, INDIRECT, 0}, "odd size"},
		{{TABLE + 4, 16, INDIRECT, 0}, "odd size"},
		{{TABLE, 16, INDIRECT | NEXT, 0}, "chained"},
		{{0xfee00000, 16, INDIRECT, 0}, "not in RAM"},
		{{RAM_BYTES - 16, 0xfffffff0, INDIRECT, 0}, "not in RAM"},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		fresh(false);
		desc[2] = cases[i].desc;
		offer(2);
		expect_broken(cases[i].word);
	}

	fresh(false);
	desc[0] = (struct desc){TABLE, 16, INDIRECT, 0};
	table[0] = (struct desc){TABLE, 16, INDIRECT, 0};
	offer(0);
	expect_broken("holds an indirect");

	fresh(false);
	desc[0] = (struct desc){DATA, 1, NEXT | WRITE, 1};
	desc[1] = (struct desc){DATA, 1, 0, 0};
	offer(0);
	expect_broken("follows a writable");

	fresh(false);
	offer(SIZE);
	expect_broken("head");

	fresh(false);
	avail[1] = SIZE + 1;
	expect_broken("jumped");
}

/* More buffers than a chain may have, in a table that is otherwise fine. */
static void test_too_long(void **state)
{
	fresh(false);
	desc[0] = (struct desc){TABLE, 16 * 400, INDIRECT, 0};
	for (unsigned i = 0; i < 400; i++)
		table[i] = (struct desc){DATA, 1, i < 399 ? NEXT : 0, (uint16_t)(i + 1)};
	offer(0);
	expect_broken("too long");
}

/* A driver that offers again what it has not got back: bounded by the queue's size. */
static void test_too_many(void **state)
{
	fresh(false);
	desc[0] = (struct desc){DATA, 64, 0, 0};
	for (unsigned i = 0; i < SIZE; i++) {
		offer(0);
		assert_int_equal(virtq_pop(&q, &chain), VIRTQ_CHAIN);
	}
	offer(0);
	assert_true(virtq_pending(&q));
	expect_broken("under way");
}

static void test_bad_rings(void **state)
{
	static const struct {
		uint16_t size;
		uint64_t desc, avail, used;
		const char *word;
	} cases[] = {
		{0, DESC, AVAIL, USED, "power of two"},
		{12, DESC, AVAIL, USED, "power of two"},
		{512, DESC, AVAIL, USED, "power of two"},
		{SIZE, DESC + 8, AVAIL, USED, "aligned"},
		{SIZE, DESC, AVAIL + 1, USED, "aligned"},
		{SIZE, DESC, AVAIL, USED + 2, "aligned"},
		{SIZE, RAM_BYTES - 16, AVAIL, USED, "descriptor table"},
		{SIZE, DESC, 0xfffffffffffffffe, USED, "available ring"},
		{SIZE, DESC, AVAIL, RAM_BYTES - 8, "used ring"},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		virtq_reset(&q, machine);
		q.size = cases[i].size;
		q.desc = cases[i].desc;
		q.avail = cases[i].avail;
		q.used = cases[i].used;
		assert_false(virtq_enable(&q, false));
		assert_false(q.enabled);
		if (!strstr(q.error, cases[i].word))
			fail_msg("want \"%s\", got \"%s\"", cases[i].word, q.error);
	}
}

/* Rings of noise: whatever they say, only RAM is touched and it ends. */
static void test_noise(void **state)
{
	uint64_t seed = 0x853c49e6748fea9bull;
	unsigned chains = 0, broken = 0;

	for (unsigned round = 0; round < 20000; round++) {
		fresh(round & 1);
		for (unsigned i = 0; i < 2 * SIZE; i++) {
			struct desc *d = i < SIZE ? &desc[i] : &table[i - SIZE];

			seed = seed * 6364136223846793005ull + 1442695040888963407ull;
			d->gpa = seed >> 40 & 3 ? DATA + (seed >> 50) : seed & 1 ? TABLE : seed;
			d->bytes = seed >> 33 & 7 ? (uint32_t)(seed >> 20) & 0x7f0 : (uint32_t)seed;
			d->flags = (uint16_t)(seed >> 12 & 7);
			d->next = (uint16_t)(seed >> 16 & (SIZE + 3));
		}
		for (unsigned i = 0; i < 4; i++)
			offer((uint16_t)((seed >> (8 * i)) % SIZE));
		for (unsigned i = 0; i < 6; i++) {
			enum virtq_result result = virtq_pop(&q, &chain);

			if (result == VIRTQ_BROKEN) {
				broken++;
				break;
			}
			if (result == VIRTQ_EMPTY)
				break;
			chains++;
			assert_true(chain.readable + chain.writable <= VIRTQ_SEGMENTS);
			for (unsigned j = 0; j < chain.readable + chain.writable; j++)
				assert_true(chain.segment[j].gpa + chain.segment[j].bytes <= RAM_BYTES);
			virtq_push(&q, chain.head, 0);
		}
	}
	/* The noise is such that both happen. */
	assert_true(chains > 500);
	assert_true(broken > 500);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_chain),
		cmocka_unit_test(test_indirect),
		cmocka_unit_test(test_wrap),
		cmocka_unit_test(test_event_index),
		cmocka_unit_test(test_loops),
		cmocka_unit_test(test_wild),
		cmocka_unit_test(test_too_long),
		cmocka_unit_test(test_too_many),
		cmocka_unit_test(test_bad_rings),
		cmocka_unit_test(test_noise),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}

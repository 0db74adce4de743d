/* Integer workloads that look more like programs: an LZ compressor, a hash table of strings, SHA-256. */
#include <string.h>

#include "guest.h"

enum {
	LZ_BYTES = 65536,
	LZ_BITS = 12,
	WORDS = 4096,
	SLOTS = 8192,
	SHA_BYTES = 65536,
};

static uint8_t *lz_input, *lz_packed, *lz_output;

/* Text of a kind: words of a small vocabulary, so that there are matches to find. */
static void lz_prepare(void)
{
	uint32_t seed = 4;
	int at = 0;

	lz_input = guest_alloc(LZ_BYTES);
	lz_packed = guest_alloc(LZ_BYTES * 2);
	lz_output = guest_alloc(LZ_BYTES);
	while (at < LZ_BYTES) {
		uint32_t word = guest_random(&seed) % 600;
		int length = 2 + (int)(word * 7 % 9);

		for (int i = 0; i < length && at < LZ_BYTES; i++) {
			word = word * 31 + 17;
			lz_input[at++] = (uint8_t)('a' + word % 26);
		}
		if (at < LZ_BYTES)
			lz_input[at++] = ' ';
	}
}

static uint32_t load32(const uint8_t *p)
{
	uint32_t value;

	memcpy(&value, p, sizeof(value));
	return value;
}

/* Tokens: a byte below 0x80 is so many literals less one; 0x80+n is a match of n+4 bytes, and two bytes of distance. */
static int lz_pack(const uint8_t *in, int size, uint8_t *out)
{
	static int32_t heads[1 << LZ_BITS];
	int at = 0, literals = 0, used = 0;

	memset(heads, 0xff, sizeof(heads));
	while (at < size) {
		int length = 0, from = -1;

		if (at + 4 <= size) {
			int32_t *head = &heads[load32(in + at) * 2654435761u >> (32 - LZ_BITS)];

			from = *head;
			*head = at;
			if (from >= 0 && load32(in + from) == load32(in + at)) {
				length = 4;
				while (length < 131 && at + length < size && in[from + length] == in[at + length])
					length++;
			}
		}
		if (!length && ++literals < 128 && ++at < size)
			continue;
		if (!length && at < size)
			at++;
		if (literals) {
			out[used++] = (uint8_t)(literals - 1);
			memcpy(out + used, in + at - literals, (size_t)literals);
			used += literals;
			literals = 0;
		}
		if (length) {
			out[used++] = (uint8_t)(0x80 + length - 4);
			out[used++] = (uint8_t)(at - from);
			out[used++] = (uint8_t)((at - from) >> 8);
			at += length;
		}
	}
	return used;
}

static int lz_unpack(const uint8_t *in, int size, uint8_t *out)
{
	int made = 0;

	for (int at = 0; at < size;) {
		int token = in[at++];

		if (token < 0x80) {
			memcpy(out + made, in + at, (size_t)token + 1);
			at += token + 1;
			made += token + 1;
		} else {
			int from = made - (in[at] | in[at + 1] << 8);

			at += 2;
			for (int i = 0; i < token - 0x80 + 4; i++)
				out[made++] = out[from++];
		}
	}
	return made;
}

static uint64_t lz_run(uint64_t operations)
{
	uint64_t hash = 0;

	while (operations--) {
		int packed = lz_pack(lz_input, LZ_BYTES, lz_packed);
		int made = lz_unpack(lz_packed, packed, lz_output);

		/* A wrong answer shows as another result than the peer's. */
		hash = guest_mix(hash, (uint64_t)packed);
		hash = guest_mix(hash, made == LZ_BYTES && !memcmp(lz_input, lz_output, LZ_BYTES));
	}
	return hash;
}

struct slot {
	char key[24];
	uint32_t count;
};

static struct slot *slots;

static void hash_prepare(void)
{
	slots = guest_alloc(SLOTS * sizeof(*slots));
}

static int make_key(char *key, uint32_t number)
{
	int length = 0;

	memcpy(key, "key/", 4);
	length = 4;
	do {
		key[length++] = (char)('0' + number % 10);
		number /= 10;
	} while (number);
	key[length] = 0;
	return length;
}

static struct slot *slot_of(const char *key)
{
	uint32_t hash = 2166136261u;

	for (const char *p = key; *p; p++)
		hash = (hash ^ (uint8_t)*p) * 16777619u;
	for (uint32_t i = hash;; i++) {
		struct slot *slot = &slots[i % SLOTS];

		if (!slot->key[0]) {
			strcpy(slot->key, key);
			return slot;
		}
		if (!strcmp(slot->key, key))
			return slot;
	}
}

static uint64_t hash_run(uint64_t operations)
{
	uint64_t result = 0;
	uint32_t seed = 5;

	while (operations--) {
		memset(slots, 0, SLOTS * sizeof(*slots));
		for (int i = 0; i < WORDS; i++) {
			char key[24];

			make_key(key, guest_random(&seed) % 5000);
			slot_of(key)->count++;
		}
		for (int i = 0; i < SLOTS; i++)
			result += slots[i].count * (uint64_t)i;
	}
	return result;
}

static const uint32_t sha_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint8_t *sha_data;

static void sha_prepare(void)
{
	uint32_t seed = 6;

	sha_data = guest_alloc(SHA_BYTES);
	for (int i = 0; i < SHA_BYTES; i++)
		sha_data[i] = (uint8_t)guest_random(&seed);
}

static uint32_t rotate(uint32_t x, int by)
{
	return x >> by | x << (32 - by);
}

/* FIPS 180-4, section 6.2.2 */
static void sha_block(uint32_t state[8], const uint8_t *block)
{
	uint32_t w[64], s[8];

	for (int i = 0; i < 16; i++)
		w[i] = __builtin_bswap32(load32(block + 4 * i));
	for (int i = 16; i < 64; i++) {
		uint32_t a = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
		uint32_t b = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;

		w[i] = w[i - 16] + a + w[i - 7] + b;
	}
	memcpy(s, state, sizeof(s));
	for (int i = 0; i < 64; i++) {
		uint32_t e = rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25);
		uint32_t a = rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22);
		uint32_t t1 = s[7] + e + ((s[4] & s[5]) ^ (~s[4] & s[6])) + sha_k[i] + w[i];
		uint32_t t2 = a + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));

		memmove(s + 1, s, 7 * sizeof(s[0]));
		s[4] += t1;
		s[0] = t1 + t2;
	}
	for (int i = 0; i < 8; i++)
		state[i] += s[i];
}

static uint64_t sha_run(uint64_t operations)
{
	uint32_t state[8] = {
	    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
	};

	while (operations--) {
		for (int at = 0; at < SHA_BYTES; at += 64)
			sha_block(state, sha_data + at);
	}
	return (uint64_t)state[0] << 32 | state[7];
}

const struct workload realistic_workloads[] = {
    {"lz", "integer", LZ_BYTES, "byte", lz_prepare, lz_run},
    {"strings", "integer", WORDS, "key", hash_prepare, hash_run},
    {"sha256", "integer", SHA_BYTES, "byte", sha_prepare, sha_run},
    {0},
};

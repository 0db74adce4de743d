/* `openssl speed` with a given amount of work: SHA-256, AES-256-GCM and the verification of RSA-2048 signatures by libcrypto. */
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/rsa.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	BLOCK = 16384, /* openssl speed's largest */
	RSA_BYTES = 256,
};

static uint8_t block[BLOCK + 16];

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "crypto: %s failed\n", what);
	ERR_print_errors_fp(stderr);
	exit(1);
}

static void fill(uint8_t *bytes, size_t size)
{
	uint32_t state = 1;

	for (size_t i = 0; i < size; i++) {
		state = state * 1664525u + 1013904223u;
		bytes[i] = (uint8_t)(state >> 24);
	}
}

static void print(const uint8_t *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++)
		printf("%02x", bytes[i]);
	putchar('\n');
}

/* Each digest goes into the next block, so that none can be left out. */
static void sha256(unsigned long count)
{
	EVP_MD_CTX *context = EVP_MD_CTX_new();

	while (count--) {
		if (!EVP_DigestInit_ex(context, EVP_sha256(), NULL) || !EVP_DigestUpdate(context, block, BLOCK) ||
		    !EVP_DigestFinal_ex(context, block, NULL))
			die("SHA-256");
	}
	EVP_MD_CTX_free(context);
	print(block, 32);
}

static void aes_gcm(unsigned long count)
{
	EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
	uint8_t key[32], iv[12], tag[16];
	int size;

	fill(key, sizeof(key));
	fill(iv, sizeof(iv));
	while (count--) {
		if (!EVP_EncryptInit_ex(context, EVP_aes_256_gcm(), NULL, key, iv) ||
		    !EVP_EncryptUpdate(context, block, &size, block, BLOCK) ||
		    !EVP_EncryptFinal_ex(context, block + size, &size) ||
		    !EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, sizeof(tag), tag))
			die("AES-256-GCM");
		memcpy(iv, tag, sizeof(iv));
	}
	EVP_CIPHER_CTX_free(context);
	print(tag, sizeof(tag));
}

/* Any odd number of 2048 bits costs as much as a product of two primes. */
static EVP_PKEY *public_key(void)
{
	OSSL_PARAM_BLD *builder = OSSL_PARAM_BLD_new();
	EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, "RSA", NULL);
	BIGNUM *n, *e = BN_new();
	OSSL_PARAM *parameters;
	EVP_PKEY *key = NULL;
	uint8_t modulus[RSA_BYTES];

	fill(modulus, sizeof(modulus));
	modulus[0] |= 0xc0;
	modulus[RSA_BYTES - 1] |= 1;
	n = BN_bin2bn(modulus, sizeof(modulus), NULL);
	BN_set_word(e, 65537);
	if (!OSSL_PARAM_BLD_push_BN(builder, OSSL_PKEY_PARAM_RSA_N, n) ||
	    !OSSL_PARAM_BLD_push_BN(builder, OSSL_PKEY_PARAM_RSA_E, e))
		die("a key's parameters");
	parameters = OSSL_PARAM_BLD_to_param(builder);
	if (EVP_PKEY_fromdata_init(context) <= 0 ||
	    EVP_PKEY_fromdata(context, &key, EVP_PKEY_PUBLIC_KEY, parameters) <= 0)
		die("a public key");
	return key;
}

/* Without padding, so that any number is a signature and what it verifies as is the next one. */
static void rsa_verify(unsigned long count)
{
	EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(public_key(), NULL);
	uint8_t signature[RSA_BYTES];

	fill(signature, sizeof(signature));
	signature[0] = 0;
	if (EVP_PKEY_verify_recover_init(context) <= 0 || EVP_PKEY_CTX_set_rsa_padding(context, RSA_NO_PADDING) <= 0)
		die("RSA");
	while (count--) {
		size_t size = sizeof(signature);

		if (EVP_PKEY_verify_recover(context, signature, &size, signature, sizeof(signature)) <= 0)
			die("RSA");
		signature[0] = 0;
	}
	print(signature, sizeof(signature));
}

int main(int argc, char **argv)
{
	unsigned long count = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;

	if (!count) {
		fprintf(stderr, "Usage: crypto sha256|aes-256-gcm|rsa2048-verify COUNT\n");
		return 2;
	}
	fill(block, sizeof(block));
	if (!strcmp(argv[1], "sha256"))
		sha256(count);
	else if (!strcmp(argv[1], "aes-256-gcm"))
		aes_gcm(count);
	else if (!strcmp(argv[1], "rsa2048-verify"))
		rsa_verify(count);
	else
		return 2;
	return 0;
}

/* Content digests with libcrypto, which uses the processor's SHA instructions where it has them. */
#include "agent/image/digest.h"

#include "lib/parse.h"

#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

struct digester {
	EVP_MD_CTX *ctx;
};

int digest_parse(const char *text, struct digest *ret, struct err *err)
{
	static const char prefix[] = "sha256:";
	const char *hex = text + sizeof(prefix) - 1;

	if (strncmp(text, prefix, sizeof(prefix) - 1) != 0) {
		const char *colon = strchr(text, ':');

		if (colon && colon - text <= 32)
			return err_text(
				err, -EINVAL,
				"digest algorithm \"%.*s\" is not supported, only sha256 is",
				(int)(colon - text), text);
		return err_text(err, -EINVAL, "\"%.80s\" is no digest (sha256:<64 hex digits>)",
		                text);
	}
	if (!name_is_hex(hex, DIGEST_HEX_LEN))
		return err_text(err, -EINVAL, "\"%.80s\" is no digest (sha256:<64 hex digits>)",
		                text);

	memcpy(ret->hex, hex, sizeof(ret->hex));
	return 0;
}

bool digest_equal(const struct digest *a, const struct digest *b)
{
	return strcmp(a->hex, b->hex) == 0;
}

static void hex_encode(const unsigned char *bytes, size_t n, char *hex)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < n; i++) {
		hex[2 * i] = digits[bytes[i] >> 4];
		hex[2 * i + 1] = digits[bytes[i] & 15];
	}
	hex[2 * n] = 0;
}

int digester_new(struct digester **ret)
{
	_cleanup_(digester_freep) struct digester *digester = calloc(1, sizeof(*digester));

	if (!digester)
		return -ENOMEM;

	digester->ctx = EVP_MD_CTX_new();
	if (!digester->ctx)
		return -ENOMEM;
	if (EVP_DigestInit_ex(digester->ctx, EVP_sha256(), NULL) != 1)
		return -EIO;

	*ret = TAKE_PTR(digester);
	return 0;
}

struct digester *digester_free(struct digester *digester)
{
	if (!digester)
		return NULL;

	EVP_MD_CTX_free(digester->ctx);
	free(digester);
	return NULL;
}

int digester_update(struct digester *digester, const void *bytes, size_t n)
{
	return EVP_DigestUpdate(digester->ctx, bytes, n) == 1 ? 0 : -EIO;
}

int digester_finish(struct digester *digester, struct digest *ret)
{
	unsigned char bytes[EVP_MAX_MD_SIZE];
	unsigned int n = 0;

	if (EVP_DigestFinal_ex(digester->ctx, bytes, &n) != 1 || n != DIGEST_HEX_LEN / 2)
		return -EIO;

	hex_encode(bytes, n, ret->hex);
	return 0;
}

int digest_of(const void *bytes, size_t n, struct digest *ret)
{
	_cleanup_(digester_freep) struct digester *digester = NULL;
	int r;

	r = digester_new(&digester);
	if (r < 0)
		return r;
	r = digester_update(digester, bytes, n);
	if (r < 0)
		return r;
	return digester_finish(digester, ret);
}

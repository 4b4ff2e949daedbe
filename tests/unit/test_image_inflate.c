/* agent/image/inflate: the same plain bytes, however the compressed ones are cut up. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "agent/image/inflate.h"
#include "lib/cleanup.h"

struct buffer {
	unsigned char bytes[1 << 21];
	size_t len;
	int refuse; /* what the sink answers once there is this error */
};

static int sink(const void *bytes, size_t n, void *userdata)
{
	struct buffer *b = userdata;

	if (b->refuse)
		return b->refuse;
	assert_true(n <= sizeof(b->bytes) - b->len);
	memcpy(b->bytes + b->len, bytes, n);
	b->len += n;
	return 0;
}

static size_t compress_gzip(const unsigned char *plain, size_t n, unsigned char *ret, size_t size)
{
	z_stream z = {};

	assert_int_equal(deflateInit2(&z, 1, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
	z.next_in = (unsigned char *)plain;
	z.avail_in = (unsigned int)n;
	z.next_out = ret;
	z.avail_out = (unsigned int)size;
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	deflateEnd(&z);
	return z.total_out;
}

static int inflate_in_pieces(enum layer_compression compression, const unsigned char *bytes,
                             size_t n, size_t piece, struct buffer *out, struct err *err)
{
	_cleanup_(inflater_freep) struct inflater *inflater = NULL;

	assert_int_equal(inflater_new(compression, sink, out, &inflater), 0);
	for (size_t i = 0; i < n; i += piece) {
		int r = inflater_feed(inflater, bytes + i, n - i < piece ? n - i : piece, err);

		if (r < 0)
			return r;
	}
	return inflater_finish(inflater, err);
}

static unsigned char plain[1 << 20], packed[1 << 21];
static struct buffer out;

/* Text that compresses well first, noise after. */
static void fill_plain(size_t compressible)
{
	unsigned int seed = 1;

	memset(plain, 'c', compressible);
	for (size_t i = compressible; i < sizeof(plain); i++)
		plain[i] = (unsigned char)((seed = seed * 1103515245 + 12345) >> 16);
}

static void test_pieces_of_any_size_give_the_same_bytes(void **state)
{
	static const size_t pieces[] = {1, 7, 1000, 16384, sizeof(packed)};
	static const size_t compressible[] = {0, sizeof(plain) / 2, sizeof(plain)};

	(void)state;
	for (size_t c = 0; c < ARRAY_SIZE(compressible); c++) {
		fill_plain(compressible[c]);
		for (int zstd = 0; zstd < 2; zstd++) {
			size_t n =
				zstd ? ZSTD_compress(packed, sizeof(packed), plain, sizeof(plain),
			                             1)
				     : compress_gzip(plain, sizeof(plain), packed, sizeof(packed));

			for (size_t i = 0; i < ARRAY_SIZE(pieces); i++) {
				struct err err = {};

				out.len = 0;
				if (inflate_in_pieces(zstd ? LAYER_ZSTD : LAYER_GZIP, packed, n,
				                      pieces[i], &out, &err) < 0)
					fail_msg("zstd %d, pieces of %zu: %s", zstd, pieces[i],
					         err.text);
				assert_int_equal(out.len, sizeof(plain));
				assert_memory_equal(out.bytes, plain, sizeof(plain));
			}
		}
	}
}

static void test_members_and_frames_follow_each_other(void **state)
{
	(void)state;
	for (int zstd = 0; zstd < 2; zstd++)
		for (size_t piece = 1; piece < 60; piece++) {
			size_t n = 0;

			for (int i = 0; i < 3; i++)
				n += zstd ? ZSTD_compress(packed + n, 1000, "hello", 5, 1)
				          : compress_gzip((const unsigned char *)"hello", 5,
				                          packed + n, 1000);
			if (!zstd) {
				memset(packed + n, 0, 100); /* padding */
				n += 100;
			}
			out.len = 0;
			assert_int_equal(inflate_in_pieces(zstd ? LAYER_ZSTD : LAYER_GZIP, packed,
			                                   n, piece, &out, NULL),
			                 0);
			assert_int_equal(out.len, 15);
			assert_memory_equal(out.bytes, "hellohellohello", 15);
		}
}

static void test_damage_and_ends_in_the_middle_are_errors(void **state)
{
	(void)state;
	fill_plain(sizeof(plain) / 2);
	for (int zstd = 0; zstd < 2; zstd++) {
		enum layer_compression compression = zstd ? LAYER_ZSTD : LAYER_GZIP;
		size_t n = zstd ? ZSTD_compress(packed, sizeof(packed), plain, sizeof(plain), 1)
		                : compress_gzip(plain, sizeof(plain), packed, sizeof(packed));
		struct err err = {};

		for (size_t cut = 1; cut < 20; cut++) {
			out.len = 0;
			assert_int_equal(
				inflate_in_pieces(compression, packed, n - cut, 16384, &out, &err),
				-EBADMSG);
			assert_true(err.text[0]);
		}
		out.len = 0;
		assert_int_equal(inflate_in_pieces(compression, packed, 0, 1, &out, &err),
		                 -EBADMSG);
		memcpy(packed + n, "garbage", 7);
		out.len = 0;
		assert_int_equal(inflate_in_pieces(compression, packed, n + 7, 16384, &out, &err),
		                 -EBADMSG);
		packed[0] ^= 1;
		out.len = 0;
		assert_int_equal(inflate_in_pieces(compression, packed, n, 16384, &out, &err),
		                 -EBADMSG);
	}
}

static void test_the_sinks_refusal_is_the_result(void **state)
{
	size_t n = compress_gzip(plain, sizeof(plain), packed, sizeof(packed));

	(void)state;
	out = (struct buffer){.refuse = -EPIPE};
	assert_int_equal(inflate_in_pieces(LAYER_GZIP, packed, n, 1000, &out, NULL), -EPIPE);
	assert_int_equal(inflate_in_pieces(LAYER_PLAIN, packed, n, 1000, &out, NULL), -EPIPE);
	out.refuse = 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pieces_of_any_size_give_the_same_bytes),
		cmocka_unit_test(test_members_and_frames_follow_each_other),
		cmocka_unit_test(test_damage_and_ends_in_the_middle_are_errors),
		cmocka_unit_test(test_the_sinks_refusal_is_the_result),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

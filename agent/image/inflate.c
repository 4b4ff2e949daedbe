/* gzip by ISA-L where it is built in, else by zlib; zstd by its library. One output buffer. */
#include "agent/image/inflate.h"

#include <errno.h>
#include <string.h>
#include <zstd.h>
#ifdef HAVE_ISAL
#	include <isa-l/igzip_lib.h>
#else
#	include <zlib.h>
#endif

#define OUTPUT_BYTES (256 * 1024)

struct inflater {
	enum layer_compression compression;
	inflate_sink_fn sink;
	void *userdata;
	unsigned char *output;
	bool complete; /* between two members or frames */

	ZSTD_DCtx *zstd;
#ifdef HAVE_ISAL
	struct inflate_state gzip;
#else
	z_stream gzip;
	bool gzip_is_open;
#endif
};

static int gzip_open(struct inflater *inflater)
{
#ifdef HAVE_ISAL
	isal_inflate_init(&inflater->gzip);
	inflater->gzip.crc_flag = ISAL_GZIP;
	return 0;
#else
	if (inflateInit2(&inflater->gzip, 15 + 16) != Z_OK)
		return -ENOMEM;
	inflater->gzip_is_open = true;
	return 0;
#endif
}

int inflater_new(enum layer_compression compression, inflate_sink_fn sink, void *userdata,
                 struct inflater **ret)
{
	_cleanup_(inflater_freep) struct inflater *inflater = calloc(1, sizeof(*inflater));
	int r = 0;

	if (!inflater)
		return -ENOMEM;
	inflater->compression = compression;
	inflater->sink = sink;
	inflater->userdata = userdata;
	inflater->complete = compression == LAYER_PLAIN;
	inflater->output = malloc(OUTPUT_BYTES);
	if (!inflater->output)
		return -ENOMEM;

	if (compression == LAYER_GZIP)
		r = gzip_open(inflater);
	if (compression == LAYER_ZSTD) {
		inflater->zstd = ZSTD_createDCtx();
		r = inflater->zstd ? 0 : -ENOMEM;
	}
	if (r < 0)
		return r;
	*ret = TAKE_PTR(inflater);
	return 0;
}

struct inflater *inflater_free(struct inflater *inflater)
{
	if (!inflater)
		return NULL;

#ifndef HAVE_ISAL
	if (inflater->gzip_is_open)
		inflateEnd(&inflater->gzip);
#endif
	ZSTD_freeDCtx(inflater->zstd);
	free(inflater->output);
	free(inflater);
	return NULL;
}

/* Inflates until the input is used up or a member ends; both advance *bytes and *n. */
#ifdef HAVE_ISAL
static int gzip_member(struct inflater *inflater, const unsigned char **bytes, size_t *n,
                       struct err *err)
{
	struct inflate_state *gzip = &inflater->gzip;
	size_t produced;
	int r;

	/* No piece is larger than curl's buffer, far below 4 GiB. */
	gzip->next_in = (uint8_t *)*bytes;
	gzip->avail_in = (uint32_t)*n;
	do {
		gzip->next_out = inflater->output;
		gzip->avail_out = OUTPUT_BYTES;
		r = isal_inflate(gzip);
		if (r != ISAL_DECOMP_OK && r != ISAL_END_INPUT)
			return err_text(err, -EBADMSG, "layer is no valid gzip stream (%d)", r);
		produced = OUTPUT_BYTES - gzip->avail_out;
		r = inflater->sink(inflater->output, produced, inflater->userdata);
		if (r < 0)
			return r;
		inflater->complete = gzip->block_state == ISAL_BLOCK_FINISH;
		/* It keeps output and the trailer back, and gives them out without new input. */
	} while (!inflater->complete && (gzip->avail_in > 0 || produced > 0));
	*bytes = gzip->next_in;
	*n = gzip->avail_in;
	return 0;
}

static int gzip_restart(struct inflater *inflater)
{
	isal_inflate_reset(&inflater->gzip);
	inflater->gzip.crc_flag = ISAL_GZIP;
	return 0;
}
#else
static int gzip_member(struct inflater *inflater, const unsigned char **bytes, size_t *n,
                       struct err *err)
{
	z_stream *gzip = &inflater->gzip;
	size_t produced;
	int r;

	gzip->next_in = (unsigned char *)*bytes;
	gzip->avail_in = (unsigned int)*n;
	do {
		gzip->next_out = inflater->output;
		gzip->avail_out = OUTPUT_BYTES;
		r = inflate(gzip, Z_NO_FLUSH);
		if (r != Z_OK && r != Z_STREAM_END && r != Z_BUF_ERROR)
			return err_text(err, -EBADMSG, "layer is no valid gzip stream: %s",
			                gzip->msg ? gzip->msg : "damaged");
		inflater->complete = r == Z_STREAM_END;
		produced = OUTPUT_BYTES - gzip->avail_out;
		r = inflater->sink(inflater->output, produced, inflater->userdata);
		if (r < 0)
			return r;
	} while (!inflater->complete && (gzip->avail_in > 0 || produced > 0));
	*bytes = gzip->next_in;
	*n = gzip->avail_in;
	return 0;
}

static int gzip_restart(struct inflater *inflater)
{
	return inflateReset(&inflater->gzip) == Z_OK ? 0 : -EIO;
}
#endif

static int feed_gzip(struct inflater *inflater, const unsigned char *bytes, size_t n,
                     struct err *err)
{
	int r;

	while (n > 0) {
		if (inflater->complete) {
			/* Tapes and some uploaders pad with zeros, which begin no member. */
			while (n > 0 && *bytes == 0) {
				bytes++;
				n--;
			}
			if (n == 0)
				return 0;
			r = gzip_restart(inflater);
			if (r < 0)
				return r;
			inflater->complete = false;
		}
		r = gzip_member(inflater, &bytes, &n, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int feed_zstd(struct inflater *inflater, const void *bytes, size_t n, struct err *err)
{
	ZSTD_inBuffer in = {bytes, n, 0};
	ZSTD_outBuffer out;
	size_t left;
	int r;

	do {
		out = (ZSTD_outBuffer){inflater->output, OUTPUT_BYTES, 0};
		left = ZSTD_decompressStream(inflater->zstd, &out, &in);
		if (ZSTD_isError(left))
			return err_text(err, -EBADMSG, "layer is no valid zstd stream: %s",
			                ZSTD_getErrorName(left));
		inflater->complete = left == 0;
		r = inflater->sink(inflater->output, out.pos, inflater->userdata);
		if (r < 0)
			return r;
		/* At the end of a frame nothing is held back, and one more call would begin
		 * another. */
	} while (in.pos < in.size || (!inflater->complete && out.pos == out.size));
	return 0;
}

int inflater_feed(struct inflater *inflater, const void *bytes, size_t n, struct err *err)
{
	switch (inflater->compression) {
	case LAYER_GZIP:
		return feed_gzip(inflater, bytes, n, err);
	case LAYER_ZSTD:
		return feed_zstd(inflater, bytes, n, err);
	case LAYER_PLAIN:
		break;
	}
	return inflater->sink(bytes, n, inflater->userdata);
}

int inflater_finish(struct inflater *inflater, struct err *err)
{
	const unsigned char *nothing = NULL;
	size_t n = 0;
	int r;

	if (!inflater->complete && inflater->compression == LAYER_GZIP) {
		r = gzip_member(inflater, &nothing, &n, err);
		if (r < 0)
			return r;
	}
	if (!inflater->complete)
		return err_text(err, -EBADMSG, "compressed layer is cut off");
	return 0;
}

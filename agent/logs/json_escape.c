/*
 * Runs of plain ASCII, which most output is, are copied eight bytes at a time; everything else goes
 * through one step per character.
 */
#include "agent/logs/json_escape.h"

#include <stdbool.h>
#include <stdint.h>

#define ESCAPED_MAX 6 /* bytes of output for one of input: "\u001b" */

/* Does any of the eight bytes need a look: a control character, '"', '\\' or beyond ASCII? */
static bool word_is_plain(uint64_t v)
{
	const uint64_t ones = 0x0101010101010101u, high = 0x8080808080808080u;
	uint64_t quote = v ^ (ones * '"'), slash = v ^ (ones * '\\');

	/* A byte below 0x20 borrows when 0x20 is taken off; a zero byte when one is. */
	return !((v | (v - ones * 0x20) | (quote - ones) | (slash - ones)) & high);
}

static bool byte_is_plain(unsigned char c)
{
	return c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
}

/*
 * One character beyond ASCII at p. Returns the bytes it takes, with *ret_valid; when it is not
 * valid these are the maximal part to be replaced. Source: Unicode 15, tables 3-7 and 3-8.
 */
static size_t utf8_step(const unsigned char *p, size_t n, bool *ret_valid)
{
	unsigned char low = 0x80, high = 0xbf;
	size_t need, i;

	*ret_valid = false;
	if (p[0] >= 0xc2 && p[0] <= 0xdf)
		need = 2;
	else if ((p[0] & 0xf0) == 0xe0)
		need = 3;
	else if (p[0] >= 0xf0 && p[0] <= 0xf4)
		need = 4;
	else
		return 1;

	if (p[0] == 0xe0)
		low = 0xa0; /* shorter forms exist */
	else if (p[0] == 0xed)
		high = 0x9f; /* surrogates */
	else if (p[0] == 0xf0)
		low = 0x90;
	else if (p[0] == 0xf4)
		high = 0x8f; /* beyond U+10FFFF */

	for (i = 1; i < need; i++) {
		if (i >= n || p[i] < low || p[i] > high)
			return i;
		low = 0x80;
		high = 0xbf;
	}
	*ret_valid = true;
	return need;
}

/* The escaped form of an ASCII character that is not plain. */
static char *put_escaped(char *q, unsigned char c)
{
	static const char hex[] = "0123456789abcdef";
	static const char short_forms[128] = {
		['"'] = '"',  ['\\'] = '\\', ['\n'] = 'n', ['\r'] = 'r',
		['\t'] = 't', ['\b'] = 'b',  ['\f'] = 'f'};

	*q++ = '\\';
	if (short_forms[c]) {
		*q++ = short_forms[c];
		return q;
	}
	memcpy(q, "u00", 3);
	q[3] = hex[c >> 4];
	q[4] = hex[c & 15];
	return q + 5;
}

int json_escape(struct text *out, const char *in, size_t n, size_t max, size_t *ret_consumed,
                size_t *ret_utf8)
{
	const unsigned char *p = (const unsigned char *)in;
	size_t i = 0, utf8 = 0;
	char *q;
	int r;

	r = text_reserve(out, (n < max ? n : max) * ESCAPED_MAX);
	if (r < 0)
		return r;
	q = out->p + out->len;

	while (i < n && utf8 < max) {
		uint64_t word;
		bool valid;
		size_t k, makes;

		if (n - i >= sizeof(word) && max - utf8 >= sizeof(word)) {
			memcpy(&word, p + i, sizeof(word));
			if (word_is_plain(word)) {
				memcpy(q, &word, sizeof(word));
				q += sizeof(word);
				i += sizeof(word);
				utf8 += sizeof(word);
				continue;
			}
		}
		if (p[i] < 0x80) {
			if (byte_is_plain(p[i]))
				*q++ = (char)p[i];
			else
				q = put_escaped(q, p[i]);
			i++;
			utf8++;
			continue;
		}

		k = utf8_step(p + i, n - i, &valid);
		makes = valid ? k : 3;
		if (makes > max - utf8)
			break;
		memcpy(q, valid ? (const char *)p + i : "\xef\xbf\xbd", makes);
		q += makes;
		i += k;
		utf8 += makes;
	}

	out->len = (size_t)(q - out->p);
	*ret_consumed = i;
	*ret_utf8 = utf8;
	return 0;
}

int json_append_quoted(struct text *out, const char *string)
{
	size_t consumed, utf8;
	int r;

	r = text_append(out, "\"", 1);
	if (r == 0)
		r = json_escape(out, string, strlen(string), SIZE_MAX / ESCAPED_MAX, &consumed,
		                &utf8);
	return r < 0 ? r : text_append(out, "\"", 1);
}

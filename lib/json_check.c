/*
 * A recogniser for strict JSON. json-c's strict mode lets through duplicate members, NaN, single
 * quotes, NUL in names, overlong UTF-8 and integers that it silently clamps; a document that means
 * two things to two readers is how checks get bypassed, so it is refused before it is parsed.
 */
#include "lib/json_check.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/json.h"

/* Member names of the objects that are open, decoded, as a stack of hashes with their texts. */
struct name {
	uint64_t hash;
	size_t start, len; /* in names_text */
};

struct checker {
	const char *text;
	size_t len, at;
	unsigned int depth;
	struct err *err;
	struct name *names;
	size_t n_names, room_names;
	char *names_text;
	size_t names_len, names_room;
	uint32_t *table; /* scratch of the duplicate search */
	size_t table_size;
};

static int fail(struct checker *c, const char *what)
{
	return err_text(c->err, -EINVAL, "invalid JSON at byte %zu: %s", c->at, what);
}

static int peek(const struct checker *c)
{
	return c->at < c->len ? (unsigned char)c->text[c->at] : -1;
}

static void skip_blanks(struct checker *c)
{
	while (c->at < c->len && strchr(" \t\r\n", c->text[c->at]) && c->text[c->at])
		c->at++;
}

/* Length of the valid UTF-8 sequence at p (RFC 3629: no overlong form, no surrogate), or 0. */
static size_t utf8_sequence(const unsigned char *p, size_t n)
{
	unsigned char low = 0x80, high = 0xbf;
	size_t len;

	if (p[0] < 0x80)
		return 1;
	if (p[0] >= 0xc2 && p[0] <= 0xdf)
		len = 2;
	else if (p[0] >= 0xe0 && p[0] <= 0xef)
		len = 3;
	else if (p[0] >= 0xf0 && p[0] <= 0xf4)
		len = 4;
	else
		return 0;
	if (n < len)
		return 0;

	if (p[0] == 0xe0)
		low = 0xa0;
	else if (p[0] == 0xed)
		high = 0x9f;
	else if (p[0] == 0xf0)
		low = 0x90;
	else if (p[0] == 0xf4)
		high = 0x8f;
	if (p[1] < low || p[1] > high)
		return 0;
	for (size_t i = 2; i < len; i++)
		if (p[i] < 0x80 || p[i] > 0xbf)
			return 0;
	return len;
}

static int hex4(const struct checker *c, size_t at, uint32_t *ret)
{
	uint32_t value = 0;

	if (c->len - at < 4)
		return -EINVAL;
	for (size_t i = 0; i < 4; i++) {
		char ch = c->text[at + i];

		value <<= 4;
		if (ch >= '0' && ch <= '9')
			value |= (uint32_t)(ch - '0');
		else if ((ch | 0x20) >= 'a' && (ch | 0x20) <= 'f')
			value |= (uint32_t)((ch | 0x20) - 'a' + 10);
		else
			return -EINVAL;
	}
	*ret = value;
	return 0;
}

/* Keep decoded bytes of a member name; does nothing when the string is no name. */
static int keep(struct checker *c, bool is_name, const char *bytes, size_t n)
{
	if (!is_name)
		return 0;
	if (!c->names_text || c->names_len + n > c->names_room) {
		size_t room = (c->names_room + n) * 2 + 256;
		char *p = realloc(c->names_text, room);

		if (!p)
			return err_oom(c->err);
		c->names_text = p;
		c->names_room = room;
	}
	memcpy(c->names_text + c->names_len, bytes, n);
	c->names_len += n;
	return 0;
}

static size_t utf8_encode(uint32_t code, char *out)
{
	if (code < 0x80) {
		out[0] = (char)code;
		return 1;
	}
	if (code < 0x800) {
		out[0] = (char)(0xc0 | code >> 6);
		out[1] = (char)(0x80 | (code & 0x3f));
		return 2;
	}
	if (code < 0x10000) {
		out[0] = (char)(0xe0 | code >> 12);
		out[1] = (char)(0x80 | (code >> 6 & 0x3f));
		out[2] = (char)(0x80 | (code & 0x3f));
		return 3;
	}
	out[0] = (char)(0xf0 | code >> 18);
	out[1] = (char)(0x80 | (code >> 12 & 0x3f));
	out[2] = (char)(0x80 | (code >> 6 & 0x3f));
	out[3] = (char)(0x80 | (code & 0x3f));
	return 4;
}

/* "\uXXXX", a surrogate pair counting as one. c->at is on the 'u'. */
static int check_unicode_escape(struct checker *c, bool is_name)
{
	uint32_t code, second;
	char out[4];

	if (hex4(c, c->at + 1, &code) < 0)
		return fail(c, "\\u needs four hex digits");
	c->at += 5;
	if (code >= 0xdc00 && code <= 0xdfff)
		return fail(c, "lone low surrogate");
	if (code >= 0xd800 && code <= 0xdbff) {
		if (c->len - c->at < 6 || c->text[c->at] != '\\' || c->text[c->at + 1] != 'u' ||
		    hex4(c, c->at + 2, &second) < 0 || second < 0xdc00 || second > 0xdfff)
			return fail(c, "lone high surrogate");
		code = 0x10000 + ((code - 0xd800) << 10) + (second - 0xdc00);
		c->at += 6;
	}
	if (code == 0 && is_name)
		return fail(c, "NUL in a member name");
	return keep(c, is_name, out, utf8_encode(code, out));
}

static int check_escape(struct checker *c, bool is_name)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	const char *p;
	int ch;

	c->at++;
	ch = peek(c);
	if (ch == 'u')
		return check_unicode_escape(c, is_name);
	p = ch > 0 ? strchr(from, ch) : NULL;
	if (!p)
		return fail(c, "unknown escape");
	c->at++;
	return keep(c, is_name, to + (p - from), 1);
}

static int check_string(struct checker *c, bool is_name)
{
	int r;

	if (peek(c) != '"')
		return fail(c, "a string in double quotes is needed");
	c->at++;
	for (;;) {
		int ch = peek(c);
		size_t n;

		if (ch < 0)
			return fail(c, "unterminated string");
		if (ch == '"')
			break;
		if (ch < 0x20)
			return fail(c, "control character in a string");
		if (ch == '\\') {
			r = check_escape(c, is_name);
			if (r < 0)
				return r;
			continue;
		}
		n = utf8_sequence((const unsigned char *)c->text + c->at, c->len - c->at);
		if (n == 0)
			return fail(c, "malformed UTF-8");
		r = keep(c, is_name, c->text + c->at, n);
		if (r < 0)
			return r;
		c->at += n;
	}
	c->at++;
	return 0;
}

static size_t skip_digits(struct checker *c)
{
	size_t start = c->at;

	while (peek(c) >= '0' && peek(c) <= '9')
		c->at++;
	return c->at - start;
}

static bool integer_fits(const char *digits, size_t n, bool negative)
{
	const char *max = negative ? "9223372036854775808" : "18446744073709551615";

	if (n != strlen(max))
		return n < strlen(max);
	return memcmp(digits, max, n) <= 0;
}

static int check_number(struct checker *c)
{
	bool negative = peek(c) == '-', integer = true;
	size_t start, n;

	if (negative)
		c->at++;
	start = c->at;
	n = skip_digits(c);
	if (n == 0)
		return fail(c, "unexpected character");
	if (n > 1 && c->text[start] == '0')
		return fail(c, "leading zero");
	if (peek(c) == '.') {
		integer = false;
		c->at++;
		if (skip_digits(c) == 0)
			return fail(c, "digits are missing after '.'");
	}
	if (peek(c) == 'e' || peek(c) == 'E') {
		integer = false;
		c->at++;
		if (peek(c) == '+' || peek(c) == '-')
			c->at++;
		if (skip_digits(c) == 0)
			return fail(c, "digits are missing in the exponent");
	}
	if (integer && !integer_fits(c->text + start, n, negative))
		return fail(c, "integer beyond 64 bits");
	return 0;
}

static int check_word(struct checker *c, const char *word)
{
	size_t n = strlen(word);

	if (c->len - c->at < n || memcmp(c->text + c->at, word, n) != 0)
		return fail(c, "unexpected character");
	c->at += n;
	return 0;
}

static uint64_t hash_bytes(const char *p, size_t n)
{
	uint64_t hash = 14695981039346656037ULL; /* FNV-1a; a collision only costs a comparison */

	for (size_t i = 0; i < n; i++)
		hash = (hash ^ (unsigned char)p[i]) * 1099511628211ULL;
	return hash ^ hash >> 29;
}

static bool same_name(const struct checker *c, const struct name *a, const struct name *b)
{
	return a->hash == b->hash && a->len == b->len &&
	       memcmp(c->names_text + a->start, c->names_text + b->start, a->len) == 0;
}

/* Are the names from first on unique? Small objects by comparing, larger ones by a hash table. */
static int check_unique(struct checker *c, size_t first)
{
	size_t n = c->n_names - first, size = 64;

	if (n <= 16) {
		for (size_t i = first; i < c->n_names; i++)
			for (size_t k = first; k < i; k++)
				if (same_name(c, &c->names[i], &c->names[k]))
					return fail(
						c, "duplicate member in the object that ends here");
		return 0;
	}

	while (size < n * 2)
		size *= 2;
	if (size > c->table_size) {
		uint32_t *table = realloc(c->table, size * sizeof(*table));

		if (!table)
			return err_oom(c->err);
		c->table = table;
		c->table_size = size;
	}
	memset(c->table, 0, size * sizeof(*c->table));
	for (size_t i = first; i < c->n_names; i++) {
		size_t slot = c->names[i].hash & (size - 1);

		for (; c->table[slot]; slot = (slot + 1) & (size - 1))
			if (same_name(c, &c->names[c->table[slot] - 1], &c->names[i]))
				return fail(c, "duplicate member in the object that ends here");
		c->table[slot] = (uint32_t)i + 1;
	}
	return 0;
}

static int push_name(struct checker *c)
{
	struct name *names;
	size_t start = c->names_len;
	int r;

	r = keep(c, true, "", 0); /* also an empty name is somewhere */
	if (r < 0)
		return r;
	r = check_string(c, true);
	if (r < 0)
		return r;
	if (c->n_names == c->room_names) {
		size_t room = c->room_names * 2 + 16;

		names = realloc(c->names, room * sizeof(*names));
		if (!names)
			return err_oom(c->err);
		c->names = names;
		c->room_names = room;
	}
	c->names[c->n_names++] = (struct name){
		.hash = hash_bytes(c->names_text + start, c->names_len - start),
		.start = start,
		.len = c->names_len - start,
	};
	return 0;
}

static int check_value(struct checker *c);

static int check_members(struct checker *c)
{
	int r;

	for (;;) {
		skip_blanks(c);
		r = push_name(c);
		if (r < 0)
			return r;
		skip_blanks(c);
		if (peek(c) != ':')
			return fail(c, "':' is missing");
		c->at++;
		r = check_value(c);
		if (r < 0)
			return r;
		if (peek(c) == '}')
			return 0;
		if (peek(c) != ',')
			return fail(c, "',' or '}' is missing");
		c->at++;
	}
}

static int check_object(struct checker *c)
{
	size_t first = c->n_names, text = c->names_len;
	int r;

	c->at++;
	skip_blanks(c);
	if (peek(c) != '}') {
		r = check_members(c);
		if (r == 0)
			r = check_unique(c, first);
		if (r < 0)
			return r;
	}
	c->at++;
	c->n_names = first;
	c->names_len = text;
	return 0;
}

static int check_array(struct checker *c)
{
	int r;

	c->at++;
	skip_blanks(c);
	if (peek(c) == ']') {
		c->at++;
		return 0;
	}
	for (;;) {
		r = check_value(c);
		if (r < 0)
			return r;
		if (peek(c) == ']')
			break;
		if (peek(c) != ',')
			return fail(c, "',' or ']' is missing");
		c->at++;
	}
	c->at++;
	return 0;
}

static int check_value_here(struct checker *c)
{
	switch (peek(c)) {
	case '{':
		return check_object(c);
	case '[':
		return check_array(c);
	case '"':
		return check_string(c, false);
	case 't':
		return check_word(c, "true");
	case 'f':
		return check_word(c, "false");
	case 'n':
		return check_word(c, "null");
	case -1:
		return fail(c, "the text ends too early");
	default:
		return check_number(c);
	}
}

/* One value with the blanks around it. */
static int check_value(struct checker *c)
{
	int r;

	if (c->depth == 0)
		return fail(c, "nested too deeply");
	c->depth--;
	skip_blanks(c);
	r = check_value_here(c);
	if (r < 0)
		return r;
	skip_blanks(c);
	c->depth++;
	return 0;
}

int json_check(const char *text, size_t len, unsigned int depth, struct err *err)
{
	struct checker c = {.text = text, .len = len, .depth = depth, .err = err};
	int r;

	r = check_value(&c);
	if (r == 0 && c.at != c.len)
		r = fail(&c, "bytes follow the value");
	free(c.names);
	if (c.names_text)
		explicit_bzero(c.names_text, c.names_room);
	free(c.names_text);
	free(c.table);
	return r;
}

char *json_printable(const char *bytes, size_t n)
{
	static const char replacement[] = "\xef\xbf\xbd";
	char *text = malloc(3 * n + 1), *at = text;

	if (!text)
		return NULL;
	for (size_t i = 0; i < n;) {
		size_t k = bytes[i] ? utf8_sequence((const unsigned char *)bytes + i, n - i) : 0;

		memcpy(at, k ? bytes + i : replacement, k ? k : sizeof(replacement) - 1);
		at += k ? k : sizeof(replacement) - 1;
		i += k ? k : 1;
	}
	*at = '\0';
	return text;
}

/* agent/logs/json_escape: any bytes become the inside of a JSON string. */
#include "tests/unit/cmocka_prelude.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/logs/json_escape.h"
#include "lib/json.h"

#define FFFD "\xef\xbf\xbd"

static void test_characters_are_escaped_and_damage_is_replaced(void **state)
{
	static const struct {
		const char *in, *out; /* out: the UTF-8 meant, before escaping */
	} rows[] = {
		{"", ""},
		{"plain", "plain"},
		{"exactly8exactly8", "exactly8exactly8"},
		{"quote \" and back\\slash", "quote \" and back\\slash"},
		{"\x01\x02\x1f\x7f\t\r\n\b\f\x1b[0m", "\x01\x02\x1f\x7f\t\r\n\b\f\x1b[0m"},
		{"12345678\"2345678", "12345678\"2345678"},
		{"1234567\x1f"
	         "8",
	         "1234567\x1f"
	         "8"},
		{"h\xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80",
	         "h\xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80"},
		{"\xff", FFFD},
		{"\x80\x80", FFFD FFFD},
		{"\xc0\xaf", FFFD FFFD},
		{"\xc3", FFFD},
		{"\xc3(", FFFD "("},
		{"\xe2\x82", FFFD},
		{"\xe2\x82z", FFFD "z"},
		{"\xe0\x80\x80", FFFD FFFD FFFD},
		{"\xed\xa0\x80", FFFD FFFD FFFD},
		{"\xf0\x9f\x98", FFFD},
		{"\xf0\x80\x80\x80", FFFD FFFD FFFD FFFD},
		{"\xf4\x90\x80\x80", FFFD FFFD FFFD FFFD},
		{"\xf5\x80", FFFD FFFD},
		{"\xf1\x80\x80\xe1\x80\xc2"
	         "a",
	         FFFD FFFD FFFD "a"},
		{"\xef\xbf\xbf\xf4\x8f\xbf\xbf", "\xef\xbf\xbf\xf4\x8f\xbf\xbf"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct text text = {0};
		_cleanup_json_ struct json_object *obj = NULL;
		size_t consumed, utf8;
		const char *value = NULL;

		assert_int_equal(text_append_string(&text, "{\"v\":\""), 0);
		assert_int_equal(json_escape(&text, rows[i].in, strlen(rows[i].in), SIZE_MAX / 8,
		                             &consumed, &utf8),
		                 0);
		assert_int_equal(text_append_string(&text, "\"}"), 0);
		assert_int_equal(consumed, strlen(rows[i].in));
		if (json_parse_object(text.p, text.len, 1000, &obj, NULL) < 0 ||
		    json_get_string(obj, "v", &value, NULL) < 0 || strcmp(value, rows[i].out) != 0)
			print_error("row %zu: %.*s\n", i, (int)text.len, text.p);
		assert_non_null(value);
		assert_string_equal(value, rows[i].out);
		assert_int_equal(utf8, strlen(rows[i].out));
		text_done(&text);
	}
}

static void test_nul_is_escaped(void **state)
{
	struct text text = {0};
	size_t consumed, utf8;

	(void)state;
	assert_int_equal(json_escape(&text, "a\0b", 3, 100, &consumed, &utf8), 0);
	assert_int_equal(text.len, 8);
	assert_memory_equal(text.p, "a\\u0000b", 8);
	text_done(&text);
}

static void test_the_limit_counts_utf8_and_splits_no_character(void **state)
{
	static const struct {
		const char *in;
		size_t max, consumed, utf8;
	} rows[] = {
		{"abcdefgh", 0, 0, 0},
		{"abcdefgh", 8, 8, 8},
		{"abcdefghi", 8, 8, 8},
		{"\n\n\n", 2, 2, 2},
		{"a\xc3\xa4", 2, 1, 1},
		{"a\xc3\xa4", 3, 3, 3},
		{"\xf0\x9f\x98\x80", 3, 0, 0},
		{"a\xff"
	         "b",
	         3, 1, 1},
		{"a\xff"
	         "b",
	         4, 2, 4},
		{"a\xff"
	         "b",
	         5, 3, 5},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct text text = {0};
		size_t consumed, utf8;

		assert_int_equal(json_escape(&text, rows[i].in, strlen(rows[i].in), rows[i].max,
		                             &consumed, &utf8),
		                 0);
		if (consumed != rows[i].consumed || utf8 != rows[i].utf8)
			print_error("row %zu: consumed %zu, makes %zu\n", i, consumed, utf8);
		assert_int_equal(consumed, rows[i].consumed);
		assert_int_equal(utf8, rows[i].utf8);
		text_done(&text);
	}
}

/* The fast path against the definition, at every alignment: each byte in a run of plain ones. */
static void test_every_byte_at_every_place_in_a_word(void **state)
{
	(void)state;
	for (int c = 0; c < 128; c++)
		for (size_t at = 0; at < 16; at++) {
			struct text text = {0}, expected = {0};
			char in[16], one[8];
			size_t consumed, utf8;

			memset(in, 'x', sizeof(in));
			in[at] = (char)c;
			if (c == '"' || c == '\\')
				snprintf(one, sizeof(one), "\\%c", c);
			else if (strchr("\n\r\t\b\f", c) && c)
				snprintf(one, sizeof(one), "\\%c",
				         "nrtbf"[strchr("\n\r\t\b\f", c) - "\n\r\t\b\f"]);
			else if (c < 0x20)
				snprintf(one, sizeof(one), "\\u%04x", (unsigned int)c);
			else
				snprintf(one, sizeof(one), "%c", c);
			assert_int_equal(text_append(&expected, "xxxxxxxxxxxxxxxx", at), 0);
			assert_int_equal(text_append_string(&expected, one), 0);
			assert_int_equal(text_append(&expected, "xxxxxxxxxxxxxxxx", 15 - at), 0);
			assert_int_equal(json_escape(&text, in, 16, 16, &consumed, &utf8), 0);
			assert_int_equal(text.len, expected.len);
			assert_memory_equal(text.p, expected.p, text.len);
			text_done(&text);
			text_done(&expected);
		}
}

static void test_a_name_gets_its_quotes(void **state)
{
	struct text text = {0};

	(void)state;
	assert_int_equal(json_append_quoted(&text, "a\"b"), 0);
	assert_int_equal(text.len, 6);
	assert_memory_equal(text.p, "\"a\\\"b\"", 6);
	text_done(&text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_characters_are_escaped_and_damage_is_replaced),
		cmocka_unit_test(test_nul_is_escaped),
		cmocka_unit_test(test_the_limit_counts_utf8_and_splits_no_character),
		cmocka_unit_test(test_every_byte_at_every_place_in_a_word),
		cmocka_unit_test(test_a_name_gets_its_quotes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

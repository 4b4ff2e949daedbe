/* Parsers that reject trailing bytes and overflow. */
#include "lib/parse.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "lib/cleanup.h"

int parse_u64(const char *text, uint64_t max, uint64_t *ret)
{
	uint64_t value = 0;

	if (!text || !*text)
		return -EINVAL;
	for (; *text; text++) {
		uint64_t digit = (uint64_t)(*text - '0');

		if (*text < '0' || *text > '9')
			return -EINVAL;
		if (value > (UINT64_MAX - digit) / 10)
			return -ERANGE;
		value = value * 10 + digit;
	}
	if (value > max)
		return -ERANGE;
	*ret = value;
	return 0;
}

int parse_i64(const char *text, int64_t min, int64_t max, int64_t *ret)
{
	bool negative = text && *text == '-';
	uint64_t magnitude;
	int64_t value;
	int r;

	r = parse_u64(negative ? text + 1 : text, (uint64_t)INT64_MAX, &magnitude);
	if (r < 0)
		return r;
	value = negative ? -(int64_t)magnitude : (int64_t)magnitude;
	if (value < min || value > max)
		return -ERANGE;
	*ret = value;
	return 0;
}

int parse_bool(const char *text, bool *ret)
{
	static const char *const yes[] = {"1", "t", "T", "TRUE", "true", "True"};
	static const char *const no[] = {"0", "f", "F", "FALSE", "false", "False"};

	for (size_t i = 0; text && i < ARRAY_SIZE(yes); i++) {
		if (strcmp(text, yes[i]) == 0) {
			*ret = true;
			return 0;
		}
		if (strcmp(text, no[i]) == 0) {
			*ret = false;
			return 0;
		}
	}
	return -EINVAL;
}

/* Nanoseconds of a unit that text starts with, and its length. */
static uint64_t duration_unit(const char *text, size_t *ret_len)
{
	static const struct {
		const char *name;
		uint64_t nsec;
	} units[] = {
		{"ns", 1},
		{"us", 1000},
		{"\xc2\xb5s", 1000},
		{"\xce\xbcs", 1000},
		{"ms", 1000000ULL},
		{"s", 1000000000ULL},
		{"m", 60000000000ULL},
		{"h", 3600000000000ULL},
	};

	for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
		size_t n = strlen(units[i].name);

		if (strncmp(text, units[i].name, n) == 0) {
			*ret_len = n;
			return units[i].nsec;
		}
	}
	return 0;
}

/* One "12.5h" of a duration; moves *text behind it. */
static int duration_part(const char **text, uint64_t *ret_nsec)
{
	const char *p = *text;
	uint64_t whole = 0, fraction = 0, scale = 1, unit;
	size_t len, digits = 0;

	for (; *p >= '0' && *p <= '9'; p++, digits++) {
		if (whole > UINT64_MAX / 10 - 1)
			return -ERANGE;
		whole = whole * 10 + (uint64_t)(*p - '0');
	}
	if (*p == '.')
		for (p++; *p >= '0' && *p <= '9'; p++, digits++)
			if (scale < 100000) { /* finer digits vanish below a microsecond */
				fraction = fraction * 10 + (uint64_t)(*p - '0');
				scale *= 10;
			}
	if (digits == 0)
		return -EINVAL;

	unit = duration_unit(p, &len);
	if (unit == 0)
		return -EINVAL;
	if (whole > (uint64_t)INT64_MAX / unit)
		return -ERANGE;
	*ret_nsec = whole * unit + fraction * (unit / scale) + fraction * (unit % scale) / scale;
	*text = p + len;
	return 0;
}

int parse_duration(const char *text, uint64_t *ret_usec)
{
	uint64_t total = 0, part;
	int r;

	if (!text || !*text)
		return -EINVAL;
	if (*text == '-')
		return -ERANGE;
	if (*text == '+')
		text++;
	if (strcmp(text, "0") == 0) {
		*ret_usec = 0;
		return 0;
	}
	do {
		r = duration_part(&text, &part);
		if (r < 0)
			return r;
		if (total > (uint64_t)INT64_MAX - part)
			return -ERANGE;
		total += part;
	} while (*text);

	*ret_usec = total / 1000;
	return 0;
}

/* A number of the smaller unit with its fraction, without trailing zeros: 1500 of 1000 is "1.5". */
static int fraction_to_string(uint64_t value, uint64_t unit, char *buf, size_t n)
{
	char digits[24];
	uint64_t rest = value % unit;
	size_t len;
	int width = 0;

	for (uint64_t u = unit; u > 1; u /= 10)
		width++;
	if (rest == 0)
		return snprintf(buf, n, "%" PRIu64, value / unit);
	len = (size_t)snprintf(digits, sizeof(digits), "%0*" PRIu64, width, rest);
	while (len > 0 && digits[len - 1] == '0')
		digits[--len] = '\0';
	return snprintf(buf, n, "%" PRIu64 ".%s", value / unit, digits);
}

void duration_to_string(uint64_t usec, char *buf, size_t n)
{
	uint64_t hours = usec / 3600000000ULL, minutes = usec / 60000000ULL % 60;
	char seconds[64];

	if (usec == 0) {
		snprintf(buf, n, "0s");
	} else if (usec < 1000) {
		snprintf(buf, n, "%" PRIu64 "\xc2\xb5s", usec);
	} else if (usec < 1000000) {
		fraction_to_string(usec, 1000, seconds, sizeof(seconds));
		snprintf(buf, n, "%sms", seconds);
	} else {
		fraction_to_string(usec % 60000000ULL, 1000000, seconds, sizeof(seconds));
		if (hours)
			snprintf(buf, n, "%" PRIu64 "h%" PRIu64 "m%ss", hours, minutes, seconds);
		else if (minutes)
			snprintf(buf, n, "%" PRIu64 "m%ss", minutes, seconds);
		else
			snprintf(buf, n, "%ss", seconds);
	}
}

bool name_is_component(const char *name, size_t max)
{
	size_t n = name ? strlen(name) : 0;

	if (n == 0 || n > max || name[0] == '.')
		return false;
	for (; *name; name++)
		if (!((*name >= 'a' && *name <= 'z') || (*name >= 'A' && *name <= 'Z') ||
		      (*name >= '0' && *name <= '9') || *name == '_' || *name == '-' ||
		      *name == '.'))
			return false;
	return true;
}

/* Past slashes and components ".", to the next that counts. */
static const char *next_component(const char *path)
{
	for (;;) {
		path += strspn(path, "/");
		if (path[0] != '.' || (path[1] != '/' && path[1] != '\0'))
			return path;
		path++;
	}
}

bool path_is_same(const char *one, const char *other)
{
	for (;;) {
		size_t n, m;

		one = next_component(one);
		other = next_component(other);
		n = strcspn(one, "/");
		m = strcspn(other, "/");
		if (n != m || strncmp(one, other, n) != 0)
			return false;
		if (n == 0)
			return true;
		one += n;
		other += m;
	}
}

bool name_is_hex(const char *name, size_t n)
{
	if (!name || strlen(name) != n)
		return false;
	for (; *name; name++)
		if (!((*name >= 'a' && *name <= 'f') || (*name >= '0' && *name <= '9')))
			return false;
	return true;
}

const char *arn_resource_id(const char *arn)
{
	const char *slash;

	if (!arn || strncmp(arn, "arn:", 4) != 0)
		return NULL;
	slash = strrchr(arn, '/');
	return slash && slash[1] ? slash + 1 : NULL;
}

/* Read field by field: strptime() takes blanks and signs that RFC 3339 does not have. */
#define _XOPEN_SOURCE 700
#include "iam-creds/rfc3339.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Exactly n digits, a value from min to max, and then the byte end ('\0': whatever follows). */
static int take_number(const char **text, int n, int min, int max, char end, int *ret)
{
	int value = 0;

	for (int i = 0; i < n; i++, (*text)++) {
		if (!is_digit(**text))
			return -EINVAL;
		value = value * 10 + (**text - '0');
	}
	if (value < min || value > max || (end && **text != end))
		return -EINVAL;
	if (end)
		(*text)++;
	*ret = value;
	return 0;
}

/* ".123456789": digits beyond microseconds are cut. */
static int take_fraction(const char **text, uint64_t *ret_usec)
{
	uint64_t usec = 0, weight = 100000;

	if (**text != '.')
		return 0;
	(*text)++;
	if (!is_digit(**text))
		return -EINVAL;
	for (; is_digit(**text); (*text)++, weight /= 10)
		usec += (uint64_t)(**text - '0') * weight;
	*ret_usec = usec;
	return 0;
}

/* "Z" or "+hh:mm" to the end of the text. */
static int take_offset(const char *text, int *ret_seconds)
{
	int sign = *text == '-' ? -1 : 1, hours, minutes;

	*ret_seconds = 0;
	if ((*text == 'Z' || *text == 'z') && text[1] == '\0')
		return 0;
	if (*text != '+' && *text != '-')
		return -EINVAL;
	text++;
	if (take_number(&text, 2, 0, 23, ':', &hours) < 0 ||
	    take_number(&text, 2, 0, 59, '\0', &minutes) < 0 || *text != '\0')
		return -EINVAL;
	*ret_seconds = sign * (hours * 3600 + minutes * 60);
	return 0;
}

int rfc3339_parse(const char *text, uint64_t *ret_realtime_usec)
{
	struct tm tm = {0}, check;
	uint64_t usec = 0;
	int offset;
	time_t t;

	if (take_number(&text, 4, 1970, 9999, '-', &tm.tm_year) < 0 ||
	    take_number(&text, 2, 1, 12, '-', &tm.tm_mon) < 0 ||
	    take_number(&text, 2, 1, 31, '\0', &tm.tm_mday) < 0)
		return -EINVAL;
	if (*text != 'T' && *text != 't')
		return -EINVAL;
	text++;
	if (take_number(&text, 2, 0, 23, ':', &tm.tm_hour) < 0 ||
	    take_number(&text, 2, 0, 59, ':', &tm.tm_min) < 0 ||
	    take_number(&text, 2, 0, 60, '\0', &tm.tm_sec) < 0 || take_fraction(&text, &usec) < 0 ||
	    take_offset(text, &offset) < 0)
		return -EINVAL;

	tm.tm_year -= 1900;
	tm.tm_mon -= 1;
	check = tm;
	t = timegm(&check);
	if (check.tm_mday != tm.tm_mday || t < offset) /* 31 April, or before 1970 */
		return -EINVAL;
	*ret_realtime_usec = (uint64_t)(t - offset) * 1000000 + usec;
	return 0;
}

void rfc3339_format(uint64_t realtime_usec, char *buf, size_t n)
{
	time_t t = (time_t)(realtime_usec / 1000000);
	struct tm tm;

	gmtime_r(&t, &tm);
	if (strftime(buf, n, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
		snprintf(buf, n, "-");
}

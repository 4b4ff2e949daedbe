/* Just enough of RFC 3986: encoding what we build, and splitting what we were given. */
#include "lib/url.h"

#include <ctype.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/parse.h"

static bool is_unreserved(char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
	       c == '-' || c == '_' || c == '.' || c == '~';
}

/* Returns the end of what was written. */
static char *encode_to(char *out, const char *text, bool keep_slash)
{
	static const char hex[] = "0123456789ABCDEF";

	for (; *text; text++) {
		if (is_unreserved(*text) || (keep_slash && *text == '/')) {
			*out++ = *text;
			continue;
		}
		*out++ = '%';
		*out++ = hex[(unsigned char)*text >> 4];
		*out++ = hex[(unsigned char)*text & 15];
	}
	*out = '\0';
	return out;
}

char *url_encode(const char *text, bool keep_slash)
{
	char *encoded = malloc(3 * strlen(text) + 1);

	if (encoded)
		encode_to(encoded, text, keep_slash);
	return encoded;
}

char *url_with_query(const char *base, const struct url_parameter *parameters, size_t n)
{
	size_t size = strlen(base) + 1;
	char separator = '?';
	char *url, *out;

	for (size_t i = 0; i < n; i++)
		if (parameters[i].value)
			size += 2 + 3 * (strlen(parameters[i].name) + strlen(parameters[i].value));
	url = malloc(size);
	if (!url)
		return NULL;

	out = stpcpy(url, base);
	for (size_t i = 0; i < n; i++) {
		if (!parameters[i].value)
			continue;
		*out++ = separator;
		out = encode_to(out, parameters[i].name, false);
		*out++ = '=';
		out = encode_to(out, parameters[i].value, false);
		separator = '&';
	}
	return url;
}

/* A URL goes into a request line and headers: one blank or control character could end them. */
static int check_characters(const char *text, struct err *err)
{
	for (const char *p = text; *p; p++)
		if ((unsigned char)*p <= 0x20 || (unsigned char)*p >= 0x7f)
			return err_text(
				err, -EINVAL,
				"URL '%.200s' has a blank or a byte that must be percent-encoded",
				text);
	return 0;
}

static int split_scheme(const char *text, struct url *url, struct err *err)
{
	const char *colon = strstr(text, "://");

	if (!colon || colon == text)
		return err_text(err, -EINVAL, "URL '%.200s' has no scheme, such as https://", text);
	for (const char *p = text; p < colon; p++)
		if (!isalnum((unsigned char)*p))
			return err_text(err, -EINVAL,
			                "URL '%.200s' has no scheme, such as https://", text);
	url->scheme = text;
	url->scheme_len = (size_t)(colon - text);
	return 0;
}

static int split_port(const char *text, size_t len, struct url *url)
{
	char digits[6];
	uint64_t port;

	if (len == 0 || len >= sizeof(digits))
		return -EINVAL;
	memcpy(digits, text, len);
	digits[len] = '\0';
	if (parse_u64(digits, 65535, &port) < 0 || port == 0)
		return -EINVAL;
	url->port = (unsigned)port;
	return 0;
}

/* host[:port] of len bytes. */
static int split_authority(const char *text, size_t len, struct url *url)
{
	const char *end = text + len, *host_end;

	if (memchr(text, '@', len))
		return -EINVAL;
	if (len && *text == '[') {
		host_end = memchr(text, ']', len);
		if (!host_end)
			return -EINVAL;
		host_end++;
	} else {
		host_end = memchr(text, ':', len);
		if (!host_end)
			host_end = end;
	}
	if (host_end == text)
		return -EINVAL;
	url->host = text;
	url->host_len = (size_t)(host_end - text);
	if (host_end == end)
		return 0;
	if (*host_end != ':')
		return -EINVAL;
	return split_port(host_end + 1, (size_t)(end - host_end - 1), url);
}

int url_split(const char *text, struct url *ret, struct err *err)
{
	struct url url = {0};
	const char *p;
	int r;

	r = check_characters(text, err);
	if (r < 0)
		return r;
	r = split_scheme(text, &url, err);
	if (r < 0)
		return r;

	p = text + url.scheme_len + 3;
	r = split_authority(p, strcspn(p, "/?#"), &url);
	if (r < 0)
		return err_text(err, r, "URL '%.200s' needs a host and perhaps a port after ://",
		                text);

	p += strcspn(p, "/?#");
	url.path = p;
	url.path_len = strcspn(p, "?#");
	p += url.path_len;
	url.query = *p == '?' ? ++p : "";
	url.query_len = strcspn(url.query, "#");
	*ret = url;
	return 0;
}

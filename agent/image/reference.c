/*
 * The grammar is matched by hand, one component at a time, so that each refusal can say which part
 * is wrong.
 */
#include "agent/image/reference.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

static bool is_lower(char c)
{
	return c >= 'a' && c <= 'z';
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_upper(char c)
{
	return c >= 'A' && c <= 'Z';
}

static bool is_lower_alnum(char c)
{
	return is_lower(c) || is_digit(c);
}

static bool is_alnum(char c)
{
	return is_lower_alnum(c) || is_upper(c);
}

/* Runs of letters and digits, parted by '.', '_', '__' or any number of '-'. */
static bool component_is_valid(const char *s, size_t n)
{
	size_t i = 0;

	for (;;) {
		if (i >= n || !is_lower_alnum(s[i]))
			return false;
		while (i < n && is_lower_alnum(s[i]))
			i++;
		if (i == n)
			return true;
		if (s[i] == '.')
			i++;
		else if (s[i] == '_')
			i += i + 1 < n && s[i + 1] == '_' ? 2 : 1;
		else if (s[i] == '-')
			while (i < n && s[i] == '-')
				i++;
		else
			return false;
	}
}

static bool repository_is_valid(const char *s, size_t n)
{
	while (n > 0) {
		const char *slash = memchr(s, '/', n);
		size_t len = slash ? (size_t)(slash - s) : n;

		if (!component_is_valid(s, len))
			return false;
		if (!slash)
			return true;
		s += len + 1;
		n -= len + 1;
	}
	return false;
}

static bool port_is_valid(const char *s, size_t n)
{
	unsigned long port = 0;

	if (n < 1 || n > 5)
		return false;
	for (size_t i = 0; i < n; i++) {
		if (!is_digit(s[i]))
			return false;
		port = port * 10 + (unsigned long)(s[i] - '0');
	}
	return port > 0 && port < 65536;
}

static bool hostname_is_valid(const char *s, size_t n)
{
	bool at_start = true;

	if (n == 0)
		return false;
	for (size_t i = 0; i < n; i++) {
		if (s[i] == '.') {
			if (at_start || s[i - 1] == '-')
				return false;
			at_start = true;
			continue;
		}
		if (!is_alnum(s[i]) && (s[i] != '-' || at_start))
			return false;
		at_start = false;
	}
	return !at_start && s[n - 1] != '-';
}

static bool registry_is_valid(const char *s, size_t n)
{
	const char *colon;
	size_t host_len;

	if (n > 0 && s[0] == '[') {
		char address[INET6_ADDRSTRLEN] = "";
		const char *end = memchr(s, ']', n);
		struct in6_addr in6;

		if (!end || (size_t)(end - s - 1) >= sizeof(address))
			return false;
		memcpy(address, s + 1, (size_t)(end - s - 1));
		if (inet_pton(AF_INET6, address, &in6) != 1)
			return false;
		host_len = (size_t)(end + 1 - s);
		return host_len == n ||
		       (s[host_len] == ':' && port_is_valid(s + host_len + 1, n - host_len - 1));
	}

	colon = memchr(s, ':', n);
	host_len = colon ? (size_t)(colon - s) : n;
	if (colon && !port_is_valid(colon + 1, n - host_len - 1))
		return false;
	return hostname_is_valid(s, host_len);
}

static bool names_registry(const char *s, size_t n)
{
	if (memchr(s, '.', n) || memchr(s, ':', n) || (n == 9 && !memcmp(s, "localhost", 9)))
		return true;
	for (size_t i = 0; i < n; i++)
		if (is_upper(s[i]))
			return true;
	return false;
}

static bool tag_is_valid(const char *s, size_t n)
{
	if (n < 1 || n > REFERENCE_TAG_MAX || !(is_alnum(s[0]) || s[0] == '_'))
		return false;
	for (size_t i = 1; i < n; i++)
		if (!is_alnum(s[i]) && !strchr("_.-", s[i]))
			return false;
	return true;
}

static int parse_name(const char *text, size_t n, struct reference *ref, struct err *err)
{
	const char *slash = memchr(text, '/', n);
	size_t registry_len = slash ? (size_t)(slash - text) : 0;
	const char *registry = "docker.io";

	if (slash && names_registry(text, registry_len)) {
		if (!registry_is_valid(text, registry_len))
			return err_text(err, -EINVAL, "registry \"%.*s\" is no host name with port",
			                (int)registry_len, text);
		registry = text;
		text += registry_len + 1;
		n -= registry_len + 1;
	} else {
		registry_len = strlen(registry);
	}

	if (!repository_is_valid(text, n))
		return err_text(err, -EINVAL,
		                "repository \"%.*s\" must be lower-case letters and digits, parted "
		                "by '.', '_', '__', '-' and '/'",
		                (int)n, text);

	if (registry_len == 15 && !memcmp(registry, "index.docker.io", 15)) {
		registry = "docker.io";
		registry_len = 9;
	}
	snprintf(ref->registry, sizeof(ref->registry), "%.*s", (int)registry_len, registry);
	snprintf(ref->repository, sizeof(ref->repository), "%s%.*s",
	         !strcmp(ref->registry, "docker.io") && !memchr(text, '/', n) ? "library/" : "",
	         (int)n, text);
	return 0;
}

int reference_parse(const char *text, struct reference *ret, struct err *err)
{
	struct reference ref = {};
	const char *at = strchr(text, '@');
	size_t n = at ? (size_t)(at - text) : strlen(text);
	const char *slash, *colon;
	int r;

	if (!*text)
		return err_text(err, -EINVAL, "image reference is empty");
	if (n > REFERENCE_NAME_MAX + 1 + REFERENCE_TAG_MAX)
		return err_text(err, -EINVAL,
		                "image reference \"%.60s...\" is longer than %d bytes", text,
		                REFERENCE_NAME_MAX);
	for (const char *p = text; *p; p++)
		if (*p <= ' ' || *p > '~')
			return err_text(
				err, -EINVAL,
				"image reference \"%.*s\" goes on with a byte 0x%02x, which "
				"is no letter, digit or one of ./:@_-",
				(int)(p - text), text, (unsigned char)*p);

	if (at) {
		r = digest_parse(at + 1, &ref.digest, err);
		if (r < 0)
			return err_prefix(err, r, "image reference \"%.200s\"", text);
	}

	slash = memrchr(text, '/', n);
	colon = memrchr(text, ':', n);
	if (colon && (!slash || colon > slash)) {
		size_t tag_len = n - (size_t)(colon + 1 - text);

		if (!tag_is_valid(colon + 1, tag_len))
			return err_text(err, -EINVAL,
			                "image reference \"%.200s\": tag \"%.*s\" must be 1 to %d "
			                "letters, digits, '_', '.' and '-'",
			                text, (int)tag_len, colon + 1, REFERENCE_TAG_MAX);
		memcpy(ref.tag, colon + 1, tag_len);
		n = (size_t)(colon - text);
	} else if (!at) {
		memcpy(ref.tag, "latest", sizeof("latest"));
	}

	if (n > REFERENCE_NAME_MAX)
		return err_text(err, -EINVAL, "image name \"%.60s...\" is longer than %d bytes",
		                text, REFERENCE_NAME_MAX);
	r = parse_name(text, n, &ref, err);
	if (r < 0)
		return err_prefix(err, r, "image reference \"%.200s\"", text);
	/* The normal form is longer, and has to be a reference as well. */
	if (strlen(ref.registry) + 1 + strlen(ref.repository) > REFERENCE_NAME_MAX)
		return err_text(err, -EINVAL, "image name \"%.60s...\" is longer than %d bytes",
		                text, REFERENCE_NAME_MAX);

	*ret = ref;
	return 0;
}

void reference_to_string(const struct reference *ref, char buf[static REFERENCE_TEXT_N])
{
	snprintf(buf, REFERENCE_TEXT_N, "%s/%s%s%s%s%s", ref->registry, ref->repository,
	         ref->tag[0] ? ":" : "", ref->tag, ref->digest.hex[0] ? "@sha256:" : "",
	         ref->digest.hex);
}

void reference_api_host(const struct reference *ref, char *buf, size_t n)
{
	snprintf(buf, n, "%s",
	         !strcmp(ref->registry, "docker.io") ? "registry-1.docker.io" : ref->registry);
}

/* Literals as resolvers take them, "127.1" and "0x7f.1" too: hence inet_aton(). */
static bool parse_address(const char *host, struct in6_addr *ret)
{
	struct in_addr in;

	if (inet_aton(host, &in)) {
		*ret = (struct in6_addr){.s6_addr = {[10] = 0xff, [11] = 0xff}};
		memcpy(&ret->s6_addr[12], &in, sizeof(in));
		return true;
	}
	return inet_pton(AF_INET6, host, ret) == 1;
}

bool host_is_loopback(const char *host)
{
	struct in6_addr address;

	if (!strcasecmp(host, "localhost"))
		return true;
	if (!parse_address(host, &address))
		return false;
	return IN6_IS_ADDR_LOOPBACK(&address) ||
	       (IN6_IS_ADDR_V4MAPPED(&address) && address.s6_addr[12] == 127);
}

bool host_is_link_local(const char *host)
{
	struct in6_addr address;
	char without_zone[64];

	snprintf(without_zone, sizeof(without_zone), "%.*s", (int)strcspn(host, "%"), host);
	if (!parse_address(without_zone, &address))
		return false;
	if (IN6_IS_ADDR_V4MAPPED(&address))
		return address.s6_addr[12] == 169 && address.s6_addr[13] == 254;
	return IN6_IS_ADDR_LINKLOCAL(&address) || !memcmp(&address, "\xfd\x00\x0e\xc2", 4);
}

/*
 * Challenges are "scheme name=value, name=value, scheme ...": a word that is not followed by '='
 * starts a new one.
 */
#include "agent/image/challenge.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>

static bool is_token_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       (c && strchr("!#$%&'*+-.^_`|~", c));
}

static const char *skip_blanks(const char *p)
{
	return p + strspn(p, " \t");
}

/* Copies a token or quoted string to buf (NULL: only steps over it). */
static int read_value(const char **p, char *buf, size_t n, struct err *err)
{
	const char *s = *p;
	bool quoted = *s == '"';
	size_t len = 0;

	if (quoted)
		s++;
	while (quoted ? *s && *s != '"' : *s && !strchr(", \t", *s)) {
		if (quoted && *s == '\\' && s[1])
			s++;
		if (buf && len + 1 >= n)
			return err_text(err, -EBADMSG,
			                "a parameter of WWW-Authenticate is longer than %zu bytes",
			                n - 1);
		if (buf)
			buf[len] = *s;
		len++;
		s++;
	}
	if (quoted && *s != '"')
		return err_text(err, -EBADMSG, "a parameter of WWW-Authenticate is cut off");
	if (buf)
		buf[len] = 0;
	*p = s + quoted;
	return 0;
}

static int read_parameter(const char **p, const char *name, size_t name_len,
                          struct challenge *challenge, struct err *err)
{
	const struct {
		const char *name;
		char *buf;
		size_t size;
	} known[] = {
		{"realm", challenge->realm, sizeof(challenge->realm)},
		{"service", challenge->service, sizeof(challenge->service)},
		{"scope", challenge->scope, sizeof(challenge->scope)},
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strlen(known[i].name) == name_len &&
		    !strncasecmp(known[i].name, name, name_len))
			return read_value(p, known[i].buf, known[i].size, err);
	return read_value(p, NULL, 0, err);
}

static enum challenge_scheme scheme_from_name(const char *name, size_t n)
{
	if (n == 6 && !strncasecmp(name, "Bearer", 6))
		return CHALLENGE_BEARER;
	if (n == 5 && !strncasecmp(name, "Basic", 5))
		return CHALLENGE_BASIC;
	return CHALLENGE_NONE;
}

int challenge_parse(const char *header, struct challenge *ret, struct err *err)
{
	struct challenge best = {}, current = {};
	const char *p = header;
	int r;

	for (;;) {
		const char *word, *after;
		size_t n;

		p += strspn(p, " \t,");
		if (!*p)
			break;
		word = p;
		while (is_token_char(*p))
			p++;
		n = (size_t)(p - word);
		if (n == 0)
			return err_text(err, -EBADMSG, "WWW-Authenticate is malformed");

		after = skip_blanks(p);
		if (*after == '=') {
			p = skip_blanks(after + 1);
			r = read_parameter(&p, word, n, &current, err);
			if (r < 0)
				return r;
			continue;
		}
		if (current.scheme > best.scheme)
			best = current;
		current = (struct challenge){.scheme = scheme_from_name(word, n)};
	}
	if (current.scheme > best.scheme)
		best = current;

	if (best.scheme == CHALLENGE_BEARER && !best.realm[0])
		return err_text(err, -EBADMSG, "WWW-Authenticate asks for a token without a realm");
	*ret = best;
	return 0;
}

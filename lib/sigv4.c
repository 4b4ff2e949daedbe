/*
 * The canonical request is never built in memory: its parts run straight into the hash, so that the
 * session token leaves no copies behind. Headers are sorted into a small array first.
 */
#include "lib/sigv4.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "lib/secret.h"
#include "lib/url.h"

#define SHA256_BYTES       32
#define SIGNED_HEADERS_MAX 64
#define QUERY_PAIRS_MAX    256

struct signed_header {
	char *name; /* lower case, owned */
	const char *value;
};

struct signing {
	const struct sigv4_request *request;
	struct url url;
	struct signed_header headers[SIGNED_HEADERS_MAX];
	size_t n_headers;
	char scope[160]; /* "20260701/us-west-2/ecs/aws4_request" */
};

static void signing_done(struct signing *signing)
{
	for (size_t i = 0; i < signing->n_headers; i++)
		free(signing->headers[i].name);
}

/* A SHA-256 under way. The first failure sticks and is reported by hash_end(). */
struct hash {
	EVP_MD_CTX *ctx;
	bool failed;
};

static void hash_done(struct hash *hash)
{
	EVP_MD_CTX_free(hash->ctx);
}

static void hash_init(struct hash *hash)
{
	hash->ctx = EVP_MD_CTX_new();
	hash->failed = !hash->ctx || EVP_DigestInit_ex(hash->ctx, EVP_sha256(), NULL) != 1;
}

static void hash_bytes(struct hash *hash, const void *data, size_t n)
{
	if (!hash->failed && n > 0)
		hash->failed = EVP_DigestUpdate(hash->ctx, data, n) != 1;
}

static void hash_text(struct hash *hash, const char *text)
{
	hash_bytes(hash, text, strlen(text));
}

static void to_hex(const unsigned char bytes[static SHA256_BYTES], char hex[static 65])
{
	for (size_t i = 0; i < SHA256_BYTES; i++)
		snprintf(hex + 2 * i, 3, "%02x", bytes[i]);
}

static int hash_end(struct hash *hash, char hex[static 65], struct err *err)
{
	unsigned char digest[SHA256_BYTES];

	if (hash->failed || EVP_DigestFinal_ex(hash->ctx, digest, NULL) != 1)
		return err_text(err, -EIO, "libcrypto cannot compute SHA-256");
	to_hex(digest, hex);
	return 0;
}

static int hash_body(const struct sigv4_request *request, char hex[static 65], struct err *err)
{
	_cleanup_(hash_done) struct hash hash;

	hash_init(&hash);
	hash_bytes(&hash, request->body, request->body_len);
	return hash_end(&hash, hex, err);
}

static bool service_is_s3(const struct sigv4_request *request)
{
	return strcmp(request->service, "s3") == 0;
}

/* Scope and date go between separators of the string to sign. */
static int check_request(const struct sigv4_request *request, struct err *err)
{
	if (!request->region || !*request->region || strpbrk(request->region, "/ \r\n"))
		return err_text(err, -EINVAL, "cannot sign for the region '%.64s'",
		                request->region ? request->region : "");
	if (!request->service || !*request->service || strpbrk(request->service, "/ \r\n"))
		return err_text(err, -EINVAL, "cannot sign for the service '%.64s'",
		                request->service ? request->service : "");
	if (!request->method || !*request->method || strpbrk(request->method, " \r\n"))
		return err_text(err, -EINVAL, "cannot sign the method '%.64s'",
		                request->method ? request->method : "");
	return 0;
}

/* Proxies and HTTP clients change these, or add them later. */
static bool header_is_unsigned(const char *name)
{
	static const char *const unsigned_headers[] = {"authorization",
	                                               "connection",
	                                               "expect",
	                                               "keep-alive",
	                                               "proxy-authenticate",
	                                               "proxy-authorization",
	                                               "te",
	                                               "trailer",
	                                               "transfer-encoding",
	                                               "upgrade",
	                                               "user-agent",
	                                               "x-amzn-trace-id"};

	for (size_t i = 0; i < ARRAY_SIZE(unsigned_headers); i++)
		if (strcmp(name, unsigned_headers[i]) == 0)
			return true;
	return false;
}

/* Insert in order of names; equal names keep the order in which they came. */
static int add_header(struct signing *signing, const char *name, const char *value, struct err *err)
{
	size_t i = signing->n_headers;
	char *lower;

	if (!*name || strpbrk(name, " :\r\n") || strpbrk(value, "\r\n"))
		return err_text(err, -EINVAL, "cannot sign the header '%.64s'", name);
	if (i == SIGNED_HEADERS_MAX)
		return err_text(err, -EINVAL, "more than %d headers to sign", SIGNED_HEADERS_MAX);
	lower = strdup(name);
	if (!lower)
		return err_oom(err);
	for (char *p = lower; *p; p++)
		*p = (char)tolower((unsigned char)*p);
	if (header_is_unsigned(lower)) {
		free(lower);
		return 0;
	}

	for (; i > 0 && strcmp(signing->headers[i - 1].name, lower) > 0; i--)
		signing->headers[i] = signing->headers[i - 1];
	signing->headers[i] = (struct signed_header){.name = lower, .value = value};
	signing->n_headers++;
	return 0;
}

static int add_headers(struct signing *signing, const struct sigv4_signature *signature,
                       struct err *err)
{
	const struct sigv4_request *request = signing->request;
	const struct http_header own[] = {
		{"host", signature->host},
		{"x-amz-date", signature->date},
		{"x-amz-security-token", signature->security_token},
		{"x-amz-content-sha256",
	         signature->send_body_sha256 ? signature->body_sha256 : NULL},
	};
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(own); i++) {
		r = own[i].value ? add_header(signing, own[i].name, own[i].value, err) : 0;
		if (r < 0)
			return r;
	}
	for (size_t i = 0; i < request->n_headers; i++) {
		const struct http_header *header = &request->headers[i];

		for (size_t j = 0; j < ARRAY_SIZE(own); j++)
			if (strcasecmp(header->name, own[j].name) == 0)
				return err_text(err, -EINVAL,
				                "the header %s belongs to the signature",
				                own[j].name);
		r = add_header(signing, header->name, header->value, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Blanks around the value go, and those inside become one. */
static void hash_header_value(struct hash *hash, const char *value)
{
	bool first = true;

	for (;;) {
		size_t n;

		while (*value && isspace((unsigned char)*value))
			value++;
		if (!*value)
			return;
		for (n = 1; value[n] && !isspace((unsigned char)value[n]);)
			n++;
		if (!first)
			hash_text(hash, " ");
		hash_bytes(hash, value, n);
		value += n;
		first = false;
	}
}

static bool is_same_name(const struct signing *signing, size_t i)
{
	return i > 0 && strcmp(signing->headers[i - 1].name, signing->headers[i].name) == 0;
}

static void hash_headers(struct hash *hash, const struct signing *signing)
{
	for (size_t i = 0; i < signing->n_headers; i++) {
		if (is_same_name(signing, i)) {
			hash_text(hash, ",");
		} else {
			hash_text(hash, i > 0 ? "\n" : "");
			hash_text(hash, signing->headers[i].name);
			hash_text(hash, ":");
		}
		hash_header_value(hash, signing->headers[i].value);
	}
	hash_text(hash, "\n\n");
}

/* "content-type;host;x-amz-date". Owned by the caller. */
static char *signed_header_names(const struct signing *signing)
{
	size_t size = 1;
	char *names, *out;

	for (size_t i = 0; i < signing->n_headers; i++)
		size += strlen(signing->headers[i].name) + 1;
	names = out = calloc(1, size);
	if (!names)
		return NULL;
	for (size_t i = 0; i < signing->n_headers; i++) {
		if (is_same_name(signing, i))
			continue;
		if (i > 0)
			*out++ = ';';
		out = stpcpy(out, signing->headers[i].name);
	}
	return names;
}

/*
 * The path without ".", ".." and doubled slashes, encoded once more; s3 takes it as it is. dirs
 * holds the segments that are left, so its size bounds them.
 */
static int hash_path(struct hash *hash, const struct signing *signing, struct err *err)
{
	const char *path = signing->url.path, *end = path + signing->url.path_len;
	struct {
		const char *text;
		size_t len;
	} dirs[128];
	size_t n_dirs = 0;

	if (path == end || service_is_s3(signing->request)) {
		hash_bytes(hash, path == end ? "/" : path, path == end ? 1 : signing->url.path_len);
		return 0;
	}
	for (const char *p = path; p < end;) {
		size_t len = strcspn(p, "/?#");

		if (len == 2 && memcmp(p, "..", 2) == 0) {
			n_dirs -= n_dirs > 0;
		} else if (len > 0 && !(len == 1 && *p == '.')) {
			if (n_dirs == ARRAY_SIZE(dirs))
				return err_text(err, -EINVAL,
				                "the path to sign has more than %zu parts",
				                ARRAY_SIZE(dirs));
			dirs[n_dirs].text = p;
			dirs[n_dirs++].len = len;
		}
		p += len + (p + len < end);
	}
	for (size_t i = 0; i < n_dirs; i++) {
		_cleanup_free_ char *segment = strndup(dirs[i].text, dirs[i].len);
		_cleanup_free_ char *encoded = segment ? url_encode(segment, false) : NULL;

		if (!encoded)
			return err_oom(err);
		hash_text(hash, "/");
		hash_text(hash, encoded);
	}
	if (n_dirs == 0 || end[-1] == '/')
		hash_text(hash, "/");
	return 0;
}

struct query_pair {
	const char *text; /* "name=value" as in the URL, where "=value" may be missing */
	size_t name_len;
	size_t len;
};

static int compare_bytes(const char *a, size_t a_len, const char *b, size_t b_len)
{
	int order = memcmp(a, b, a_len < b_len ? a_len : b_len);

	return order ? order : (a_len > b_len) - (a_len < b_len);
}

static int compare_pairs(const void *left, const void *right)
{
	const struct query_pair *a = left, *b = right;
	int order = compare_bytes(a->text, a->name_len, b->text, b->name_len);

	if (order)
		return order;
	return compare_bytes(a->text + a->name_len, a->len - a->name_len, b->text + b->name_len,
	                     b->len - b->name_len);
}

static int hash_query(struct hash *hash, const struct signing *signing, struct err *err)
{
	const char *p = signing->url.query, *end = p + signing->url.query_len;
	_cleanup_free_ struct query_pair *pairs = calloc(QUERY_PAIRS_MAX, sizeof(*pairs));
	size_t n = 0;

	if (!pairs)
		return err_oom(err);
	while (p < end) {
		size_t len = strcspn(p, "&#"), name_len = strcspn(p, "=&#");

		if (n == QUERY_PAIRS_MAX)
			return err_text(err, -EINVAL, "more than %d query parameters to sign",
			                QUERY_PAIRS_MAX);
		if (memchr(p, '+', len))
			return err_text(err, -EINVAL,
			                "a blank in the query of a signed URL is %%20, not '+'");
		pairs[n++] = (struct query_pair){.text = p, .name_len = name_len, .len = len};
		p += len + 1;
	}
	qsort(pairs, n, sizeof(*pairs), compare_pairs);
	for (size_t i = 0; i < n; i++) {
		hash_text(hash, i > 0 ? "&" : "");
		hash_bytes(hash, pairs[i].text, pairs[i].len);
		hash_text(hash, pairs[i].name_len == pairs[i].len ? "=" : "");
	}
	return 0;
}

static int hash_canonical_request(const struct signing *signing, const char *header_names,
                                  const char *body_sha256, char hex[static 65], struct err *err)
{
	_cleanup_(hash_done) struct hash hash;
	int r;

	hash_init(&hash);
	hash_text(&hash, signing->request->method);
	hash_text(&hash, "\n");
	r = hash_path(&hash, signing, err);
	if (r < 0)
		return r;
	hash_text(&hash, "\n");
	r = hash_query(&hash, signing, err);
	if (r < 0)
		return r;
	hash_text(&hash, "\n");
	hash_headers(&hash, signing);
	hash_text(&hash, header_names);
	hash_text(&hash, "\n");
	hash_text(&hash, body_sha256);
	return hash_end(&hash, hex, err);
}

/* key becomes HMAC(key, text). */
static int hmac_step(unsigned char key[static SHA256_BYTES], const char *text)
{
	unsigned char result[SHA256_BYTES];
	unsigned n = sizeof(result);
	bool ok;

	ok = HMAC(EVP_sha256(), key, SHA256_BYTES, (const unsigned char *)text, strlen(text),
	          result, &n) != NULL;
	memcpy(key, result, SHA256_BYTES);
	explicit_bzero(result, sizeof(result));
	return ok ? 0 : -EIO;
}

/* HMAC("AWS4" + secret key, date): the first step, whose key has any length. */
static int hmac_first(const struct aws_keys *keys, const char *date,
                      unsigned char key[static SHA256_BYTES])
{
	const char *secret_key = aws_keys_secret_access_key(keys);
	size_t size = 4 + strlen(secret_key) + 1;
	_cleanup_secret_ char *first = malloc(size);
	unsigned n = SHA256_BYTES;

	if (!first)
		return -ENOMEM;
	stpcpy(stpcpy(first, "AWS4"), secret_key);
	return HMAC(EVP_sha256(), first, (int)size - 1, (const unsigned char *)date, strlen(date),
	            key, &n)
	               ? 0
	               : -EIO;
}

static int compute_signature(const struct signing *signing, const char *date,
                             const char *request_sha256, char hex[static 65], struct err *err)
{
	const struct sigv4_request *request = signing->request;
	unsigned char key[SHA256_BYTES];
	char day[9], text[320];
	int r;

	snprintf(day, sizeof(day), "%.8s", date);
	snprintf(text, sizeof(text), "AWS4-HMAC-SHA256\n%s\n%s\n%s", date, signing->scope,
	         request_sha256);
	r = hmac_first(request->keys, day, key);
	if (r == 0)
		r = hmac_step(key, request->region);
	if (r == 0)
		r = hmac_step(key, request->service);
	if (r == 0)
		r = hmac_step(key, "aws4_request");
	if (r == 0)
		r = hmac_step(key, text);
	if (r == 0)
		to_hex(key, hex);
	explicit_bzero(key, sizeof(key));
	return r < 0 ? err_set(err, r, "compute the signature") : 0;
}

/* Host as it is sent: lower case, without the port that the scheme implies. */
static char *host_header(const struct url *url)
{
	bool is_tls = url->scheme_len > 2 &&
	              tolower((unsigned char)url->scheme[url->scheme_len - 1]) == 's';
	char *host = malloc(url->host_len + sizeof(":4294967295"));

	if (!host)
		return NULL;
	for (size_t i = 0; i < url->host_len; i++)
		host[i] = (char)tolower((unsigned char)url->host[i]);
	host[url->host_len] = '\0';
	if (url->port && url->port != (is_tls ? 443 : 80))
		snprintf(host + url->host_len, sizeof(":4294967295"), ":%u", url->port);
	return host;
}

static int set_date(const struct sigv4_request *request, struct sigv4_signature *signature)
{
	time_t seconds =
		request->realtime_usec ? (time_t)(request->realtime_usec / 1000000) : time(NULL);
	struct tm tm;

	if (!gmtime_r(&seconds, &tm))
		return -EINVAL;
	return strftime(signature->date, sizeof(signature->date), "%Y%m%dT%H%M%SZ", &tm) == 16
	               ? 0
	               : -EINVAL;
}

static int prepare(struct signing *signing, struct sigv4_signature *signature, struct err *err)
{
	const struct sigv4_request *request = signing->request;
	const char *token = aws_keys_session_token(request->keys);
	int n, r;

	r = url_split(request->url, &signing->url, err);
	if (r < 0)
		return r;
	r = set_date(request, signature);
	if (r < 0)
		return err_text(err, r, "the clock is outside the years that can be signed");
	n = snprintf(signing->scope, sizeof(signing->scope), "%.8s/%s/%s/aws4_request",
	             signature->date, request->region, request->service);
	if (n >= (int)sizeof(signing->scope))
		return err_text(err, -EINVAL, "region and service are too long to sign");

	signature->send_body_sha256 = service_is_s3(request);
	signature->host = host_header(&signing->url);
	signature->security_token = token ? strdup(token) : NULL;
	if (!signature->host || (token && !signature->security_token))
		return err_oom(err);
	r = hash_body(request, signature->body_sha256, err);
	return r < 0 ? r : add_headers(signing, signature, err);
}

static int sign(const struct sigv4_request *request, struct sigv4_signature *signature,
                struct err *err)
{
	_cleanup_(signing_done) struct signing signing = {.request = request};
	_cleanup_free_ char *header_names = NULL;
	char request_sha256[65], hex[65];
	int r;

	r = check_request(request, err);
	if (r < 0)
		return r;
	r = prepare(&signing, signature, err);
	if (r < 0)
		return r;
	header_names = signed_header_names(&signing);
	if (!header_names)
		return err_oom(err);
	r = hash_canonical_request(&signing, header_names, signature->body_sha256, request_sha256,
	                           err);
	if (r < 0)
		return r;
	r = compute_signature(&signing, signature->date, request_sha256, hex, err);
	if (r < 0)
		return r;
	r = asprintf(&signature->authorization,
	             "AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s",
	             aws_keys_access_key_id(request->keys), signing.scope, header_names, hex);
	if (r < 0) {
		signature->authorization = NULL;
		return err_oom(err);
	}
	return 0;
}

int sigv4_sign(const struct sigv4_request *request, struct sigv4_signature *ret, struct err *err)
{
	_cleanup_sigv4_ struct sigv4_signature signature = {0};
	int r;

	r = sign(request, &signature, err);
	if (r < 0)
		return r;
	*ret = signature;
	signature = (struct sigv4_signature){0};
	return 0;
}

void sigv4_signature_done(struct sigv4_signature *signature)
{
	free(signature->host);
	secret_string_free(signature->authorization);
	secret_string_free(signature->security_token);
	*signature = (struct sigv4_signature){0};
}

char *sigv4_header_block(const struct sigv4_signature *signature)
{
	const char *token = signature->security_token;
	char *block;
	int r;

	r = asprintf(&block, "Authorization: %s\r\nHost: %s\r\nX-Amz-Date: %s\r\n%s%s%s\r\n",
	             signature->authorization, signature->host, signature->date,
	             token ? "X-Amz-Security-Token: " : "", token ? token : "",
	             token ? "\r\n" : "");
	return r < 0 ? NULL : block;
}

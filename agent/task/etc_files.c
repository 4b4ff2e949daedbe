/* The three files of /etc that say who a container is and whom it can ask. */
#include "agent/task/etc_files.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/fd.h"

#define FILE_MAX 65536

static bool is_address(const char *text)
{
	unsigned char bytes[16];

	return inet_pton(AF_INET, text, bytes) == 1 || inet_pton(AF_INET6, text, bytes) == 1;
}

/* One word of a line: nothing that could begin another. */
static bool is_word(const char *text, size_t len)
{
	if (len == 0 || len > 255)
		return false;
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)text[i] <= ' ' || text[i] == 0x7f || text[i] == '#')
			return false;
	return true;
}

/* "name:ip"; the address may be one of IPv6, or "host-gateway" for the bridge's own. */
static int add_extra_host(FILE *out, const char *entry, const char *gateway, struct err *err)
{
	const char *colon = strchr(entry, ':');
	const char *address = colon ? colon + 1 : "";

	if (colon && strcmp(address, "host-gateway") == 0) {
		if (!gateway)
			return err_text(
				err, -EINVAL,
				"extra host \"%.200s\": there is no gateway in this network mode",
				entry);
		address = gateway;
	}
	if (!colon || !is_word(entry, (size_t)(colon - entry)) || !is_address(address))
		return err_text(err, -EINVAL, "extra host \"%.200s\" must be NAME:ADDRESS", entry);
	fprintf(out, "%s\t%.*s\n", address, (int)(colon - entry), entry);
	return 0;
}

/* "ip name name ...": as it is, but for a tab after the address. */
static int add_linked_host(FILE *out, const char *entry, struct err *err)
{
	size_t len = strcspn(entry, " ");
	char address[64];
	bool good;

	snprintf(address, sizeof(address), "%.*s", (int)len, entry);
	good = len < sizeof(address) && is_address(address) && entry[len];
	fprintf(out, "%s\t", address);
	for (const char *name = entry + len; good && *name; name += len) {
		len = strcspn(++name, " ");
		good = is_word(name, len);
		fprintf(out, "%.*s%s", (int)len, name, name[len] ? " " : "\n");
	}
	return good ? 0
	            : err_text(err, -EINVAL, "linked host \"%.200s\" must be ADDRESS NAME...",
	                       entry);
}

/* A name with a domain stands there without it as well, whatever of the two the definition gave. */
static void add_own_names(FILE *out, const char *address, const char *hostname)
{
	size_t bare = strcspn(hostname, ".");

	fprintf(out, "%s\t%s", address, hostname);
	if (bare > 0 && hostname[bare])
		fprintf(out, " %.*s", (int)bare, hostname);
	fputc('\n', out);
}

static int finish(FILE *out, struct err *err)
{
	bool failed = ferror(out);

	return fclose(out) != 0 || failed ? err_oom(err) : 0;
}

int etc_hosts_text(const char *hostname, const struct network_address *address,
                   const char *const *extra_hosts, const char *const *linked_hosts, char **ret,
                   struct err *err)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);
	int r = 0;

	if (!out)
		return err_oom(err);
	fputs("127.0.0.1\tlocalhost\n"
	      "::1\tlocalhost ip6-localhost ip6-loopback\n"
	      "fe00::\tip6-localnet\n"
	      "ff00::\tip6-mcastprefix\n"
	      "ff02::1\tip6-allnodes\n"
	      "ff02::2\tip6-allrouters\n",
	      out);
	for (size_t i = 0; r == 0 && extra_hosts && extra_hosts[i]; i++)
		r = add_extra_host(out, extra_hosts[i], address->gateway, err);
	for (size_t i = 0; r == 0 && linked_hosts && linked_hosts[i]; i++)
		r = add_linked_host(out, linked_hosts[i], err);
	if (address->address)
		add_own_names(out, address->address, hostname);

	if (r < 0)
		fclose(out);
	else
		r = finish(out, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(text);
	return 0;
}

/* fn for the fields of each line of that keyword, as one text. */
static void each_setting(const char *text, const char *keyword,
                         void (*fn)(const char *value, size_t len, void *userdata), void *userdata)
{
	size_t n = strlen(keyword);

	for (const char *line = text; line && *line;) {
		const char *end = strchrnul(line, '\n');
		const char *value = line + n;

		if ((size_t)(end - line) > n && strncmp(line, keyword, n) == 0 &&
		    (*value == ' ' || *value == '\t')) {
			size_t len;

			value += strspn(value, " \t");
			len = (size_t)(end > value ? end - value : 0);
			while (len > 0 && strchr(" \t\r", value[len - 1]))
				len--;
			if (len > 0)
				fn(value, len, userdata);
		}
		line = *end ? end + 1 : end;
	}
}

struct resolvers {
	FILE *out; /* NULL: only count */
	bool all;  /* the host's network: what it reaches is reached */
	size_t remote, local, written;
};

static void add_resolver(const char *value, size_t len, void *userdata)
{
	struct resolvers *resolvers = userdata;
	char address[64];

	len = strcspn(value, " \t\r\n#;") < len ? strcspn(value, " \t\r\n#;") : len;
	if (len == 0 || len >= sizeof(address))
		return;
	memcpy(address, value, len);
	address[len] = '\0';
	if (!resolvers->all && (strncmp(address, "127.", 4) == 0 || strcmp(address, "::1") == 0)) {
		resolvers->local++;
		return;
	}
	resolvers->remote++;
	/* There is no IPv6 in our networks. */
	if (resolvers->out && !resolvers->all && strchr(address, ':'))
		return;
	resolvers->written++;
	if (resolvers->out)
		fprintf(resolvers->out, "nameserver %s\n", address);
}

bool etc_resolv_is_local(const char *host_text)
{
	struct resolvers resolvers = {};

	each_setting(host_text, "nameserver", add_resolver, &resolvers);
	return resolvers.remote == 0 && resolvers.local > 0;
}

static int add_servers(FILE *out, const char *const *servers, struct err *err)
{
	for (size_t i = 0; servers[i]; i++) {
		if (!is_address(servers[i]))
			return err_text(err, -EINVAL, "DNS server \"%.100s\" must be an address",
			                servers[i]);
		fprintf(out, "nameserver %s\n", servers[i]);
	}
	return 0;
}

static int add_words(FILE *out, const char *keyword, const char *const *words, struct err *err)
{
	/* A single "." says that there are none. */
	if (words[0] && strcmp(words[0], ".") == 0 && !words[1])
		return 0;
	for (size_t i = 0; words[i]; i++) {
		if (!is_word(words[i], strlen(words[i])))
			return err_text(err, -EINVAL, "DNS %s \"%.100s\" must be one word", keyword,
			                words[i]);
		fprintf(out, "%s%s", i == 0 ? keyword : "", i == 0 ? " " : "");
		fprintf(out, "%s%s", words[i], words[i + 1] ? " " : "\n");
	}
	return 0;
}

struct last_setting {
	const char *value;
	size_t len;
};

static void keep_later(const char *value, size_t len, void *userdata)
{
	struct last_setting *last = userdata;

	if (!last->value || value > last->value)
		*last = (struct last_setting){value, len};
}

/* "domain" is a list of one, and the last of both counts. */
static int add_search(FILE *out, const char *const *words, const char *host_text, struct err *err)
{
	struct last_setting host = {};

	if (words && words[0])
		return add_words(out, "search", words, err);
	each_setting(host_text, "search", keep_later, &host);
	each_setting(host_text, "domain", keep_later, &host);
	if (host.len > 0)
		fprintf(out, "search %.*s\n", (int)host.len, host.value);
	return 0;
}

static void add_line(const char *value, size_t len, void *userdata)
{
	fprintf(userdata, "options %.*s\n", (int)len, value);
}

static void add_sortlist(const char *value, size_t len, void *userdata)
{
	fprintf(userdata, "sortlist %.*s\n", (int)len, value);
}

/* All lines of the host's count. */
static int add_options(FILE *out, const char *const *words, const char *host_text, struct err *err)
{
	each_setting(host_text, "sortlist", add_sortlist, out);
	if (words && words[0])
		return add_words(out, "options", words, err);
	each_setting(host_text, "options", add_line, out);
	return 0;
}

int etc_resolv_text(const struct dns_spec *dns, const char *host_text, bool host_mode, char **ret,
                    struct err *err)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);
	struct resolvers resolvers = {.out = out, .all = host_mode};
	int r = 0;

	if (!out)
		return err_oom(err);
	if (dns->servers && dns->servers[0]) {
		r = add_servers(out, dns->servers, err);
	} else {
		each_setting(host_text, "nameserver", add_resolver, &resolvers);
		if (resolvers.written == 0)
			fputs("nameserver 8.8.8.8\nnameserver 8.8.4.4\n", out);
	}
	if (r == 0)
		r = add_search(out, dns->search, host_text, err);
	if (r == 0)
		r = add_options(out, dns->options, host_text, err);

	if (r < 0)
		fclose(out);
	else
		r = finish(out, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(text);
	return 0;
}

/* The host's resolv.conf; of systemd-resolved the file with the real servers. */
static int read_host_resolv(bool as_it_is, char **ret)
{
	_cleanup_free_ char *text = NULL, *real = NULL;
	int r;

	r = file_read(AT_FDCWD, "/etc/resolv.conf", FILE_MAX, &text, NULL);
	if (r == 0 && !as_it_is && etc_resolv_is_local(text) &&
	    file_read(AT_FDCWD, "/run/systemd/resolve/resolv.conf", FILE_MAX, &real, NULL) == 0) {
		*ret = TAKE_PTR(real);
		return 0;
	}
	if (r < 0) {
		text = strdup(""); /* a host without one: the defaults hold */
		if (!text)
			return -ENOMEM;
	}
	*ret = TAKE_PTR(text);
	return 0;
}

static bool is_given(const char *const *list)
{
	return list && list[0];
}

static int resolv_content(const struct dns_spec *dns, bool host_mode, char **ret, struct err *err)
{
	bool given = is_given(dns->servers) || is_given(dns->search) || is_given(dns->options);
	_cleanup_free_ char *host = NULL;
	int r = read_host_resolv(host_mode, &host);

	if (r < 0)
		return err_oom(err);
	if (host_mode && !given) {
		*ret = TAKE_PTR(host);
		return 0;
	}
	return etc_resolv_text(dns, host, host_mode, ret, err);
}

static int hosts_content(const struct container_spec *spec, const char *hostname,
                         const struct network_address *address, bool host_mode, char **ret,
                         struct err *err)
{
	char full[256];

	if (host_mode && !is_given(spec->extra_hosts) &&
	    file_read(AT_FDCWD, "/etc/hosts", FILE_MAX, ret, NULL) == 0)
		return 0;
	if (spec->domainname)
		snprintf(full, sizeof(full), "%s.%s", hostname, spec->domainname);
	return etc_hosts_text(spec->domainname ? full : hostname, address, spec->extra_hosts,
	                      spec->linked_hosts, ret, err);
}

int etc_files_write(int dir_fd, const struct container_spec *spec, const char *hostname,
                    const struct network_address *address, bool host_mode, struct err *err)
{
	_cleanup_free_ char *hosts = NULL, *resolv = NULL;
	char name[80];
	int r;

	r = hosts_content(spec, hostname, address, host_mode, &hosts, err);
	if (r == 0)
		r = resolv_content(&spec->dns, host_mode, &resolv, err);
	if (r < 0)
		return r;

	snprintf(name, sizeof(name), "%s\n", hostname);
	const struct {
		const char *name, *text;
	} files[] = {{"hosts", hosts}, {"hostname", name}, {"resolv.conf", resolv}};

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		_cleanup_close_ int fd = -EBADF;

		(void)unlinkat(dir_fd, files[i].name, 0); /* of an earlier start */
		fd = openat(dir_fd, files[i].name,
		            O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
		if (fd < 0)
			return err_set(err, -errno, "create %s", files[i].name);
		r = fchmod(fd, 0644) < 0 ? -errno
		                         : fd_write_all(fd, files[i].text, strlen(files[i].text));
		if (r < 0)
			return err_set(err, r, "write %s", files[i].name);
	}
	return 0;
}

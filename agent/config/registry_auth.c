/* A list of servers; there are few, so it is searched from its start. */
#include "agent/config/registry_auth.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>

#include "lib/json.h"

#define DATA_MAX    (256 * 1024)
#define SERVERS_MAX 256

struct registry {
	char *server; /* host and port, as registry_name() has it */
	char *path;   /* what comes after its '/', "" for all of it */
	char *username;
	struct secret *password;
};

struct registry_auth {
	struct registry registries[SERVERS_MAX];
	size_t n;
};

struct registry_auth *registry_auth_free(struct registry_auth *auth)
{
	if (!auth)
		return NULL;
	for (size_t i = 0; i < auth->n; i++) {
		free(auth->registries[i].server);
		free(auth->registries[i].path);
		free(auth->registries[i].username);
		secret_free(auth->registries[i].password);
	}
	free(auth);
	return NULL;
}

const char *registry_name(const char *host)
{
	static const char *const hub[] = {"index.docker.io", "registry-1.docker.io"};

	for (size_t i = 0; i < ARRAY_SIZE(hub); i++)
		if (strcmp(host, hub[i]) == 0)
			return REGISTRY_DOCKER_HUB;
	return host;
}

/* "https://host:5000/team" is what begins with "team" at host:5000. Docker Hub is
 * https://index.docker.io/v1/ to "docker login": a version of an API, and no part of a name. */
static int split_server(const char *text, struct registry *registry)
{
	const char *scheme = strstr(text, "://");
	const char *host = scheme ? scheme + 3 : text;
	size_t n = strcspn(host, "/");
	_cleanup_free_ char *copy = strndup(host, n);
	const char *path = host[n] == '/' ? host + n + 1 : "";

	if (!copy)
		return -ENOMEM;
	registry->server = strdup(registry_name(copy));
	if (registry->server && strcmp(registry->server, REGISTRY_DOCKER_HUB) == 0 &&
	    (strcmp(path, "v1/") == 0 || strcmp(path, "v2/") == 0))
		path = "";
	registry->path = strdup(path);
	return registry->server && registry->path ? 0 : -ENOMEM;
}

static int add_registry(struct registry_auth *auth, const char *server, const char *username,
                        const char *password, size_t password_len, struct err *err)
{
	struct registry *registry = &auth->registries[auth->n];

	if (auth->n == SERVERS_MAX)
		return err_text(err, -EINVAL, "more than %d servers", SERVERS_MAX);
	auth->n++;
	if (split_server(server, registry) < 0)
		return err_oom(err);
	registry->username = strdup(username);
	registry->password = secret_new(password, password_len);
	if (!registry->username || !registry->password)
		return err_oom(err);
	return 0;
}

/* "user:password" in base64. */
static int add_encoded(struct registry_auth *auth, const char *server, const char *encoded,
                       struct err *err)
{
	size_t n = strlen(encoded);
	_cleanup_secret_ char *plain = calloc(1, n + 4);
	char *colon;
	int len;

	if (!plain)
		return err_oom(err);
	len = n % 4 == 0 && n < DATA_MAX ? EVP_DecodeBlock((unsigned char *)plain,
	                                                   (const unsigned char *)encoded, (int)n)
	                                 : -1;
	colon = len > 0 ? strchr(plain, ':') : NULL;
	if (!colon || colon == plain)
		return err_text(err, -EINVAL, "\"auth\" of '%.64s' is no base64 of user:password",
		                server);
	*colon = '\0'; /* padding has become NULs behind the password */
	return add_registry(auth, server, plain, colon + 1, strlen(colon + 1), err);
}

static int add_server(struct registry_auth *auth, bool is_encoded, const char *server,
                      struct json_object *value, struct err *err)
{
	const char *encoded, *username, *password;
	int r;

	if (is_encoded) {
		r = json_get_string(value, "auth", &encoded, err);
		return r < 0 ? err_prefix(err, r, "server '%.64s'", server)
		             : add_encoded(auth, server, encoded, err);
	}
	r = json_get_string(value, "username", &username, err);
	if (r == 0)
		r = json_get_string(value, "password", &password, err);
	return r < 0 ? err_prefix(err, r, "server '%.64s'", server)
	             : add_registry(auth, server, username, password, strlen(password), err);
}

int registry_auth_parse(const char *type, const char *data, struct registry_auth **ret,
                        struct err *err)
{
	_cleanup_(registry_auth_freep) struct registry_auth *auth = calloc(1, sizeof(*auth));
	_cleanup_json_ struct json_object *servers = NULL;
	bool is_encoded = strcmp(type, "dockercfg") == 0;
	int r;

	if (!auth)
		return err_oom(err);
	if (!is_encoded && strcmp(type, "docker") != 0)
		return err_text(err, -EINVAL,
		                "ECS_ENGINE_AUTH_TYPE=%.32s: it takes dockercfg or docker", type);
	if (json_parse_object(data, strlen(data), DATA_MAX, &servers, NULL) < 0)
		return err_text(err, -EINVAL, "ECS_ENGINE_AUTH_DATA is no JSON object");
	json_object_object_foreach (servers, server, value) {
		r = add_server(auth, is_encoded, server, value, err);
		if (r < 0)
			return r == -ENOMEM ? r : err_prefix(err, -EINVAL, "ECS_ENGINE_AUTH_DATA");
	}
	*ret = TAKE_PTR(auth);
	return 0;
}

static const struct registry *find(const struct registry_auth *auth, const char *registry,
                                   const char *repository)
{
	const struct registry *best = NULL, *any = NULL;

	for (size_t i = 0; auth && i < auth->n; i++) {
		const struct registry *one = &auth->registries[i];
		size_t n = strlen(one->path);

		if (strcmp(one->server, registry) != 0)
			continue;
		if (!any)
			any = one;
		if (strncmp(repository, one->path, n) == 0 && (!best || n > strlen(best->path)))
			best = one;
	}
	return best ? best : any;
}

bool registry_auth_lookup(const struct registry_auth *auth, const char *registry,
                          const char *repository, const char **ret_username,
                          const struct secret **ret_password)
{
	const struct registry *found = find(auth, registry, repository);

	if (!found)
		return false;
	*ret_username = found->username;
	*ret_password = found->password;
	return true;
}

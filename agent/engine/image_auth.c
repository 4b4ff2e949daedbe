/* registryAuthentication of a container, or ECS_ENGINE_AUTH_DATA; see the header. */
#include "agent/engine/image_auth.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/json.h"

/* Docker's rule: the part before the first '/' is a registry if it has a '.' or ':' in it or is
 * "localhost". */
const char *image_registry(const char *reference, char *buf, size_t n)
{
	char host[256];

	size_t len = strcspn(reference, "/");
	bool is_host = reference[len] == '/' &&
	               (memchr(reference, '.', len) || memchr(reference, ':', len) ||
	                (len == 9 && strncmp(reference, "localhost", 9) == 0));

	snprintf(host, sizeof(host), "%.*s", (int)len, reference);
	snprintf(buf, n, "%s", is_host ? registry_name(host) : REGISTRY_DOCKER_HUB);
	return is_host ? reference + len + 1 : reference;
}

static struct json_object *ecr_data(const struct container *container)
{
	struct json_object *auth = json_get(container->document, "registryAuthentication");
	const char *type = json_text(auth, "type");

	return type && strcmp(type, "ecr") == 0 ? json_get(auth, "ecrAuthData") : NULL;
}

const char *image_auth_credentials_id(const struct task *task, const struct container *container)
{
	bool use_execution_role = false;

	(void)json_get_bool(ecr_data(container), "useExecutionRole", &use_execution_role, NULL);
	return use_execution_role ? task->execution_credentials_id : NULL;
}

static int ecr_auth(const struct task *task, const struct container *container,
                    const char *ecr_endpoint, const char *node_region, struct json_object **ret,
                    struct err *err)
{
	struct json_object *data = ecr_data(container), *ecr, *auth;
	const char *endpoint = json_text(data, "endpointOverride"),
		   *region = json_text(data, "region");
	const char *registry = json_text(data, "registryId"), *id = "instance";
	bool use_execution_role = false;
	int r;

	(void)json_get_bool(data, "useExecutionRole", &use_execution_role, NULL);
	if (use_execution_role) {
		id = task->execution_credentials_id;
		if (!id) {
			if (err)
				err->name = "CannotPullECRContainerError";
			return err_text(err, -EINVAL, "execution credentials not found");
		}
	}
	if (!endpoint || !endpoint[0])
		endpoint = ecr_endpoint;

	auth = json_object_new_object();
	ecr = json_object_new_object();
	r = json_add(auth, "ecr", ecr);
	if (r == 0)
		r = json_add_string(ecr, "region", region && region[0] ? region : node_region);
	if (r == 0 && registry)
		r = json_add_string(ecr, "registryId", registry);
	if (r == 0 && endpoint)
		r = json_add_string(ecr, "endpoint", endpoint);
	if (r == 0)
		r = json_add_string(ecr, "credentialsId", id);
	if (r < 0) {
		json_object_put(auth);
		return err_oom(err);
	}
	*ret = auth;
	return 0;
}

static int node_auth(const struct container *container, const struct registry_auth *node,
                     struct json_object **ret, struct err *err)
{
	const struct secret *password = NULL;
	const char *username = NULL, *repository;
	struct json_object *auth;
	char registry[256];
	int r;

	repository = image_registry(container->image, registry, sizeof(registry));
	if (!node || !registry_auth_lookup(node, registry, repository, &username, &password))
		return 0;
	auth = json_object_new_object();
	r = json_add_string(auth, "username", username);
	if (r == 0)
		r = json_add_string(auth, "password", secret_bytes(password));
	if (r < 0) {
		json_object_put(auth);
		return err_oom(err);
	}
	*ret = auth;
	return 0;
}

int image_auth(const struct task *task, const struct container *container,
               const struct registry_auth *node, const char *ecr_endpoint, const char *region,
               struct json_object **ret, struct err *err)
{
	const char *type =
		json_text(json_get(container->document, "registryAuthentication"), "type");

	*ret = NULL;
	if (!type || !type[0])
		return node_auth(container, node, ret, err);
	if (strcmp(type, "ecr") == 0)
		return ecr_auth(task, container, ecr_endpoint, region, ret, err);
	if (err)
		err->name = "CannotPullContainerAuthError";
	return err_text(err, -EOPNOTSUPP, "registryAuthentication of type '%s' is not supported",
	                type);
}

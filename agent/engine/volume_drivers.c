/* File systems of volumes, as users know them from ECS and from Docker's local driver. */
#include "agent/engine/volume_drivers.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/engine/refuse.h"
#include "lib/cleanup.h"
#include "lib/ipc.h"
#include "lib/json.h"

#define CREDENTIALS_PATH "/v2/credentials/"

/* --- EFS --- */

static bool is_enabled(struct json_object *obj, const char *name)
{
	const char *text = json_text(obj, name);

	return text && strcmp(text, "ENABLED") == 0;
}

static int check_switch(struct json_object *obj, const char *name, struct err *err)
{
	const char *text = "";
	int r = json_optional(json_get_string(obj, name, &text, err));

	if (r == 0 && *text && strcmp(text, "ENABLED") != 0 && strcmp(text, "DISABLED") != 0)
		r = err_text(err, -EINVAL, "%s is \"%.40s\", it must be ENABLED or DISABLED", name,
		             text);
	return r;
}

static bool is_aws_id(const char *text, const char *prefix)
{
	size_t n = strlen(prefix), digits;

	if (strncmp(text, prefix, n) != 0)
		return false;
	digits = strspn(text + n, "0123456789abcdef");
	return text[n + digits] == '\0' && digits >= 8 && digits <= 40;
}

static int check_authorization(struct json_object *efs, const char *root, struct err *err)
{
	static const char *const known[] = {"accessPointId", "iam"};
	struct json_object *authorization = NULL;
	const char *access_point = "";
	int r;

	r = json_optional(json_get_object(efs, "authorizationConfig", &authorization, err));
	if (r < 0 || !authorization)
		return r;
	r = refuse_unknown_members(authorization, known, ARRAY_SIZE(known), "authorizationConfig",
	                           err);
	if (r == 0)
		r = check_switch(authorization, "iam", err);
	if (r == 0)
		r = json_optional(
			json_get_string(authorization, "accessPointId", &access_point, err));
	if (r < 0)
		return r;
	if (*access_point && !is_aws_id(access_point, "fsap-"))
		return err_text(err, -EINVAL,
		                "accessPointId is \"%.80s\", it must be fsap- and hex digits",
		                access_point);
	if (*access_point && strcmp(root, "/") != 0)
		return err_text(err, -EINVAL,
		                "rootDirectory must be / or left out with an accessPointId");
	if ((*access_point || is_enabled(authorization, "iam")) &&
	    !is_enabled(efs, "transitEncryption"))
		return err_text(err, -EINVAL,
		                "authorizationConfig needs transitEncryption ENABLED");
	return 0;
}

static const char *efs_root(struct json_object *efs)
{
	const char *root = json_text(efs, "rootDirectory");

	return root && *root ? root : "/";
}

int volume_check_efs(struct json_object *volume, struct err *err)
{
	static const char *const known[] = {"fileSystemId", "rootDirectory", "transitEncryption",
	                                    "transitEncryptionPort", "authorizationConfig"};
	struct json_object *efs = NULL;
	const char *id, *root = "";
	uint64_t port = 0;
	int r;

	r = json_get_object(volume, "efsVolumeConfiguration", &efs, err);
	if (r == 0)
		r = refuse_unknown_members(efs, known, ARRAY_SIZE(known), "efsVolumeConfiguration",
		                           err);
	if (r == 0)
		r = json_get_string(efs, "fileSystemId", &id, err);
	if (r == 0)
		r = json_optional(json_get_string(efs, "rootDirectory", &root, err));
	if (r == 0)
		r = json_optional(
			json_get_u64(efs, "transitEncryptionPort", UINT16_MAX, &port, err));
	if (r == 0)
		r = check_switch(efs, "transitEncryption", err);
	if (r < 0)
		return r == -ENOENT ? -EINVAL : r;
	if (!is_aws_id(id, "fs-"))
		return err_text(err, -EINVAL,
		                "fileSystemId is \"%.80s\", it must be fs- and hex digits", id);
	if (efs_root(efs)[0] != '/')
		return err_text(err, -EINVAL, "rootDirectory is \"%.100s\", it must be absolute",
		                root);
	if (port && !is_enabled(efs, "transitEncryption"))
		return err_text(err, -EINVAL,
		                "transitEncryptionPort needs transitEncryption ENABLED");
	return check_authorization(efs, efs_root(efs), err);
}

/* --- driverOpts --- */

int volume_check_driver_opts(struct json_object *docker, struct err *err)
{
	static const char *const known[] = {"type", "device", "o"};
	const char *type = "", *device = "", *options = "", *scope = json_text(docker, "scope");
	struct json_object *opts = NULL;
	int r;

	r = json_optional(json_get_object(docker, "driverOpts", &opts, err));
	if (r < 0 || json_is_zero(opts))
		return r;
	r = refuse_unknown_members(opts, known, ARRAY_SIZE(known), "driverOpts", err);
	if (r == 0)
		r = json_optional(json_get_string(opts, "type", &type, err));
	if (r == 0)
		r = json_optional(json_get_string(opts, "device", &device, err));
	if (r == 0)
		r = json_optional(json_get_string(opts, "o", &options, err));
	if (r < 0)
		return err_prefix(err, r, "driverOpts");
	if (!*type || !*device)
		return err_text(err, -EINVAL,
		                "driverOpts: %s is missing; type and device are needed",
		                *type ? "device" : "type");
	if (strcmp(type, "none") != 0 && strcmp(type, "tmpfs") != 0 && strcmp(type, "nfs") != 0 &&
	    strcmp(type, "nfs4") != 0 && strcmp(type, "cifs") != 0)
		return err_text(err, -EOPNOTSUPP,
		                "driverOpts: type %.64s is not supported by this agent; it must be "
		                "none (with o=bind), tmpfs, nfs, nfs4 or cifs",
		                type);
	if (strcmp(type, "tmpfs") == 0 && scope && strcmp(scope, "shared") == 0)
		return err_text(err, -EOPNOTSUPP,
		                "driverOpts: type tmpfs is not supported by this agent for scope "
		                "shared: each task would have its own");
	return 0;
}

/* --- of a volume that was checked --- */

bool volume_is_efs(struct json_object *volume)
{
	const char *type = json_text(volume, "type");

	return type && strcmp(type, "efs") == 0;
}

static struct json_object *driver_opts(struct json_object *volume)
{
	const char *type = json_text(volume, "type");

	return type && strcmp(type, "docker") == 0
	               ? json_get(json_get(volume, "dockerVolumeConfiguration"), "driverOpts")
	               : NULL;
}

bool volume_is_mounted(struct json_object *volume)
{
	return volume_is_efs(volume) || !json_is_zero(driver_opts(volume));
}

static struct json_object *authorization_of(struct json_object *volume)
{
	return json_get(json_get(volume, "efsVolumeConfiguration"), "authorizationConfig");
}

bool volume_needs_task_role(struct json_object *volume)
{
	return volume_is_efs(volume) && is_enabled(authorization_of(volume), "iam");
}

bool volume_is_filled_elsewhere(struct json_object *volume)
{
	const char *id = json_text(authorization_of(volume), "accessPointId");

	return volume_is_efs(volume) && id && *id;
}

/* --- the request --- */

static int add_text(struct json_object *obj, const char *name, const char *text)
{
	return text && *text ? json_add_string(obj, name, text) : 0;
}

static int add_credentials(const struct task *task, struct json_object *body, struct err *err)
{
	_cleanup_free_ char *path = NULL;

	if (!task->credentials_id)
		return err_text(
			err, -EINVAL,
			"authorizationConfig.iam is ENABLED, and the task has no task role");
	if (asprintf(&path, CREDENTIALS_PATH "%s", task->credentials_id) < 0) {
		path = NULL;
		return err_oom(err);
	}
	return json_add_string(body, "credentialsPath", path) < 0 ? err_oom(err) : 0;
}

static int add_efs(const struct task *task, struct json_object *volume, const char *region,
                   const char *domain, struct json_object *request, struct err *err)
{
	struct json_object *efs = json_get(volume, "efsVolumeConfiguration");
	struct json_object *body = json_object_new_object();
	const char *id = json_text(efs, "fileSystemId");
	_cleanup_free_ char *server = NULL;
	int64_t port = 0;

	if (json_add(request, "efs", body) < 0)
		return err_oom(err);
	if (asprintf(&server, "%s.efs.%s.%s", id, region, domain) < 0) {
		server = NULL;
		return err_oom(err);
	}
	(void)json_get_i64(efs, "transitEncryptionPort", 0, UINT16_MAX, &port, NULL);
	if (json_add_string(body, "fileSystemId", id) < 0 ||
	    json_add_string(body, "rootDirectory", efs_root(efs)) < 0 ||
	    json_add_string(body, "server", server) < 0 ||
	    json_add_bool(body, "tls", is_enabled(efs, "transitEncryption")) < 0 ||
	    json_add_i64(body, "tlsPort", port) < 0 ||
	    add_text(body, "accessPointId", json_text(authorization_of(volume), "accessPointId")) <
	            0)
		return err_oom(err);
	return volume_needs_task_role(volume) ? add_credentials(task, body, err) : 0;
}

static int add_driver(struct json_object *volume, struct json_object *request)
{
	struct json_object *opts = driver_opts(volume), *body = json_object_new_object();

	if (json_add(request, "driver", body) < 0 ||
	    json_add_string(body, "type", json_text(opts, "type")) < 0 ||
	    add_text(body, "device", json_text(opts, "device")) < 0)
		return -ENOMEM;
	return add_text(body, "options", json_text(opts, "o"));
}

static int add_shared(struct json_object *docker, struct json_object *request)
{
	struct json_object *labels = json_get(docker, "labels"), *body = json_object_new_object();
	bool autoprovision = false;

	(void)json_get_bool(docker, "autoprovision", &autoprovision, NULL);
	if (json_add(request, "shared", body) < 0 ||
	    json_add_bool(body, "existing", !autoprovision) < 0)
		return -ENOMEM;
	return json_is_zero(labels) ? 0 : json_add(body, "labels", json_object_get(labels));
}

int volume_mount_request(const struct task *task, struct json_object *volume, const char *region,
                         const char *domain, struct json_object **ret, struct err *err)
{
	_cleanup_json_ struct json_object *request = ipc_message_new("mount", NULL);
	struct json_object *docker = json_get(volume, "dockerVolumeConfiguration");
	const char *scope = json_text(docker, "scope");
	int r;

	if (!request || json_add_string(request, "taskId", task->id) < 0 ||
	    json_add_string(request, "name", json_text(volume, "name")) < 0)
		return err_oom(err);
	if (volume_is_efs(volume)) {
		r = add_efs(task, volume, region, domain, request, err);
	} else {
		r = add_driver(volume, request);
		if (r == 0 && scope && strcmp(scope, "shared") == 0)
			r = add_shared(docker, request);
		if (r < 0)
			(void)err_oom(err);
	}
	if (r < 0)
		return r;
	*ret = TAKE_PTR(request);
	return 0;
}

/* Checking the request anew: ecs-agent is not trusted with what root does. */
#include "agent/volume/request.h"

#include <errno.h>
#include <string.h>

#include "agent/task/volume.h"
#include "lib/json.h"
#include "lib/parse.h"

#define ID_MAX      64
#define OPTIONS_MAX 3500 /* mount(2) takes a page */
#define DEVICE_MAX  1023

static bool is_text(const char *text, size_t max)
{
	size_t len = strlen(text);

	for (size_t i = 0; i < len; i++)
		if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
			return false;
	return len <= max;
}

static int get_text(struct json_object *obj, const char *name, size_t max, const char **ret,
                    struct err *err)
{
	const char *text = *ret;
	int r = json_optional(json_get_string(obj, name, &text, err));

	if (r < 0)
		return r;
	if (text && !is_text(text, max))
		return err_text(err, -EINVAL,
		                "%s must be at most %zu bytes without control characters", name,
		                max);
	*ret = text;
	return 0;
}

/* "fs-0123abcd", "fsap-0123...": they become part of options and of a name. */
static bool is_aws_id(const char *text, const char *prefix)
{
	size_t n = strlen(prefix);

	return strncmp(text, prefix, n) == 0 &&
	       strspn(text + n, "0123456789abcdef") == strlen(text + n) && strlen(text + n) >= 8 &&
	       strlen(text + n) <= 40;
}

static int check_efs(const struct efs_request *efs, struct err *err)
{
	if (!is_aws_id(efs->file_system_id, "fs-"))
		return err_text(err, -EINVAL,
		                "fileSystemId is \"%.80s\", it must be fs- and 8 to 40 hex digits",
		                efs->file_system_id);
	if (efs->access_point_id && !is_aws_id(efs->access_point_id, "fsap-"))
		return err_text(
			err, -EINVAL,
			"accessPointId is \"%.80s\", it must be fsap- and 8 to 40 hex digits",
			efs->access_point_id);
	if (efs->root[0] != '/')
		return err_text(err, -EINVAL, "rootDirectory is \"%.100s\", it must be absolute",
		                efs->root);
	if (efs->credentials_path &&
	    (efs->credentials_path[0] != '/' || strpbrk(efs->credentials_path, ", \\\"'")))
		return err_text(err, -EINVAL, "credentialsPath is \"%.100s\", it must be a path",
		                efs->credentials_path);
	if (strlen(efs->server) != strspn(efs->server, "abcdefghijklmnopqrstuvwxyz0123456789.-"))
		return err_text(err, -EINVAL, "server is \"%.100s\", it must be a host name",
		                efs->server);
	return 0;
}

static int parse_efs(struct json_object *obj, struct efs_request *efs, struct err *err)
{
	uint64_t port = 0;
	int r;

	*efs = (struct efs_request){.root = "/", .server = ""};
	r = json_get_string(obj, "fileSystemId", &efs->file_system_id, err);
	if (r == 0)
		r = get_text(obj, "rootDirectory", DEVICE_MAX, &efs->root, err);
	if (r == 0)
		r = get_text(obj, "server", 253, &efs->server, err);
	if (r == 0)
		r = get_text(obj, "accessPointId", ID_MAX, &efs->access_point_id, err);
	if (r == 0)
		r = get_text(obj, "credentialsPath", DEVICE_MAX, &efs->credentials_path, err);
	if (r == 0)
		r = json_optional(json_get_bool(obj, "tls", &efs->tls, err));
	if (r == 0)
		r = json_optional(json_get_u64(obj, "tlsPort", UINT16_MAX, &port, err));
	if (r < 0)
		return r;
	efs->tls_port = (uint16_t)port;
	return check_efs(efs, err);
}

static int parse_driver(struct json_object *obj, struct volume_request *request, struct err *err)
{
	static const char *const types[] = {"none", "tmpfs", "nfs", "nfs4", "cifs"};
	int r;

	request->driver = obj;
	request->device = request->options = "";
	r = json_get_string(obj, "type", &request->type, err);
	if (r == 0)
		r = get_text(obj, "device", DEVICE_MAX, &request->device, err);
	if (r == 0)
		r = get_text(obj, "options", OPTIONS_MAX, &request->options, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if (strcmp(types[i], request->type) == 0)
			return 0;
	return err_text(err, -EOPNOTSUPP,
	                "driverOpts: type \"%.64s\" is not supported by this agent; it must be "
	                "none (with o=bind), tmpfs, nfs, nfs4 or cifs",
	                request->type);
}

static int parse_shared(struct json_object *obj, struct volume_request *request, struct err *err)
{
	int r = json_optional(json_get_bool(obj, "existing", &request->existing, err));

	request->shared = true;
	return r < 0 ? r : json_optional(json_get_object(obj, "labels", &request->labels, err));
}

static int check_names(const struct volume_request *request, struct err *err)
{
	if (!name_is_component(request->task_id, ID_MAX) || strpbrk(request->task_id, "._"))
		return err_text(err, -EINVAL,
		                "taskId is \"%.80s\", it must be 1 to %d letters, digits and '-'",
		                request->task_id, ID_MAX);
	if (!name_is_component(request->name, VOLUME_NAME_MAX) || request->name[0] == '.')
		return err_text(err, -EINVAL,
		                "name is \"%.80s\", it must be 1 to %d letters, digits, '_', '-' "
		                "or '.'",
		                request->name, VOLUME_NAME_MAX);
	return 0;
}

int volume_request_parse(struct json_object *document, struct volume_request *ret, struct err *err)
{
	struct json_object *driver = NULL, *efs = NULL, *shared = NULL;
	struct volume_request request = {0};
	int r;

	r = json_get_string(document, "taskId", &request.task_id, err);
	if (r == 0)
		r = json_get_string(document, "name", &request.name, err);
	if (r == 0)
		r = json_optional(json_get_object(document, "driver", &driver, err));
	if (r == 0)
		r = json_optional(json_get_object(document, "efs", &efs, err));
	if (r == 0)
		r = json_optional(json_get_object(document, "shared", &shared, err));
	if (r == 0)
		r = check_names(&request, err);
	if (r == 0 && !driver == !efs)
		r = err_text(err, -EINVAL, "one of driver and efs is needed");
	if (r == 0 && efs) {
		request.is_efs = true;
		r = parse_efs(efs, &request.efs, err);
	}
	if (r == 0 && driver)
		r = parse_driver(driver, &request, err);
	if (r == 0 && shared)
		r = parse_shared(shared, &request, err);
	if (r < 0)
		return r == -ENOENT ? -EINVAL : r;
	*ret = request;
	return 0;
}

bool volume_request_has_server(const struct volume_request *request)
{
	return request->is_efs ||
	       (strcmp(request->type, "none") != 0 && strcmp(request->type, "tmpfs") != 0);
}

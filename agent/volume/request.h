/* What ecs-agent asks for (protocol.h), checked: every member is known and within its bounds. */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "lib/err.h"

struct efs_request {
	const char *file_system_id;
	const char *root; /* absolute */
	const char *server;
	const char *access_point_id;  /* NULL: none */
	const char *credentials_path; /* NULL: without IAM */
	bool tls;
	uint16_t tls_port; /* 0: mount.efs chooses */
};

/* Strings are borrowed from the document. */
struct volume_request {
	const char *task_id, *name;
	bool is_efs;
	struct efs_request efs;
	const char *type, *device, *options; /* driver; "" where not given */
	struct json_object *driver;          /* as it was asked for */
	bool shared, existing;
	struct json_object *labels; /* NULL: none */
};

/* -EINVAL names the member and what would be right; -EOPNOTSUPP a type that cannot be mounted. */
int volume_request_parse(struct json_object *document, struct volume_request *ret, struct err *err);

/* Does the file system have a server, which can hang. */
bool volume_request_has_server(const struct volume_request *request);

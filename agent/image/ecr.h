/*
 * The password for an Amazon ECR registry: ecr:GetAuthorizationToken, signed with credentials that
 * ecs-metadata keeps for us.
 * Source: Amazon ECR API reference, GetAuthorizationToken.
 */
#pragma once

#include <json-c/json.h>

#include "agent/image/transfer.h"
#include "lib/err.h"
#include "lib/secret.h"

/*
 * ecr: the "ecr" object of a pull request (agent/image/protocol.h). runtime_dir: where
 * ecs-metadata's socket is. Waits up to a minute for credentials that were announced but have not
 * come. *ret_username and *ret_password are owned by the caller.
 *
 * Returns 0, or a negative errno with err->name set to CannotPullECRContainerError.
 */
int ecr_get_password(struct json_object *ecr, const char *runtime_dir,
                     const struct http_settings *settings, const struct transfer_limits *limits,
                     char **ret_username, struct secret **ret_password, struct err *err);

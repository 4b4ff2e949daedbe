/*
 * Static credentials of private registries: ECS_ENGINE_AUTH_TYPE and ECS_ENGINE_AUTH_DATA.
 *
 * "dockercfg": {"<server>":{"auth":"<base64 of user:password>","email":""}}
 * "docker":    {"<server>":{"username":"...","password":"...","email":""}}
 */
#pragma once

#include <stdbool.h>

#include "lib/cleanup.h"
#include "lib/err.h"
#include "lib/secret.h"

struct registry_auth;

/* -EINVAL: unknown type or data that cannot be read; err never quotes the data. */
int registry_auth_parse(const char *type, const char *data, struct registry_auth **ret,
                        struct err *err);
struct registry_auth *registry_auth_free(struct registry_auth *auth);
DEFINE_CLEANUP(struct registry_auth *, registry_auth_free)

/*
 * Credentials for an image's registry ("registry.example:5000"; "docker.io" for Docker Hub, whose
 * entry may be called https://index.docker.io/v1/). Borrowed. False if there are none; auth may be
 * NULL.
 */
bool registry_auth_lookup(const struct registry_auth *auth, const char *registry,
                          const char **ret_username, const struct secret **ret_password);

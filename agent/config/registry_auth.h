/*
 * Static credentials of private registries: ECS_ENGINE_AUTH_TYPE and ECS_ENGINE_AUTH_DATA.
 *
 * "dockercfg": {"<server>":{"auth":"<base64 of user:password>","email":""}}
 * "docker":    {"<server>":{"username":"...","password":"...","email":""}}
 *
 * A server is a host with or without port, scheme and path: "registry.example/team" is for what
 * begins with it, where there are several of one host.
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

#define REGISTRY_DOCKER_HUB "docker.io"

/* Docker Hub has several names: "docker.io" for any of them, else host itself. */
const char *registry_name(const char *host);

/*
 * Credentials for an image: of the entries of its registry the one with the longest path that the
 * repository begins with, else the first one. Borrowed. False if there are none; auth may be NULL.
 *
 * registry:   as registry_name() has it, such as "registry.example:5000"
 * repository: what follows in the reference, such as "team/app:1"
 */
bool registry_auth_lookup(const struct registry_auth *auth, const char *registry,
                          const char *repository, const char **ret_username,
                          const struct secret **ret_password);

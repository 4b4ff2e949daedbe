/*
 * Image references as people write them: "nginx", "team/app:1", "localhost:5000/app",
 * "111122223333.dkr.ecr.us-west-2.amazonaws.com/app@sha256:...".
 *
 * The first component names a registry if it has a '.' or ':', is "localhost" or holds an
 * upper-case letter; otherwise the image is one of docker.io, below "library/" if it has one
 * component only. Without tag and digest the tag is "latest".
 * Source: distribution reference grammar (reference.go) and its "familiar name" rules.
 */
#pragma once

#include <stdbool.h>

#include "agent/image/digest.h"
#include "lib/err.h"

#define REFERENCE_NAME_MAX 255 /* registry, '/' and repository */
#define REFERENCE_TAG_MAX  128
#define REFERENCE_TEXT_N   768 /* bytes that hold any normal form */

struct reference {
	char registry[REFERENCE_NAME_MAX + 1];   /* "docker.io", "localhost:5000", "[::1]:5000" */
	char repository[REFERENCE_NAME_MAX + 9]; /* "library/nginx" */
	char tag[REFERENCE_TAG_MAX + 1];         /* empty: none; then there is a digest */
	struct digest digest;                    /* empty: none */
};

/* Returns 0, or -EINVAL with what is wrong in err. */
int reference_parse(const char *text, struct reference *ret, struct err *err);

/* The one way in which the store spells it: registry/repository[:tag][@sha256:...]. */
void reference_to_string(const struct reference *ref, char buf[static REFERENCE_TEXT_N]);

/* Host (without brackets) and port of the registry's API. docker.io is registry-1.docker.io. */
void reference_api_host(const struct reference *ref, char *buf, size_t n);

/* Is host a loopback address or "localhost", to which plain HTTP may be spoken? Without port. */
bool host_is_loopback(const char *host);
/* Is host the literal of a link-local address or of a metadata service (169.254.0.0/16, fe80::/10,
 * fd00:ec2::/32), also as an IPv4-mapped or abbreviated one? */
bool host_is_link_local(const char *host);

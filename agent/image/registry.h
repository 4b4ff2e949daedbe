/*
 * A client of the registry API for one repository: manifests, blobs, and the right to read them.
 *
 * Credentials go to the registry itself and to the token server that it names, never to the target
 * of a redirect (CVE-2020-15157). One token is kept and asked for anew once when it is refused.
 * What fails for a passing reason is tried again, with growing random waits; a blob goes on where
 * it broke off.
 * Source: OCI distribution-spec 1.0; distribution "Token Authentication Specification".
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "agent/image/manifest.h"
#include "agent/image/reference.h"
#include "agent/image/transfer.h"
#include "lib/cleanup.h"
#include "lib/err.h"
#include "lib/secret.h"

struct registry_options {
	const struct reference *reference;
	const struct http_settings *settings;
	const struct transfer_limits *limits;
	const char *username; /* NULL: anonymous */
	const struct secret *password;
	const char *certs_dir; /* "/etc/docker/certs.d" */
};

struct registry;

/* All options are borrowed and must outlive the registry. */
int registry_new(const struct registry_options *options, struct registry **ret, struct err *err);
struct registry *registry_free(struct registry *registry);
DEFINE_CLEANUP(struct registry *, registry_free)

/* Close all connections: before fork(2), whose child then makes its own. The token stays. */
int registry_disconnect(struct registry *registry, struct err *err);

struct registry_document {
	char *text; /* owned, NUL-terminated */
	size_t len;
	char content_type[256];
	struct digest digest; /* of text */
};

void registry_document_done(struct registry_document *document);
#define _cleanup_document_ _cleanup_(registry_document_done)

/*
 * A manifest or index by tag, or by digest if that is not NULL (which is then verified, as is the
 * digest in the answer's headers). Returns 0, or
 *   -ENOENT   there is none of that name
 *   -EACCES   not without (other) credentials, or a redirect that must not be followed
 *   -EBADMSG  other bytes than the digest says, or too many
 *   -EBUSY    the registry limits requests, also after waiting
 *   -EREMOTEIO  the registry answers with errors
 *   or those of transfer_perform()
 */
int registry_get_manifest(struct registry *registry, const char *tag, const struct digest *digest,
                          struct registry_document *ret, struct err *err);

/* Takes pieces of a blob, each once and in order. */
typedef int (*registry_sink_fn)(const void *bytes, size_t n, void *userdata);

/*
 * A blob, verified: on success sink has had exactly descriptor->size bytes of its digest. On
 * failure it may have had any part of them. Errors as above, and those of sink.
 */
int registry_get_blob(struct registry *registry, const struct descriptor *descriptor,
                      registry_sink_fn sink, void *userdata, struct err *err);

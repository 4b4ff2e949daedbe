/*
 * What the node knows of itself from the EC2 instance metadata: asked once at start. Everything is
 * optional, since the agent also runs where there is no such service (with AWS_DEFAULT_REGION and
 * keys given).
 */
#pragma once

#include <systemd/sd-event.h>

#include "lib/cleanup.h"
#include "lib/err.h"
#include "lib/imds.h"

struct instance {
	/* Each NULL when the service does not have it. */
	char *identity_document;           /* dynamic/instance-identity/document, as it is */
	char *identity_document_signature; /* dynamic/instance-identity/signature */
	char *instance_id;
	char *instance_type;
	char *region;
	char *availability_zone;
	char *availability_zone_id;
	char *account_id;
	char *image_id;
	char *mac;
	char *vpc_id;
	char *subnet_id;
	char *outpost_arn;
	char *private_ipv4;
};

struct instance_lookup;

/* r: 0, also when the metadata service is not there (all members NULL); instance_lookup_result()
 * is then complete. < 0: it is there and fails (-EIO and the like): some members are missing. */
typedef void (*instance_done_fn)(int r, const struct err *err, void *userdata);

int instance_lookup_start(struct imds *imds, instance_done_fn done, void *userdata,
                          struct instance_lookup **ret, struct err *err);
/* Borrowed. */
const struct instance *instance_lookup_result(const struct instance_lookup *lookup);
struct instance_lookup *instance_lookup_free(struct instance_lookup *lookup);
DEFINE_CLEANUP(struct instance_lookup *, instance_lookup_free)

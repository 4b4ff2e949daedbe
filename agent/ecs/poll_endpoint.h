/*
 * DiscoverPollEndpoint and its cache: where the sessions of ACS and telemetry are. An answer is
 * good for 12 hours; when the call fails, an older one is better than none; one call at a time
 * serves all who ask.
 */
#pragma once

#include "agent/ecs/ecs.h"

struct poll_endpoint;

int poll_endpoint_new(struct ecs_client *client, sd_event *loop, const char *cluster,
                      const char *container_instance_arn, struct poll_endpoint **ret);
struct poll_endpoint *poll_endpoint_free(struct poll_endpoint *endpoint);
DEFINE_CLEANUP(struct poll_endpoint *, poll_endpoint_free)

struct poll_endpoint_get;

/* URLs are borrowed for the call; telemetry_url may be NULL. */
typedef void (*poll_endpoint_fn)(int r, const struct err *err, const char *acs_url,
                                 const char *telemetry_url, void *userdata);

/* done runs later, from the loop; also for an answer from the cache. */
int poll_endpoint_get_start(struct poll_endpoint *endpoint, poll_endpoint_fn done, void *userdata,
                            struct poll_endpoint_get **ret, struct err *err);
struct poll_endpoint_get *poll_endpoint_get_free(struct poll_endpoint_get *get);
DEFINE_CLEANUP(struct poll_endpoint_get *, poll_endpoint_get_free)

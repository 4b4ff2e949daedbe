/*
 * All streams of the spool, found by watching <state>/spool, and their turns.
 *
 * What is under way at once is bounded in number and bytes, and streams whose sink fails get half
 * of that at most: they delay no other and cost no memory.
 */
#pragma once

#include <stdbool.h>
#include <systemd/sd-event.h>

#include "agent/logs/log_config.h"
#include "lib/cleanup.h"
#include "lib/err.h"
#include "lib/http.h"

#define SHIPPER_REQUESTS_MAX         256
#define SHIPPER_BYTES_MAX            (48ull * 1024 * 1024) /* and one batch more */
#define SHIPPER_REQUESTS_MAX_FAILING 64
#define SHIPPER_BYTES_MAX_FAILING    (SHIPPER_BYTES_MAX / 2)
#define SHIPPER_IDLE_USEC            (30 * 1000000ull)
#define SHIPPER_STOP_USEC            (8 * 1000000ull)

struct shipper_options {
	const char *state_dir, *runtime_dir; /* borrowed */
	struct log_defaults defaults;
	struct http_client *http; /* borrowed */
	bool exit_when_idle;      /* end the loop when the spool was empty for SHIPPER_IDLE_USEC */
};

struct shipper;

/* -ENOENT when there is no spool. */
int shipper_new(sd_event *loop, const struct shipper_options *options, struct shipper **ret,
                struct err *err);
struct shipper *shipper_free(struct shipper *shipper);
DEFINE_CLEANUP(struct shipper *, shipper_free)

/*
 * End the loop when no batch is under way, so that none has to be repeated by the next process.
 * After SHIPPER_STOP_USEC it ends anyway: a sink that hangs then has the batch or has it not.
 */
void shipper_stop(struct shipper *shipper);

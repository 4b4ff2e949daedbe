/* The one line that ecs-launcher reads (protocol.h). */
#pragma once

#include <stddef.h>

#include "agent/launcher/protocol.h"
#include "lib/err.h"

enum launcher_verb {
	LAUNCHER_VERB_TASK,
	LAUNCHER_VERB_TASK_HOST_PID,
	LAUNCHER_VERB_IMAGE,
	LAUNCHER_VERB_NETWORK,
	LAUNCHER_VERB_VOLUME,
	LAUNCHER_VERB_REAP,
	LAUNCHER_VERB_DISCARD,
	_LAUNCHER_VERB_MAX,
};

struct launcher_request {
	enum launcher_verb verb;
	char task_id[LAUNCHER_TASK_ID_MAX + 1]; /* "" for verbs without one */
};

/* line: the len bytes before the newline, which may hold anything. -EINVAL with a sentence for the
 * peer; *ret is untouched then. */
int launcher_request_parse(const char *line, size_t len, struct launcher_request *ret,
                           struct err *err);

const char *launcher_verb_to_string(enum launcher_verb verb);

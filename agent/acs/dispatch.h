/* Private to agent/acs/: one received text to its handler. */
#pragma once

#include <stddef.h>

struct acs_session;

/* The handler may free the session: nothing may follow this call. */
void acs_dispatch(struct acs_session *session, const char *text, size_t len);

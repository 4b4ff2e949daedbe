/* Times as ACS writes them into credentials, and as the audit log has them (RFC 3339). */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* "2026-07-01T10:00:00Z", with a fraction or "+02:00" as well. -EINVAL for anything else or a year
 * before 1970. */
int rfc3339_parse(const char *text, uint64_t *ret_realtime_usec);

/* "2026-07-01T10:00:00Z"; n is at least 32. */
void rfc3339_format(uint64_t realtime_usec, char *buf, size_t n);

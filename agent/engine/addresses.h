/*
 * IPv4 addresses of one bridge subnet, one for each live container: the next after the last one
 * given, so that an address rests as long as possible before it is used again.
 */
#pragma once

#include <stdint.h>

#include "lib/cleanup.h"
#include "lib/err.h"

struct addresses;

/* gateway ("172.29.0.1") is the bridge's own, prefix NETWORK_BRIDGE_PREFIX_MIN to _MAX. -EINVAL
 * with err otherwise. */
int addresses_new(const char *gateway, unsigned int prefix, struct addresses **ret,
                  struct err *err);
struct addresses *addresses_free(struct addresses *addresses);
DEFINE_CLEANUP(struct addresses *, addresses_free)

/* -ENOSPC when all are taken. */
int addresses_take(struct addresses *addresses, char ret[static 16]);
/* An address that is in use already, found after a restart. One outside of the subnet (it was
 * changed) is left alone. */
void addresses_mark(struct addresses *addresses, const char *address);
void addresses_give(struct addresses *addresses, const char *address);
size_t addresses_count(const struct addresses *addresses); /* taken ones, the bridge's own aside */

/* The grammar check that comes before json-c sees a text: see lib/json.h for what it refuses. */
#pragma once

#include <stddef.h>

#include "lib/err.h"

/* Is text (len bytes) exactly one RFC 8259 value with unique member names in each object, valid
 * UTF-8, integers within 64 bits and at most depth levels? 0, -EINVAL (err names the byte offset)
 * or -ENOMEM. */
int json_check(const char *text, size_t len, unsigned int depth, struct err *err);

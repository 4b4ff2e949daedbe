/*
 * Memory for credentials and secrets: kept out of core dumps where it can be, wiped when released,
 * and without any function that prints it.
 */
#pragma once

#include <stddef.h>

#include "lib/cleanup.h"

struct secret;

/* A copy of n bytes (which may hold anything); NULL when memory has run out. */
struct secret *secret_new(const char *bytes, size_t n);
struct secret *secret_free(struct secret *secret);
DEFINE_CLEANUP(struct secret *, secret_free)

/* Borrowed, NUL-terminated beyond its secret_len() bytes. */
const char *secret_bytes(const struct secret *secret);
size_t secret_len(const struct secret *secret);

/* Wipes a string that once held a secret, then frees it. NULL is fine. */
char *secret_string_free(char *text);
DEFINE_CLEANUP(char *, secret_string_free)
#define _cleanup_secret_ _cleanup_(secret_string_freep)

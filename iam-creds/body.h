/*
 * The body of an HTTP answer, shared by the store and the connections that are sending it: a
 * document or credentials may be replaced while a slow client still reads the old ones. Wiped when
 * the last holder lets go.
 */
#pragma once

#include <stddef.h>

#include "lib/cleanup.h"

struct body;

/* A copy of n bytes with one reference; NULL when memory has run out. */
struct body *body_new(const char *bytes, size_t n);
struct body *body_ref(struct body *body);
struct body *body_unref(struct body *body);
DEFINE_CLEANUP(struct body *, body_unref)

const char *body_bytes(const struct body *body);
size_t body_len(const struct body *body);

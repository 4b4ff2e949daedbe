/*
 * Options of a mount as people write them ("ro,addr=nas.example.com,nfsvers=4.1") for mount(2):
 * the words that are flags of a mount, and the rest, which the file system reads.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "lib/err.h"

#define MOUNT_DATA_MAX 4000

struct mount_options {
	unsigned long flags;  /* MS_* */
	bool bind, recursive; /* "bind", "rbind" */
	char data[MOUNT_DATA_MAX];
};

/* -EOPNOTSUPP names an option that has no effect here (propagation, remount); -E2BIG. */
int mount_options_parse(const char *text, struct mount_options *ret, struct err *err);

/* The value of KEY=VALUE in data, copied; false when there is none, or it does not fit. */
bool mount_options_get(const struct mount_options *options, const char *key, char *buf, size_t n);
bool mount_options_has(const struct mount_options *options, const char *word);

/* Take KEY=... out of data; -E2BIG: the option does not fit in. */
void mount_options_remove(struct mount_options *options, const char *key);
int mount_options_add(struct mount_options *options, const char *option, struct err *err);

/*
 * What went wrong, in words, for people: the last parameter of every function that can fail in
 * more than one way. The int result (negative errno) is for the program to branch on.
 */
#pragma once

#include <stdbool.h>

struct err {
	const char *name; /* ECS reason class, "CannotPullContainerError"; NULL if none */
	char text[512];   /* sentence fragment without a newline; truncated to fit */
};

/*
 * Describe a failure and return r, so that both are one statement. err may be NULL.
 * err_set() appends the text of errno -r; err_text() does not (the sentence says it all).
 * err_prefix() puts words before what is there: "task 7f3c: open memory.max: No such file".
 */
int err_set(struct err *err, int r, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int err_text(struct err *err, int r, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int err_prefix(struct err *err, int r, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Out of memory: an ordinary error, whose words need no memory. */
int err_oom(struct err *err);

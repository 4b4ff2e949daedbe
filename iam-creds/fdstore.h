/*
 * Descriptors that the service manager keeps for us while we are restarted, upgraded or killed
 * (systemd's file descriptor store: sd_pid_notify_with_fds(3), FDSTORE=1). Without a service
 * manager nothing is kept, and every function does nothing.
 *
 * The service manager does not say whether it has kept what it was given: one beyond the unit's
 * FileDescriptorStoreMax= is dropped in silence. So nothing may be taken for kept before it has
 * come back. FDSTORE_MAX is the number to write there.
 *
 * Names are short, since all of them come back in one environment variable (LISTEN_FDNAMES), which
 * the kernel limits to 128 KiB: those that are made here are 1 to 4 hex digits. A name is not proof
 * of what the descriptor is; whoever takes one back checks the descriptor itself.
 *
 * Descriptors are stored with FDPOLL=0: the service manager does not watch them, we do.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "lib/cleanup.h"
#include "lib/err.h"

/* ECS allows 10 containers in a task, so 1024 tasks with a socket each; and a few of our own. */
#define FDSTORE_MAX (10 * 1024 + 64)

#define FDSTORE_NAME_SIZE 12

struct fdstore_name {
	char text[FDSTORE_NAME_SIZE]; /* "": not stored */
};

struct fdstore;

/* Takes over the descriptors that came back. Single-threaded callers only: removes the service
 * manager's variables from the environment, but leaves NOTIFY_SOCKET. */
int fdstore_new(struct fdstore **ret, struct err *err);
/* Closes what was not taken. What is stored stays so. */
struct fdstore *fdstore_free(struct fdstore *store);
DEFINE_CLEANUP(struct fdstore *, fdstore_free)

/* Is there a service manager that may keep something. */
bool fdstore_is_there(const struct fdstore *store);

/*
 * Store a duplicate of fd. name: one of ours, not of 1 to 4 hex digits, or NULL to have one made.
 * *ret_name is what fdstore_remove() takes: "" if it could not be stored, which is logged and no
 * failure for the caller. A descriptor of the same open file is stored only once, under its first
 * name.
 */
void fdstore_put(struct fdstore *store, int fd, const char *name, struct fdstore_name *ret_name);

/* Give up everything of this name; "" does nothing. Leaves *name "". */
void fdstore_remove(struct fdstore *store, struct fdstore_name *name);

/* What came back, one after the other: the descriptor, which is the caller's now, with its name, or
 * -ENOENT when there is no more. The caller keeps it open as long as it shall stay stored, or
 * calls fdstore_remove(). */
int fdstore_take(struct fdstore *store, struct fdstore_name *ret_name);
/* The first of this name. */
int fdstore_take_named(struct fdstore *store, const char *name, struct fdstore_name *ret_name);

/*
 * What a restart leaves, however it comes about (upgrade, crash, SIGKILL): endpoint sockets, the
 * audit log and a vault with a snapshot of the rest, all held by the service manager. A new process
 * serves them before anyone has talked to it; ecs-agent may be away.
 *
 * Life: keep_new() takes back what there is and starts a vault where there is none. From then on
 * keep_changed() after every change; the snapshot is written once for all changes of one turn of
 * the loop, and then, by keep_on_flushed(), whoever made them is answered. So what has been
 * answered survives, and secrets that were replaced or released are wiped from the vault by then.
 * Without a service manager there is no vault, nothing waits, and ecs-agent sends everything again.
 *
 * A socket is taken back only if the snapshot says, by the socket's own cookie, whose it is: names
 * in the store could be a crash behind. What does not fit together (a socket too many, too few, a
 * damaged vault) is dropped; the answer to "hello" shows then what is missing, and ecs-agent hands
 * it over again.
 */
#pragma once

#include <systemd/sd-event.h>

#include "iam-creds/audit.h"
#include "iam-creds/fdstore.h"
#include "iam-creds/http.h"
#include "iam-creds/store.h"

struct keep;

struct keep_config {
	sd_event *loop; /* all borrowed */
	struct store *store;
	struct http *http;
	struct audit *audit;
	struct fdstore *fdstore;
};

int keep_new(const struct keep_config *config, struct keep **ret, struct err *err);
/* Writes what has changed. */
struct keep *keep_free(struct keep *keep);
DEFINE_CLEANUP(struct keep *, keep_free)

/* Store, endpoints or settings have changed. */
void keep_changed(struct keep *keep);
/* Are there changes that are not written yet. */
bool keep_is_behind(const struct keep *keep);
void keep_flush(struct keep *keep);
/* Called after each write, from keep_flush() or from the loop. */
void keep_on_flushed(struct keep *keep, void (*fn)(void *userdata), void *userdata);

/* The file of audit lines goes to the audit log and into the store; takes fd, -EBADF for none. */
void keep_set_audit_file(struct keep *keep, int fd);

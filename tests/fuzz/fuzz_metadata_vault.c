/*
 * What comes back from the service manager as our memory: any snapshot in a valid vault, and any
 * bytes as the head and the begin of a slot of one.
 */
#include <assert.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "iam-creds/snapshot.h"
#include "iam-creds/vault.h"
#include "lib/fd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void on_settings(const struct snapshot_settings *s, void *userdata)
{
	(void)userdata;
	assert(strlen(s->cluster) + strlen(s->instance_arn) < VAULT_BYTES_MAX);
}

static void on_credentials(const struct snapshot_credentials *c, void *userdata)
{
	const struct credentials_input in = {
		.id = c->id,
		.task_id = c->role_type == ROLE_INSTANCE ? NULL : c->task_id,
		.task_arn = c->task_arn,
		.role_type = c->role_type,
		.for_mounts = c->for_mounts,
	};

	assert(strlen(c->body) == c->body_len);
	(void)store_put_credentials_body(userdata, &in, c->body, c->body_len, NULL);
}

static void on_endpoint(uint64_t cookie, const char *task_id, const char *name, void *userdata)
{
	struct container *container;

	(void)cookie;
	(void)store_get_container(userdata, task_id, name, &container, NULL);
}

static void on_cgroup(uint64_t id, const char *task_id, const char *name, void *userdata)
{
	struct container *container;

	if (store_get_container(userdata, task_id, name, &container, NULL) == 0)
		(void)store_set_cgroup(userdata, container, id, NULL);
}

static void read_snapshot(const void *bytes, size_t len)
{
	static const struct snapshot_handlers handlers = {.settings = on_settings,
	                                                  .credentials = on_credentials,
	                                                  .endpoint = on_endpoint,
	                                                  .cgroup = on_cgroup};
	_cleanup_(store_freep) struct store *store = NULL;

	if (store_new(&store) < 0)
		abort();
	(void)snapshot_read(bytes, len, &handlers, store, NULL);
}

/* One file for all runs: sealed, so only its content changes. */
static struct vault *valid_vault(void)
{
	static struct vault *vault;

	if (!vault && vault_create(&vault, NULL) < 0)
		abort();
	return vault;
}

static void open_damaged(const uint8_t *data, size_t size)
{
	int fd = fcntl(vault_fd(valid_vault()), F_DUPFD_CLOEXEC, 3);
	_cleanup_(vault_freep) struct vault *vault = NULL;
	char head[64], saved[64];
	const void *bytes;
	size_t len;

	if (size > sizeof(head))
		size = sizeof(head);
	if (fd < 0 || pread(fd, saved, sizeof(saved), 0) != sizeof(saved) ||
	    pwrite(fd, data, size, 0) != (ssize_t)size)
		abort();
	if (vault_open(fd, &vault, NULL) == 0) {
		bytes = vault_bytes(vault, &len);
		assert(len <= VAULT_BYTES_MAX);
		read_snapshot(bytes, len);
	}
	if (pwrite(vault_fd(valid_vault()), saved, sizeof(saved), 0) != sizeof(saved))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vault *vault = valid_vault();
	const void *bytes;
	size_t len;

	read_snapshot(data, size);
	if (size > VAULT_BYTES_MAX)
		return 0;
	if (size > 0)
		memcpy(vault_begin(vault), data, size);
	vault_commit(vault, size);
	bytes = vault_bytes(vault, &len);
	assert(len == size && (size == 0 || memcmp(bytes, data, size) == 0));
	open_damaged(data, size);
	return 0;
}

/*
 * One block of bytes in a memory file (memfd_create(2)) that outlives this process while somebody
 * else holds its descriptor: the service manager, in its store (fdstore.h).
 *
 * Why that is still "in memory only": a memfd has no name and no place in any file system. It can
 * be reached through a descriptor alone, so by this process and by PID 1, and through /proc only by
 * who may trace these (root; this process forbids it even to its own user). Its pages are as those
 * of a process: they are gone with the last descriptor, that is when the service is stopped (not
 * when it is restarted), when it fails for good, and with the power; they can be swapped like them,
 * which the unit forbids with MemorySwapMax=0. It cannot be executed, nor shrunk under a reader.
 *
 * Writing is safe against SIGKILL at any instruction: there are two slots, the new bytes go into
 * the unused one, become valid by one store of a sequence number that comes last, and only then is
 * the slot before wiped. Who opens a vault takes the valid slot with the higher number and wipes
 * the other. So what was replaced is gone when vault_commit() returns, or when the vault is opened
 * next. A checksum tells accidents; it is no defence against root.
 */
#pragma once

#include <stddef.h>

#include "lib/cleanup.h"
#include "lib/err.h"

#define VAULT_BYTES_MAX (16 * 1024 * 1024) /* of one block; memory is used as it is written */

struct vault;

/* A new one, empty. */
int vault_create(struct vault **ret, struct err *err);
/*
 * One that came back. Takes fd, also on failure. It is as untrusted as anything from outside:
 * -EINVAL or -EPROTONOSUPPORT (another layout), with words, unless it is a memfd of this user,
 * sealed and laid out as ours are. What is in it may still be anything.
 */
int vault_open(int fd, struct vault **ret, struct err *err);
struct vault *vault_free(struct vault *vault);
DEFINE_CLEANUP(struct vault *, vault_free)

/* Borrowed. */
int vault_fd(const struct vault *vault);

/* The block; *ret_len is 0 where there is none. Borrowed, until the next vault_commit(). */
const void *vault_bytes(const struct vault *vault, size_t *ret_len);

/* Room for VAULT_BYTES_MAX bytes to put the next block in. */
void *vault_begin(struct vault *vault);
/* The first len of them are the block from now on. The one before is wiped. */
void vault_commit(struct vault *vault, size_t len);

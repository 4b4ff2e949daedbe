/*
 * A page for the head, then the two slots. All numbers are as this machine has them: a vault never
 * leaves it.
 */
#include "iam-creds/vault.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "lib/fd.h"
#include "lib/spool.h"

#define MAGIC       UINT64_C(0x314b544d53434500) /* "\0ECSMTK1" */
#define VERSION     1u
#define HEAD_BYTES  4096
#define FILE_BYTES  (HEAD_BYTES + 2 * VAULT_BYTES_MAX)
#define SPARE_BYTES (256 * 1024)
#define SEALS       (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW)

#ifndef MFD_NOEXEC_SEAL
#	define MFD_NOEXEC_SEAL 0x0008U /* Linux 6.3 */
#endif

struct slot {
	_Atomic uint64_t sequence; /* 0: nothing in it */
	uint32_t length;
	uint32_t crc; /* of sequence, length and the bytes */
};

struct head {
	uint64_t magic;
	uint32_t version, slot_bytes;
	struct slot slots[2];
};

struct vault {
	int fd;
	struct head *head; /* of the mapping; NULL until it is there */
	int current;       /* slot with the block, -1 if there is none */
	uint64_t sequence; /* of the last block */
};

static uint8_t *slot_bytes(const struct vault *vault, int i)
{
	return (uint8_t *)vault->head + HEAD_BYTES + (size_t)i * VAULT_BYTES_MAX;
}

static uint32_t slot_crc(uint64_t sequence, uint32_t length, const void *bytes)
{
	uint32_t crc = spool_crc32(0, &sequence, sizeof(sequence));

	crc = spool_crc32(crc, &length, sizeof(length));
	return spool_crc32(crc, bytes, length);
}

static void slot_punch(struct vault *vault, int i)
{
	/* A failure costs memory only. */
	(void)fallocate(vault->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
	                HEAD_BYTES + (off_t)i * VAULT_BYTES_MAX, VAULT_BYTES_MAX);
}

/* Zeroes what was ever written there, which the length of a damaged slot would not tell, and gives
 * the memory back. */
static void slot_wipe(struct vault *vault, int i)
{
	off_t begin = HEAD_BYTES + (off_t)i * VAULT_BYTES_MAX, end = begin + VAULT_BYTES_MAX;
	struct slot *slot = &vault->head->slots[i];
	off_t at = begin;

	atomic_store(&slot->sequence, 0);
	for (;;) {
		off_t data = lseek(vault->fd, at, SEEK_DATA), hole;

		if (data < 0 || data >= end)
			break; /* ENXIO: nothing but holes */
		hole = lseek(vault->fd, data, SEEK_HOLE);
		if (hole < 0 || hole > end)
			hole = end;
		explicit_bzero((uint8_t *)vault->head + data, (size_t)(hole - data));
		at = hole;
	}
	slot_punch(vault, i);
	slot->length = slot->crc = 0;
}

/* The same for one whose block was ours. Its memory is kept for the block after the next, which
 * most often is as long: new pages cost more than all the rest. */
static void slot_clear(struct vault *vault, int i, size_t next_length)
{
	struct slot *slot = &vault->head->slots[i];

	atomic_store(&slot->sequence, 0);
	explicit_bzero(slot_bytes(vault, i), slot->length);
	if (slot->length > SPARE_BYTES + 2 * next_length)
		slot_punch(vault, i);
	slot->length = slot->crc = 0;
}

static int map(struct vault *vault, struct err *err)
{
	void *at = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, vault->fd, 0);

	if (at == MAP_FAILED)
		return err_set(err, -errno, "map the memory file");
	(void)madvise(at, FILE_BYTES, MADV_DONTDUMP); /* there are no dumps in any case */
	vault->head = at;
	return 0;
}

static struct vault *vault_new(int fd)
{
	struct vault *vault = calloc(1, sizeof(*vault));

	if (!vault) {
		fd_close(fd);
		return NULL;
	}
	vault->fd = fd;
	vault->current = -1;
	return vault;
}

int vault_create(struct vault **ret, struct err *err)
{
	_cleanup_(vault_freep) struct vault *vault = NULL;
	unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	int fd, r;

	fd = memfd_create("ecs-metadata", flags | MFD_NOEXEC_SEAL);
	if (fd < 0 && errno == EINVAL)
		fd = memfd_create("ecs-metadata", flags);
	if (fd < 0)
		return err_set(err, -errno, "make a memory file");
	vault = vault_new(fd);
	if (!vault)
		return err_oom(err);
	if (fchmod(fd, 0600) < 0 || ftruncate(fd, FILE_BYTES) < 0 ||
	    fcntl(fd, F_ADD_SEALS, SEALS) < 0)
		return err_set(err, -errno, "set up the memory file");
	r = map(vault, err);
	if (r < 0)
		return r;
	vault->head->version = VERSION;
	vault->head->slot_bytes = VAULT_BYTES_MAX;
	vault->head->magic = MAGIC;
	*ret = TAKE_PTR(vault);
	return 0;
}

static int check_file(int fd, struct err *err)
{
	struct stat st;
	int seals;

	if (fstat(fd, &st) < 0)
		return err_set(err, -errno, "look at the memory file");
	seals = fcntl(fd, F_GET_SEALS);
	if (!S_ISREG(st.st_mode) || seals < 0)
		return err_text(err, -EINVAL, "the descriptor is no memory file");
	if (st.st_uid != geteuid())
		return err_text(err, -EINVAL, "the memory file is of user %u, not %u",
		                (unsigned)st.st_uid, (unsigned)geteuid());
	/* Sealed first, so that a size which was right stays so. */
	if ((seals & SEALS) != SEALS || (seals & F_SEAL_WRITE))
		return err_text(err, -EINVAL, "the memory file has seals 0x%x, not 0x%x",
		                (unsigned)seals, (unsigned)SEALS);
	if (st.st_size != FILE_BYTES)
		return err_text(err, -EPROTONOSUPPORT, "the memory file has %lld bytes, not %lld",
		                (long long)st.st_size, (long long)FILE_BYTES);
	return 0;
}

static bool slot_is_valid(const struct vault *vault, int i)
{
	struct slot *slot = &vault->head->slots[i];
	uint64_t sequence = atomic_load(&slot->sequence);
	uint32_t length = slot->length;

	return sequence != 0 && sequence < UINT64_MAX && length <= VAULT_BYTES_MAX &&
	       slot_crc(sequence, length, slot_bytes(vault, i)) == slot->crc;
}

int vault_open(int fd, struct vault **ret, struct err *err)
{
	_cleanup_(vault_freep) struct vault *vault = vault_new(fd);
	int r;

	if (!vault)
		return err_oom(err);
	r = check_file(fd, err);
	if (r == 0)
		r = map(vault, err);
	if (r < 0)
		return r;
	if (vault->head->magic != MAGIC || vault->head->version != VERSION ||
	    vault->head->slot_bytes != VAULT_BYTES_MAX)
		return err_text(err, -EPROTONOSUPPORT, "the memory file is of another version");

	for (int i = 0; i < 2; i++) {
		uint64_t sequence = atomic_load(&vault->head->slots[i].sequence);

		if (sequence > vault->sequence && slot_is_valid(vault, i)) {
			vault->current = i;
			vault->sequence = sequence;
		}
	}
	for (int i = 0; i < 2; i++)
		if (i != vault->current)
			slot_wipe(vault, i);
	*ret = TAKE_PTR(vault);
	return 0;
}

struct vault *vault_free(struct vault *vault)
{
	if (!vault)
		return NULL;
	if (vault->head)
		(void)munmap(vault->head, FILE_BYTES);
	fd_close(vault->fd);
	free(vault);
	return NULL;
}

int vault_fd(const struct vault *vault)
{
	return vault->fd;
}

const void *vault_bytes(const struct vault *vault, size_t *ret_len)
{
	*ret_len = vault->current < 0 ? 0 : vault->head->slots[vault->current].length;
	return vault->current < 0 ? NULL : slot_bytes(vault, vault->current);
}

static int next_slot(const struct vault *vault)
{
	return vault->current == 0 ? 1 : 0;
}

void *vault_begin(struct vault *vault)
{
	return slot_bytes(vault, next_slot(vault));
}

void vault_commit(struct vault *vault, size_t len)
{
	int next = next_slot(vault), before = vault->current;
	struct slot *slot = &vault->head->slots[next];
	uint64_t sequence = vault->sequence + 1;

	slot->length = (uint32_t)len;
	slot->crc = slot_crc(sequence, (uint32_t)len, slot_bytes(vault, next));
	atomic_store(&slot->sequence, sequence);
	vault->sequence = sequence;
	vault->current = next;
	if (before >= 0)
		slot_clear(vault, before, len);
}

/* Messages to the service manager; which hex names are in use is all that is remembered here. */
#include "iam-creds/fdstore.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-daemon.h>

#include "lib/fd.h"
#include "lib/log.h"

#define NAMES_MAX 0x10000 /* hex names: four digits */

struct fdstore {
	bool is_there;
	bool complained;
	int n_inherited;
	char **names; /* of the inherited, as LISTEN_FDNAMES has them */
	int next;     /* the first of the inherited that has not been looked at */
	bool *taken;
	unsigned last_name;
	uint8_t in_use[NAMES_MAX / 8];
};

/* The number of a name made here, or -EINVAL. */
static int parse_name(const char *text)
{
	unsigned value = 0;
	size_t n = strlen(text);

	if (n < 1 || n > 4 || text[0] == '0' || text[strspn(text, "0123456789abcdef")] != '\0')
		return -EINVAL;
	for (; *text; text++)
		value = value << 4 | (unsigned)(*text <= '9' ? *text - '0' : *text - 'a' + 10);
	return (int)value;
}

static void set_in_use(struct fdstore *store, const char *name, bool value)
{
	int n = parse_name(name);

	if (n < 0)
		return;
	if (value)
		store->in_use[n / 8] |= (uint8_t)(1 << n % 8);
	else
		store->in_use[n / 8] &= (uint8_t) ~(1 << n % 8);
}

/* In turn, so that a name that was given up is not soon another's. */
static int make_name(struct fdstore *store, struct fdstore_name *ret)
{
	for (unsigned i = 0; i < NAMES_MAX; i++) {
		unsigned n = store->last_name = store->last_name % (NAMES_MAX - 1) + 1;

		if (store->in_use[n / 8] & 1 << n % 8)
			continue;
		snprintf(ret->text, sizeof(ret->text), "%x", n);
		return 0;
	}
	return -ENOSPC;
}

int fdstore_new(struct fdstore **ret, struct err *err)
{
	_cleanup_(fdstore_freep) struct fdstore *store = calloc(1, sizeof(*store));
	const char *notify = getenv("NOTIFY_SOCKET");
	int r;

	if (!store)
		return err_oom(err);
	store->is_there = notify && notify[0] != '\0';
	r = sd_listen_fds_with_names(true, &store->names);
	if (r < 0)
		return err_set(err, r, "descriptors from the service manager");
	store->n_inherited = r;
	store->taken = calloc((size_t)r + 1, sizeof(*store->taken));
	if (!store->taken)
		return err_oom(err);
	for (int i = 0; i < r; i++)
		set_in_use(store, store->names[i], true);
	*ret = TAKE_PTR(store);
	return 0;
}

struct fdstore *fdstore_free(struct fdstore *store)
{
	if (!store)
		return NULL;
	for (int i = 0; i < store->n_inherited; i++) {
		if (store->taken && !store->taken[i])
			fd_close(SD_LISTEN_FDS_START + i);
		free(store->names[i]);
	}
	free(store->names);
	free(store->taken);
	free(store);
	return NULL;
}

bool fdstore_is_there(const struct fdstore *store)
{
	return store->is_there;
}

static void complain(struct fdstore *store, int r)
{
	if (!store->complained)
		log_warning(NULL, r, "descriptors cannot be kept by the service manager");
	store->complained = true;
}

void fdstore_put(struct fdstore *store, int fd, const char *name, struct fdstore_name *ret_name)
{
	char message[64];
	int r = 0;

	*ret_name = (struct fdstore_name){0};
	if (!store->is_there)
		return;
	if (name)
		snprintf(ret_name->text, sizeof(ret_name->text), "%s", name);
	else
		r = make_name(store, ret_name);
	if (r == 0) {
		snprintf(message, sizeof(message), "FDSTORE=1\nFDPOLL=0\nFDNAME=%s",
		         ret_name->text);
		r = sd_pid_notify_with_fds(0, 0, message, &fd, 1);
	}
	if (r < 0) {
		*ret_name = (struct fdstore_name){0};
		complain(store, r);
		return;
	}
	set_in_use(store, ret_name->text, true);
}

void fdstore_remove(struct fdstore *store, struct fdstore_name *name)
{
	char message[64];
	int r;

	if (name->text[0] == '\0')
		return;
	if (store->is_there) {
		snprintf(message, sizeof(message), "FDSTOREREMOVE=1\nFDNAME=%s", name->text);
		r = sd_notify(0, message);
		if (r < 0)
			complain(store, r);
		else
			set_in_use(store, name->text, false);
	}
	*name = (struct fdstore_name){0};
}

static int take(struct fdstore *store, int i, struct fdstore_name *ret_name)
{
	store->taken[i] = true;
	snprintf(ret_name->text, sizeof(ret_name->text), "%.*s", FDSTORE_NAME_SIZE - 1,
	         store->names[i]);
	return SD_LISTEN_FDS_START + i;
}

int fdstore_take(struct fdstore *store, struct fdstore_name *ret_name)
{
	while (store->next < store->n_inherited) {
		int i = store->next++;

		if (!store->taken[i])
			return take(store, i, ret_name);
	}
	return -ENOENT;
}

int fdstore_take_named(struct fdstore *store, const char *name, struct fdstore_name *ret_name)
{
	for (int i = 0; i < store->n_inherited; i++)
		if (!store->taken[i] && strcmp(store->names[i], name) == 0)
			return take(store, i, ret_name);
	return -ENOENT;
}

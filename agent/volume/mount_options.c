/* A word that is in no table is the file system's to judge. */
#include "agent/volume/mount_options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>

#include "lib/cleanup.h"

static const struct {
	const char *word;
	unsigned long set, clear;
} flag_words[] = {
	{"defaults", 0, 0},
	{"ro", MS_RDONLY, 0},
	{"rw", 0, MS_RDONLY},
	{"nosuid", MS_NOSUID, 0},
	{"suid", 0, MS_NOSUID},
	{"nodev", MS_NODEV, 0},
	{"dev", 0, MS_NODEV},
	{"noexec", MS_NOEXEC, 0},
	{"exec", 0, MS_NOEXEC},
	{"sync", MS_SYNCHRONOUS, 0},
	{"async", 0, MS_SYNCHRONOUS},
	{"dirsync", MS_DIRSYNC, 0},
	{"noatime", MS_NOATIME, MS_RELATIME | MS_STRICTATIME},
	{"atime", 0, MS_NOATIME},
	{"nodiratime", MS_NODIRATIME, 0},
	{"diratime", 0, MS_NODIRATIME},
	{"relatime", MS_RELATIME, MS_NOATIME | MS_STRICTATIME},
	{"norelatime", 0, MS_RELATIME},
	{"strictatime", MS_STRICTATIME, MS_NOATIME | MS_RELATIME},
	{"nostrictatime", 0, MS_STRICTATIME},
};

/* The mount is the task's own, in each container with the propagation of its mount point. */
static const char *const refused_words[] = {
	"remount", "move",   "shared", "rshared",    "private",     "rprivate",
	"slave",   "rslave", "mand",   "unbindable", "runbindable",
};

static int take_word(const char *word, struct mount_options *options, struct err *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(flag_words); i++)
		if (strcmp(flag_words[i].word, word) == 0) {
			options->flags =
				(options->flags & ~flag_words[i].clear) | flag_words[i].set;
			return 0;
		}
	for (size_t i = 0; i < ARRAY_SIZE(refused_words); i++)
		if (strcmp(refused_words[i], word) == 0)
			return err_text(err, -EOPNOTSUPP,
			                "driverOpts: option %s in \"o\" is not supported by this "
			                "agent",
			                word);
	if (strcmp(word, "bind") == 0 || strcmp(word, "rbind") == 0) {
		options->bind = true;
		options->recursive |= word[0] == 'r';
		return 0;
	}
	return mount_options_add(options, word, err);
}

int mount_options_parse(const char *text, struct mount_options *ret, struct err *err)
{
	*ret = (struct mount_options){0};
	while (*text) {
		size_t len = strcspn(text, ",");
		char word[MOUNT_DATA_MAX];
		int r;

		if (len >= sizeof(word))
			return err_text(err, -E2BIG,
			                "driverOpts: an option in \"o\" has more than "
			                "%d bytes",
			                MOUNT_DATA_MAX - 1);
		memcpy(word, text, len);
		word[len] = '\0';
		r = len > 0 ? take_word(word, ret, err) : 0;
		if (r < 0)
			return r;
		text += len + (text[len] == ',');
	}
	return 0;
}

/* The start of an option that is KEY=... (value true) or the word itself; NULL if there is none. */
static const char *find(const char *data, const char *key, bool value)
{
	size_t n = strlen(key);

	for (const char *at = data; *at;) {
		size_t len = strcspn(at, ",");

		if (strncmp(at, key, n) == 0 && (value ? at[n] == '=' : len == n))
			return at;
		at += len + (at[len] == ',');
	}
	return NULL;
}

bool mount_options_get(const struct mount_options *options, const char *key, char *buf, size_t n)
{
	const char *at = find(options->data, key, true);
	size_t len;

	if (!at)
		return false;
	at += strlen(key) + 1;
	len = strcspn(at, ",");
	if (len >= n)
		return false;
	memcpy(buf, at, len);
	buf[len] = '\0';
	return true;
}

bool mount_options_has(const struct mount_options *options, const char *word)
{
	return find(options->data, word, false) != NULL;
}

void mount_options_remove(struct mount_options *options, const char *key)
{
	char *at;

	while ((at = (char *)find(options->data, key, true))) {
		size_t len = strcspn(at, ",");

		if (at[len] == ',')
			len++;
		else if (at > options->data)
			(at--, len++);
		memmove(at, at + len, strlen(at + len) + 1);
	}
}

int mount_options_add(struct mount_options *options, const char *option, struct err *err)
{
	size_t used = strlen(options->data);

	if (used + strlen(option) + 2 > sizeof(options->data))
		return err_text(err, -E2BIG,
		                "driverOpts: the options in \"o\" have more than %d "
		                "bytes",
		                MOUNT_DATA_MAX - 1);
	snprintf(options->data + used, sizeof(options->data) - used, "%s%s", used ? "," : "",
	         option);
	return 0;
}

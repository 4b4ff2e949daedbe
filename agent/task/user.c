/*
 * passwd(5) and group(5) of an image, read line by line through one fixed buffer. A number is also
 * looked up, for the gid and home that go with it, but never as a name: an image with the line
 * "1000:x:0:0" must not make root of a task that asks for 1000. The first line that fits counts.
 * Source: moby/sys, user.GetExecUser() and pull request 221.
 */
#include "agent/task/user.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/fd.h"
#include "lib/parse.h"

#define FILE_MAX  (16 * 1024 * 1024)
#define LINE_MAX_ (64 * 1024)

static char line_buffer[LINE_MAX_];

typedef void (*line_fn)(char *line, void *userdata);

/* fn for each line that fits the buffer; the line is its own to cut up. */
static int each_line(int root_fd, const char *path, line_fn fn, void *userdata)
{
	_cleanup_close_ int fd = -EBADF;
	size_t have = 0, total = 0;
	bool skipping = false;
	struct stat st;

	fd = fd_open_in_root(root_fd, path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
	if (fd == -ENOENT)
		return 0;
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;

	for (;;) {
		ssize_t n = fd_read_all(fd, line_buffer + have, sizeof(line_buffer) - 1 - have);
		char *line = line_buffer, *end;

		if (n < 0)
			return (int)n;
		have += (size_t)n;
		total += (size_t)n;
		if (total > FILE_MAX)
			return -EFBIG;
		while ((end = memchr(line, '\n', have - (size_t)(line - line_buffer)))) {
			*end = '\0';
			if (!skipping)
				fn(line, userdata);
			skipping = false;
			line = end + 1;
		}
		have -= (size_t)(line - line_buffer);
		memmove(line_buffer, line, have);
		if (n == 0) {
			line_buffer[have] = '\0';
			if (have > 0 && !skipping)
				fn(line_buffer, userdata);
			return 0;
		}
		if (have == sizeof(line_buffer) - 1) {
			skipping = true;
			have = 0;
		}
	}
}

/* Cut the next field off *rest at ':'; "" past the end. */
static char *field(char **rest)
{
	char *start = *rest;
	char *colon = strchr(start, ':');

	if (!colon) {
		*rest = start + strlen(start);
		return start;
	}
	*colon = '\0';
	*rest = colon + 1;
	return start;
}

struct passwd_search {
	const char *name; /* as written, name or number */
	bool is_number;
	uint64_t number;
	bool found;
	uint64_t uid, gid;
	char user[256]; /* the name found, which group lists */
	char home[USER_HOME_MAX];
};

static void passwd_line(char *line, void *userdata)
{
	struct passwd_search *search = userdata;
	char *rest = line;
	char *name = field(&rest);
	uint64_t uid, gid;
	char *home;

	(void)field(&rest); /* password */
	if (parse_u64(field(&rest), INT32_MAX, &uid) < 0 ||
	    parse_u64(field(&rest), INT32_MAX, &gid) < 0)
		return;
	(void)field(&rest); /* comment */
	home = field(&rest);

	if (search->found)
		return;
	if (search->is_number ? uid != search->number : strcmp(name, search->name) != 0)
		return;

	search->found = true;
	search->uid = uid;
	search->gid = gid;
	snprintf(search->user, sizeof(search->user), "%s", name);
	snprintf(search->home, sizeof(search->home), "%s", home[0] == '/' ? home : "/");
}

struct group_search {
	const char *name; /* the group wanted, NULL for none */
	bool is_number;
	uint64_t number;
	bool found;
	uint64_t gid;
	const char *member; /* whose groups are collected, "" for nobody */
	struct user_ids *ids;
};

static bool lists_member(char *members, const char *member)
{
	char *save = NULL;

	for (char *m = strtok_r(members, ",", &save); m; m = strtok_r(NULL, ",", &save))
		if (strcmp(m, member) == 0)
			return true;
	return false;
}

static void add_group(struct user_ids *ids, gid_t gid)
{
	for (size_t i = 0; i < ids->n_groups; i++)
		if (ids->groups[i] == gid)
			return;
	if (ids->n_groups < USER_GROUPS_MAX)
		ids->groups[ids->n_groups++] = gid;
}

static void group_line(char *line, void *userdata)
{
	struct group_search *search = userdata;
	char *rest = line;
	char *name = field(&rest);
	uint64_t gid;

	(void)field(&rest); /* password */
	if (parse_u64(field(&rest), INT32_MAX, &gid) < 0)
		return;
	if (search->name && !search->is_number && !search->found &&
	    strcmp(name, search->name) == 0) {
		search->found = true;
		search->gid = gid;
	}
	if (search->member[0] && lists_member(field(&rest), search->member))
		add_group(search->ids, (gid_t)gid);
}

/* Is text a number; -ERANGE when one that is no id. */
static int number_of(const char *text, bool *ret_is, uint64_t *ret)
{
	int r = parse_u64(text, INT32_MAX, ret);

	*ret_is = r == 0;
	return r == -ERANGE ? r : 0;
}

int user_resolve(int root_fd, const char *user, const char *group, struct user_ids *ret)
{
	struct passwd_search passwd = {.name = user && *user ? user : "0", .home = "/"};
	struct group_search groups = {.name = group && *group ? group : NULL, .member = ""};
	int r;

	r = number_of(passwd.name, &passwd.is_number, &passwd.number);
	if (r < 0)
		return r;
	r = each_line(root_fd, "etc/passwd", passwd_line, &passwd);
	if (r < 0)
		return r;
	if (!passwd.found && !passwd.is_number)
		return -ESRCH;
	if (!passwd.found)
		passwd.uid = passwd.number;

	*ret = (struct user_ids){.uid = (uid_t)passwd.uid, .gid = (gid_t)passwd.gid};
	memcpy(ret->home, passwd.home, sizeof(ret->home));
	ret->n_groups = 1; /* place of the primary gid, known below */
	ret->groups[0] = ret->gid;

	if (groups.name) {
		r = number_of(groups.name, &groups.is_number, &groups.number);
		if (r < 0)
			return r;
	} else if (passwd.found) {
		groups.member = passwd.user;
	}
	groups.ids = ret;
	r = each_line(root_fd, "etc/group", group_line, &groups);
	if (r < 0)
		return r;
	if (groups.name && !groups.found && !groups.is_number)
		return -ENXIO;
	if (groups.name)
		ret->gid = (gid_t)(groups.found ? groups.gid : groups.number);
	ret->groups[0] = ret->gid;
	return 0;
}

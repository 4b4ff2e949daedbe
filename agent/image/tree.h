/*
 * The files of one layer while it is unpacked: a directory that nobody else writes to. Names come
 * from entry_path_clean(). Links among the parents of a name are followed inside the layer only
 * (openat2(2), RESOLVE_IN_ROOT); the last component is never followed.
 *
 * What is in the way of a new entry is removed, whatever it is; only a directory that meets a
 * directory stays. Parents that have no entry of their own are made with mode 0755.
 */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "lib/cleanup.h"
#include "lib/err.h"

struct tree;

/* root_fd is borrowed and must outlive the tree. */
int tree_new(int root_fd, struct tree **ret);
struct tree *tree_free(struct tree *tree);
DEFINE_CLEANUP(struct tree *, tree_free)

struct tree_xattr {
	const char *name;
	const void *value;
	size_t size;
};

/* What an entry says about the file: applied in the order in which the kernel keeps it all. */
struct tree_meta {
	uid_t uid;
	gid_t gid;
	mode_t mode;              /* permission bits with setuid, setgid and sticky */
	struct timespec times[2]; /* access, modification */
	const struct tree_xattr *xattrs;
	size_t n_xattrs;
};

/* All return 0 or -errno with the step in err; path "" is the root itself. */
int tree_make_directory(struct tree *tree, const char *path, const struct tree_meta *meta,
                        struct err *err);
/* The new empty file, open for writing; its owner and mode come with tree_finish_file(). */
int tree_open_file(struct tree *tree, const char *path, int *ret_fd, struct err *err);
int tree_finish_file(int fd, const struct tree_meta *meta, struct err *err);
int tree_make_symlink(struct tree *tree, const char *path, const char *target,
                      const struct tree_meta *meta, struct err *err);
/* -ENOENT when the target is not in this layer. */
int tree_make_link(struct tree *tree, const char *path, const char *target, struct err *err);
/* A device node or FIFO; type is S_IFCHR, S_IFBLK or S_IFIFO. */
int tree_make_node(struct tree *tree, const char *path, mode_t type, dev_t device,
                   const struct tree_meta *meta, struct err *err);
/* Hide what lower layers have under this name. */
int tree_make_whiteout(struct tree *tree, const char *path, struct err *err);
/* Hide all that lower layers have in this directory. */
int tree_make_opaque(struct tree *tree, const char *path, struct err *err);

/* Set the times of all directories, which every entry in them has changed. Once, at the end. */
int tree_finish(struct tree *tree, struct err *err);

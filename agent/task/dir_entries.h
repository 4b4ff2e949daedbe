/* Entries of a directory, for the child before execve(2): nothing here allocates. */
#pragma once

/* 0 to go on, anything else ends the walk. */
typedef int (*dir_entry_fn)(int dir_fd, const char *name, void *userdata);

/*
 * Call fn for each entry but "." and "..", from the first on, which moves the place in dir_fd. What
 * is made or removed meanwhile may be left out. Returns 0, what fn returned, or -errno of
 * getdents64(2).
 */
int dir_each_entry(int dir_fd, dir_entry_fn fn, void *userdata);

/* 1 if the directory has an entry, 0 if not, or -errno. */
int dir_has_entries(int dir_fd);

/*
 * Remove what is below name in dir_fd and name itself, a directory, without following links. It
 * recurses: of a tree that we made, so that its depth is known. A missing name is no error.
 */
int dir_remove_tree(int dir_fd, const char *name);

/*
 * Is this host the one that the state was written on? State travels with images of disks: what an
 * image of a virtual machine carries must not make two hosts the same container instance.
 *
 * The EC2 instance id decides where both are known. Elsewhere the machine id does (machine-id(5)),
 * which tools that prepare an image for copying reset; one that lasts only until the next boot says
 * nothing and counts as unknown.
 */
#pragma once

struct identity {
	const char *instance_id; /* each NULL when unknown */
	const char *machine_id;
};

enum identity_match {
	IDENTITY_SAME,
	IDENTITY_OTHER,
	IDENTITY_UNSURE, /* an instance id was saved, and none is known now; the machine id agrees
	                    or is unknown */
};

enum identity_match identity_compare(const struct identity *saved, const struct identity *now);

/* Owned by the caller; NULL when there is none that lasts: one that does not is mounted over path,
 * so that it is on another file system than the directory that path is in. */
char *identity_read_machine_id(const char *path, const char *dir_path);

/* Looking up users: apart from confine.c, since root's programs need it and link only libc. */
#include <errno.h>
#include <pwd.h>

#include "lib/confine.h"

int user_lookup(const char *name, uid_t *ret_uid, gid_t *ret_gid, struct err *err)
{
	char buf[16384];
	struct passwd entry, *found = NULL;
	int r;

	r = getpwnam_r(name, &entry, buf, sizeof(buf), &found);
	if (r != 0)
		return err_set(err, -r, "look up user %s", name);
	if (!found)
		return err_text(err, -ESRCH, "there is no user %s on this host", name);
	*ret_uid = entry.pw_uid;
	*ret_gid = entry.pw_gid;
	return 0;
}

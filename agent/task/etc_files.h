/*
 * /etc/hosts, /etc/hostname and /etc/resolv.conf of a container, as Docker makes them: plain text
 * from the specification and, for resolv.conf, the host's own file.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "agent/task/spec.h"
#include "lib/err.h"

struct network_address {
	const char *address; /* "172.29.0.5"; NULL outside bridge mode */
	const char *gateway; /* NULL the same */
};

/* Each returns an owned text in *ret, or -EINVAL naming the entry that is wrong, -ENOMEM.
 * hostname: with its domain, if any. extra_hosts, linked_hosts: as in spec.h; may be NULL. */
int etc_hosts_text(const char *hostname, const struct network_address *address,
                   const char *const *extra_hosts, const char *const *linked_hosts, char **ret,
                   struct err *err);

/* host_text: the host's resolv.conf. Its resolvers on loopback (another machine's from inside) and
 * of IPv6 (which our networks have not) are left out, unless in host_mode; with Docker's default
 * where none is left. */
int etc_resolv_text(const struct dns_spec *dns, const char *host_text, bool host_mode, char **ret,
                    struct err *err);

/* Has the host only resolvers on loopback: then systemd-resolved's list is the one to use. */
bool etc_resolv_is_local(const char *host_text);

/*
 * Write the three files into dir_fd (0644). host_mode: hosts and resolv.conf are the host's, unless
 * dns or extra hosts say otherwise.
 */
int etc_files_write(int dir_fd, const struct container_spec *spec, const char *hostname,
                    const struct network_address *address, bool host_mode, struct err *err);

/*
 * The unpack half of ecs-image: the one that may write to the image store. It is root, chrooted to
 * the store, in an empty network namespace, with file capabilities only, and with a seccomp filter
 * that knows no mount(2), bpf(2) or namespaces. CAP_SYS_ADMIN is kept for one thing alone, setting
 * trusted.overlay.opaque (Linux 5.10 has no "userxattr" mounts); the filter takes the rest of it.
 *
 * It answers the network half, which it does not trust, over a socketpair (lib/ipc):
 *
 *  {"type":"hold"} -> ok            no layer is removed until this process ends
 *  {"type":"has-layers","layers":["<64 hex>",...]} -> {"type":"layers","missing":[...]}
 *  {"type":"unpack","layer":"<64 hex>"}, descriptors: [0] pipe with the plain tar, [1] a socket.
 *      A worker process speaks lib/ipc on that socket and nothing is answered here:
 *      {"type":"ready"} when the tar may come, then {"type":"unpacked"}, which comes at once when
 *      the layer is there already, or an error. EBADMSG: the tar is not the layer of that diffID.
 *      At most UNPACK_WORKERS_MAX at once; further requests wait.
 *  {"type":"put-image","record":{...}} -> ok     store_image_put()
 *  {"type":"get-image","reference":"..."} -> {"type":"image","record":{...}}, error ENOENT
 *  {"type":"list-images"} -> {"type":"images","images":[...]}
 *  {"type":"remove-image","reference":"..."} -> ok, error ENOENT; sweeps layers
 *
 * The end of the connection ends the process; workers die with it, and what they left is removed.
 */
#pragma once

#include "lib/err.h"

#define UNPACK_WORKERS_MAX 4

/*
 * Confine this process and serve conn_fd (taken) until the peer closes it. images_fd (taken) is the
 * directory <state>/images, and path (borrowed) what errors call it. Returns 0 or -errno; the
 * process is of no other use afterwards.
 */
int unpack_serve(int conn_fd, int images_fd, const char *path, struct err *err);

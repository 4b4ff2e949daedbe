/*
 * One table of requests, each checked anew; a worker process for each layer, so that several are
 * unpacked at once and a fault in the tar reader ends one of them.
 */
#include "agent/image/unpack.h"

#include "agent/image/layer.h"
#include "agent/image/reference.h"
#include "agent/image/store.h"
#include "lib/confine.h"
#include "lib/fd.h"
#include "lib/ipc.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/parse.h"

#include <errno.h>
#include <linux/capability.h>
#include <locale.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define LAYER_BYTES_UNPACKED_MAX (256ull << 30)
#define LAYER_ENTRIES_MAX        5000000

struct worker {
	pid_t pid;
	int pidfd;
};

struct unpacker {
	const char *path; /* of the store, for errors */
	struct store *store;
	struct ipc_conn *conn;
	struct worker workers[UNPACK_WORKERS_MAX];
	size_t n_workers;
};

/* Beyond the base set: what makes files of any owner and kind. */
static const char *const unpack_syscalls[] = {
	"fchown", "fchownat", "symlinkat", "mknodat", "fsetxattr", "syncfs", NULL,
};

static int confine_unpack_half(int images_fd, struct err *err)
{
	struct rlimit files;
	const struct confinement confinement = {
		.capabilities = 1ULL << CAP_CHOWN | 1ULL << CAP_DAC_OVERRIDE | 1ULL << CAP_FOWNER |
	                        1ULL << CAP_FSETID | 1ULL << CAP_MKNOD | 1ULL << CAP_SETFCAP |
	                        1ULL << CAP_SYS_ADMIN,
		.syscalls = unpack_syscalls,
	};

	/* libarchive converts names of pax headers to the locale's character set; C.UTF-8 is built
	 * into libc, which finds no files after chroot(2). */
	if (!setlocale(LC_CTYPE, "C.UTF-8"))
		return err_text(err, -ENOENT, "this libc has no locale C.UTF-8");
	umask(0);
	/* Removing a tree takes descriptors for each directory down the path. */
	if (getrlimit(RLIMIT_NOFILE, &files) < 0)
		return err_set(err, -errno, "read the limit of open files");
	files.rlim_cur = files.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &files) < 0)
		return err_set(err, -errno, "raise the limit of open files");
	if (unshare(CLONE_NEWNET) < 0)
		return err_set(err, -errno, "leave the network");
	if (fchdir(images_fd) < 0 || chroot(".") < 0 || chdir("/") < 0)
		return err_set(err, -errno, "enter the image store");
	return confine(&confinement, err);
}

static int send_type(struct ipc_conn *conn, const char *type, struct json_object *request)
{
	_cleanup_json_ struct json_object *message = ipc_message_new(type, request);

	return message ? ipc_conn_send(conn, message, NULL, 0) : -ENOMEM;
}

/* A full disk is for the operator to mend, who has to know which one. */
static int send_error(const struct unpacker *unpacker, struct ipc_conn *conn,
                      struct json_object *request, int code, struct err *err)
{
	if (code == -ENOSPC || code == -EDQUOT)
		(void)err_prefix(err, code, "%s", unpacker->path);
	return ipc_conn_send_error(conn, request, code == -EDQUOT ? -ENOSPC : code, err);
}

static int get_digest(struct json_object *request, const char *name, struct digest *ret,
                      struct err *err)
{
	const char *hex;
	int r;

	r = json_get_string(request, name, &hex, err);
	if (r < 0)
		return -EPROTO;
	if (!name_is_hex(hex, DIGEST_HEX_LEN))
		return err_text(err, -EPROTO, "%s is no digest", name);
	snprintf(ret->hex, sizeof(ret->hex), "%s", hex);
	return 0;
}

static int unpack_locked(struct store *store, const struct digest *layer, int tar_fd, int root_fd,
                         struct err *err)
{
	const struct layer_limits limits = {
		.bytes_max = LAYER_BYTES_UNPACKED_MAX,
		.entries_max = LAYER_ENTRIES_MAX,
		.reserve_bytes = store_reserve_bytes(store),
	};
	struct digest found = {};
	int r;

	r = layer_unpack(tar_fd, root_fd, &limits, &found, err);
	if (r < 0)
		return err_prefix(err, r, "unpack layer sha256:%s", layer->hex);
	if (!digest_equal(&found, layer))
		return err_text(err, -EBADMSG,
		                "unpacked layer has digest sha256:%s, the image says sha256:%s",
		                found.hex, layer->hex);
	return store_layer_commit(store, layer, root_fd, err);
}

/* The story of one worker: wait for the turn, unpack, commit, tell. */
static int unpack_layer(struct unpacker *unpacker, const struct digest *layer, int tar_fd,
                        struct ipc_conn *conn)
{
	struct store *store = unpacker->store;
	_cleanup_close_ int lock_fd = -EBADF, root_fd = -EBADF;
	struct err err = {};
	int r;

	r = store_layer_begin(store, layer, &lock_fd, &root_fd, &err);
	if (r < 0)
		return send_error(unpacker, conn, NULL, r, &err);
	if (r > 0)
		return send_type(conn, "unpacked", NULL);

	r = send_type(conn, "ready", NULL);
	if (r == 0)
		r = unpack_locked(store, layer, tar_fd, root_fd, &err);
	store_layer_discard(store, layer);
	if (r < 0)
		return send_error(unpacker, conn, NULL, r, &err);
	return send_type(conn, "unpacked", NULL);
}

static _Noreturn void run_worker(struct unpacker *unpacker, const struct digest *layer, int tar_fd,
                                 int socket_fd)
{
	_cleanup_(ipc_conn_freep) struct ipc_conn *conn = NULL;
	int r;

	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		_exit(EXIT_FAILURE);
	/* The copy of the main connection must not keep it open. */
	unpacker->conn = ipc_conn_free(unpacker->conn);
	r = ipc_conn_new(socket_fd, 64 * 1024, false, &conn);
	if (r == 0)
		r = unpack_layer(unpacker, layer, tar_fd, conn);
	_exit(r < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
}

/* What goes wrong before there is a worker is said where the worker would have spoken. */
static int refuse_unpack(struct ipc_message *msg, int code, const struct err *err)
{
	_cleanup_(ipc_conn_freep) struct ipc_conn *conn = NULL;

	if (ipc_conn_new(TAKE_FD(msg->fds[1]), 0, false, &conn) == 0)
		(void)ipc_conn_send_error(conn, NULL, code, err); /* else its end says it */
	return 0;
}

static int handle_unpack(struct unpacker *unpacker, struct ipc_message *msg,
                         struct json_object **ret, struct err *err)
{
	struct worker *worker = &unpacker->workers[unpacker->n_workers];
	struct digest layer;
	int r;

	(void)ret;
	r = get_digest(msg->body, "layer", &layer, err);
	if (r < 0)
		return r;
	if (msg->n_fds != 2)
		return err_text(err, -EPROTO, "unpack needs two descriptors");

	worker->pid = fork();
	if (worker->pid < 0)
		return refuse_unpack(msg, r = err_set(err, -errno, "start a worker"), err);
	if (worker->pid == 0)
		run_worker(unpacker, &layer, TAKE_FD(msg->fds[0]), TAKE_FD(msg->fds[1]));

	worker->pidfd = pidfd_open(worker->pid, 0);
	if (worker->pidfd < 0) {
		r = err_set(err, -errno, "watch a worker");
		(void)kill(worker->pid, SIGKILL);
		(void)waitpid(worker->pid, NULL, 0);
		return refuse_unpack(msg, r, err);
	}
	unpacker->n_workers++;
	return 0;
}

static int handle_hold(struct unpacker *unpacker, struct ipc_message *msg, struct json_object **ret,
                       struct err *err)
{
	int r = store_hold(unpacker->store, err);

	if (r < 0)
		return r;
	*ret = ipc_message_new("ok", msg->body);
	return 0;
}

static int handle_has_layers(struct unpacker *unpacker, struct ipc_message *msg,
                             struct json_object **ret, struct err *err)
{
	_cleanup_json_ struct json_object *missing = json_object_new_array();
	struct json_object *layers;
	int r;

	r = json_get_array(msg->body, "layers", &layers, err);
	if (r < 0)
		return -EPROTO;
	if (!missing)
		return err_oom(err);
	for (size_t i = 0; i < json_object_array_length(layers); i++) {
		struct json_object *item = json_object_array_get_idx(layers, i);
		const char *hex = json_object_get_string(item);
		struct digest layer;

		if (!hex || !name_is_hex(hex, DIGEST_HEX_LEN))
			return err_text(err, -EPROTO, "layers[%zu] is no digest", i);
		snprintf(layer.hex, sizeof(layer.hex), "%s", hex);
		if (store_has_layer(unpacker->store, &layer))
			continue;
		r = json_append(missing, json_object_get(item));
		if (r < 0)
			return err_oom(err);
	}
	*ret = ipc_message_new("layers", msg->body);
	return json_add(*ret, "missing", TAKE_PTR(missing)) < 0 ? err_oom(err) : 0;
}

static int handle_put_image(struct unpacker *unpacker, struct ipc_message *msg,
                            struct json_object **ret, struct err *err)
{
	struct json_object *record;
	int r;

	r = json_get_object(msg->body, "record", &record, err);
	if (r < 0)
		return -EPROTO;
	r = store_image_put(unpacker->store, record, err);
	if (r < 0)
		return r;
	*ret = ipc_message_new("ok", msg->body);
	return 0;
}

/* The reference member, which must be in its normal form. */
static int get_reference(struct json_object *request, char normal[static REFERENCE_TEXT_N],
                         struct err *err)
{
	struct reference ref;
	const char *text;
	int r;

	r = json_get_string(request, "reference", &text, err);
	if (r < 0)
		return -EPROTO;
	r = reference_parse(text, &ref, err);
	if (r < 0)
		return r;
	reference_to_string(&ref, normal);
	return 0;
}

static int handle_get_image(struct unpacker *unpacker, struct ipc_message *msg,
                            struct json_object **ret, struct err *err)
{
	_cleanup_json_ struct json_object *record = NULL;
	char reference[REFERENCE_TEXT_N];
	int r;

	r = get_reference(msg->body, reference, err);
	if (r < 0)
		return r;
	r = store_image_get(unpacker->store, reference, &record, err);
	if (r == -ENOENT)
		return err_text(err, r, "image %.300s is not in the store", reference);
	if (r < 0)
		return r;
	*ret = ipc_message_new("image", msg->body);
	return json_add(*ret, "record", TAKE_PTR(record)) < 0 ? err_oom(err) : 0;
}

static int handle_list_images(struct unpacker *unpacker, struct ipc_message *msg,
                              struct json_object **ret, struct err *err)
{
	struct json_object *list;
	int r;

	r = store_image_list(unpacker->store, &list, err);
	if (r < 0)
		return r;
	*ret = ipc_message_new("images", msg->body);
	return json_add(*ret, "images", list) < 0 ? err_oom(err) : 0;
}

static int handle_remove_image(struct unpacker *unpacker, struct ipc_message *msg,
                               struct json_object **ret, struct err *err)
{
	char reference[REFERENCE_TEXT_N];
	size_t removed = 0;
	int r;

	r = get_reference(msg->body, reference, err);
	if (r < 0)
		return r;
	r = store_image_remove(unpacker->store, reference, err);
	if (r == -ENOENT)
		return err_text(err, r, "image %.300s is not in the store", reference);
	if (r < 0)
		return r;
	r = store_sweep(unpacker->store, &removed, err);
	if (r < 0 && r != -EAGAIN)
		return r;
	*ret = ipc_message_new("ok", msg->body);
	return json_add_u64(*ret, "layersRemoved", removed) < 0 ? err_oom(err) : 0;
}

static int handle_sweep(struct unpacker *unpacker, struct ipc_message *msg,
                        struct json_object **ret, struct err *err)
{
	size_t removed = 0;
	int r = store_sweep(unpacker->store, &removed, err);

	if (r == -EAGAIN)
		return err_text(err, r, "a pull is running");
	if (r < 0)
		return r;
	*ret = ipc_message_new("ok", msg->body);
	return json_add_u64(*ret, "layersRemoved", removed) < 0 ? err_oom(err) : 0;
}

static const struct {
	const char *type;
	int (*handle)(struct unpacker *unpacker, struct ipc_message *msg, struct json_object **ret,
	              struct err *err);
} requests[] = {
	{"hold", handle_hold},
	{"has-layers", handle_has_layers},
	{"unpack", handle_unpack},
	{"put-image", handle_put_image},
	{"get-image", handle_get_image},
	{"list-images", handle_list_images},
	{"remove-image", handle_remove_image},
	{"sweep", handle_sweep},
};

/* An answer or an error for each request; what is no request ends the connection. */
static int dispatch(struct unpacker *unpacker, struct ipc_message *msg)
{
	_cleanup_json_ struct json_object *answer = NULL;
	const char *type = json_text(msg->body, "type");
	struct err err = {};
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
		if (strcmp(requests[i].type, type) != 0)
			continue;
		r = requests[i].handle(unpacker, msg, &answer, &err);
		if (r == -EPROTO)
			return r;
		if (r < 0)
			return send_error(unpacker, unpacker->conn, msg->body, r, &err);
		return answer ? ipc_conn_send(unpacker->conn, answer, NULL, 0) : 0;
	}
	return -EPROTO;
}

static void forget_worker(struct unpacker *unpacker, size_t i)
{
	(void)waitpid(unpacker->workers[i].pid, NULL, 0);
	fd_close(unpacker->workers[i].pidfd);
	unpacker->workers[i] = unpacker->workers[--unpacker->n_workers];
}

static void kill_workers(struct unpacker *unpacker)
{
	while (unpacker->n_workers > 0) {
		(void)kill(unpacker->workers[0].pid, SIGKILL); /* not waited for: the pid is ours */
		forget_worker(unpacker, 0);
	}
}

/* With all workers busy, requests wait. */
static bool is_full(const struct unpacker *unpacker)
{
	return unpacker->n_workers == UNPACK_WORKERS_MAX;
}

static int receive_all(struct unpacker *unpacker, struct err *err)
{
	int r;

	while (!is_full(unpacker)) {
		_cleanup_(ipc_message_done) struct ipc_message msg = {};

		r = ipc_conn_receive(unpacker->conn, &msg, err);
		if (r <= 0)
			return r;
		r = dispatch(unpacker, &msg);
		if (r < 0)
			return err_set(err, r, "answer the network half");
	}
	return 0;
}

static int serve(struct unpacker *unpacker, struct err *err)
{
	for (;;) {
		struct pollfd fds[1 + UNPACK_WORKERS_MAX] = {
			{.fd = ipc_conn_fd(unpacker->conn)},
		};
		size_t n_workers = unpacker->n_workers;
		int r;

		if (!is_full(unpacker))
			fds[0].events |= POLLIN;
		if (ipc_conn_wants_write(unpacker->conn))
			fds[0].events |= POLLOUT;
		for (size_t i = 0; i < n_workers; i++)
			fds[1 + i] =
				(struct pollfd){.fd = unpacker->workers[i].pidfd, .events = POLLIN};
		if (poll(fds, 1 + n_workers, -1) < 0) {
			if (errno == EINTR)
				continue;
			return err_set(err, -errno, "wait for requests");
		}

		for (size_t i = n_workers; i-- > 0;)
			if (fds[1 + i].revents)
				forget_worker(unpacker, i);
		if (fds[0].revents & POLLOUT) {
			r = ipc_conn_flush(unpacker->conn);
			if (r < 0)
				return err_set(err, r, "answer the network half");
		}
		if (fds[0].revents & POLLHUP)
			return 0; /* whoever asked is gone */
		if (fds[0].revents & ~POLLOUT) {
			r = receive_all(unpacker, err);
			if (r < 0)
				return r == -EPIPE ? 0 : r;
		}
	}
}

static void unpacker_done(struct unpacker *unpacker)
{
	bool cleans = unpacker->n_workers > 0;

	kill_workers(unpacker);
	if (unpacker->store && cleans)
		store_clean(unpacker->store);
	unpacker->conn = ipc_conn_free(unpacker->conn);
	unpacker->store = store_free(unpacker->store);
}

int unpack_serve(int conn_fd, int images_fd, const char *path, struct err *err)
{
	_cleanup_(unpacker_done) struct unpacker unpacker = {.path = path};
	int r;

	r = ipc_conn_new(conn_fd, 0, false, &unpacker.conn);
	if (r < 0) {
		fd_close(images_fd);
		return err_set(err, r, "connect to the network half");
	}
	r = store_open(images_fd, &unpacker.store, err);
	if (r < 0)
		return r;
	r = confine_unpack_half(store_dir_fd(unpacker.store), err);
	if (r < 0)
		return r;
	store_clean(unpacker.store);
	return serve(&unpacker, err);
}

/* One item after the other, by a table; those that the identity document has need no request. */
#include "agent/ecs/instance.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/json.h"

#define DOCUMENT_MAX (64 * 1024)

struct instance_lookup {
	struct imds *imds;
	instance_done_fn done;
	void *userdata;
	struct imds_request *request;
	size_t item;
	struct instance result;
	int r; /* the first failure of a service that is there */
	struct err err;
};

#define MEMBER(lookup, offset) ((char **)(void *)((char *)&(lookup)->result + (offset)))
#define AT(member)             offsetof(struct instance, member)
#define MAC                    "\x01" /* in a path: the mac address */

/* In order: later paths may need earlier answers; a member that is there is not asked for again. */
static const struct item {
	const char *path;
	size_t offset;
} items[] = {
	{"dynamic/instance-identity/document", AT(identity_document)},
	{"dynamic/instance-identity/signature", AT(identity_document_signature)},
	{"meta-data/instance-id", AT(instance_id)},
	{"meta-data/instance-type", AT(instance_type)},
	{"meta-data/placement/region", AT(region)},
	{"meta-data/placement/availability-zone", AT(availability_zone)},
	{"meta-data/placement/availability-zone-id", AT(availability_zone_id)},
	{"meta-data/ami-id", AT(image_id)},
	{"meta-data/local-ipv4", AT(private_ipv4)},
	{"meta-data/mac", AT(mac)},
	{"meta-data/network/interfaces/macs/" MAC "/vpc-id", AT(vpc_id)},
	{"meta-data/network/interfaces/macs/" MAC "/subnet-id", AT(subnet_id)},
	{"meta-data/outpost-arn", AT(outpost_arn)},
};

static const struct {
	const char *name;
	size_t offset;
} document_members[] = {
	{"instanceId", AT(instance_id)}, {"instanceType", AT(instance_type)},
	{"region", AT(region)},          {"availabilityZone", AT(availability_zone)},
	{"accountId", AT(account_id)},   {"imageId", AT(image_id)},
	{"privateIp", AT(private_ipv4)},
};

struct instance_lookup *instance_lookup_free(struct instance_lookup *lookup)
{
	if (!lookup)
		return NULL;
	imds_request_free(lookup->request);
	for (size_t i = 0; i < ARRAY_SIZE(items); i++)
		free(*MEMBER(lookup, items[i].offset));
	free(lookup->result.account_id); /* in the document only */
	free(lookup);
	return NULL;
}

const struct instance *instance_lookup_result(const struct instance_lookup *lookup)
{
	return &lookup->result;
}

/* A document that cannot be read is sent on as it is; it just tells us nothing. */
static int read_document(struct instance_lookup *lookup)
{
	const char *text = lookup->result.identity_document;
	_cleanup_json_ struct json_object *document = NULL;

	if (json_parse_object(text, strlen(text), DOCUMENT_MAX, &document, NULL) < 0)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(document_members); i++) {
		const char *value = json_text(document, document_members[i].name);

		if (!value)
			continue;
		*MEMBER(lookup, document_members[i].offset) = strdup(value);
		if (!*MEMBER(lookup, document_members[i].offset))
			return -ENOMEM;
	}
	return 0;
}

/* Owned by the caller; NULL with *ret_skip when an earlier answer is missing. */
static char *item_path(const struct instance_lookup *lookup, const char *template, bool *ret_skip)
{
	const char *mark = strstr(template, MAC), *mac = lookup->result.mac;
	char *path;

	*ret_skip = false;
	if (!mark)
		return strdup(template);
	if (!mac || strspn(mac, "0123456789abcdefABCDEF:") != strlen(mac)) {
		*ret_skip = true;
		return NULL;
	}
	return asprintf(&path, "%.*s%s%s", (int)(mark - template), template, mac, mark + 1) < 0
	               ? NULL
	               : path;
}

static int next_item(struct instance_lookup *lookup, struct err *err);

/* Last statement of its callers: done may free the lookup. */
static void go_on(struct instance_lookup *lookup)
{
	struct err err = {0};
	int r = next_item(lookup, &err);

	if (r < 0)
		lookup->done(r, &err, lookup->userdata);
	else if (lookup->item == ARRAY_SIZE(items))
		lookup->done(lookup->r, &lookup->err, lookup->userdata);
}

static int keep(struct instance_lookup *lookup, const char *text)
{
	const struct item *item = &items[lookup->item];
	bool is_document = item->offset == AT(identity_document) ||
	                   item->offset == AT(identity_document_signature);
	size_t len = is_document ? strlen(text) : strcspn(text, "\r\n");

	*MEMBER(lookup, item->offset) = strndup(text, len);
	if (!*MEMBER(lookup, item->offset))
		return -ENOMEM;
	return item->offset == AT(identity_document) ? read_document(lookup) : 0;
}

static void item_done(int r, const struct err *err, const char *text, void *userdata)
{
	struct instance_lookup *lookup = userdata;

	if (r == 0)
		r = keep(lookup, text);
	lookup->request = imds_request_free(lookup->request);
	if (r == -ENETUNREACH && lookup->item == 0) {
		lookup->item = ARRAY_SIZE(items); /* no such service here */
		go_on(lookup);
		return;
	}
	if (r < 0 && r != -ENOENT && lookup->r == 0) {
		lookup->r = r;
		lookup->err = *err;
	}
	lookup->item++;
	go_on(lookup);
}

static int next_item(struct instance_lookup *lookup, struct err *err)
{
	for (; lookup->item < ARRAY_SIZE(items); lookup->item++) {
		const struct item *item = &items[lookup->item];
		_cleanup_free_ char *path = NULL;
		bool skip;

		if (*MEMBER(lookup, item->offset))
			continue;
		path = item_path(lookup, item->path, &skip);
		if (skip)
			continue;
		if (!path)
			return err_oom(err);
		return imds_get_start(lookup->imds, path, item_done, lookup, &lookup->request, err);
	}
	return 0;
}

int instance_lookup_start(struct imds *imds, instance_done_fn done, void *userdata,
                          struct instance_lookup **ret, struct err *err)
{
	_cleanup_(instance_lookup_freep) struct instance_lookup *lookup =
		calloc(1, sizeof(*lookup));
	int r;

	if (!lookup)
		return err_oom(err);
	lookup->imds = imds;
	lookup->done = done;
	lookup->userdata = userdata;
	r = next_item(lookup, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(lookup);
	return 0;
}

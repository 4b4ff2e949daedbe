/* Where the API of each service is: settings first, then the public names of the region's
 * partition. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "agent/config/config.h"
#include "lib/parse.h"
#include "lib/url.h"

static const struct service {
	const char *name;
	const char *host;     /* before ".<region>.<suffix>" */
	const char *variable; /* as the AWS SDKs call it */
} services[] = {
	{"ecs", "ecs", "AWS_ENDPOINT_URL_ECS"},
	{"ecr", "api.ecr", "AWS_ENDPOINT_URL_ECR"},
	{"logs", "logs", "AWS_ENDPOINT_URL_CLOUDWATCH_LOGS"},
	{"sts", "sts", "AWS_ENDPOINT_URL_STS"},
	{"ssm", "ssm", "AWS_ENDPOINT_URL_SSM"},
	{"secretsmanager", "secretsmanager", "AWS_ENDPOINT_URL_SECRETS_MANAGER"},
	{"s3", "s3", "AWS_ENDPOINT_URL_S3"},
	{"ec2", "ec2", "AWS_ENDPOINT_URL_EC2"},
};

/* Source: AWS General Reference, partitions. */
static const struct {
	const char *region_prefix;
	const char *suffix;
} partitions[] = {
	{"cn-", "amazonaws.com.cn"},    {"us-iso-", "c2s.ic.gov"},
	{"us-isob-", "sc2s.sgov.gov"},  {"eu-isoe-", "cloud.adc-e.uk"},
	{"us-isof-", "csp.hci.ic.gov"}, {"eusc-", "amazonaws.eu"},
	{"", "amazonaws.com"},
};

static const struct service *find_service(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(services); i++)
		if (strcmp(services[i].name, name) == 0)
			return &services[i];
	return NULL;
}

const char *config_endpoint_setting(const struct config *config, const char *name)
{
	const struct service *service = find_service(name);
	const char *value;

	if (!service)
		return NULL;
	if (strcmp(name, "ecs") == 0 && config->backend_host)
		return config->backend_host;
	value = config_get(config, service->variable);
	return value ? value : config_get(config, "AWS_ENDPOINT_URL");
}

static int check_endpoint(const char *text, struct err *err)
{
	struct url url;
	int r = url_split(text, &url, err);

	if (r < 0)
		return r;
	if ((url.scheme_len != 5 || strncasecmp(url.scheme, "https", 5) != 0) &&
	    (url.scheme_len != 4 || strncasecmp(url.scheme, "http", 4) != 0))
		return err_text(err, -EINVAL, "'%.128s' is no https:// or http:// URL", text);
	return 0;
}

const char *config_aws_domain(const char *region)
{
	size_t i = 0;

	while (strncmp(region, partitions[i].region_prefix, strlen(partitions[i].region_prefix)) !=
	       0)
		i++; /* the last prefix is empty */
	return partitions[i].suffix;
}

int config_endpoint(const struct config *config, const char *name, const char *region, char **ret,
                    struct err *err)
{
	const struct service *service = find_service(name);
	const char *set = config_endpoint_setting(config, name);
	size_t n;
	int r;

	if (!service)
		return err_text(err, -ENOENT, "unknown service '%.32s'", name);
	if (set) {
		r = check_endpoint(set, err);
		if (r < 0)
			return err_prefix(err, r, "endpoint of %s", name);
		*ret = strdup(set);
		for (n = *ret ? strlen(*ret) : 0; n > 0 && (*ret)[n - 1] == '/';)
			(*ret)[--n] = '\0';
		return *ret ? 0 : err_oom(err);
	}
	if (!name_is_component(region, 63))
		return err_text(err, -EINVAL, "'%.64s' is no region", region ? region : "");
	if (asprintf(ret, "https://%s.%s.%s", service->host, region, config_aws_domain(region)) < 0)
		return err_oom(err);
	return 0;
}

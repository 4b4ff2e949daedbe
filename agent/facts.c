/* One look at each; see the header. */
#include "agent/facts.h"

#include <errno.h>
#include <limits.h>

#include "agent/ecs/execute_command.h"
#include "cgroups/cgroup.h"
#include "lib/log.h"
#include "lib/lsm.h"
#include "lib/options.h"

static int find_task_cgroups(const struct config *config, const struct facts_sources *sources,
                             bool *ret, struct err *err)
{
	struct err missing = {0};
	int r;

	*ret = false;
	if (!config->task_cpu_mem_limit)
		return 0;
	r = cgroup_check_controllers(sources->cgroup_mount, sources->proc_cgroups, &missing);
	*ret = r == 0;
	if (r == 0)
		return 0;
	if (r == -ENOMEM)
		return err_oom(err);
	if (config->task_cpu_mem_limit_is_set)
		return err_text(err, -EOPNOTSUPP, "ECS_ENABLE_TASK_CPU_MEM_LIMIT is true, and %s",
		                missing.text);
	log_warning(NULL, 0, "limits of whole tasks are off and not announced: %s", missing.text);
	return 0;
}

static void warn_of_missing_modules(const struct config *config, const struct node_facts *facts)
{
	if (config->apparmor_capable && !facts->apparmor)
		log_warning(NULL, 0,
		            "ECS_APPARMOR_CAPABLE is true, but AppArmor is not enabled on "
		            "this host: it is not announced");
	if (config->selinux_capable && !facts->selinux)
		log_warning(NULL, 0,
		            "ECS_SELINUX_CAPABLE is true, but SELinux is not enabled on "
		            "this host: it is not announced");
}

int facts_find(const struct config *config, const struct facts_sources *sources,
               struct node_facts *ret, struct err *err)
{
	char efs_helper[PATH_MAX];
	struct node_facts facts = {
		.execute_command = execute_command_is_installed(sources->state_dir),
		.apparmor = lsm_has_apparmor(),
		.selinux = lsm_has_selinux(),
		.efs_utils = program_find("mount.efs", efs_helper, sizeof(efs_helper)) == 0,
	};
	int r;

	r = find_task_cgroups(config, sources, &facts.task_cgroups, err);
	if (r < 0)
		return r;
	warn_of_missing_modules(config, &facts);
	*ret = facts;
	return 0;
}

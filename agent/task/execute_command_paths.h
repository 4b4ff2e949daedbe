/*
 * Where ECS Exec keeps its things on a host. What is Amazon's is put there by the administrator, or
 * by a package; ecs-agent looks whether it is there, ecs-task mounts it.
 *
 *   <state>/deps/execute-command/bin/<version>/     amazon-ssm-agent, ssm-agent-worker and
 *                                                   ssm-session-worker
 *   <state>/deps/execute-command/certs/tls-ca-bundle.pem
 *   <state>/deps/execute-command/config/            made by ecs-task
 *   /var/log/ecs/exec/<task id>/<container>/        the agent's log; for another state directory
 *                                                   than the default: <state>/exec-logs/...
 *
 * Source: Amazon ECS agent, the "execute-command" dependencies of its installation.
 */
#pragma once

#define EXECUTE_COMMAND_DEPS    "deps/execute-command" /* below <state> */
#define EXECUTE_COMMAND_CERTS   "certs/tls-ca-bundle.pem"
#define EXECUTE_COMMAND_PROGRAM "amazon-ssm-agent"
#define EXECUTE_COMMAND_PROGRAMS                                                                   \
	{                                                                                          \
		EXECUTE_COMMAND_PROGRAM, "ssm-agent-worker", "ssm-session-worker"                  \
	}
#define EXECUTE_COMMAND_LOGS       "/var/log/ecs/exec"
#define EXECUTE_COMMAND_OTHER_LOGS "exec-logs" /* below <state> */

#define EXECUTE_COMMAND_NAME "ExecuteCommandAgent" /* of the managed agent, to ECS */

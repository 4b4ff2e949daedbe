"""Turns a task definition and the overrides of RunTask into the ACS Task document.

This is the part of the ECS backend that decides how members of a container definition reach
the agent: some as members of the ACS Container, others inside the JSON texts of dockerConfig.
A member that is not in the tables below is refused by name.
"""

import json

from .errors import ApiError

MIB = 1024 * 1024
SECOND_NS = 1_000_000_000

_TASK_MEMBERS = {
    "family", "taskRoleArn", "executionRoleArn", "networkMode", "containerDefinitions", "volumes",
    "placementConstraints", "requiresCompatibilities", "cpu", "memory", "tags", "pidMode",
    "ipcMode", "proxyConfiguration", "runtimePlatform", "enableFaultInjection",
}  # fmt: skip
# What describe-task-definition adds; allowed so that its output can be run again.
_DESCRIBED_MEMBERS = {
    "taskDefinitionArn", "revision", "status", "requiresAttributes", "compatibilities",
    "registeredAt", "registeredBy", "deregisteredAt",
}  # fmt: skip
_CONTAINER_MEMBERS = {
    "name", "image", "repositoryCredentials", "cpu", "memory", "memoryReservation", "links",
    "portMappings", "essential", "entryPoint", "command", "environment", "environmentFiles",
    "mountPoints", "volumesFrom", "linuxParameters", "secrets", "dependsOn", "startTimeout",
    "stopTimeout", "hostname", "user", "workingDirectory", "disableNetworking", "privileged",
    "readonlyRootFilesystem", "dnsServers", "dnsSearchDomains", "extraHosts",
    "dockerSecurityOptions", "interactive", "pseudoTerminal", "dockerLabels", "ulimits",
    "logConfiguration", "healthCheck", "systemControls", "firelensConfiguration",
    "restartPolicy", "credentialSpecs", "versionConsistency",
}  # fmt: skip
_LINUX_MEMBERS = {
    "capabilities", "devices", "initProcessEnabled", "sharedMemorySize", "tmpfs", "maxSwap",
    "swappiness",
}  # fmt: skip
_VOLUME_MEMBERS = {"name", "host", "dockerVolumeConfiguration", "efsVolumeConfiguration"}
_OVERRIDE_MEMBERS = {"containerOverrides", "taskRoleArn", "executionRoleArn", "cpu", "memory"}
_CONTAINER_OVERRIDE_MEMBERS = {
    "name", "command", "environment", "environmentFiles", "cpu", "memory", "memoryReservation",
}  # fmt: skip


def client_error(text):
    return ApiError("ClientException", text)


def _refuse_unknown(what, document, known):
    if not isinstance(document, dict):
        raise client_error(f"{what} must be an object, not {document!r}")
    for name in sorted(set(document) - known):
        raise client_error(f"member '{name}' of {what} is not supported by the stand-in")


def validate(definition):
    """Raise ApiError unless the definition can be turned into a task."""
    _refuse_unknown("the task definition", definition, _TASK_MEMBERS | _DESCRIBED_MEMBERS)
    containers = definition.get("containerDefinitions")
    if not definition.get("family"):
        raise client_error("Family should not be null or empty.")
    if not isinstance(containers, list) or not containers:
        raise client_error("Container definitions should not be null or empty.")
    if definition.get("networkMode") not in (None, "bridge", "host", "awsvpc", "none"):
        raise client_error(f"Invalid network mode '{definition['networkMode']}'.")
    compatibilities = definition.get("requiresCompatibilities", [])
    if compatibilities and not set(compatibilities) & {"EC2", "EXTERNAL"}:
        raise client_error(f"requiresCompatibilities {compatibilities}: only EC2 and EXTERNAL")
    volumes = definition.get("volumes") or []
    for volume in volumes:
        _refuse_unknown("a volume", volume, _VOLUME_MEMBERS)
    names = [c.get("name") if isinstance(c, dict) else None for c in containers]
    for container in containers:
        _refuse_unknown("a container definition", container, _CONTAINER_MEMBERS)
        _validate_container(definition, container, names, {v.get("name") for v in volumes})
    # What is wrong inside shows when a task is made of it.
    Conversion(definition, 1, {}, "", "", "").task("arn", "arn")


def _validate_container(definition, container, names, volumes):
    name = container.get("name")
    if not name or names.count(name) != 1:
        raise client_error(f"Container.name should be unique and not empty, got {name!r}.")
    if not container.get("image"):
        raise client_error(f"Container.image of '{name}' should not be null or empty.")
    needs_memory = not (container.get("memory") or container.get("memoryReservation"))
    if needs_memory and not definition.get("memory"):
        raise client_error(
            f"Invalid setting for container '{name}'. At least one of 'memory' or "
            "'memoryReservation' must be specified."
        )
    linux = container.get("linuxParameters")
    if linux is not None:
        _refuse_unknown(f"linuxParameters of '{name}'", linux, _LINUX_MEMBERS)
    for mount in container.get("mountPoints") or ():
        if mount.get("sourceVolume") not in volumes:
            raise client_error(f"Unknown volume '{mount.get('sourceVolume')}'.")
    for dependency in container.get("dependsOn") or ():
        if dependency.get("containerName") not in names:
            raise client_error(
                f"Container '{name}' depends on unknown '{dependency.get('containerName')}'."
            )


def validate_overrides(definition, overrides):
    _refuse_unknown("overrides", overrides, _OVERRIDE_MEMBERS)
    names = [container["name"] for container in definition["containerDefinitions"]]
    for override in overrides.get("containerOverrides", ()):
        _refuse_unknown("a container override", override, _CONTAINER_OVERRIDE_MEMBERS)
        if override.get("name") not in names:
            raise ApiError(
                "InvalidParameterException",
                f"Override for container named {override.get('name')} is not a container in the "
                "TaskDefinition.",
            )


def required_attributes(definition):
    """The attributes an instance must have to be given a task of this definition."""
    one, two = "com.amazonaws.ecs.capability.", "ecs.capability."
    need = {one + "docker-remote-api.1.18"}
    if definition.get("taskRoleArn"):
        host = definition.get("networkMode") == "host"
        need.add(one + ("task-iam-role-network-host" if host else "task-iam-role"))
    if definition.get("networkMode") == "awsvpc":
        need.add(two + "task-eni")
    if definition.get("cpu") or definition.get("memory"):
        need.add(two + "task-cpu-mem-limit")
    if definition.get("pidMode") == "task" or definition.get("ipcMode") in ("task", "none"):
        need.add(two + "pid-ipc-namespace-sharing")
    if definition.get("enableFaultInjection"):
        need.add(two + "fault-injection")
    for volume in definition.get("volumes") or ():
        if volume.get("dockerVolumeConfiguration"):
            driver = volume["dockerVolumeConfiguration"].get("driver") or "local"
            need.add(f"{two}docker-plugin.{driver}")
        if volume.get("efsVolumeConfiguration"):
            need.add(two + "efs")
    for container in definition["containerDefinitions"]:
        need |= _required_by_container(definition, container, one, two)
    return sorted(need)


def _required_by_container(definition, container, one, two):
    need = set()
    log = container.get("logConfiguration")
    if log:
        need.add(one + "logging-driver." + log.get("logDriver", ""))
        if log.get("logDriver") == "awslogs" and definition.get("executionRoleArn"):
            need.add(two + "execution-role-awslogs")
    present = {
        "privileged": one + "privileged-container",
        "healthCheck": two + "container-health-check",
        "dependsOn": two + "container-ordering",
        "environmentFiles": two + "env-files.s3",
        "restartPolicy": two + "container-restart-policy",
        "repositoryCredentials": two + "private-registry-authentication.secretsmanager",
    }
    need |= {attribute for member, attribute in present.items() if container.get(member)}
    for mapping in container.get("portMappings") or ():
        if mapping.get("containerPortRange"):
            need.add(two + "network.container-port-range")
    for secret in container.get("secrets") or ():
        store = "asm" if _is_secrets_manager(secret.get("valueFrom", "")) else "ssm"
        need.add(f"{two}secrets.{store}.environment-variables")
    for option in container.get("dockerSecurityOptions") or ():
        if option.startswith("label:"):
            need.add(one + "selinux")
        if option.startswith("apparmor:"):
            need.add(one + "apparmor")
    if container.get("firelensConfiguration"):
        need.add(two + "firelens." + container["firelensConfiguration"].get("type", ""))
    return need


class Conversion:
    """What is the same for all tasks made from one definition by one RunTask."""

    def __init__(self, definition, revision, overrides, region, account, ecr_host):
        self.definition = definition
        self.revision = revision
        self.overrides = overrides
        self.region = region
        self.account = account
        self.ecr_host = ecr_host  # a registry that needs an ECR token besides the usual names
        self.endpoint = None  # https://host:port to fill in as awslogs-endpoint, or None
        self.network_interfaces = None
        self.execute_command = False  # every container gets the agent of ECS Exec

    @property
    def task_role(self):
        return self.overrides.get("taskRoleArn") or self.definition.get("taskRoleArn")

    @property
    def execution_role(self):
        return self.overrides.get("executionRoleArn") or self.definition.get("executionRoleArn")

    def task(self, arn, cluster_arn):
        """The ACS Task, without the credentials of its roles."""
        definition = self.definition
        document = {
            "arn": arn,
            "taskClusterArn": cluster_arn,
            "desiredStatus": "RUNNING",
            "family": definition["family"],
            "version": str(self.revision),
            "overrides": "{}",
            "taskDefinitionAccountId": self.account,
            "launchType": "EC2",
            "networkMode": definition.get("networkMode") or "bridge",
            "volumes": [_volume(volume) for volume in definition.get("volumes") or ()],
            "containers": [
                self._container(container, arn.rsplit("/", 1)[-1])
                for container in definition["containerDefinitions"]
            ],
        }
        cpu = self.overrides.get("cpu") or definition.get("cpu")
        memory = self.overrides.get("memory") or definition.get("memory")
        if cpu:
            document["cpu"] = _vcpus(cpu)
        if memory:
            document["memory"] = _mebibytes(memory)
        for name in ("pidMode", "ipcMode", "enableFaultInjection"):
            if definition.get(name):
                document[name] = definition[name]
        if definition.get("proxyConfiguration"):
            document["proxyConfiguration"] = _proxy(definition["proxyConfiguration"])
        if self.network_interfaces:
            document["elasticNetworkInterfaces"] = self.network_interfaces
        return document

    def _container(self, container, task_id):
        override = {}
        for item in self.overrides.get("containerOverrides", ()):
            if item["name"] == container["name"]:
                override = item
        environment = {e["name"]: e["value"] for e in container.get("environment") or ()}
        environment.update({e["name"]: e["value"] for e in override.get("environment") or ()})
        environment["AWS_EXECUTION_ENV"] = "AWS_ECS_EC2"
        command = {"command": override["command"]} if "command" in override else {}
        document = {
            "name": container["name"],
            "image": container["image"],
            "cpu": override.get("cpu", container.get("cpu", 0)),
            "memory": override.get("memory", container.get("memory", 0)),
            "essential": container.get("essential", True),
            "command": container.get("command") or [],
            "environment": environment,
            "links": container.get("links") or [],
            "portMappings": [self._port(m) for m in container.get("portMappings") or ()],
            "mountPoints": [
                {"readOnly": False, **mount} for mount in container.get("mountPoints") or ()
            ],
            "volumesFrom": [
                {"readOnly": False, **volume} for volume in container.get("volumesFrom") or ()
            ],
            "overrides": json.dumps(command),
            "dockerConfig": {
                "config": json.dumps(_docker_config(container)),
                "hostConfig": json.dumps(self._host_config(container, override, task_id)),
                "version": _api_version(container),
            },
        }
        for name in (
            "entryPoint", "dependsOn", "startTimeout", "stopTimeout", "firelensConfiguration",
            "restartPolicy", "credentialSpecs",
        ):  # fmt: skip
            if container.get(name):
                document[name] = container[name]
        files = override.get("environmentFiles") or container.get("environmentFiles")
        if files:
            document["environmentFiles"] = files
        if self.execute_command:
            document["managedAgents"] = [{"name": "ExecuteCommandAgent", "properties": {}}]
        if container.get("healthCheck"):
            document["healthCheckType"] = "docker"
        log = container.get("logConfiguration") or {}
        if log.get("logDriver") == "awslogs" and self.execution_role:
            document["logsAuthStrategy"] = "ExecutionRole"
        secrets = [self._secret(s, "CONTAINER") for s in container.get("secrets") or ()]
        secrets += [self._secret(s, "LOG_DRIVER") for s in log.get("secretOptions") or ()]
        if secrets:
            document["secrets"] = secrets
        authentication = self._registry_authentication(container)
        if authentication:
            document["registryAuthentication"] = authentication
        return document

    def _port(self, mapping):
        result = {"protocol": mapping.get("protocol", "tcp")}
        if mapping.get("containerPortRange"):
            result["containerPortRange"] = mapping["containerPortRange"]
            return result
        result["containerPort"] = mapping["containerPort"]
        fixed = self.definition.get("networkMode") in ("host", "awsvpc")
        result["hostPort"] = mapping.get("hostPort", mapping["containerPort"] if fixed else 0)
        return result

    def _secret(self, secret, target):
        source = secret["valueFrom"]
        parts = source.split(":")
        region = parts[3] if source.startswith("arn:") and len(parts) > 3 else self.region
        return {
            "name": secret["name"],
            "valueFrom": source,
            "region": region,
            "provider": "asm" if _is_secrets_manager(source) else "ssm",
            "type": "ENVIRONMENT_VARIABLE",
            "target": target,
        }

    def _registry_authentication(self, container):
        credentials = container.get("repositoryCredentials")
        if credentials:
            parameter = credentials["credentialsParameter"]
            data = {"credentialsParameter": parameter, "region": self.region}
            return {"type": "asm", "asmAuthData": data}
        host = container["image"].split("/", 1)[0]
        labels = host.split(".")
        if ".dkr.ecr." in host:
            registry, region = labels[0], labels[3]
        elif self.ecr_host and host == self.ecr_host:
            registry, region = self.account, self.region
        else:
            return None
        data = {
            "registryId": registry,
            "region": region,
            "useExecutionRole": bool(self.execution_role),
        }
        if self.endpoint:
            data["endpointOverride"] = self.endpoint.split("://", 1)[1]
        return {"type": "ecr", "ecrAuthData": data}

    def _host_config(self, container, override, task_id):
        linux = container.get("linuxParameters") or {}
        capabilities = linux.get("capabilities") or {}
        host = {
            "NetworkMode": self.definition.get("networkMode") or "bridge",
            "CapAdd": capabilities.get("add") or [],
            "CapDrop": capabilities.get("drop") or [],
        }
        copied = {
            "privileged": "Privileged",
            "readonlyRootFilesystem": "ReadonlyRootfs",
            "dnsServers": "Dns",
            "dnsSearchDomains": "DnsSearch",
            "dockerSecurityOptions": "SecurityOpt",
        }
        for name, docker_name in copied.items():
            if container.get(name):
                host[docker_name] = container[name]
        if container.get("extraHosts"):
            pairs = container["extraHosts"]
            host["ExtraHosts"] = [f"{p['hostname']}:{p['ipAddress']}" for p in pairs]
        if container.get("ulimits"):
            host["Ulimits"] = [
                {"Name": u["name"], "Soft": u["softLimit"], "Hard": u["hardLimit"]}
                for u in container["ulimits"]
            ]
        if container.get("systemControls"):
            controls = container["systemControls"]
            host["Sysctls"] = {c["namespace"]: c["value"] for c in controls}
        reservation = override.get("memoryReservation", container.get("memoryReservation"))
        if reservation:
            host["MemoryReservation"] = reservation * MIB
        host.update(_linux_parameters(linux, override.get("memory", container.get("memory", 0))))
        if container.get("logConfiguration"):
            host["LogConfig"] = self._log_config(container, task_id)
        return host

    def _log_config(self, container, task_id):
        log = container["logConfiguration"]
        options = dict(log.get("options") or {})
        if log.get("logDriver") == "awslogs":
            prefix = options.pop("awslogs-stream-prefix", None)
            if prefix is not None:
                options["awslogs-stream"] = f"{prefix}/{container['name']}/{task_id}"
            if self.endpoint:
                options.setdefault("awslogs-endpoint", self.endpoint)
        return {"Type": log["logDriver"], "Config": options}


def _is_secrets_manager(value_from):
    return value_from.startswith("arn:") and ":secretsmanager:" in value_from


def _docker_config(container):
    config = {}
    copied = {
        "user": "User",
        "workingDirectory": "WorkingDir",
        "hostname": "Hostname",
        "dockerLabels": "Labels",
        "disableNetworking": "NetworkDisabled",
        "pseudoTerminal": "Tty",
    }
    for name, docker_name in copied.items():
        if container.get(name):
            config[docker_name] = container[name]
    if container.get("interactive"):
        config["OpenStdin"] = True
    check = container.get("healthCheck")
    if check:
        config["Healthcheck"] = {
            "Test": check["command"],
            "Interval": check.get("interval", 30) * SECOND_NS,
            "Timeout": check.get("timeout", 5) * SECOND_NS,
            "Retries": check.get("retries", 3),
            "StartPeriod": check.get("startPeriod", 0) * SECOND_NS,
        }
    return config


def _linux_parameters(linux, memory):
    host = {}
    if linux.get("initProcessEnabled"):
        host["Init"] = True
    if linux.get("sharedMemorySize"):
        host["ShmSize"] = linux["sharedMemorySize"] * MIB
    if linux.get("devices"):
        letters = {"read": "r", "write": "w", "mknod": "m"}
        host["Devices"] = [
            {
                "PathOnHost": d["hostPath"],
                "PathInContainer": d.get("containerPath") or d["hostPath"],
                "CgroupPermissions": "".join(
                    letters[p] for p in d.get("permissions") or ("read", "write", "mknod")
                ),
            }
            for d in linux["devices"]
        ]
    if linux.get("tmpfs"):
        host["Tmpfs"] = {
            t["containerPath"]: ",".join([f"size={t['size']}m", *(t.get("mountOptions") or ())])
            for t in linux["tmpfs"]
        }
    if linux.get("maxSwap") is not None:
        host["MemorySwap"] = (memory + linux["maxSwap"]) * MIB
    if linux.get("swappiness") is not None:
        host["MemorySwappiness"] = linux["swappiness"]
    return host


def _api_version(container):
    if (container.get("linuxParameters") or {}).get("initProcessEnabled"):
        return "1.25"
    return "1.24" if container.get("healthCheck") else "1.18"


def _volume(volume):
    if volume.get("dockerVolumeConfiguration"):
        configuration = {"scope": "task", "autoprovision": False, "driver": "local"}
        configuration.update(volume["dockerVolumeConfiguration"])
        return {
            "name": volume["name"],
            "type": "docker",
            "dockerVolumeConfiguration": configuration,
        }
    if volume.get("efsVolumeConfiguration"):
        configuration = volume["efsVolumeConfiguration"]
        return {"name": volume["name"], "type": "efs", "efsVolumeConfiguration": configuration}
    return {"name": volume["name"], "type": "host", "host": volume.get("host") or {}}


def _proxy(proxy):
    properties = {p["name"]: p["value"] for p in proxy.get("properties") or ()}
    return {
        "type": proxy.get("type", "APPMESH"),
        "containerName": proxy["containerName"],
        "properties": properties,
    }


def _vcpus(text):
    """'256' units, '.25 vCPU' or '1 vcpu' as a number of vCPUs."""
    return _quantity(text, "vcpu", 1, 1 / 1024, "cpu")


def _mebibytes(text):
    """'512' MiB or '0.5 GB' as MiB."""
    return int(_quantity(text, "gb", 1024, 1, "memory"))


def _quantity(text, unit, unit_factor, plain_factor, what):
    words = str(text).lower()
    factor = plain_factor
    if words.endswith(unit):
        words, factor = words[: -len(unit)], unit_factor
    try:
        value = float(words) * factor
    except ValueError:
        value = 0
    if value <= 0:
        raise client_error(f"Invalid '{what}' setting for task: '{text}'")
    return value

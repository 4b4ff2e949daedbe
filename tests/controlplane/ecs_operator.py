"""The operations of the ECS API that a person or a deployment tool calls."""

from . import taskdef
from .ecs_agent import describe_cluster, describe_instance
from .errors import ApiError
from .taskdef import Conversion
from .task import APPLICATION, EXECUTION, Role, Task

# Accepted members of each request. Others are refused by name: the stand-in has no scheduler.
_MEMBERS = {
    "RegisterTaskDefinition": None,  # taskdef.validate() knows them
    "DescribeTaskDefinition": {"taskDefinition", "include"},
    "RunTask": {
        "taskDefinition", "cluster", "count", "launchType", "overrides", "startedBy", "group",
        "tags", "enableECSManagedTags", "enableExecuteCommand",
    },
    "StartTask": {
        "taskDefinition", "cluster", "containerInstances", "overrides", "startedBy", "group",
        "tags", "enableECSManagedTags", "enableExecuteCommand",
    },
    "StopTask": {"cluster", "task", "reason"},
    "DescribeTasks": {"cluster", "tasks", "include"},
    "ListTasks": {
        "cluster", "containerInstance", "family", "startedBy", "desiredStatus", "launchType",
        "maxResults", "nextToken",
    },
    "DescribeContainerInstances": {"cluster", "containerInstances", "include"},
    "ListContainerInstances": {"cluster", "status", "maxResults", "nextToken"},
    "DescribeClusters": {"clusters", "include"},
    "ListClusters": {"maxResults", "nextToken"},
}  # fmt: skip


class OperatorOperations:
    def __init__(self, store):
        self.store = store

    def call(self, operation, request, caller):
        if operation not in _MEMBERS:
            raise ApiError(
                "UnknownOperationException", f"The stand-in does not have the operation {operation}"
            )
        known = _MEMBERS[operation]
        for name in sorted(set(request) - known) if known is not None else ():
            raise ApiError(
                "InvalidParameterException", f"{operation}: '{name}' is not in the stand-in"
            )
        return getattr(self, operation)(request)

    def RegisterTaskDefinition(self, request):
        converted(taskdef.validate, request)
        revisions = self.store.task_definitions.setdefault(request["family"], [])
        revisions.append({k: v for k, v in request.items() if k != "tags"})
        return {"taskDefinition": self._describe_definition(request["family"], len(revisions))}

    def _describe_definition(self, family, revision):
        definition = self.store.task_definitions[family][revision - 1]
        return {
            **definition,
            "taskDefinitionArn": self._definition_arn(family, revision),
            "revision": revision,
            "status": "ACTIVE",
            "requiresAttributes": [{"name": n} for n in taskdef.required_attributes(definition)],
            "compatibilities": ["EXTERNAL", "EC2"],
        }

    def _definition_arn(self, family, revision):
        prefix = f"arn:aws:ecs:{self.store.region}:{self.store.account}:task-definition"
        return f"{prefix}/{family}:{revision}"

    def find_definition(self, identifier):
        """(family, revision) of `family`, `family:revision` or an ARN."""
        family, _, revision = str(identifier).rsplit("/", 1)[-1].partition(":")
        revisions = self.store.task_definitions.get(family)
        if not revisions:
            raise ApiError("ClientException", "Unable to describe task definition.")
        number = len(revisions) if not revision else int(revision) if revision.isdigit() else 0
        if not 1 <= number <= len(revisions):
            raise ApiError("ClientException", f"TaskDefinition not found: {identifier}")
        return family, number

    def DescribeTaskDefinition(self, request):
        family, revision = self.find_definition(request.get("taskDefinition"))
        return {"taskDefinition": self._describe_definition(family, revision), "tags": []}

    def RunTask(self, request):
        if request.get("launchType", "EC2") != "EC2":
            raise ApiError(
                "InvalidParameterException", f"launchType {request['launchType']}: only EC2"
            )
        cluster = self.store.cluster(request.get("cluster"))
        count = request.get("count", 1)
        if not isinstance(count, int) or not 1 <= count <= 10:
            raise ApiError("InvalidParameterException", "count must be between 1 and 10")
        instances = self.active_instances(cluster)
        if not instances:
            text = "No Container Instances were found in your cluster."
            raise ApiError("InvalidParameterException", text)
        family, revision = self.find_definition(request.get("taskDefinition"))
        also = execute_command_attributes(request)
        failures = [self.placement_failure(i, family, revision, also=also) for i in instances]
        if all(failures):
            return {"tasks": [], "failures": failures[:1] * count}
        usable = [i for i, failure in zip(instances, failures) if not failure]
        tasks = []
        for index in range(count):
            instance = usable[index % len(usable)]
            tasks += self.start(instance, family, revision, 1, request, deliver=False)
        self.store.acs.deliver(tasks)
        return {"tasks": [self.describe_task(task) for task in tasks], "failures": []}

    def StartTask(self, request):
        cluster = self.store.cluster(request.get("cluster"))
        family, revision = self.find_definition(request.get("taskDefinition"))
        tasks, failures = [], []
        for identifier in request.get("containerInstances") or ():
            instance = self.store.instance(identifier)
            if instance is None or instance.cluster is not cluster:
                failures.append({"arn": identifier, "reason": "MISSING"})
                continue
            also = execute_command_attributes(request)
            failure = self.placement_failure(instance, family, revision, also=also)
            if failure:
                failures.append(failure)
            else:
                tasks += self.start(instance, family, revision, 1, request)
        return {"tasks": [self.describe_task(task) for task in tasks], "failures": failures}

    def active_instances(self, cluster):
        return [
            instance
            for instance in self.store.instances.values()
            if instance.cluster is cluster and instance.status == "ACTIVE"
        ]

    def placement_failure(self, instance, family, revision, connected=True, also=()):
        """Why the instance cannot be given the task, as an API Failure, or None."""
        if connected and instance.acs is None:
            return {"arn": instance.arn, "reason": "AGENT"}
        definition = self.store.task_definitions[family][revision - 1]
        for name in [*taskdef.required_attributes(definition), *also]:
            if name not in instance.attributes:
                return {"arn": instance.arn, "reason": "ATTRIBUTE", "detail": name}
        return None

    def start(self, instance, family, revision, count, request, interfaces=None, deliver=True):
        """Make count tasks on the instance and send them in one payload message."""
        definition = self.store.task_definitions[family][revision - 1]
        overrides = request.get("overrides") or {}
        taskdef.validate_overrides(definition, overrides)
        if definition.get("networkMode") == "awsvpc" and not interfaces:
            raise ApiError(
                "InvalidParameterException",
                "awsvpc: the stand-in attaches no network interface; submit the task through the "
                "admin API with elasticNetworkInterfaces",
            )
        options = self.store.options
        ecr_host = options.ecr_proxy_endpoint.split("://", 1)[-1]
        conversion = Conversion(
            definition, revision, overrides, self.store.region, self.store.account, ecr_host
        )
        if options.awslogs_endpoint and instance.host:
            conversion.endpoint = f"https://{instance.host}"
        conversion.network_interfaces = interfaces
        conversion.execute_command = bool(request.get("enableExecuteCommand"))
        tasks = []
        for _ in range(count):
            arn = self.store.new_task_arn(instance.cluster)
            task = Task(instance, converted(conversion.task, arn, instance.cluster.arn))
            task.definition_arn = self._definition_arn(family, revision)
            task.overrides = overrides
            task.execute_command = conversion.execute_command
            task.group = request.get("group") or f"family:{family}"
            task.started_by = request.get("startedBy")
            task.tags = request.get("tags") or []
            if conversion.task_role:
                task.add_role(APPLICATION, Role(conversion.task_role))
            if conversion.execution_role:
                task.add_role(EXECUTION, Role(conversion.execution_role))
            self.store.tasks[arn] = task
            tasks.append(task)
        if deliver:
            self.store.acs.deliver(tasks)
        return tasks

    def StopTask(self, request):
        cluster = self.store.cluster(request.get("cluster"))
        task = self.store.task(request.get("task"))
        if task is None or task.instance.cluster is not cluster:
            raise ApiError("InvalidParameterException", "The referenced task was not found.")
        self.stop(task, request.get("reason") or "Task stopped by user")
        return {"task": self.describe_task(task)}

    def stop(self, task, reason):
        task.request_stop(reason)
        if task.last != "STOPPED":
            self.store.acs.deliver([task])

    def DescribeTasks(self, request):
        cluster = self.store.cluster(request.get("cluster"))
        tasks, failures = [], []
        for identifier in request.get("tasks") or ():
            task = self.store.task(identifier)
            if task is None or task.instance.cluster is not cluster:
                failures.append({"arn": identifier, "reason": "MISSING"})
            else:
                tasks.append(self.describe_task(task))
        return {"tasks": tasks, "failures": failures}

    def ListTasks(self, request):
        cluster = self.store.cluster(request.get("cluster"))
        desired = request.get("desiredStatus", "RUNNING")
        arns = []
        for task in self.store.tasks.values():
            if task.instance.cluster is not cluster or task.desired != desired:
                continue
            if request.get("family") not in (None, task.document.get("family")):
                continue
            if request.get("startedBy") not in (None, task.started_by):
                continue
            wanted = request.get("containerInstance")
            if wanted not in (None, task.instance.arn, task.instance.id):
                continue
            arns.append(task.arn)
        return _page("taskArns", arns, request)

    def DescribeContainerInstances(self, request):
        cluster = self.store.cluster(request.get("cluster"))
        found, failures = [], []
        for identifier in request.get("containerInstances") or ():
            instance = self.store.instance(identifier)
            if instance is None or instance.cluster is not cluster:
                failures.append({"arn": identifier, "reason": "MISSING"})
            else:
                found.append(describe_instance(self.store, instance))
        return {"containerInstances": found, "failures": failures}

    def ListContainerInstances(self, request):
        cluster = self.store.cluster(request.get("cluster"))
        status = request.get("status")
        arns = []
        for instance in self.store.instances.values():
            if instance.cluster is not cluster or instance.status == "INACTIVE":
                continue
            if status in (None, instance.status):
                arns.append(instance.arn)
        return _page("containerInstanceArns", arns, request)

    def DescribeClusters(self, request):
        found, failures = [], []
        for identifier in request.get("clusters") or ["default"]:
            try:
                found.append(describe_cluster(self.store, self.store.cluster(identifier)))
            except ApiError:
                failures.append({"arn": identifier, "reason": "MISSING"})
        return {"clusters": found, "failures": failures}

    def ListClusters(self, request):
        return _page("clusterArns", [c.arn for c in self.store.clusters.values()], request)

    def describe_task(self, task):
        answer = {
            "taskArn": task.arn,
            "clusterArn": task.instance.cluster.arn,
            "containerInstanceArn": task.instance.arn,
            "lastStatus": task.last,
            "desiredStatus": task.desired,
            "launchType": "EC2",
            "createdAt": task.created_ms / 1000,
            "containers": [self._describe_container(task, c) for c in task.containers.values()],
            "attachments": [],
            "tags": task.tags,
            "overrides": {"containerOverrides": [], **task.overrides},
            "availabilityZone": self.store.availability_zone,
            "version": len(task.timeline),
            "enableExecuteCommand": task.execute_command,
            **task.times,
        }
        optional = {
            "taskDefinitionArn": task.definition_arn,
            "group": task.group,
            "startedBy": task.started_by,
            "startedAt": task.started_ms and task.started_ms / 1000,
            "stoppedAt": task.stopped_ms and task.stopped_ms / 1000,
            "stopCode": task.stop_code,
            "stoppedReason": task.stopped_reason,
        }
        answer.update({k: v for k, v in optional.items() if v is not None})
        return answer

    def _describe_container(self, task, container):
        arn = f"arn:aws:ecs:{self.store.region}:{self.store.account}:container"
        agents = [a for a in task.managed_agents if a["containerName"] == container["name"]]
        return {
            "containerArn": f"{arn}/{task.instance.cluster.name}/{task.id}/{container['name']}",
            "taskArn": task.arn,
            "networkInterfaces": [],
            "networkBindings": [],
            **({"managedAgents": [_describe_agent(a) for a in agents]} if agents else {}),
            **{k: v for k, v in container.items() if v is not None},
        }


def execute_command_attributes(request):
    return ["ecs.capability.execute-command"] if request.get("enableExecuteCommand") else []


def _describe_agent(agent):
    answer = {"name": agent["managedAgentName"], "lastStatus": agent["status"]}
    if "startedMs" in agent:
        answer["lastStartedAt"] = agent["startedMs"] / 1000
    if "reason" in agent:
        answer["reason"] = agent["reason"]
    return answer


def converted(function, *arguments):
    """A definition with members of wrong types is the client's mistake, told as such."""
    try:
        return function(*arguments)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        kind = type(error).__name__
        raise ApiError("ClientException", f"bad task definition: {kind}: {error}") from error


def _page(name, items, request):
    size = request.get("maxResults", 100)
    token = str(request.get("nextToken") or "0")
    if not isinstance(size, int) or not 1 <= size <= 100 or not token.isdigit():
        raise ApiError("InvalidParameterException", "Invalid maxResults or nextToken.")
    start = int(token)
    answer = {name: items[start : start + size]}
    if start + size < len(items):
        answer["nextToken"] = str(start + size)
    return answer



"""The operations of the ECS API that an agent calls."""

import base64
import json
import re

from . import statechange
from .errors import ApiError
from .instance import Instance

_UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_RESOURCES = {
    "CPU": "INTEGER",
    "MEMORY": "INTEGER",
    "PORTS": "STRINGSET",
    "PORTS_UDP": "STRINGSET",
}


class AgentOperations:
    def __init__(self, store):
        self.store = store
        self.document_signer = None  # set by the server; signs the identity document
        self._by_token = {}

    def call(self, operation, request, caller):
        def violation(rule, text):
            self.store.violations.add("ecs", operation, rule, text)

        return getattr(self, operation)(request, caller, violation)

    def CreateCluster(self, request, caller, violation):
        cluster = self.store.create_cluster(request.get("clusterName") or "default")
        return {"cluster": describe_cluster(self.store, cluster)}

    def RegisterContainerInstance(self, request, caller, violation):
        cluster = self.store.cluster(request["cluster"])
        self._check_resources(request["totalResources"], violation)
        self._check_attributes(request["attributes"], violation)
        if not _UUID4.fullmatch(request["clientToken"]):
            violation("client-token", f"'{request['clientToken']}' is not a UUID of version 4")
        document = self._check_identity(request, violation)
        instance = self._find_registered(request, cluster)
        if instance is None:
            instance = Instance(cluster, self.store.region, self.store.account)
            self.store.instances[instance.arn] = instance
        self._by_token[request["clientToken"]] = instance
        instance.registered(request)
        instance.ec2_id = document.get("instanceId")
        instance.host = caller.host
        own = {"ecs.availability-zone": self.store.availability_zone}
        if document:
            own["ecs.instance-type"] = document["instanceType"]
            own["ecs.ami-id"] = document["imageId"]
        instance.attributes.update(own)
        return {"containerInstance": describe_instance(self.store, instance)}

    def _find_registered(self, request, cluster):
        arn = request.get("containerInstanceArn")
        if not arn:
            return self._by_token.get(request["clientToken"])
        instance = self.store.instances.get(arn)
        if instance is None or instance.cluster is not cluster:
            text = f"Referenced container instance {arn.rsplit('/', 1)[-1]} not found."
            raise ApiError("ClientException", text)
        return instance

    def _check_resources(self, resources, violation):
        names = [resource["name"] for resource in resources]
        if names != list(_RESOURCES):
            violation("resources", f"totalResources are {names}, not {list(_RESOURCES)}")
        for resource in resources:
            name, kind = resource["name"], resource["type"]
            if kind != _RESOURCES[name]:
                violation("resources", f"{name} is of type {kind}, not {_RESOURCES[name]}")
            elif kind == "INTEGER" and resource.get("integerValue", 0) <= 0:
                violation("resources", f"{name} has no positive integerValue")
            elif kind == "STRINGSET":
                self._check_ports(name, resource.get("stringSetValue"), violation)

    def _check_ports(self, name, ports, violation):
        if ports is None:
            violation("resources", f"{name} has no stringSetValue")
            return
        if len(set(ports)) != len(ports):
            violation("resources", f"{name} names a port twice: {ports}")
        for port in ports:
            if not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
                violation("resources", f"{name} has '{port}', which is no port")

    def _check_attributes(self, attributes, violation):
        names = [attribute["name"] for attribute in attributes]
        for name in sorted({name for name in names if names.count(name) > 1}):
            violation("attributes", f"attribute '{name}' is sent {names.count(name)} times")
        sent = {attribute["name"]: attribute.get("value") for attribute in attributes}
        if sent.get("ecs.os-type") != "linux":
            violation("attributes", f"ecs.os-type is {sent.get('ecs.os-type')!r}, not 'linux'")

    def _check_identity(self, request, violation):
        """The identity document as JSON; {} when none was sent (ECS Anywhere)."""
        text = request["instanceIdentityDocument"]
        signature = request["instanceIdentityDocumentSignature"]
        if not text and not signature:
            return {}
        expected = base64.b64encode(self.document_signer.sign(text.encode())).decode()
        if "".join(signature.split()) != expected:
            violation("identity", "the signature is not that of the instance identity document")
            raise ApiError("ClientException", "Invalid instance identity document signature.")
        return json.loads(text)

    def DiscoverPollEndpoint(self, request, caller, violation):
        cluster = self.store.cluster(request["cluster"])
        instance = self.store.instance(request["containerInstance"])
        if instance is None or instance.cluster is not cluster:
            violation("unknown-instance", f"container instance {request['containerInstance']}")
            raise ApiError("InvalidParameterException", "Container instance not found.")
        base = f"https://{caller.host}"
        return {
            "endpoint": base + "/acs",
            "telemetryEndpoint": base + "/tcs",
            "serviceConnectEndpoint": base + "/sc",
        }

    def SubmitTaskStateChange(self, request, caller, violation):
        task = self._task(request, violation)
        for rule, text in statechange.check(task, request):
            self.store.violations.add("ecs", "SubmitTaskStateChange", rule, text, task=task.arn)
        task.apply(request)
        if request.get("status") == "STOPPED" and task.stopped_submission is None:
            task.stopped_submission = statechange.canonical(request)
        self.store.acs.task_changed(task)
        return {"acknowledgment": task.arn}

    def SubmitContainerStateChange(self, request, caller, violation):
        """Agents report containers in SubmitTaskStateChange; this call is of very old ones."""
        violation("obsolete", "containers are reported by SubmitTaskStateChange")
        task = self._task(request, violation)
        task.note("container-state-change", **request)
        return {"acknowledgment": task.arn}

    def _task(self, request, violation):
        cluster = self.store.cluster(request["cluster"])
        task = self.store.tasks.get(request["task"])
        if task is None or task.instance.cluster is not cluster:
            violation("unknown-task", f"task {request['task']} of cluster {cluster.name}")
            raise ApiError("InvalidParameterException", "Referenced task was not found.")
        return task

    def SubmitAttachmentStateChanges(self, request, caller, violation):
        self.store.cluster(request["cluster"])
        for change in request["attachments"]:
            self.store.acs.attachment_changed(change, violation)
        return {"acknowledgment": request["cluster"]}

    def UpdateContainerInstancesState(self, request, caller, violation):
        cluster = self.store.cluster(request.get("cluster"))
        found, failures = [], []
        for identifier in request["containerInstances"]:
            instance = self.store.instance(identifier)
            if instance is None or instance.cluster is not cluster:
                failures.append({"arn": identifier, "reason": "MISSING"})
                continue
            instance.status = request["status"]
            found.append(describe_instance(self.store, instance))
        return {"containerInstances": found, "failures": failures}

    def ListTagsForResource(self, request, caller, violation):
        arn = request["resourceArn"]
        instance, task = self.store.instances.get(arn), self.store.tasks.get(arn)
        if instance:
            return {"tags": instance.registration.get("tags", [])}
        if task:
            return {"tags": task.tags}
        raise ApiError("InvalidParameterException", f"The specified resource '{arn}' is not found.")

    def DeregisterContainerInstance(self, request, caller, violation):
        cluster = self.store.cluster(request.get("cluster"))
        instance = self.store.instance(request["containerInstance"])
        if instance is None or instance.cluster is not cluster:
            raise ApiError("InvalidParameterException", "Container instance not found.")
        running = [t for t in self.store.tasks.values() if t.instance is instance]
        if any(task.last != "STOPPED" for task in running) and not request.get("force"):
            text = "Found running tasks on the instance."
            raise ApiError("InvalidParameterException", text)
        instance.status = "INACTIVE"
        self.store.acs.deregistered(instance)
        return {"containerInstance": describe_instance(self.store, instance)}


def describe_cluster(store, cluster):
    instances = [
        i for i in store.instances.values() if i.cluster is cluster and i.status != "INACTIVE"
    ]
    tasks = [task for task in store.tasks.values() if task.instance.cluster is cluster]
    return {
        "clusterArn": cluster.arn,
        "clusterName": cluster.name,
        "status": "ACTIVE",
        "registeredContainerInstancesCount": len(instances),
        "runningTasksCount": sum(task.last == "RUNNING" for task in tasks),
        "pendingTasksCount": sum(task.last == "PENDING" for task in tasks),
        "activeServicesCount": 0,
    }


def describe_instance(store, instance):
    tasks = [task for task in store.tasks.values() if task.instance is instance]
    answer = {
        "containerInstanceArn": instance.arn,
        "version": instance.registrations,
        "registeredResources": instance.resources(),
        "remainingResources": instance.resources(),
        "status": instance.status,
        "agentConnected": instance.acs is not None,
        "runningTasksCount": sum(task.last == "RUNNING" for task in tasks),
        "pendingTasksCount": sum(task.last == "PENDING" for task in tasks),
        "attributes": [
            {"name": name} if value is None else {"name": name, "value": value}
            for name, value in instance.attributes.items()
        ],
        "registeredAt": instance.registered_at,
        "attachments": [],
        "tags": instance.registration.get("tags", []),
    }
    if instance.ec2_id:
        answer["ec2InstanceId"] = instance.ec2_id
    return answer

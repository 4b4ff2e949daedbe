"""The admin API: JSON over plain HTTP on the loopback, for tests and the command line."""

import json
import re
import sys
import traceback

from aiohttp import web

from . import taskdef
from .ecs_operator import converted, execute_command_attributes
from .errors import AdminError, ApiError
from .keys import Key
from .task import APPLICATION, EXECUTION, Role, Task


class Admin:
    def __init__(self, server):
        self.server = server
        self.store = server.store
        self.acs = server.acs
        self.routes = [
            ("GET", "/state", self.state),
            ("GET", "/violations", self.violations),
            ("DELETE", "/violations", self.clear_violations),
            ("GET", "/calls", self.calls),
            ("POST", "/run", self.run),
            ("POST", "/tasks", self.send_tasks),
            ("GET", "/tasks", self.tasks),
            ("GET", "/tasks/(.+)", self.task),
            ("POST", "/stop/(.+)", self.stop),
            ("GET", "/logs", self.logs),
            ("GET", "/faults", self.faults),
            ("POST", "/faults", self.add_fault),
            ("DELETE", "/faults", self.clear_faults),
            ("DELETE", "/faults/([0-9]+)", self.clear_fault),
            ("POST", "/acs/message", self.send_message),
            ("POST", "/acs/frame", self.send_frame),
            ("POST", "/acs/ping", self.ping),
            ("POST", "/acs/disconnect", self.disconnect),
            ("POST", "/acs/heartbeat", self.heartbeat),
            ("POST", "/acs/manifest", self.manifest),
            ("POST", "/acs/credentials", self.credentials),
            ("POST", "/acs/verification", self.verification),
            ("POST", "/imds", self.set_imds),
        ]

    async def handle(self, request):
        try:
            document = await self._document(request)
            for method, pattern, handler in self.routes:
                match = re.fullmatch(pattern, request.path)
                if match and method == request.method:
                    answer = handler(document, *match.groups())
                    return web.json_response(answer)
            raise AdminError(f"no such request: {request.method} {request.path}", 404)
        except AdminError as error:
            return web.json_response({"error": error.message}, status=error.status)
        except ApiError as error:
            text = f"{error.code}: {error.message}"
            return web.json_response({"error": text, "code": error.code}, status=400)
        except Exception:
            text = traceback.format_exc()
            print(text, file=sys.stderr, flush=True)
            return web.json_response({"error": text}, status=500)

    async def _document(self, request):
        if request.method == "GET":
            return dict(request.query)
        body = await request.read()
        if not body:
            return {}
        try:
            document = json.loads(body)
        except ValueError as error:
            raise AdminError(f"the body is not JSON: {error}") from None
        if not isinstance(document, dict):
            raise AdminError("the body must be a JSON object")
        return document

    # What is known

    def state(self, _):
        return {
            "clusters": list(self.store.clusters),
            "instances": [instance.to_json() for instance in self.store.instances.values()],
            "tasks": [task.to_json() for task in self.store.tasks.values()],
            "attachments": self.acs.attachments,
            "identities": self.server.sts.identities,
            "ecrTokens": self.server.ecr.tokens,
            "logGroups": {
                group: {
                    name: {
                        "events": len(stream.events),
                        "puts": stream.puts,
                        "formats": sorted(stream.formats),
                        "writers": sorted(stream.writers),
                    }
                    for name, stream in streams.items()
                }
                for group, streams in self.server.logs.groups.items()
            },
            "violations": self.store.violations.total,
        }

    def violations(self, _):
        violations = self.store.violations
        return {"violations": violations.items, "total": violations.total}

    def clear_violations(self, _):
        self.store.violations.clear()
        return {}

    def calls(self, query):
        _known(query, "service", "operation")
        return {
            "calls": [
                call
                for call in self.store.calls
                if query.get("service") in (None, call["service"])
                and query.get("operation") in (None, call["operation"])
            ]
        }

    def tasks(self, _):
        return {"tasks": [task.to_json() for task in self.store.tasks.values()]}

    def task(self, _, identifier):
        return self._task(identifier).to_json()

    def logs(self, query):
        _known(query, "group", "stream")
        if "group" not in query:
            raise AdminError("logs need a group")
        events = self.server.logs.read(query["group"], query.get("stream"))
        return {
            "events": [{"timestamp": t, "stream": s, "message": m} for t, s, _, m in events]
        }

    # Tasks

    def run(self, document):
        """Run a task definition, as `count` tasks in one payload message."""
        _known(
            document, "taskDefinition", "count", "cluster", "instance", "overrides", "tags",
            "elasticNetworkInterfaces", "enableExecuteCommand",
        )  # fmt: skip
        definition = document.get("taskDefinition")
        if not isinstance(definition, dict):
            raise AdminError("run needs a taskDefinition object")
        count = document.get("count", 1)
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 1000:
            raise AdminError(f"count is {count!r}, not 1 to 1000")
        operator = self.server.ecs.operator
        converted(taskdef.validate, definition)
        instance = self._instance(document)
        operator.RegisterTaskDefinition(definition)
        family, revision = operator.find_definition(definition["family"])
        failure = operator.placement_failure(
            instance, family, revision, connected=False, also=execute_command_attributes(document)
        )
        if failure:
            raise AdminError(
                f"the container instance lacks the attribute {failure['detail']}, which this task "
                "definition requires"
            )
        interfaces = document.get("elasticNetworkInterfaces")
        tasks = operator.start(instance, family, revision, count, document, interfaces)
        return {"tasks": [task.arn for task in tasks]}

    def send_tasks(self, document):
        """Send ACS Task documents. What is missing is filled in unless exact is true."""
        _known(document, "tasks", "exact", "cluster", "instance")
        documents = document.get("tasks")
        if not isinstance(documents, list) or not documents:
            raise AdminError("tasks must be a list of ACS Task documents")
        instance = self._instance(document)
        if not document.get("exact"):
            documents = [self._complete(instance, task) for task in documents]
        tasks = [self._adopt(instance, task) for task in documents if _has_arn(task)]
        message = self.acs.deliver_raw(instance, documents, tasks)
        return {"tasks": [task.arn for task in tasks], "messageId": message.id}

    def _complete(self, instance, document):
        if not isinstance(document, dict):
            raise AdminError("an ACS Task is a JSON object; use exact to send something else")
        return {
            "arn": self.store.new_task_arn(instance.cluster),
            "taskClusterArn": instance.cluster.arn,
            "desiredStatus": "RUNNING",
            "family": "raw",
            "version": "1",
            **document,
        }

    def _adopt(self, instance, document):
        """The Task of a raw document, with the keys it carries made known."""
        task = self.store.tasks.get(document["arn"])
        if task is None:
            task = Task(instance, document)
            self.store.tasks[task.arn] = task
        elif document.get("desiredStatus") == "STOPPED":
            task.request_stop("stopped by a raw payload")
        members = {"roleCredentials": APPLICATION, "executionRoleCredentials": EXECUTION}
        for member, kind in members.items():
            if isinstance(document.get(member), dict):
                self._learn_key(task, kind, document[member])
        return task

    def _learn_key(self, task, kind, credentials):
        names = ("credentialsId", "roleArn", "accessKeyId", "secretAccessKey", "sessionToken")
        if not all(isinstance(credentials.get(n), str) and credentials[n] for n in names):
            return
        role_arn = credentials["roleArn"]
        task.add_role(kind, Role(role_arn, credentials["credentialsId"]))
        role = role_arn.rsplit("/", 1)[-1]
        self.store.keyring.add(
            Key(
                credentials["accessKeyId"],
                credentials["secretAccessKey"],
                credentials["sessionToken"],
                None,
                f"arn:aws:sts::{self.store.account}:assumed-role/{role}/{task.id}",
                role_arn,
                "task" if kind == APPLICATION else "execution",
                task.arn,
            )
        )

    def stop(self, document, identifier):
        _known(document, "reason")
        task = self._task(identifier)
        self.server.ecs.operator.stop(task, document.get("reason") or "Task stopped by user")
        return task.to_json()

    # Faults

    def faults(self, _):
        return {"faults": [vars(fault) for fault in self.store.faults.items]}

    def add_fault(self, document):
        return vars(self.store.faults.add(document))

    def clear_faults(self, _):
        self.store.faults.clear()
        return {}

    def clear_fault(self, _, fault_id):
        self.store.faults.clear(int(fault_id))
        return {}

    # ACS

    def send_message(self, document):
        _known(document, "type", "message", "instance", "cluster")
        instance = self._instance(document)
        message = self.acs.send_message(
            instance, document.get("type"), document.get("message") or {}
        )
        return message.to_json()

    def send_frame(self, document):
        _known(document, "text", "instance", "cluster", "service")
        if not isinstance(document.get("text"), str):
            raise AdminError("a frame needs text")
        self._session(document).post_raw(document["text"])
        return {}

    def ping(self, document):
        _known(document, "instance", "cluster", "service")
        self._session(document).ping()
        return {}

    def disconnect(self, document):
        """Close the session with a code, or without a word (code null)."""
        _known(document, "code", "reason", "instance", "cluster", "service")
        session = self._session(document)
        code = document.get("code")
        if code is None:
            session.reset()
        elif isinstance(code, int) and 1000 <= code <= 4999:
            session.close(code, document.get("reason") or "")
        else:
            raise AdminError(f"code {code!r} is not null or 1000 to 4999")
        return {}

    def heartbeat(self, document):
        """Send one now, or turn the periodic ones on or off."""
        _known(document, "periodic", "instance", "cluster")
        session = self._session(document)
        if "periodic" in document:
            session.heartbeats_on = bool(document["periodic"])
        else:
            session.send_heartbeat()
        return {"outstanding": len(session.heartbeats)}

    def manifest(self, document):
        _known(document, "omit", "tasks", "instance", "cluster")
        instance = self._instance(document)
        omit = document.get("omit") or ()
        return self.acs.send_manifest(instance, omit, document.get("tasks")).to_json()

    def credentials(self, document):
        """New keys for one task, or for all that run."""
        _known(document, "task", "instance", "cluster")
        only = self._task(document["task"]).arn if document.get("task") else None
        messages = self.acs.send_credentials(self._instance(document), only)
        return {"messages": [message.to_json() for message in messages]}

    def verification(self, document):
        _known(document, "answer")
        if document.get("answer") not in ("honest", "all", "never"):
            raise AdminError(f"answer is {document.get('answer')!r}, not honest, all or never")
        self.acs.verification = document["answer"]
        return {}

    def set_imds(self, document):
        _known(document, "path", "value")
        path, value = document.get("path"), document.get("value")
        if not isinstance(path, str) or not (value is None or isinstance(value, str)):
            raise AdminError("imds needs a path (below /latest/) and a value, text or null")
        self.server.imds.set(path, value)
        return {}

    # Finding things

    def _task(self, identifier):
        task = self.store.task(identifier)
        if task is None:
            raise AdminError(f"no task '{identifier}', or more than one that begins so", 404)
        return task

    def _instance(self, document):
        """The instance named in the document, or the only active one of the cluster."""
        if document.get("instance"):
            instance = self.store.instance(document["instance"])
            if instance is None:
                raise AdminError(f"no container instance '{document['instance']}'", 404)
            return instance
        name = document.get("cluster")
        found = [
            instance
            for instance in self.store.instances.values()
            if instance.status != "INACTIVE" and name in (None, instance.cluster.name)
        ]
        if not found:
            where = f" in cluster '{name}'" if name else ""
            raise AdminError(f"no container instance is registered{where}", 409)
        if len(found) > 1:
            arns = ", ".join(instance.arn for instance in found)
            raise AdminError(f"several container instances, name one: {arns}", 409)
        return found[0]

    def _session(self, document):
        instance = self._instance(document)
        service = document.get("service", "acs")
        if service not in ("acs", "tcs"):
            raise AdminError(f"service is '{service}', not acs or tcs")
        session = getattr(instance, service)
        if session is None:
            raise AdminError(f"{instance.arn} has no {service} connection", 409)
        return session


def _known(document, *names):
    for name in sorted(set(document) - set(names)):
        raise AdminError(f"unknown member '{name}'; known: {', '.join(names)}")


def _has_arn(document):
    return isinstance(document, dict) and isinstance(document.get("arn"), str)

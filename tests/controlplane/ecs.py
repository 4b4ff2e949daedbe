"""The ECS API: finds the operation, checks the request against its shape, answers."""

import re

from .ecs_agent import AgentOperations
from .ecs_operator import OperatorOperations
from .errors import ApiError
from .shape import Model

# Calls that only agents make; deployment tools make the others as well.
_AGENT_ONLY = ("RegisterContainerInstance", "DiscoverPollEndpoint", "SubmitTaskStateChange")
_USER_AGENT = re.compile(
    r"Amazon ECS Agent - v\S+ \(\*?[0-9a-f]+\) \(linux; [^()]+\) "
    r"\(\+http://aws\.amazon\.com/ecs/\)"
)


class Ecs:
    TARGET = "AmazonEC2ContainerServiceV20141113"
    SERVICE = "ecs"

    def __init__(self, store):
        self.store = store
        self.shapes = Model.ours("ecs")
        self.model = Model.botocore("ecs")
        self.agent = AgentOperations(store)
        self.operator = OperatorOperations(store)

    def call(self, operation, request, caller):
        """The answer of one operation; ApiError for the errors a client can be told."""
        shape = operation + "Request"
        if not self.shapes.has(shape):
            return self.operator.call(operation, request, caller)
        self._check_request(operation, shape, request, caller)
        return self.agent.call(operation, request, caller)

    def _check_request(self, operation, shape, request, caller):
        violations = self.store.violations
        problems = self.shapes.check(shape, request, operation)
        for problem in problems:
            violations.add("ecs", operation, "shape-" + problem.kind, str(problem))
        if caller.key.kind != "instance":
            text = f"called with the {caller.key.kind} role {caller.key.role_arn}"
            violations.add("ecs", operation, "wrong-credentials", text)
        if operation in _AGENT_ONLY and not _USER_AGENT.fullmatch(caller.user_agent):
            text = f"'{caller.user_agent}' is not that of an ECS agent"
            violations.add("ecs", operation, "user-agent", text)
        kinds = {problem.kind for problem in problems}
        if kinds & {"type", "null"}:
            raise ApiError("SerializationException", _first(problems, ("type", "null")))
        refused = ("missing", "enum", "length", "pattern", "range")
        if kinds & set(refused):
            raise ApiError("InvalidParameterException", _first(problems, refused))

    def check_answer(self, operation, answer):
        """Differences of our own answer from botocore's model: mistakes of the stand-in."""
        shape = self.model.operations[operation]["output"]["shape"]
        return self.model.check(shape, answer)


def _first(problems, kinds):
    return next(str(problem) for problem in problems if problem.kind in kinds)

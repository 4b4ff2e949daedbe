"""Checks a JSON value against a shape of an AWS service model.

A model is the "shapes" table of AWS API descriptions: structures with members and required
members, lists, maps and scalars with their limits. check() reports every difference; what a
difference means (an error answer, a violation, both) is for the caller.

shapes/acs.json and shapes/tcs.json are the members and types of the API models published with
aws/amazon-ecs-agent (Apache-2.0); that a member is required is our addition, from what agents
send. shapes/ecs.json describes what an agent sends to the ECS API, which is less than the API
takes, and has the members that the public model lacks (clientToken, port ranges).
"""

import json
import pathlib
import re
from dataclasses import dataclass

import botocore.loaders

DATA = pathlib.Path(__file__).parent / "shapes"


@dataclass(frozen=True)
class Problem:
    """One difference. kind: unknown, missing, null, type, enum, length, pattern or range."""

    kind: str
    path: str
    text: str
    value: object = None
    limit: str = ""  # the limit of a length or range, in the words of AWS

    def __str__(self):
        return f"{self.path}: {self.text}"


class Model:
    """The shapes of one service, from our own table or from botocore's service description."""

    def __init__(self, document):
        self.shapes = document["shapes"]
        self.operations = document.get("operations", {})

    @classmethod
    def ours(cls, name):
        return cls(json.loads((DATA / f"{name}.json").read_text()))

    @classmethod
    def botocore(cls, service):
        return cls(botocore.loaders.Loader().load_service_model(service, "service-2"))

    def has(self, shape_name):
        return shape_name in self.shapes

    def check(self, shape_name, value, path=""):
        problems = []
        self._check(shape_name, value, path or shape_name, problems)
        return problems

    def _check(self, shape_name, value, path, problems):
        shape = self.shapes[shape_name]
        kind = shape["type"]
        if value is None:
            problems.append(Problem("null", path, "null where a value is expected"))
            return
        if not _CHECK_TYPE[kind](value):
            found = type(value).__name__
            problems.append(Problem("type", path, f"{found} where {kind} is expected", value))
            return
        if kind == "structure":
            self._check_structure(shape, value, path, problems)
        elif kind == "list":
            _check_length(shape, value, path, problems)
            for index, item in enumerate(value):
                self._check(shape["member"]["shape"], item, f"{path}[{index}]", problems)
        elif kind == "map":
            _check_length(shape, value, path, problems)
            for key, item in value.items():
                self._check(shape["key"]["shape"], key, f"{path} key {key!r}", problems)
                self._check(shape["value"]["shape"], item, f"{path}[{key!r}]", problems)
        else:
            _check_scalar(shape, value, path, problems)

    def _check_structure(self, shape, value, path, problems):
        members = shape["members"]
        for name in shape.get("required") or ():
            if name not in value:
                problems.append(Problem("missing", f"{path}.{name}", "required member is missing"))
        for name, item in value.items():
            if name in members:
                self._check(members[name]["shape"], item, f"{path}.{name}", problems)
            else:
                problems.append(Problem("unknown", f"{path}.{name}", "unknown member", item))


def _is_integer(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_CHECK_TYPE = {
    "structure": lambda v: isinstance(v, dict),
    "map": lambda v: isinstance(v, dict),
    "list": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "blob": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "integer": lambda v: _is_integer(v) and -(2**31) <= v < 2**31,
    "long": lambda v: _is_integer(v) and -(2**63) <= v < 2**63,
    "float": _is_number,
    "double": _is_number,
    "timestamp": _is_number,
}


def _check_length(shape, value, path, problems):
    _check_limits("length", len(value), shape, value, path, problems)


def _check_limits(kind, size, shape, value, path, problems):
    what = f"has length {size}" if kind == "length" else f"is {size}"
    if size < shape.get("min", size):
        limit = f"greater than or equal to {shape['min']}"
        problems.append(Problem(kind, path, f"{what}, not {limit}", value, limit))
    if size > shape.get("max", size):
        limit = f"less than or equal to {shape['max']}"
        problems.append(Problem(kind, path, f"{what}, not {limit}", value, limit))


def _python_pattern(pattern):
    """Unicode classes of the models' patterns, which are Java's, in words of Python's re."""
    for java, python in ((r"\p{L}", r"\w"), (r"\p{N}", r"\w"), (r"\p{Z}", r"\s")):
        pattern = pattern.replace(java, python)
    return pattern


def _check_scalar(shape, value, path, problems):
    if shape["type"] == "string":
        _check_length(shape, value, path, problems)
        if "enum" in shape and value not in shape["enum"]:
            allowed = ", ".join(shape["enum"])
            text = f"{value!r} is not one of {allowed}"
            problems.append(Problem("enum", path, text, value, f"[{allowed}]"))
        if "pattern" in shape and not re.fullmatch(_python_pattern(shape["pattern"]), value):
            text = f"{value!r} does not match {shape['pattern']}"
            problems.append(Problem("pattern", path, text, value, shape["pattern"]))
    elif _is_number(value):
        _check_limits("range", value, shape, value, path, problems)


class DuplicateKey(ValueError):
    pass


def parse_json(text):
    """json.loads that refuses duplicate member names, NaN and Infinity (ValueError)."""

    def pairs(items):
        result = dict(items)
        if len(result) != len(items):
            names = [name for name, _ in items]
            twice = sorted({name for name in names if names.count(name) > 1})
            raise DuplicateKey(f"duplicate member {', '.join(twice)}")
        return result

    def constant(name):
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, object_pairs_hook=pairs, parse_constant=constant)

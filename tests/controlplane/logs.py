"""CloudWatch Logs: groups, streams and events, with the limits and errors of the real API."""

import bisect
import re
import time

from .errors import ApiError
from .shape import Model

EVENT_OVERHEAD = 26
MAX_BATCH_BYTES = 1_048_576
MAX_EVENT_BYTES = 262_144
MAX_SPAN_MS = 24 * 3600 * 1000
TOO_OLD_MS = 14 * 24 * 3600 * 1000
TOO_NEW_MS = 2 * 3600 * 1000
MAX_ANSWER_BYTES = 1_048_576


class Stream:
    def __init__(self, group, name):
        self.group = group
        self.name = name
        self.created_ms = _now_ms()
        self.events = []  # (timestamp, number, message, ingestion time), in that order
        self.bytes = 0
        self.puts = 0
        self.last_ingestion_ms = None
        self.formats = set()
        self.writers = set()  # ARNs of who put events

    def add(self, events):
        ingested = _now_ms()
        # events are in order; those of earlier batches are usually older
        append = not self.events or self.events[-1][0] <= events[0]["timestamp"]
        number = len(self.events)
        for event in events:
            item = (event["timestamp"], number, event["message"], ingested)
            number += 1
            if append:
                self.events.append(item)
            else:
                bisect.insort(self.events, item)
            self.bytes += len(event["message"].encode()) + EVENT_OVERHEAD
        self.last_ingestion_ms = ingested

    def describe(self, region, account):
        answer = {
            "logStreamName": self.name,
            "creationTime": self.created_ms,
            "uploadSequenceToken": str(self.puts),
            "arn": f"{_group_arn(region, account, self.group)}:log-stream:{self.name}",
            "storedBytes": 0,
        }
        if self.events:
            answer["firstEventTimestamp"] = self.events[0][0]
            answer["lastEventTimestamp"] = self.events[-1][0]
            answer["lastIngestionTime"] = self.last_ingestion_ms
        return answer


class Logs:
    TARGET = "Logs_20140328"
    SERVICE = "logs"
    OPERATIONS = (
        "CreateLogGroup", "CreateLogStream", "PutLogEvents", "DescribeLogGroups",
        "DescribeLogStreams", "GetLogEvents", "FilterLogEvents", "DeleteLogGroup",
        "DeleteLogStream",
    )  # fmt: skip

    def __init__(self, store):
        self.store = store
        self.model = Model.botocore("logs")
        self.groups = {}  # name -> {stream name -> Stream}
        self.created = {}  # group name -> time in ms

    def call(self, operation, request, caller, headers):
        if operation not in self.OPERATIONS:
            raise ApiError("UnknownOperationException", f"The stand-in has no {operation}")
        self._check(operation, request)
        if operation == "PutLogEvents":
            return self.put_log_events(request, caller, headers)
        return getattr(self, operation)(request)

    def check_answer(self, operation, answer):
        shape = self.model.operations[operation].get("output")
        return self.model.check(shape["shape"], answer) if shape else []

    def _check(self, operation, request):
        shape = self.model.operations[operation]["input"]["shape"]
        problems = self.model.check(shape, request, operation)
        constraints = []
        for problem in problems:
            self.store.violations.add("logs", operation, "shape-" + problem.kind, str(problem))
            if problem.kind in ("type", "null"):
                raise ApiError("SerializationException", str(problem))
            if problem.kind != "unknown":
                constraints.append(_constraint(operation, problem))
        if constraints:
            noun = "error" if len(constraints) == 1 else "errors"
            text = f"{len(constraints)} validation {noun} detected: {'; '.join(constraints)}"
            raise ApiError("InvalidParameterException", text)

    def _group(self, name):
        if name not in self.groups:
            raise ApiError("ResourceNotFoundException", "The specified log group does not exist.")
        return self.groups[name]

    def _stream(self, request):
        streams = self._group(request["logGroupName"])
        if request["logStreamName"] not in streams:
            raise ApiError("ResourceNotFoundException", "The specified log stream does not exist.")
        return streams[request["logStreamName"]]

    def CreateLogGroup(self, request):
        name = request["logGroupName"]
        if name in self.groups:
            text = "The specified log group already exists"
            raise ApiError("ResourceAlreadyExistsException", text)
        self.groups[name] = {}
        self.created[name] = _now_ms()
        return None

    def CreateLogStream(self, request):
        streams = self._group(request["logGroupName"])
        name = request["logStreamName"]
        if name in streams:
            text = "The specified log stream already exists"
            raise ApiError("ResourceAlreadyExistsException", text)
        streams[name] = Stream(request["logGroupName"], name)
        return None

    def DeleteLogGroup(self, request):
        self._group(request["logGroupName"])
        del self.groups[request["logGroupName"]]
        return None

    def DeleteLogStream(self, request):
        self._stream(request)
        del self.groups[request["logGroupName"]][request["logStreamName"]]
        return None

    def put_log_events(self, request, caller, headers):
        stream = self._stream(request)
        events = request["logEvents"]
        self._check_batch(events)
        now = _now_ms()
        old = sum(event["timestamp"] < now - TOO_OLD_MS for event in events)
        new = sum(event["timestamp"] > now + TOO_NEW_MS for event in events)
        accepted = events[old : len(events) - new]
        if accepted:
            stream.add(accepted)
        stream.puts += 1
        stream.writers.add(caller.key.arn)
        if headers.get("x-amzn-logs-format"):
            stream.formats.add(headers["x-amzn-logs-format"])
        answer = {"nextSequenceToken": str(stream.puts)}
        rejected = {}
        if old:
            rejected["tooOldLogEventEndIndex"] = old
        if new:
            rejected["tooNewLogEventStartIndex"] = len(events) - new
        if rejected:
            answer["rejectedLogEventsInfo"] = rejected
        return answer

    def _check_batch(self, events):
        total = 0
        previous = events[0]["timestamp"]
        for event in events:
            size = len(event["message"].encode()) + EVENT_OVERHEAD
            total += size
            if size > MAX_EVENT_BYTES:
                self._refuse(
                    "event-size",
                    f"Log event too large: {size} bytes exceeds limit of {MAX_EVENT_BYTES}",
                )
            if event["timestamp"] < previous:
                self._refuse(
                    "order",
                    "Log events in a single PutLogEvents request must be in chronological order.",
                )
            previous = event["timestamp"]
        if total > MAX_BATCH_BYTES:
            self._refuse(
                "batch-size",
                f"Upload too large: {total} bytes exceeds limit of {MAX_BATCH_BYTES}",
            )
        if events[-1]["timestamp"] - events[0]["timestamp"] > MAX_SPAN_MS:
            self._refuse(
                "span",
                "The batch of log events in a single PutLogEvents request cannot span more than "
                "24 hours.",
            )

    def _refuse(self, rule, text):
        self.store.violations.add("logs", "PutLogEvents", rule, text)
        raise ApiError("InvalidParameterException", text)

    def DescribeLogGroups(self, request):
        prefix = request.get("logGroupNamePrefix", "")
        found = [
            {
                "logGroupName": name,
                "creationTime": self.created[name],
                "metricFilterCount": 0,
                "arn": _group_arn(self.store.region, self.store.account, name) + ":*",
                "storedBytes": 0,
            }
            for name in sorted(self.groups)
            if name.startswith(prefix)
        ]
        return _page("logGroups", found, request, 50)

    def DescribeLogStreams(self, request):
        streams = list(self._group(request["logGroupName"]).values())
        prefix = request.get("logStreamNamePrefix", "")
        by_time = request.get("orderBy") == "LastEventTime"
        if by_time and prefix:
            text = "Cannot order by LastEventTime with a logStreamNamePrefix."
            raise ApiError("InvalidParameterException", text)
        streams = [stream for stream in streams if stream.name.startswith(prefix)]
        streams.sort(key=lambda s: s.name)
        if by_time:
            streams.sort(key=lambda s: s.events[-1][0] if s.events else 0)
        if request.get("descending"):
            streams.reverse()
        found = [stream.describe(self.store.region, self.store.account) for stream in streams]
        return _page("logStreams", found, request, 50)

    def GetLogEvents(self, request):
        """Tokens are f/<position> and b/<position>: the events after, or before, a position."""
        stream = self._stream(request)
        events = _between(stream.events, request)
        limit = request.get("limit", 10000)
        token = request.get("nextToken")
        forward = request.get("startFromHead", False)
        position = 0 if forward else len(events)
        if token is not None:
            match = re.fullmatch(r"([fb])/([0-9]+)", token)
            if not match:
                raise ApiError(
                    "InvalidParameterException", "The specified nextToken is invalid."
                )
            forward, position = match[1] == "f", min(int(match[2]), len(events))
        if forward:
            first, last = position, _fill(events, position, limit)
        else:
            first, last = _fill_back(events, position, limit), position
        return {
            "events": [
                {"timestamp": t, "message": m, "ingestionTime": i}
                for t, _, m, i in events[first:last]
            ],
            "nextForwardToken": f"f/{last}",
            "nextBackwardToken": f"b/{first}",
        }

    def FilterLogEvents(self, request):
        streams = self._group(request["logGroupName"])
        names = request.get("logStreamNames")
        prefix = request.get("logStreamNamePrefix", "")
        if names and prefix:
            text = "Either logStreamNames or logStreamNamePrefix, not both."
            raise ApiError("InvalidParameterException", text)
        for name in names or ():
            if name not in streams:
                text = "The specified log stream does not exist."
                raise ApiError("ResourceNotFoundException", text)
        keep = _pattern(request.get("filterPattern", ""))
        found = []
        for stream in streams.values():
            if stream.name.startswith(prefix) and (not names or stream.name in names):
                for t, number, message, ingested in _between(stream.events, request):
                    if keep(message):
                        found.append((t, stream.name, number, message, ingested))
        found.sort()
        items = [
            {
                "logStreamName": name,
                "timestamp": t,
                "message": message,
                "ingestionTime": ingested,
                "eventId": f"{t}-{name}-{number}",
            }
            for t, name, number, message, ingested in found
        ]
        answer = _page("events", items, request, 10000)
        answer["searchedLogStreams"] = []
        return answer

    def read(self, group, stream=None):
        """All events for the admin API: [(timestamp, stream, message)]; ApiError."""
        streams = self._group(group)
        if stream is not None:
            wanted = [self._stream({"logGroupName": group, "logStreamName": stream})]
        else:
            wanted = streams.values()
        return sorted(
            ((t, s.name, n, m) for s in wanted for t, n, m, _ in s.events), key=lambda e: e[:3]
        )


def _now_ms():
    return int(time.time() * 1000)


def _group_arn(region, account, name):
    return f"arn:aws:logs:{region}:{account}:log-group:{name}"


def _constraint(operation, problem):
    member = problem.path.removeprefix(operation + ".")
    value = str(problem.value)[:100]
    if problem.kind == "missing":
        return f"Value null at '{member}' failed to satisfy constraint: Member must not be null"
    text = {
        "pattern": "satisfy regular expression pattern: ",
        "length": "have length ",
        "enum": "satisfy enum value set: ",
        "range": "have value ",
    }[problem.kind]
    constraint = f"Member must {text}{problem.limit}"
    return f"Value '{value}' at '{member}' failed to satisfy constraint: {constraint}"


def _between(events, request):
    start, end = request.get("startTime"), request.get("endTime")
    first = 0 if start is None else bisect.bisect_left(events, (start,))
    last = len(events) if end is None else bisect.bisect_left(events, (end,))
    return events[first:last]


def _fill(events, position, limit):
    """The end of the longest run from position within the limits of one answer."""
    size = 0
    end = position
    while end < len(events) and end - position < limit:
        size += len(events[end][2].encode()) + EVENT_OVERHEAD
        if size > MAX_ANSWER_BYTES and end > position:
            break
        end += 1
    return end


def _fill_back(events, position, limit):
    size = 0
    start = position
    while start > 0 and position - start < limit:
        size += len(events[start - 1][2].encode()) + EVENT_OVERHEAD
        if size > MAX_ANSWER_BYTES and start < position:
            break
        start -= 1
    return start


def _pattern(text):
    """Plain terms, all of which must occur, "quoted phrases", -excluded and ?any terms."""
    if text.strip()[:1] in ("{", "[", "%"):
        raise ApiError("InvalidParameterException", "The stand-in filters by plain terms only.")
    terms = re.findall(r'([-?]?)(?:"([^"]*)"|(\S+))', text)
    wanted = [quoted or word for sign, quoted, word in terms if sign == ""]
    without = [quoted or word for sign, quoted, word in terms if sign == "-"]
    either = [quoted or word for sign, quoted, word in terms if sign == "?"]

    def keep(message):
        if any(term in message for term in without):
            return False
        if either and not any(term in message for term in either):
            return False
        return all(term in message for term in wanted)

    return keep


def _page(name, items, request, default):
    limit = request.get("limit", default)
    token = request.get("nextToken", "0")
    if not token.isdigit():
        raise ApiError("InvalidParameterException", "The specified nextToken is invalid.")
    start = int(token)
    answer = {name: items[start : start + limit]}
    if start + limit < len(items):
        answer["nextToken"] = str(start + limit)
    return answer

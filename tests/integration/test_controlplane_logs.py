"""The stand-in's CloudWatch Logs: the limits and errors of the real service."""

import gzip
import json
import os
import pathlib
import subprocess
import sys
import time

import boto3
import botocore.config
import botocore.exceptions
import pytest

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))

from controlplane.client import StandIn  # noqa: E402
from controlplane.scripted_agent import json_headers, send, sign  # noqa: E402

HOUR = 3600 * 1000
DAY = 24 * HOUR
NOT_FOUND = "ResourceNotFoundException"
INVALID = "InvalidParameterException"


@pytest.fixture(scope="module")
def standin(tmp_path_factory):
    with StandIn.start(tmp_path_factory.mktemp("logs")) as standin:
        yield standin


@pytest.fixture
def logs(standin):
    """A client with an empty stream s in an empty group g."""
    client = boto3.session.Session().client(
        "logs",
        region_name=standin.region,
        endpoint_url=standin.endpoint,
        verify=standin.ca,
        aws_access_key_id=standin.facts["accessKeyId"],
        aws_secret_access_key=standin.facts["secretAccessKey"],
        config=botocore.config.Config(
            retries={"total_max_attempts": 1}, parameter_validation=False
        ),
    )
    standin.clear_violations()
    client.create_log_group(logGroupName="g")
    client.create_log_stream(logGroupName="g", logStreamName="s")
    yield client
    client.delete_log_group(logGroupName="g")


def put(logs, events, stream="s"):
    return logs.put_log_events(logGroupName="g", logStreamName=stream, logEvents=events)


def events_at(*times, message="m"):
    return [{"timestamp": t, "message": message} for t in times]


def now():
    return int(time.time() * 1000)


def error_of(call, *arguments, **named):
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        call(*arguments, **named)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def rules(standin):
    return [violation["rule"] for violation in standin.violations()]


def test_events_come_back_as_they_were_put(standin, logs):
    start = now()
    batch = [{"timestamp": start + i, "message": f"line {i} \u00e9"} for i in range(3)]
    answer = put(logs, batch)
    assert "rejectedLogEventsInfo" not in answer
    found = logs.get_log_events(logGroupName="g", logStreamName="s")["events"]
    assert [{k: e[k] for k in ("timestamp", "message")} for e in found] == batch
    assert standin.logs("g", "s") == [event["message"] for event in batch]
    writers = standin.state()["logGroups"]["g"]["s"]["writers"]
    assert writers == ["arn:aws:iam::111122223333:user/standin"]
    standin.assert_no_violations()


def test_late_batches_are_put_in_order_of_time(standin, logs):
    start = now()
    put(logs, events_at(start, start + 2))
    put(logs, events_at(start + 1, message="late"))
    assert standin.logs("g", "s") == ["m", "late", "m"]


def test_existing_and_missing_groups_and_streams(standin, logs):
    exists = "ResourceAlreadyExistsException"
    assert error_of(logs.create_log_group, logGroupName="g")[0] == exists
    arguments = {"logGroupName": "g", "logStreamName": "s"}
    assert error_of(logs.create_log_stream, **arguments)[0] == exists
    arguments["logGroupName"] = "none"
    missing = (NOT_FOUND, "The specified log group does not exist.")
    assert error_of(logs.create_log_stream, **arguments) == missing
    assert error_of(logs.get_log_events, **arguments) == missing
    missing = (NOT_FOUND, "The specified log stream does not exist.")
    assert error_of(put, logs, events_at(now()), stream="none") == missing
    standin.assert_no_violations()


LINE = "x" * (262144 - 26)
FOUR_BYTES = "\U0001f600" * ((262144 - 26) // 4)


@pytest.mark.parametrize(
    "make, rule, text",
    [
        (lambda t: [], "shape-length", "length"),
        (lambda t: events_at(t) * 10001, "shape-length", "must have length less than or equal to 10000"),
        (lambda t: events_at(t, message=""), "shape-length", "length"),
        (lambda t: events_at(t, t - 1), "order", "must be in chronological order"),
        (lambda t: events_at(t - DAY - 1, t), "span", "cannot span more than 24 hours"),
        (
            lambda t: events_at(t, message=LINE + "x"),
            "event-size",
            "Log event too large: 262145 bytes exceeds limit of 262144",
        ),
        (
            lambda t: events_at(t, message=FOUR_BYTES + "\U0001f600"),
            "event-size",
            "Log event too large",
        ),
        (
            lambda t: events_at(*[t] * 4, message=LINE) + events_at(t, message="y"),
            "batch-size",
            "Upload too large: 1048603 bytes exceeds limit of 1048576",
        ),
        (lambda t: [{"timestamp": "now", "message": "m"}], "shape-type", "timestamp"),
        (lambda t: [{"timestamp": -1, "message": "m"}], "shape-range", "timestamp"),
        (lambda t: [{"message": "m"}], "shape-missing", "Member must not be null"),
    ],
)
def test_a_batch_beyond_a_limit_is_refused_and_recorded(standin, logs, make, rule, text):
    code, message = error_of(put, logs, make(now()))
    assert code == ("SerializationException" if rule == "shape-type" else INVALID)
    assert text in message
    assert set(rules(standin)) == {rule}
    assert standin.logs("g", "s") == []


@pytest.mark.parametrize(
    "make",
    [
        lambda t: events_at(*[t] * 10000),
        lambda t: events_at(t - DAY, t),
        lambda t: events_at(*[t] * 4, message=LINE),
        lambda t: events_at(t, message=FOUR_BYTES),
    ],
)
def test_a_batch_at_a_limit_is_taken(standin, logs, make):
    batch = make(now())
    put(logs, batch)
    assert len(standin.logs("g", "s")) == len(batch)
    standin.assert_no_violations()


def test_events_too_old_or_too_new_are_rejected_one_by_one(standin, logs):
    t = now()
    answer = put(logs, events_at(t - 14 * DAY - HOUR, t - 14 * DAY + HOUR))
    assert answer["rejectedLogEventsInfo"] == {"tooOldLogEventEndIndex": 1}
    answer = put(logs, events_at(t, t + HOUR, t + 3 * HOUR, t + 4 * HOUR))
    assert answer["rejectedLogEventsInfo"] == {"tooNewLogEventStartIndex": 2}
    assert len(standin.logs("g", "s")) == 3
    standin.assert_no_violations()


@pytest.mark.parametrize("name", ["", "a b", "a:b", "n" * 513])
def test_a_group_name_outside_the_pattern_is_refused(standin, logs, name):
    code, message = error_of(logs.create_log_group, logGroupName=name)
    assert code == INVALID
    assert "'logGroupName' failed to satisfy constraint: Member must" in message
    assert standin.violations()


def test_a_stream_name_may_not_have_a_colon(standin, logs):
    code, _ = error_of(logs.create_log_stream, logGroupName="g", logStreamName="a:b")
    assert (code, rules(standin)) == (INVALID, ["shape-pattern"])


def test_an_unknown_member_is_a_violation(standin, logs):
    body = b'{"logGroupName": "g", "logStreamNme": "s"}'
    headers = json_headers("Logs_20140328.CreateLogStream")
    signed = sign(standin, "POST", standin.endpoint + "/", body, "logs", headers)
    assert send(standin, signed, body)[0] == 400
    assert set(rules(standin)) == {"shape-unknown", "shape-missing"}


def test_a_compressed_body_is_verified_as_sent_and_read(standin, logs):
    document = {"logGroupName": "g", "logStreamName": "s", "logEvents": events_at(now())}
    body = gzip.compress(json.dumps(document).encode())
    headers = json_headers("Logs_20140328.PutLogEvents")
    headers.update({"Content-Encoding": "gzip", "x-amzn-logs-format": "json/emf"})
    signed = sign(standin, "POST", standin.endpoint + "/", body, "logs", headers)
    assert send(standin, signed, body)[0] == 200
    assert standin.logs("g", "s") == ["m"]
    assert standin.state()["logGroups"]["g"]["s"]["formats"] == ["json/emf"]
    standin.assert_no_violations()


def test_throttling_is_an_error_and_no_violation(standin, logs):
    standin.fault("logs", "throttle", "PutLogEvents", count=1)
    assert error_of(put, logs, events_at(now())) == ("ThrottlingException", "Rate exceeded")
    put(logs, events_at(now()))
    assert standin.logs("g", "s") == ["m"]
    standin.assert_no_violations()


def test_reading_pages_forward_and_backward(standin, logs):
    t = now()
    put(logs, [{"timestamp": t + i, "message": str(i)} for i in range(10)])
    named = {"logGroupName": "g", "logStreamName": "s", "limit": 4}
    pages, token = [], None
    while True:
        more = {"nextToken": token} if token else {}
        answer = logs.get_log_events(**named, startFromHead=True, **more)
        if answer["nextForwardToken"] == token:  # how the real service says: no more
            break
        pages.append([event["message"] for event in answer["events"]])
        token = answer["nextForwardToken"]
    assert [page for page in pages if page] == [list("0123"), list("4567"), list("89")]
    last = logs.get_log_events(**named)
    assert [event["message"] for event in last["events"]] == list("6789")
    before = logs.get_log_events(**named, nextToken=last["nextBackwardToken"])
    assert [event["message"] for event in before["events"]] == list("2345")
    some = logs.get_log_events(**named, startTime=t + 3, endTime=t + 5)["events"]
    assert [event["message"] for event in some] == ["3", "4"]
    assert error_of(logs.get_log_events, **named, nextToken="x")[0] == INVALID


def test_filtering_and_describing(standin, logs):
    t = now()
    logs.create_log_stream(logGroupName="g", logStreamName="other")
    put(logs, [{"timestamp": t, "message": "an error here"}])
    put(logs, [{"timestamp": t + 1, "message": "all well"}], stream="other")
    pages = logs.get_paginator("filter_log_events")

    def found(**more):
        pages_found = pages.paginate(logGroupName="g", PaginationConfig={"PageSize": 1}, **more)
        return [event["message"] for page in pages_found for event in page["events"]]

    assert found() == ["an error here", "all well"]
    assert found(filterPattern="error") == ["an error here"]
    assert found(filterPattern='"all well"') == ["all well"]
    assert found(filterPattern="-error") == ["all well"]
    assert found(logStreamNames=["other"]) == ["all well"]
    assert error_of(logs.filter_log_events, logGroupName="g", filterPattern="{$.a}")[0] == INVALID
    streams = logs.describe_log_streams(logGroupName="g", orderBy="LastEventTime", descending=True)
    assert [s["logStreamName"] for s in streams["logStreams"]] == ["other", "s"]
    assert streams["logStreams"][0]["firstEventTimestamp"] == t + 1
    assert [g["logGroupName"] for g in logs.describe_log_groups()["logGroups"]] == ["g"]


def test_the_aws_command_tails_a_group(standin, logs):
    put(logs, events_at(now(), message="seen by tail"))
    command = ["/usr/bin/aws", "--endpoint-url", standin.endpoint, "logs", "tail", "g"]
    environment = {**os.environ, **standin.environment()}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert "seen by tail" in result.stdout, result.stderr


def test_a_hundred_thousand_events_are_all_kept(standin, logs):
    t = now()
    expected = [f"event {i}" for i in range(100_000)]
    for first in range(0, len(expected), 10_000):
        batch = expected[first : first + 10_000]
        put(logs, [{"timestamp": t + first // 10_000, "message": m} for m in batch])
    assert standin.logs("g", "s") == expected
    standin.assert_no_violations()

"""Our signer against botocore's, over requests made at random from a fixed seed."""

import json
import random
import subprocess
import time
from urllib.parse import quote

import botocore.auth
import botocore.awsrequest
import botocore.credentials
from builddir import program

CASES = 600
TEXT = "abcXYZ019-_.~ :/?#[]@!$&'()*+,;=%\"<>|éπ😀"


def _text(rng, n):
    return "".join(rng.choice(TEXT) for _ in range(rng.randrange(n)))


def _path(rng, service):
    parts = [quote(_text(rng, 6), safe="-_.~") for _ in range(rng.randrange(5))]
    if service != "s3":
        parts = [rng.choice([part, part, part, "", ".", ".."]) for part in parts]
    return "/" + "/".join(parts)


def _query(rng):
    pairs = []
    for _ in range(rng.randrange(6)):
        name = quote(_text(rng, 6) or "a", safe="-_.~")
        pairs.append(rng.choice([name, name + "=" + quote(_text(rng, 12), safe="-_.~")]))
    return "?" + "&".join(pairs) if pairs else rng.choice(["", "?"])


def _request(rng):
    service = rng.choice(["ecs", "logs", "ecr", "s3", "secretsmanager"])
    host = rng.choice(["ecs.us-west-2.amazonaws.com", "127.0.0.1:4566", "H.example:443", "[::1]:8"])
    names = rng.sample(
        ["Content-Type", "X-Amz-Target", "x-amzn-logs-format", "Date-Of-Use", "User-Agent", "x-amz-meta"],
        rng.randrange(4),
    )
    return {
        "method": rng.choice(["GET", "POST", "PUT", "HEAD"]),
        "url": f"https://{host}{_path(rng, service)}{_query(rng)}",
        "headers": [[n, rng.choice(["a", " two  blanks\t in ", "x;y=z, w"])] for n in names],
        "body": _text(rng, 80),
        "region": rng.choice(["us-west-2", "cn-north-1"]),
        "service": service,
        "accessKeyId": "AKID" + str(rng.randrange(10**8)),
        "secretAccessKey": _text(rng, 60).encode("ascii", "ignore").decode() + "k",
        "token": rng.choice(["", "FwoG" + "x" * rng.randrange(900)]),
        "time": rng.randrange(2**32 - 1),
    }


def _botocore_headers(case):
    credentials = botocore.credentials.Credentials(
        case["accessKeyId"], case["secretAccessKey"], case["token"] or None
    )
    signer = botocore.auth.S3SigV4Auth if case["service"] == "s3" else botocore.auth.SigV4Auth
    request = botocore.awsrequest.AWSRequest(
        method=case["method"], url=case["url"], data=case["body"].encode()
    )
    for name, value in case["headers"]:
        request.headers[name] = value
    signer = signer(credentials, case["service"], case["region"])
    # What its add_auth() does, at the time of the case.
    request.context["timestamp"] = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(case["time"]))
    signer._modify_request_before_signing(request)
    canonical = signer.canonical_request(request)
    signature = signer.signature(signer.string_to_sign(request, canonical), request)
    signer._inject_signature_to_request(request, signature)
    return request.headers


def test_every_signature_is_botocores():
    signer = program("tests/unit/test_sigv4")
    rng = random.Random(20141113)
    cases = [_request(rng) for _ in range(CASES)]
    lines = "".join(json.dumps(case) + "\n" for case in cases)
    result = subprocess.run(
        [signer, "--lines"], input=lines, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(answers) == CASES

    for case, answer in zip(cases, answers):
        want = _botocore_headers(case)
        assert answer["authorization"] == want["Authorization"], case
        assert answer["date"] == want["X-Amz-Date"]
        assert answer.get("token") == want["X-Amz-Security-Token"]
        if case["service"] == "s3":
            assert answer["bodySha256"] == want["X-Amz-Content-SHA256"]

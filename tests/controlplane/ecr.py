"""ECR: GetAuthorizationToken. The registry itself is somebody else."""

import base64
import time

from .errors import ApiError
from .shape import Model

LIFETIME = 12 * 3600


class Ecr:
    TARGET = "AmazonEC2ContainerRegistry_V20150921"
    SERVICE = "ecr"

    def __init__(self, store):
        self.store = store
        self.model = Model.botocore("ecr")
        self.tokens = []  # who asked for which registries

    def call(self, operation, request, caller):
        if operation != "GetAuthorizationToken":
            raise ApiError("UnknownOperationException", f"The stand-in has no {operation}")
        problems = self.model.check("GetAuthorizationTokenRequest", request, operation)
        for problem in problems:
            self.store.violations.add("ecr", operation, "shape-" + problem.kind, str(problem))
        if problems:
            raise ApiError("InvalidParameterException", str(problems[0]))
        registries = request.get("registryIds") or [self.store.account]
        self.tokens.append({"caller": caller.key.arn, "registryIds": registries})
        password = self.store.options.ecr_password
        token = base64.b64encode(f"AWS:{password}".encode()).decode()
        return {
            "authorizationData": [
                {
                    "authorizationToken": token,
                    "expiresAt": int(time.time()) + LIFETIME,
                    "proxyEndpoint": self.store.options.ecr_proxy_endpoint
                    or f"https://{registry}.dkr.ecr.{self.store.region}.amazonaws.com",
                }
                for registry in registries
            ]
        }

    def check_answer(self, operation, answer):
        return self.model.check("GetAuthorizationTokenResponse", answer)

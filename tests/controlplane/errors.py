"""Errors of the services, as their handlers raise them."""


class ApiError(Exception):
    """An error answer: code is the exception name of the service's model."""

    def __init__(self, code, message, status=400):
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


class AdminError(Exception):
    """A request of a test or a person that cannot be done; the text says why."""

    def __init__(self, message, status=400):
        super().__init__(message)
        self.message = message
        self.status = status

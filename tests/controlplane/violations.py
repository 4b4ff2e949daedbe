"""The list of things a client did that the services' models and rules do not allow."""

import time


class Violations:
    """Grows up to a ceiling, after which violations are only counted."""

    LIMIT = 10000

    def __init__(self):
        self.items = []
        self.total = 0

    def add(self, service, operation, rule, text, **context):
        """rule is a short stable word a test can match; text is for people."""
        self.total += 1
        if len(self.items) >= self.LIMIT:
            return
        item = {
            "ms": int(time.time() * 1000),
            "service": service,
            "operation": operation,
            "rule": rule,
            "text": text,
        }
        item.update(context)
        self.items.append(item)

    def clear(self):
        self.items = []
        self.total = 0

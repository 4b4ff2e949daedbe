"""Task definitions for tests, in the form of RegisterTaskDefinition."""

ROLE = "arn:aws:iam::111122223333:role/app"
EXECUTION_ROLE = "arn:aws:iam::111122223333:role/ecsTaskExecutionRole"


def container(image, command=None, name="app", logs="g", **more):
    """One container that writes to CloudWatch Logs (logs: the group; None: no log driver)."""
    definition = {"name": name, "image": image, "memory": 64, "essential": True}
    if command is not None:
        definition["command"] = ["/bin/sh", "-c", command] if isinstance(command, str) else command
    if logs:
        definition["logConfiguration"] = {
            "logDriver": "awslogs",
            "options": {
                "awslogs-group": logs,
                "awslogs-region": "us-west-2",
                "awslogs-stream-prefix": "t",
                "awslogs-create-group": "true",
                "awslogs-force-flush-interval-seconds": "1",
            },
        }
    definition.update(more)
    return definition


def task(*containers, family="test", network_mode="bridge", **more):
    definition = {
        "family": family,
        "networkMode": network_mode,
        "taskRoleArn": ROLE,
        "executionRoleArn": EXECUTION_ROLE,
        "containerDefinitions": list(containers),
    }
    definition.update(more)
    return definition

"""A stand-in for the AWS services an ECS node talks to, which checks what the node sends.

One process plays the ECS API, ACS and TCS, CloudWatch Logs, ECR's token call, STS
GetCallerIdentity and the instance metadata service. It answers as the services do, and it
keeps a list of violations: everything it received that the services' models or rules do not
allow. It is not AWS: nothing is stored on disk but the certificates, and there is no
scheduler, only one task after the other placed on the registered instances.
"""

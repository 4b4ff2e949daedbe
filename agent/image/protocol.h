/*
 * ecs-agent and ecs-image: one pull per process, started by the launcher ("image") as root; it
 * splits at once into a network half (user ecs-image, no capabilities) and an unpack half
 * (chrooted, no network, file capabilities only). The connection is descriptor 3; closing it
 * cancels the pull, and nothing of it but finished layers is left.
 *
 *  {"type":"pull","seq":n,"reference":"registry:5000/team/app:1"|"...@sha256:...",
 *   "byOperator":true                                 optional: said of the image in the list
 *   "auth":{"username":"u","password":"p"}            optional
 *         |{"ecr":{"region":"us-west-2","registryId":"1111...","endpoint":"https://..." optional,
 *                  "credentialsId":"<execution role id>"|"instance"}},
 *   "manifestTimeoutUsec":n,"inactivityTimeoutUsec":n,"timeoutUsec":n}
 *      -> {"type":"resolved","digest":"sha256:..."}   the manifest (or index) that the tag names
 *      -> {"type":"progress","bytes":n}               now and then
 *      -> {"type":"pulled","digest":"sha256:...",     what ECS reports as imageDigest
 *          "imageId":"sha256:...",                    digest of the image configuration
 *          "layers":["<64 hex>",...],                 diffIDs, lowest first, each once
 *          "config":{...}}                            the "config" object of the image
 * configuration (Env, Entrypoint, Cmd, User, WorkingDir, ...) or an error named
 * CannotPullContainerError, CannotPullImageManifestError or CannotPullECRContainerError, with code
 * ENOENT (not found), EACCES (not allowed), ETIMEDOUT, EBADMSG (digest or content wrong), ENOSPC,
 * ...
 *
 *  {"type":"inspect","seq":n,"reference":"..."}  -> "pulled" as above from the local store, or an
 *      error with code ENOENT.
 *
 *  {"type":"list","seq":n} -> {"type":"images","images":[{"reference","digest","imageId","layers",
 *      "pulledAt","byOperator"},...]}
 *      reference in its normal form: "docker.io/library/nginx:latest"; pulledAt is
 *      "2026-01-31T23:59:59Z", the end of the last pull; byOperator only if it is true
 *
 *  {"type":"remove","seq":n,"reference":"..."} -> {"type":"removed","layersRemoved":n}, or an error
 *      with code ENOENT. Layers go when no image has them, no pull is running and nobody holds
 *      flock(2) LOCK_SH on <state>/images/layers/<hex>, as who has it mounted must; else a later
 *      remove or sweep takes them.
 *
 *  {"type":"sweep","seq":n} -> {"type":"swept","layersRemoved":n}: removes the layers that may go,
 *      also those of pulls that were broken off; or an error with code EAGAIN while a pull runs.
 *
 * Registries on loopback addresses and "localhost" may be spoken to over plain HTTP, as Docker
 * does; any other is HTTPS. Certificates: the system's CA
 * store, AWS_CA_BUNDLE or SSL_CERT_FILE, and /etc/docker/certs.d/<host>/ca.crt.
 */
#pragma once

"""Images for tests: OCI layouts made by hand from busybox, pushed with skopeo."""

import gzip
import hashlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import tarfile

BUSYBOX = os.environ.get("ECS_BUSYBOX", "/bin/busybox")
APPLETS = (
    "sh ls cat echo sleep true false env id ps mount mkdir rm grep sed awk wc head tail seq date "
    "httpd wget nc ip route ifconfig hostname uname stat touch chmod chown su kill dd od yes "
    "usleep expr test cut sort tr find mknod ln cp mv printf timeout nohup netstat udhcpc"
).split()


def _add(tar, name, data=b"", mode=0o644, kind=tarfile.REGTYPE, **more):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = mode
    info.type = kind
    for key, value in more.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data))


def busybox_layer(files=None):
    """A tar of a small root file system; files: {path: (bytes, mode)} on top."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for directory in ("bin", "etc", "tmp", "home", "home/app", "var", "var/www", "root"):
            mode = 0o1777 if directory == "tmp" else 0o755
            _add(tar, directory, mode=mode, kind=tarfile.DIRTYPE)
        with open(BUSYBOX, "rb") as busybox:
            _add(tar, "bin/busybox", busybox.read(), 0o755)
        for applet in APPLETS:
            _add(tar, f"bin/{applet}", kind=tarfile.SYMTYPE, linkname="busybox", mode=0o777)
        _add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n")
        _add(tar, "etc/group", b"root:x:0:\napp:x:1000:\nextra:x:2000:app\n")
        _add(tar, "etc/not-executable", b"data\n")
        for path, (data, mode) in (files or {}).items():
            _add(tar, path, data, mode)
    return out.getvalue()


def write_layout(directory, layers, config=None):
    """An OCI layout of one image in directory; layers are plain tars. Returns its manifest digest."""
    directory = pathlib.Path(directory)
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def blob(data):
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": "sha256:" + digest, "size": len(data)}

    diff_ids = ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]
    descriptors = []
    for layer in layers:
        descriptor = blob(gzip.compress(layer, 1, mtime=0))
        descriptor["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip"
        descriptors.append(descriptor)
    image = {
        "architecture": _architecture(),
        "os": "linux",
        "config": config or {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin:/usr/bin"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    config_descriptor = blob(json.dumps(image).encode())
    config_descriptor["mediaType"] = "application/vnd.oci.image.config.v1+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config_descriptor,
        "layers": descriptors,
    }
    manifest_descriptor = blob(json.dumps(manifest).encode())
    manifest_descriptor["mediaType"] = manifest["mediaType"]
    manifest_descriptor["annotations"] = {"org.opencontainers.image.ref.name": "image"}
    index = {"schemaVersion": 2, "manifests": [manifest_descriptor]}
    (directory / "index.json").write_text(json.dumps(index))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return manifest_descriptor["digest"]


def _architecture():
    return {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]


def push(directory, reference):
    """Push the image of a layout to a registry on loopback (plain HTTP)."""
    subprocess.run(
        ["skopeo", "copy", "--quiet", "--dest-tls-verify=false",
         f"oci:{directory}:image", f"docker://{reference}"],
        check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def push_busybox(work, reference, files=None, config=None):
    """Make, push and forget a busybox image; returns its manifest digest."""
    layout = pathlib.Path(work) / "layout"
    shutil.rmtree(layout, ignore_errors=True)
    digest = write_layout(layout, [busybox_layer(files)], config)
    push(layout, reference)
    shutil.rmtree(layout)
    return digest

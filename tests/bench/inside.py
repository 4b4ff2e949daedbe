"""Inside a guest: our starts and crun's, one of each in turn. Writes JSON for bench.guest."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from bench.driver import Driver
from bench.measure import summary
from bench.peers import Oci
from harness import images, netns

SRV = pathlib.Path("/srv")


def main(rounds):
    netns.enter_new()
    os.environ["PATH"] = f"{SRV}/crun:" + os.environ["PATH"]
    os.environ["LD_LIBRARY_PATH"] = f"{SRV}/crun"
    files = {"stamp": ((SRV / "stamp").read_bytes(), 0o755)}
    config = json.loads((SRV / "config.json").read_text())
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        work = pathlib.Path(name)
        work.chmod(0o755)
        out, rootfs = work / "out", work / "rootfs"
        out.mkdir()
        rootfs.mkdir()
        subprocess.run(["tar", "-x", "-C", rootfs], input=images.busybox_layer(files), check=True)
        crun = Oci("crun", work, rootfs, out, config)
        with Driver(work, out, files) as driver:
            measured = {"guest_start_s": driver.start, "crun_run_s": crun.start_to_process}
            for measure in measured.values():
                measure()
            times = {kind: [] for kind in measured}
            for _ in range(rounds):
                for kind, measure in measured.items():
                    times[kind].append(measure())
    print(json.dumps({kind: summary(values) for kind, values in times.items()}))


if __name__ == "__main__":
    main(int(sys.argv[1]))

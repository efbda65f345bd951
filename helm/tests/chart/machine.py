"""Containers of the chart's pods as processes on this machine: the real binary with the arguments, variables and mounts that
the chart gives it, as its user, in a network of its own, with a root that cannot be written to.

The root has the binary and the libraries that it is linked to, like the image, and nothing else.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

# Libraries that the image's base brings.
OF_THE_BASE = {
    "libc.so.6",
    "libm.so.6",
    "libgcc_s.so.1",
    "ld-linux-x86-64.so.2",
    "ld-linux-aarch64.so.1",
    "linux-vdso.so.1",
}

# Takes loopback up, says so, and stays.
HOLD = """
import fcntl, signal, socket, struct
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up, running
print("up", flush=True)
signal.pause()
"""


class Machine:
    """A network with loopback alone, whose processes end with it."""

    def __init__(self, binary):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="shoal-pods-"))
        self.binary, self.running = pathlib.Path(binary), []
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, "-c", HOLD],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert self.holder.stdout.readline() == b"up\n", "there is no network of its own"
        self.inside = ["nsenter", f"--target={self.holder.pid}", "--net", "--mount"]

    def run(self, *command, check=True, **kwargs):
        """Runs something of this machine's in the network."""
        done = subprocess.run([*self.inside, *map(str, command)], capture_output=True, text=True, check=False, **kwargs)
        if check and done.returncode != 0:
            raise AssertionError(f"{command} ended with {done.returncode}: {done.stderr}{done.stdout}")
        return done

    def libraries(self):
        said = subprocess.run(["ldd", self.binary], capture_output=True, text=True, check=True).stdout
        return re.findall(r"(/\S+)", said), {
            pathlib.PurePath(name).name for name in re.findall(r"^\s*(\S+)", said, re.M)
        }

    def start(self, container, volumes, user, hosts):
        """Starts a container: `volumes` has a folder of this machine for each of its mounts."""
        root = self.folder / f"{container['name']}-{len(self.running)}"
        root.mkdir()
        script = ["set -e", f"mount -t tmpfs root {root}", f"cd {root}"]
        for library in self.libraries()[0]:
            script.append(f"mkdir -p .{os.path.dirname(library)} && cp {library} .{library}")
        script += ["mkdir -p usr/local/bin etc dev proc", f"cp {self.binary} usr/local/bin/shoal"]
        script += [
            "touch dev/null dev/urandom && mount --bind /dev/null dev/null && mount --bind /dev/urandom dev/urandom"
        ]
        script += ["mount -t proc proc proc", f"printf '127.0.0.1 localhost {' '.join(hosts)}\\n' > etc/hosts"]
        for mount in container["volumeMounts"]:
            at = f".{mount['mountPath']}"
            script.append(f"mkdir -p {at} && mount --bind {volumes[mount['name']]} {at}")
            if mount.get("readOnly"):
                script.append(f"mount -o remount,ro,bind {at}")
        assert container["securityContext"]["readOnlyRootFilesystem"]
        script.append(f"mount -o remount,ro {root}")
        script.append(f'exec chroot --userspec={user}:{user} {root} /usr/local/bin/shoal "$@"')
        env = {"PATH": os.environ["PATH"]}
        for variable in container["env"]:
            source = variable.get("valueFrom", {})
            if "fieldRef" in source:
                assert source["fieldRef"] == {"fieldPath": "metadata.name"}, source
                env[variable["name"]] = root.name
            else:
                env[variable["name"]] = variable["value"]
        log = open(self.folder / f"{root.name}.log", "w+")  # noqa: SIM115: the process has it
        process = subprocess.Popen(
            [*self.inside, "unshare", "--mount", "sh", "-c", "\n".join(script), "sh", *map(str, container["args"])],
            env=env,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
        started = Running(process, pathlib.Path(log.name))
        log.close()
        self.running.append(started)
        return started

    def stop(self):
        for running in self.running:
            if running.process.poll() is None:
                running.process.kill()
                running.process.wait()
        self.holder.kill()
        self.holder.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)


class Running:
    """A container that was started."""

    def __init__(self, process, log):
        self.process, self.log = process, log

    def said(self):
        return self.log.read_text()

    def terminate(self, seconds):
        """As a kubelet ends it; answers with what code, and after how long."""
        began = time.monotonic()
        self.process.terminate()
        code = self.process.wait(seconds)
        return code, time.monotonic() - began


def wait(what, done, seconds, *running):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for one in running:
            assert one.process.poll() is None, f"it ended with {one.process.poll()}: {one.said()}"
        if found := done():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}\n" + "\n".join(one.said() for one in running))

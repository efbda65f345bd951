"""What a run has to say of the machine for its numbers to mean something elsewhere."""

import importlib.metadata
import os
import pathlib
import platform
import time


def header(threads, packages):
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    usable = len(os.sched_getaffinity(0))
    return "\n".join(
        (
            f"{processor()}, {usable} processors usable, {threads} threads each; load {load()} before the run.",
            f"Python {platform.python_version()}, {versions}.",
        )
    )


def load():
    """Over one and five minutes: above 0 before a run, somebody else has part of the machine."""
    return " and ".join(f"{average:.1f}" for average in os.getloadavg()[:2])


def processor():
    """As the kernel names it; virtual machines hide the model, and family and number tell it."""
    facts = {}
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    return f"{facts.get('model name', 'unknown processor')} (family {facts.get('cpu family')}, model {facts.get('model')})"


class Others:
    """What everybody but the run takes of the machine, from now on."""

    def __init__(self, pids):
        self.pids = pids
        self.began = self._now()

    def share(self):
        """Of all its processors' time: 0 on a machine of one's own, whose numbers alone are worth keeping."""
        wall, busy, own = (now - began for now, began in zip(self._now(), self.began))
        return min(1.0, max(0.0, busy - own) / (wall * os.cpu_count()))

    def _now(self):
        tick = os.sysconf("SC_CLK_TCK")
        return time.monotonic(), busy_ticks() / tick, sum(map(ticks_of, self.pids)) / tick


def busy_ticks():
    """All but idle and waiting for disks; time stolen by the hypervisor's other guests counts."""
    fields = [int(field) for field in pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4]


def ticks_of(pid):
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:  # It has ended.
        return 0
    return int(fields[11]) + int(fields[12])

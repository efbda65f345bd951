"""What a run has to say of the machine for its numbers to mean something elsewhere."""

import importlib.metadata
import os
import pathlib
import platform


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

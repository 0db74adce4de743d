"""What all files of bench/ share."""

import fnmatch
import os
import shutil
import subprocess

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Failure(Exception):
    """A peer that did not run to its end; the text says which and why."""


class Unavailable(Exception):
    """A mode that this build or this host has not got."""


def require_tool(name, package):
    path = shutil.which(name)
    if not path:
        raise Failure(f"{name} is missing: apt-get install {package}")
    return path


def selected(name, group, patterns):
    return any(fnmatch.fnmatch(name, p) or fnmatch.fnmatch(group, p) for p in patterns.split(","))


def time_text(ns):
    for limit, divisor, unit in ((1e3, 1, "ns"), (1e6, 1e3, "us"), (1e9, 1e6, "ms")):
        if ns < limit:
            return f"{ns / divisor:.3g} {unit}" if ns / divisor < 999.5 else f"{ns / divisor:.0f} {unit}"
    return f"{ns / 1e9:.3g} s"


def stop(process):
    """For a peer that did not end by itself."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

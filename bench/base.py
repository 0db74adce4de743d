"""What all files of bench/ share."""

import os
import shutil

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

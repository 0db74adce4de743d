"""Makes the Debian root file system of the group `programs`: packages unpacked without being installed, put on an ext4 image.

Libraries are found as the dynamic linker will want them: whatever a program needs and is not there yet is looked for in the
direct dependencies of the package the program came from. So stress-ng gets libEGL, but not the drivers behind it.
"""

import fcntl
import functools
import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

from base import TOP, Failure, require_tool

SOURCES = os.path.join(TOP, "bench", "programs")
# (package, dependencies that are taken whole, members wanted: tar's patterns)
PACKAGES = [
    ("libc6", None, []),
    ("7zip", None, []),
    ("stress-ng", None, []),
    ("libssl3", None, []),
    ("cpp", r"cpp-[0-9]", []),
    ("python3-minimal", r"python3\.[0-9]+-minimal$|libpython3\.[0-9]+-minimal$", []),
    ("libpython3-stdlib", r"libpython3\.[0-9]+-stdlib$", []),
    ("libstb-dev", None, []),
    ("libc6-dev", r"linux-libc-dev$", []),
]
# Compiled against, not needed in the guest.
HEADERS = "libssl-dev"
LEFT_OUT = ("usr/share/doc/", "usr/share/man/", "usr/share/locale/", "usr/share/lintian/", "usr/share/bash-completion/",
            "usr/share/7zip/", "usr/lib/debug/", ".package", ".patterns")
DATA_BYTES = 8 << 20
MANIFEST = "manifest.json"
EMPTY = ("proc", "sys", "dev", "tmp", "run", "root", "etc", "bench")


def output_of(*command):
    r = subprocess.run(command, capture_output=True, text=True, check=False)
    if r.returncode:
        raise Failure(f"{' '.join(command)}: {r.stderr.strip() or f'status {r.returncode}'}")
    return r.stdout


def fetch(package, members=()):
    return output_of(os.path.join(TOP, "tools", "fetch-package"), package, *members).strip()


@functools.lru_cache(maxsize=None)
def dependencies(package):
    lines = output_of("apt-cache", "depends", "--no-recommends", "--no-suggests", package).splitlines()
    return re.findall(r"^\W*(?:Pre)?Depends: ([a-z0-9][a-z0-9.+-]*)$", "\n".join(lines), re.M)


class Root:
    """The tree as it grows. Paths inside are without a leading slash and with /lib, /bin and so on below /usr."""

    def __init__(self, folder):
        self.folder = folder
        self.packages = {}  # name: version
        self.sources = {}  # path inside: package
        self.checked = set()
        for name in EMPTY:
            os.makedirs(os.path.join(folder, name))
        for name in ("bin", "sbin", "lib", "lib64"):
            os.makedirs(os.path.join(folder, "usr", name))
            os.symlink(f"usr/{name}", os.path.join(folder, name))

    def path(self, inside):
        return os.path.join(self.folder, inside.lstrip("/"))

    def add(self, package, members=()):
        """Copies a package's files; returns the paths of its programs and libraries."""
        if package in self.packages:
            return
        source = fetch(package, members)
        with open(os.path.join(source, ".package"), encoding="ascii") as f:
            self.packages[package] = f.read().strip()
        for folder, _, names in os.walk(source):
            for name in names:
                original = os.path.join(folder, name)
                inside = os.path.relpath(original, source)
                if inside.startswith(LEFT_OUT):
                    continue
                if re.match(r"(bin|sbin|lib|lib64)/", inside):
                    inside = "usr/" + inside
                os.makedirs(os.path.dirname(self.path(inside)), exist_ok=True)
                shutil.copy2(original, self.path(inside), follow_symlinks=False)
                self.sources[inside] = package

    def add_whole(self, package, follow, members):
        self.add(package, members)
        for name in dependencies(package) if follow else ():
            if re.match(follow, name) and name not in self.packages:
                self.add_whole(name, follow, [])

    def find_library(self, soname):
        for folder in ("usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/lib"):
            if os.path.exists(self.path(f"{folder}/{soname}")):
                return f"{folder}/{soname}"
        return None

    def libraries(self, inside):
        """All that the linker loads for this program, the program first; packages are added for what is missing."""
        found, queue = [], [inside]
        while queue:
            inside = queue.pop(0)
            if inside in found:
                continue
            found.append(inside)
            text = output_of("readelf", "-d", self.path(inside))
            for soname in re.findall(r"\(NEEDED\).*\[(.*)\]", text):
                queue.append(self.find_library(soname) or self.supply(soname, inside))
        return found

    def supply(self, soname, inside):
        package = self.sources.get(inside)
        # The package with the library's name first: it is nearly always that one.
        stem = re.sub(r"[^a-z0-9]", "", soname.split(".so")[0].lower())
        for name in sorted(dependencies(package) if package else (), key=lambda n: stem not in re.sub(r"[^a-z0-9]", "", n)):
            if name not in self.packages:
                self.add(name)
                if self.find_library(soname):
                    return self.find_library(soname)
        raise Failure(f"{inside} of package {package} needs {soname}, which none of its dependencies has")


def add_gcc_headers(root):
    """stddef.h and the like, which cc1 finds beside itself; the package has much more."""
    version = next(name.split("-")[1] for name in root.packages if re.match(r"cpp-[0-9]+", name))
    root.add(f"libgcc-{version}-dev", ["./usr/lib/gcc/*/include/*"])


def compile_python(root):
    """What the packages do when they are installed; without it each start would compile the library again."""
    program = next(iter(glob.glob(root.path("usr/bin/python3.*"))), None)
    if not program:
        raise Failure("no python3 among the packages")
    folders = glob.glob(root.path("usr/lib/python3.*"))
    environment = {"PYTHONHOME": root.path("usr"), "PATH": "/usr/bin:/bin"}
    subprocess.run(run_inside(root, os.path.relpath(program, root.folder)) +
                   ["-m", "compileall", "-q", "-s", root.folder, "-p", "/", *folders], env=environment, check=True,
                   stdout=subprocess.DEVNULL)


def add_own(root):
    """bench/programs: compiled, or copied as it is."""
    headers = fetch(HEADERS)
    libcrypto = root.find_library("libcrypto.so.3")
    for name in sorted(os.listdir(SOURCES)):
        source, target = os.path.join(SOURCES, name), root.path("bench/" + name)
        if name == "crypto.c":
            subprocess.run([os.environ.get("CC", "gcc"), "-std=gnu11", "-O2", "-Wall", "-Wextra", f"-I{headers}/usr/include",
                            f"-I{headers}/usr/include/x86_64-linux-gnu", source, root.path(libcrypto), "-o",
                            target.removesuffix(".c")], check=True)
        elif name.endswith((".c", ".py")):
            shutil.copy(source, target)


def add_archive(root):
    """What 7-Zip packs and unpacks: half program, half text. The archive is made natively, by the same 7-Zip."""
    parts = sorted(glob.glob(root.path("usr/include/stb/*.h"))) + glob.glob(root.path("usr/lib*/gcc/x86_64-linux-gnu/*/cc1"))
    with open(root.path("bench/data"), "wb") as data:
        for path in parts:
            with open(path, "rb") as f:
                data.write(f.read(DATA_BYTES))
    with open(root.path("bench/data.xz"), "wb") as archive:
        subprocess.run(run_inside(root, "usr/bin/7zz") + ["a", "-txz", "-mmt1", "-mx5", "-an", "-so", root.path("bench/data")],
                       check=True, stdout=archive, stderr=subprocess.DEVNULL)


def run_inside(root, inside):
    """The start of a command that runs one of the root's programs on this host, with the root's libraries."""
    libraries = root.path("usr/lib/x86_64-linux-gnu")
    return [root.path("usr/lib64/ld-linux-x86-64.so.2"), "--library-path", libraries, root.path(inside)]


def make_image(folder, image):
    size = sum(os.lstat(os.path.join(path, name)).st_size + 4096 for path, folders, names in os.walk(folder)
               for name in folders + names)
    mebibytes = size * 12 // 10 // (1 << 20) + 16
    tool = shutil.which("mke2fs", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not tool:
        raise Failure("mke2fs is missing: apt-get install e2fsprogs")
    subprocess.run([tool, "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-E", "root_owner=0:0,lazy_itable_init=0",
                    "-d", folder, image, f"{mebibytes}M"], check=True, stdout=subprocess.DEVNULL)


def recipe():
    """Changes whenever the root would be made in another way."""
    digest = hashlib.sha256()
    for path in [__file__, *sorted(glob.glob(os.path.join(SOURCES, "*")))]:
        if os.path.isfile(path):
            with open(path, "rb") as f:
                digest.update(os.path.basename(path).encode() + b"\0" + f.read())
    return digest.hexdigest()


def cache_folder():
    """The same as that of tools/fetch-package."""
    if os.environ.get("TRIVISOR_CACHE"):
        return os.environ["TRIVISOR_CACHE"]
    if os.access(TOP, os.W_OK):
        return os.path.join(TOP, ".cache")
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "trivisor")


class RootFs:
    """Where it is: folder (the tree), image (raw ext4); packages {name: file}, libraries {a program's pattern: paths}."""

    def __init__(self, folder):
        self.folder, self.image = os.path.join(folder, "root"), os.path.join(folder, "image")
        with open(os.path.join(folder, MANIFEST), encoding="utf-8") as f:
            manifest = json.load(f)
        self.packages, self.libraries = manifest["packages"], manifest["libraries"]

    def find(self, pattern):
        """The one file of this shell pattern, as a path in the guest."""
        found = glob.glob(os.path.join(self.folder, pattern))
        if len(found) != 1:
            raise Failure(f"{self.folder} has {len(found)} files {pattern}, not one")
        return "/" + os.path.relpath(found[0], self.folder)


def make(programs):
    """The root file system for these programs (patterns of paths in it), from the cache or made now."""
    cache = os.path.join(cache_folder(), "bench-root")
    os.makedirs(cache, exist_ok=True)
    with open(os.path.join(cache, ".lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        digest = hashlib.sha256((recipe() + "\n".join(programs)).encode()).hexdigest()
        folder = os.path.join(cache, digest[:16])
        if not os.path.exists(os.path.join(folder, MANIFEST)):
            for old in os.listdir(cache):
                if old != ".lock":
                    shutil.rmtree(os.path.join(cache, old))
            make_new(folder, programs)
        return RootFs(folder)


def make_new(folder, programs):
    for tool, package in (("apt-cache", "apt"), ("readelf", "binutils"), ("dpkg-deb", "dpkg")):
        require_tool(tool, package)
    print("making a root file system of Debian packages", file=sys.stderr, flush=True)
    root = Root(os.path.join(folder, "root"))
    for package, follow, members in PACKAGES:
        root.add_whole(package, follow, members)
    add_gcc_headers(root)
    add_own(root)
    libraries = {}
    for pattern in programs:
        found = glob.glob(root.path(pattern))
        if len(found) != 1:
            raise Failure(f"{len(found)} files {pattern}, not one, in the packages {', '.join(root.packages)}")
        inside = os.path.relpath(found[0], root.folder)
        libraries[pattern] = ["/" + path for path in root.libraries(inside)[1:]]
    compile_python(root)
    add_archive(root)
    make_image(root.folder, os.path.join(folder, "image"))
    # Last: it says that the rest is whole.
    with open(os.path.join(folder, MANIFEST), "w", encoding="utf-8") as f:
        json.dump({"packages": root.packages, "libraries": libraries}, f, indent=1)

"""What the kernel knows: CPU time, memory, and which core a process runs on. Linux only."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import subprocess
import time
from collections.abc import Container, Iterator
from pathlib import Path

SERVER_CPU = 0
GENERATOR_CPU = 1


def pin(*cpus: int) -> None:
    """Keeps the calling process, and what it starts from now on, on these cores."""
    os.sched_setaffinity(0, {cpu % (os.cpu_count() or 1) for cpu in cpus})


def busy_seconds(cpus: Container[int]) -> float:
    """How long these cores have worked for anyone, each since the machine was started."""
    busy = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *words = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cpus:
            user, nice, system, _, _, irq, softirq, steal = (int(word) for word in words[:8])
            busy += user + nice + system + irq + softirq + steal
    return busy / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """`pid` and its descendants: a server is one process or a supervisor with workers."""
    pids = [pid]
    for parent in pids:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                pids.extend(int(child) for child in task.read_text().split())
    return pids


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of `pid` and its descendants, to the nanosecond (schedstat)."""
    return sum(process_cpu_seconds(member) for member in family(pid))


def process_cpu_seconds(pid: int) -> float:
    """CPU time of all threads of `pid` itself."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that ended meanwhile
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def all_cpu_seconds() -> float:
    """CPU time that this machine has given to anyone, what its host took away included."""
    user, nice, system, _, _, irq, softirq, steal = (
        int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def pss_bytes(pid: int) -> int:
    """Proportional set size of `pid` and its descendants: pages shared between them count once."""
    total = 0
    for member in family(pid):
        for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def socket_bytes() -> int:
    """What the buffers of all TCP sockets hold, both ends (sockstat counts it in pages)."""
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        if line.startswith("TCP:"):
            words = line.split()
            return int(words[words.index("mem") + 1]) * os.sysconf("SC_PAGESIZE")
    return 0


def free_bytes() -> int:
    """Memory that nobody uses, not even for a cache of files."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemFree:"):
            return int(line.split()[1]) * 1024
    return 0


@contextlib.contextmanager
def single_pages(wanted: bool) -> Iterator[None]:
    """Makes the kernel take pages for what is written to sockets, meanwhile, and no blocks of
    eight, if that is `wanted`; see server/README.md, "The kernel's buffers". Needs root."""
    setting = Path("/proc/sys") / "net" / SETTINGS["high_order_alloc_disable"]
    if not wanted:
        yield
        return
    try:
        before = setting.read_text()
        setting.write_text("1")
    except OSError as error:
        raise SystemExit(f"{setting} cannot be set: {error.strerror}") from None
    try:
        yield
    finally:
        setting.write_text(before)


def kernel_bytes() -> float:
    """What lives in the kernel's slabs: sockets, epoll entries, files. nan when not permitted.

    Objects in use, not pages: those that an earlier crowd left behind are used again.
    """
    try:
        lines = Path("/proc/slabinfo").read_text().splitlines()[2:]
    except PermissionError:
        return float("nan")
    return sum(int(line.split()[1]) * int(line.split()[3]) for line in lines)


def describe() -> dict[str, str]:
    """The machine, as a result must name it."""
    model = "?"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": f"{os.cpu_count()} x {model}",
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


SETTINGS = {
    "somaxconn": "core/somaxconn",
    "high_order_alloc_disable": "core/high_order_alloc_disable",
    "local ports": "ipv4/ip_local_port_range",
    "tcp_mem, pages": "ipv4/tcp_mem",
    "tcp_wmem": "ipv4/tcp_wmem",
}
"""Of the kernel: what it is called in a result, and where it is in /proc/sys/net."""


def cores() -> int:
    """Cores that there are."""
    return os.cpu_count() or 1


def settings() -> dict[str, str]:
    """What else figures depend on: limits and settings of the kernel, and the commit."""
    found = {"open files": str(resource.getrlimit(resource.RLIMIT_NOFILE)[1])}
    for name, path in SETTINGS.items():
        with contextlib.suppress(OSError):
            found[name] = " ".join(Path(f"/proc/sys/net/{path}").read_text().split())
    git = ["git", "-C", str(Path(__file__).parent)]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        commit = subprocess.check_output([*git, "describe", "--always", "--dirty"], text=True)
        found["commit"] = commit.strip()
    return found

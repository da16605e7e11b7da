"""What the machine says of itself: read once, before the checks.

From /proc, /sys, and a few calls. Whatever cannot be read is None: on macOS most of it, in a
container some. Nothing here waits, asks anybody or changes anything.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Iterable
from importlib import import_module, metadata
from pathlib import Path

import msgspec

PACKAGES = ("uvloop", "hiredis")
"""Those that are compiled, and so are missing where something went wrong."""

UNLIMITED = 1 << 60
"""What stands for a limit that there is not."""

_STA_UNSYNC = 0x0040  # adjtimex(2): the clock is not synchronised
_TIMEX_BYTES = 512  # more than struct timex has anywhere
_CPU_LISTS = re.compile(r"(\d+)(?:-(\d+))?")


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The readings. None: cannot be read here.

    packages: versions of `PACKAGES`; "" for one that cannot be imported.
    debugging: whether this Python is a debug build or in development mode.
    files: open files that a process may have: soft and hard limit.
    files_system: the most that any process may ask for (fs.nr_open).
    ports: ip_local_port_range. reserved: ports in it that are not given out.
    sockets_waiting, sockets_waiting_most: in TIME_WAIT.
    tcp_pages: net.ipv4.tcp_mem, in pages; tcp_pages_used: now.
    single_pages: whether what is written to sockets takes pages, and no blocks of several
        (net.core.high_order_alloc_disable).
    send_buffer, receive_buffer: least, first and most of tcp_wmem and tcp_rmem; bytes.
    tracked, tracked_most: connections in the table of nf_conntrack; None where it is not loaded.
    cpus: that this process may use; cpu_quota: how many of them its cgroup grants.
    governors: of the cores' frequencies, with the driver: `powersave (intel_pstate)`.
    memory_free: what can be had without swapping; memory_limit: the cgroup's, less what it uses.
    huge_pages: `always`, `madvise` or `never`.
    synchronised: whether somebody keeps the clock right (NTP, PTP, the hypervisor by a daemon).
    offset: the wall clock less the monotonic one; seconds.
    """

    system: str = "?"
    python: tuple[int, int, int] = (0, 0, 0)
    implementation: str = "?"
    debugging: bool = False
    packages: dict[str, str] = {}
    files: tuple[int, int] | None = None
    files_system: int | None = None
    ports: tuple[int, int] | None = None
    reserved: str = ""
    sockets_waiting: int | None = None
    sockets_waiting_most: int | None = None
    accept_queue: int | None = None
    syn_queue: int | None = None
    syn_cookies: bool | None = None
    tcp_pages: tuple[int, int, int] | None = None
    tcp_pages_used: int | None = None
    single_pages: bool | None = None
    send_buffer: tuple[int, int, int] | None = None
    receive_buffer: tuple[int, int, int] | None = None
    tracked: int | None = None
    tracked_most: int | None = None
    page_bytes: int = 4096
    cpus: int | None = None
    cpu_quota: float | None = None
    governors: tuple[str, ...] | None = None
    memory: int | None = None
    memory_free: int | None = None
    memory_limit: int | None = None
    swap: int | None = None
    swap_used: int | None = None
    swappiness: int | None = None
    huge_pages: str | None = None
    clock_source: str | None = None
    synchronised: bool | None = None
    offset: float = 0.0


def read(root: Path = Path("/")) -> Machine:
    """Reads everything. root: where /proc and /sys are."""
    tree = _Tree(root)
    sysctl, memory = tree.under("proc/sys"), tree.table("proc/meminfo")
    sockets = tree.words("proc/net/sockstat", "TCP:")
    quota, limit = _cgroup(tree)
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=sys.version_info[:3],
        implementation=platform.python_implementation(),
        debugging=hasattr(sys, "gettotalrefcount") or sys.flags.dev_mode,
        packages={name: _version(name) for name in PACKAGES},
        files=_files(),
        files_system=sysctl.number("fs/nr_open"),
        ports=_pair(sysctl.numbers("net/ipv4/ip_local_port_range")),
        reserved=sysctl.text("net/ipv4/ip_local_reserved_ports") or "",
        sockets_waiting=sockets.get("tw"),
        sockets_waiting_most=sysctl.number("net/ipv4/tcp_max_tw_buckets"),
        accept_queue=sysctl.number("net/core/somaxconn"),
        syn_queue=sysctl.number("net/ipv4/tcp_max_syn_backlog"),
        syn_cookies=_truth(sysctl.number("net/ipv4/tcp_syncookies")),
        tcp_pages=_triple(sysctl.numbers("net/ipv4/tcp_mem")),
        tcp_pages_used=sockets.get("mem"),
        single_pages=_truth(sysctl.number("net/core/high_order_alloc_disable")),
        send_buffer=_triple(sysctl.numbers("net/ipv4/tcp_wmem")),
        receive_buffer=_triple(sysctl.numbers("net/ipv4/tcp_rmem")),
        tracked=sysctl.number("net/netfilter/nf_conntrack_count"),
        tracked_most=sysctl.number("net/netfilter/nf_conntrack_max"),
        page_bytes=resource.getpagesize(),
        cpus=_cpus(),
        cpu_quota=quota,
        governors=_governors(tree),
        memory=_kib(memory.get("MemTotal")),
        memory_free=_kib(memory.get("MemAvailable")),
        memory_limit=limit,
        swap=_kib(memory.get("SwapTotal")),
        swap_used=_kib(_less(memory.get("SwapTotal"), memory.get("SwapFree"))),
        swappiness=sysctl.number("vm/swappiness"),
        huge_pages=_chosen(tree.text("sys/kernel/mm/transparent_hugepage/enabled")),
        clock_source=tree.text("sys/devices/system/clocksource/clocksource0/current_clocksource"),
        synchronised=_synchronised(),
        offset=offset(),
    )


def offset() -> float:
    """The wall clock less the monotonic one, seconds: it changes when the wall clock is set."""
    return time.time() - time.monotonic()


class _Tree:
    """Files below a folder. What is not there, or not as expected, reads as None or empty."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def under(self, path: str) -> _Tree:
        return _Tree(self._root / path)

    def text(self, path: str) -> str | None:
        try:
            return (self._root / path).read_text(encoding="ascii", errors="replace").strip()
        except OSError:
            return None

    def numbers(self, path: str) -> list[int]:
        return [int(word) for word in (self.text(path) or "").split() if word.isdigit()]

    def number(self, path: str) -> int | None:
        return next(iter(self.numbers(path)), None)

    def table(self, path: str) -> dict[str, int]:
        """The first number behind each `name:`."""
        lines = (self.text(path) or "").splitlines()
        pairs = (line.split() for line in lines)
        return {
            words[0].rstrip(":"): int(words[1])
            for words in pairs
            if len(words) > 1 and words[1].isdigit()
        }

    def words(self, path: str, name: str) -> dict[str, int]:
        """The numbers of the line that begins with `name`, each behind its own name."""
        for line in (self.text(path) or "").splitlines():
            if line.startswith(name):
                words = line.split()[1:]
                pairs = zip(words[::2], words[1::2], strict=False)
                return {key: int(value) for key, value in pairs if value.isdigit()}
        return {}

    def names(self, pattern: str) -> list[str]:
        return sorted(str(path.relative_to(self._root)) for path in self._root.glob(pattern))


def _cgroup(tree: _Tree) -> tuple[float | None, int | None]:
    """What the cgroup grants: cores, and bytes that are left. None: no limit, or no cgroup.

    Limits hold for all that is below, so every group up to the root is looked at.
    """
    quotas: list[float] = []
    left: list[int] = []
    for line in (tree.text("proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        top = "sys/fs/cgroup" + (f"/{controllers.partition(',')[0]}" if controllers else "")
        for group in _upwards(path):
            where = tree.under(f"{top}{group}")
            if "cpu" in controllers.split(","):  # version 1
                quota, period = where.number("cpu.cfs_quota_us"), where.number("cpu.cfs_period_us")
            else:
                words = (where.text("cpu.max") or "max").split()
                quota = int(words[0]) if words[0].isdigit() else None
                period = int(words[1]) if len(words) > 1 else 100_000
            if quota and period:
                quotas.append(quota / period)
            most, used = where.number("memory.max"), where.number("memory.current")
            if "memory" in controllers.split(","):
                most = where.number("memory.limit_in_bytes")
                used = where.number("memory.usage_in_bytes")
            # The cache of files is given back as soon as somebody needs the memory.
            stat = where.table("memory.stat")
            cached = stat.get("total_inactive_file", stat.get("inactive_file", 0))
            if most is not None and most < UNLIMITED:
                left.append(most - max(0, (used or 0) - cached))
    return min(quotas, default=None), min(left, default=None)


def _upwards(path: str) -> Iterable[str]:
    """`/a/b`, `/a` and the root. In a container the path may be the host's, and only the root be
    there."""
    parts = [part for part in path.split("/") if part and part != ".."]
    for count in range(len(parts), -1, -1):
        yield "".join(f"/{part}" for part in parts[:count])


def _governors(tree: _Tree) -> tuple[str, ...] | None:
    found = {
        f"{tree.text(path)} ({tree.text(path.replace('_governor', '_driver')) or '?'})"
        for path in tree.names("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")
    }
    return tuple(sorted(found)) or None


def _files() -> tuple[int, int]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        UNLIMITED if soft == resource.RLIM_INFINITY else soft,
        UNLIMITED if hard == resource.RLIM_INFINITY else hard,
    )


def _cpus() -> int | None:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _version(name: str) -> str:
    try:
        import_module(name)
        return metadata.version(name)
    except (ImportError, metadata.PackageNotFoundError):
        return ""


def _synchronised() -> bool | None:
    """What the kernel was told by whoever keeps the clock (adjtimex(2), which only reads here)."""
    if sys.platform != "linux":
        return None
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)
    try:
        state: int = ctypes.CDLL(None).adjtimex(timex)
    except (OSError, AttributeError):
        return None
    if state < 0:
        return None
    # modes, padding, offset, freq, maxerror, esterror, status: longs but the first and the last.
    long = ctypes.sizeof(ctypes.c_long)
    status = int.from_bytes(timex.raw[5 * long : 5 * long + 4], sys.byteorder)
    return not status & _STA_UNSYNC


def holds(ports: str, port: int) -> bool:
    """Whether a list such as `8000-8001,9000` has `port`."""
    ranges = (found.groups() for found in _CPU_LISTS.finditer(ports))
    return any(int(first) <= port <= int(last or first) for first, last in ranges)


def _chosen(text: str | None) -> str | None:
    found = re.search(r"\[(\w+)\]", text or "")
    return found[1] if found else None


def _truth(number: int | None) -> bool | None:
    return None if number is None else bool(number)


def _kib(number: int | None) -> int | None:
    return None if number is None else number * 1024


def _less(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one - other


def _pair(numbers: list[int]) -> tuple[int, int] | None:
    return (numbers[0], numbers[1]) if len(numbers) > 1 else None


def _triple(numbers: list[int]) -> tuple[int, int, int] | None:
    return (numbers[0], numbers[1], numbers[2]) if len(numbers) > 2 else None

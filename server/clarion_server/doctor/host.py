"""Checks of the machine itself: Python, processors, memory, clock."""

from __future__ import annotations

from clarion_server.doctor.finding import Finding, Plan, bad, ok, size, unknown, warn
from clarion_server.doctor.machine import PACKAGES, Machine

OLDEST_PYTHON = (3, 11)

WORKER_BYTES = 48 << 20
"""A worker without clients, its imports included; with four, they share most of it."""

CONNECTION_BYTES = 8 << 10
"""An idle, subscribed connection: 0.8 to 1.5 KB of the process, 5 KB of the kernel for our end,
and some room."""

SWAPPINESS = 10
"""Up to here the kernel takes file caches first."""

STEP_SECONDS = 0.05
"""A wall clock that is slewed moves by half a thousandth; what is more was a step."""


def python(machine: Machine, plan: Plan) -> Finding:
    name = "Python"
    found = f"{machine.implementation} {'.'.join(map(str, machine.python))}"
    if machine.python < OLDEST_PYTHON or machine.implementation != "CPython":
        return bad(
            name,
            found,
            "CPython 3.11 or newer",
            "Nothing else is tested.",
            "PYTHON=/path/to/python3 make serve",
        )
    if machine.debugging:
        return warn(
            name,
            f"{found}, debugging",
            "without debugging",
            "A debug build, or -X dev, is several times slower.",
            "unset PYTHONDEVMODE, and use the release build",
        )
    return ok(name, found, "3.11 or newer")


def packages(machine: Machine, plan: Plan) -> Finding:
    name = "compiled parts"
    found = ", ".join(f"{part} {machine.packages.get(part) or 'missing'}" for part in PACKAGES)
    if all(machine.packages.get(part) for part in PACKAGES):
        return ok(name, found)
    return bad(
        name,
        found,
        "all of them",
        "The event loop, and what reads Redis: the server does not start without.",
        "make clean serve, or pip install --force-reinstall -r deploy/requirements.txt",
    )


def processors(machine: Machine, plan: Plan) -> Finding:
    """Cores that this process may use, against workers."""
    name = "processors"
    if machine.cpus is None:
        return unknown(name, "this system does not say")
    have = float(machine.cpus)
    found = f"{machine.cpus} of them, {plan.workers} worker{'s' * (plan.workers > 1)}"
    if machine.cpu_quota is not None:
        have = min(have, machine.cpu_quota)
        found += f"; the cgroup grants {machine.cpu_quota:g}"
    if plan.workers <= have:
        return ok(name, found)
    few = max(1, int(have))
    quota = machine.cpu_quota is not None and machine.cpu_quota < min(machine.cpus, plan.workers)
    return warn(
        name,
        found,
        f"{plan.workers} processors, or {few} worker{'s' * (few > 1)}",
        "A cgroup without time left stops all its processes for up to 0.1 s, again and again."
        if quota
        else "More workers than processors help nobody: they take turns.",
        f"--workers {few}" + (f", or cpu.max '{plan.workers * 100_000} 100000'" if quota else ""),
    )


def governor(machine: Machine, plan: Plan) -> Finding:
    name = "CPU governor"
    if machine.governors is None:
        return unknown(name, "virtual machines and macOS leave it to the host")
    found = ", ".join(machine.governors)
    # Intel's own driver calls its balanced mode `powersave`.
    slow = [
        each
        for each in machine.governors
        if each.startswith(("powersave", "conservative")) and "intel_pstate" not in each
    ]
    if not slow:
        return ok(name, found)
    return warn(
        name,
        found,
        "performance or schedutil",
        "Cores that sleep between two publications wake slowly: latency at low load is several"
        " times what it could be.",
        "cpupower frequency-set -g performance",
    )


def memory(machine: Machine, plan: Plan) -> Finding:
    """What is left, in the machine and in its cgroup, against what the plan takes."""
    name = "memory"
    left = [have for have in (machine.memory_free, machine.memory_limit) if have is not None]
    if not left:
        return unknown(name, "this system does not say what is free")
    wanted = plan.workers * WORKER_BYTES + plan.connections * CONNECTION_BYTES + plan.history_bytes
    found = f"{size(min(left))} free"
    if machine.memory_limit is not None and machine.memory_limit == min(left):
        found += " in the cgroup"
    if min(left) >= wanted:
        return ok(name, found, size(wanted))
    return bad(
        name,
        found,
        size(wanted),
        f"{size(CONNECTION_BYTES)} for each of {plan.connections:,} idle connections and its socket"
        f"{', and the histories' if plan.history_bytes else ''}. Who has no more is killed.",
        "more memory (memory.max for a cgroup), fewer connections"
        + (", or a smaller history.memory_bytes" if plan.history_bytes else ""),
    )


def swap(machine: Machine, plan: Plan) -> Finding:
    name = "swap"
    if machine.swap is None or machine.swappiness is None:
        return unknown(name, "Linux only")
    if not machine.swap:
        return ok(name, "none")
    found = f"{size(machine.swap_used or 0)} of {size(machine.swap)} used"
    found += f", swappiness {machine.swappiness}"
    if machine.swappiness <= SWAPPINESS:
        return ok(name, found)
    return warn(
        name,
        found,
        f"none, or swappiness {SWAPPINESS}",
        "Idle connections are swapped out first, and a publication to all of them waits for the"
        " disk; the loop with it.",
        f"sysctl -w vm.swappiness={SWAPPINESS}, or swapoff -a",
    )


def huge_pages(machine: Machine, plan: Plan) -> Finding:
    name = "transparent huge pages"
    if machine.huge_pages is None:
        return unknown(name, "Linux only")
    if machine.huge_pages != "always":
        return ok(name, machine.huge_pages, "madvise or never")
    return warn(
        name,
        "always",
        "madvise or never",
        "Small objects come and go: memory grows and is not given back. Redis beside us stops for"
        " milliseconds while it writes its data to disk.",
        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
    )


def clock(machine: Machine, plan: Plan) -> Finding:
    """Who keeps the wall clock right. Deadlines use the monotonic one; tokens and `ts` do not."""
    name = "clock kept"
    source = f"clock source {machine.clock_source or '?'}"
    if machine.synchronised is None:
        return unknown(name, "on macOS: sntp time.apple.com")
    if machine.synchronised:
        return ok(name, f"synchronised, {source}")
    return warn(
        name,
        f"nobody says that it is synchronised, {source}",
        "NTP or PTP",
        "Tokens are valid too early or too late, and the times of messages from two machines"
        " cannot be compared.",
        "timedatectl set-ntp true, or chrony; in a container: on its host",
    )


def clock_source(machine: Machine, plan: Plan) -> Finding:
    name = "clock read"
    if machine.clock_source is None:
        return unknown(name, "Linux only")
    if machine.clock_source not in ("hpet", "acpi_pm", "jiffies", "pit"):
        return ok(name, machine.clock_source)
    return warn(
        name,
        machine.clock_source,
        "tsc, or the hypervisor's",
        "The loop looks at it often, and each time is a system call of a microsecond or more.",
        "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource",
    )


def clock_step(moved_s: float, seconds: float) -> Finding:
    """Whether the wall clock was set while we looked. moved_s: against the monotonic one."""
    name = "clock steps"
    found = f"{moved_s * 1000:+.1f} ms in {seconds:.1f} s"
    if abs(moved_s) < STEP_SECONDS:
        return ok(name, found)
    return warn(
        name,
        found,
        "none",
        "Somebody sets the wall clock, perhaps two at once, instead of slewing it: tokens expire"
        " early, and `ts` goes back.",
        "one time service only; chrony: makestep 1.0 3",
    )


CHECKS = (
    python,
    packages,
    processors,
    governor,
    memory,
    swap,
    huge_pages,
    clock,
    clock_source,
)

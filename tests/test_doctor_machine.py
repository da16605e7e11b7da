"""Reading a machine: from trees of files that look like /proc and /sys, and from this one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from clarion_server.doctor.machine import holds, read


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


LINUX = {
    "proc/sys/fs/nr_open": "1048576\n",
    "proc/sys/net/core/somaxconn": "4096\n",
    "proc/sys/net/core/high_order_alloc_disable": "1\n",
    "proc/sys/net/ipv4/ip_local_port_range": "32768\t60999\n",
    "proc/sys/net/ipv4/ip_local_reserved_ports": "8000-8001\n",
    "proc/sys/net/ipv4/tcp_max_syn_backlog": "512\n",
    "proc/sys/net/ipv4/tcp_syncookies": "1\n",
    "proc/sys/net/ipv4/tcp_max_tw_buckets": "65536\n",
    "proc/sys/net/ipv4/tcp_mem": "187\t250\t374\n",
    "proc/sys/net/ipv4/tcp_wmem": "4096\t16384\t4194304\n",
    "proc/sys/net/ipv4/tcp_rmem": "4096\t131072\t6291456\n",
    "proc/sys/net/netfilter/nf_conntrack_count": "17\n",
    "proc/sys/net/netfilter/nf_conntrack_max": "262144\n",
    "proc/sys/vm/swappiness": "60\n",
    "proc/net/sockstat": "sockets: used 5\nTCP: inuse 4 orphan 0 tw 21 alloc 6 mem 9\n",
    "proc/meminfo": "MemTotal: 2000 kB\nMemAvailable: 1500 kB\n"
    "SwapTotal: 100 kB\nSwapFree: 60 kB\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_driver": "intel_pstate\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "powersave\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_driver": "intel_pstate\n",
}


def test_everything_is_read_from_where_linux_has_it(tmp_path: Path) -> None:
    machine = read(tree(tmp_path, LINUX))
    assert machine.files_system == 1_048_576
    assert (machine.accept_queue, machine.syn_queue, machine.syn_cookies) == (4096, 512, True)
    assert (machine.ports, machine.reserved) == ((32768, 60999), "8000-8001")
    assert (machine.sockets_waiting, machine.sockets_waiting_most) == (21, 65536)
    assert (machine.tcp_pages, machine.tcp_pages_used) == ((187, 250, 374), 9)
    assert machine.single_pages is True
    assert machine.send_buffer == (4096, 16384, 4_194_304)
    assert (machine.tracked, machine.tracked_most) == (17, 262_144)
    assert (machine.memory, machine.memory_free) == (2_048_000, 1_536_000)
    assert (machine.swap, machine.swap_used, machine.swappiness) == (102_400, 40_960, 60)
    assert (machine.huge_pages, machine.clock_source) == ("madvise", "tsc")
    assert machine.governors == ("powersave (intel_pstate)",)


@pytest.mark.parametrize(
    ("files", "quota", "left"),
    [
        # Version 2: the tightest of all groups up to the root holds.
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
                "sys/fs/cgroup/a/cpu.max": "150000 100000\n",
                "sys/fs/cgroup/a/b/memory.max": "1000\n",
                "sys/fs/cgroup/a/b/memory.current": "700\n",
                "sys/fs/cgroup/a/b/memory.stat": "anon 300\ninactive_file 400\n",
                "sys/fs/cgroup/a/memory.max": "max\n",
            },
            1.5,
            700,
        ),
        # In a container the path is the host's, and the files are at the root.
        (
            {
                "proc/self/cgroup": "0::/../../pod\n",
                "sys/fs/cgroup/cpu.max": "50000 100000\n",
                "sys/fs/cgroup/memory.max": "5000\n",
            },
            0.5,
            5000,
        ),
        # Version 1.
        (
            {
                "proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/x\n1:name=systemd:/\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "900\n",
                "sys/fs/cgroup/memory/x/memory.usage_in_bytes": "200\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            2.0,
            700,
        ),
        ({"proc/self/cgroup": "0::/\n"}, None, None),
        (
            {"proc/self/cgroup": "1:cpu:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n"},
            None,
            None,
        ),
    ],
)
def test_a_cgroup_grants_what_its_tightest_group_does(
    tmp_path: Path, files: dict[str, str], quota: float | None, left: int | None
) -> None:
    machine = read(tree(tmp_path, files))
    assert (machine.cpu_quota, machine.memory_limit) == (quota, left)


def test_a_machine_without_proc_is_read_without_an_error(tmp_path: Path) -> None:
    machine = read(tmp_path)
    assert machine.files is not None
    assert machine.python == sys.version_info[:3]
    missing = (machine.memory, machine.ports, machine.huge_pages, machine.governors)
    assert missing == (None,) * 4


@pytest.mark.parametrize("junk", ["", "no numbers here", "\xff\x00", "1", ": : :", "max"])
def test_files_that_say_something_else_are_as_if_they_were_not_there(
    tmp_path: Path, junk: str
) -> None:
    machine = read(tree(tmp_path, dict.fromkeys(LINUX, junk)))
    missing = (machine.ports, machine.tcp_pages, machine.memory, machine.huge_pages)
    assert missing == (None,) * 4


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_machine_can_be_read() -> None:
    machine = read()
    assert machine.memory is not None
    assert machine.memory_free is not None
    assert 0 < machine.memory_free <= machine.memory
    assert machine.cpus
    assert machine.packages["uvloop"]


def test_a_list_of_ports_holds_those_in_its_ranges() -> None:
    assert holds("80,8000-8001", 8000)
    assert holds("80,8000-8001", 80)
    assert not holds("80,8000-8001", 8002)
    assert not holds("", 0)

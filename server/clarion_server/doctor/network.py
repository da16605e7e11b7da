"""Checks of what the kernel does with connections: files, queues, buffers, ports."""

from __future__ import annotations

import math

from clarion_server.descriptors import MOST, shares
from clarion_server.doctor.finding import Finding, Plan, bad, ok, size, unknown, warn
from clarion_server.doctor.machine import Machine, holds
from clarion_server.listener import BACKLOG

BURST_BYTES = 4096
"""Of the kernel's memory for each connection while everybody is being sent something: a page."""

SLOW_SHARE, SLOW_BYTES = 0.05, 150 * 1024
"""How many clients may be behind at once (chosen by guess), and what the kernel holds for each."""

NEW_SHARE = 0.25
"""Entries that connections of the past still have in the tracking table, for each that is open:
they stay for two minutes, in which a quarter of all clients may have changed (a guess)."""


def files(machine: Machine, plan: Plan) -> Finding:
    """Open files: a connection is one, and what a dead worker's clients need comes on top.

    The soft limit is not looked at: the server raises it as far as the hard one allows.
    """
    name = "open files"
    if machine.files is None:
        return unknown(name, "this system has no such limit, or does not say")
    have = min(machine.files[1], MOST)
    possible = shares(have).connected
    share = math.ceil(plan.connections / plan.workers)
    most = share if plan.workers == 1 else math.ceil(share * 1.5)
    wanted = files_for(most)
    found = f"{have:,} a process, {possible:,} of them for clients"
    if possible >= most:
        return ok(name, found, f"{wanted:,}")
    why = (
        f"{plan.connections:,} connections are {share:,} for each worker"
        f"{'' if plan.workers == 1 else ', and half as many again when another one is gone'}."
        " Beyond the limit nobody gets in."
    )
    change = f"LimitNOFILE={wanted} in the systemd unit, --ulimit nofile={wanted} for a container"
    change += f", or '* hard nofile {wanted}' in /etc/security/limits.conf"
    if machine.files_system is not None and machine.files_system < wanted:
        change += f"; before that sysctl -w fs.nr_open={wanted}"
    state = bad if possible < share else warn
    return state(name, found, f"{wanted:,}", why, change)


def files_for(connections: int) -> int:
    """The open files that leave so many for clients; see `descriptors.shares`."""
    return connections + min(1024, max(64, connections // 19 + 1))


def accept_queue(machine: Machine, plan: Plan) -> Finding:
    """What waits to be accepted, all workers together."""
    name = "somaxconn"
    if machine.accept_queue is None:
        return unknown(name, "on macOS: sysctl kern.ipc.somaxconn")
    wanted = _queue(plan)
    if machine.accept_queue >= wanted:
        return ok(name, f"{machine.accept_queue:,}", f"{wanted:,}")
    return warn(
        name,
        f"{machine.accept_queue:,}",
        f"{wanted:,}",
        "When everybody comes back at once, who finds the queue full tries again after 1, 3, 7 s.",
        f"sysctl -w net.core.somaxconn={wanted}",
    )


def syn_queue(machine: Machine, plan: Plan) -> Finding:
    """Handshakes of TCP that are not complete. With SYN cookies it bounds nothing."""
    name = "tcp_max_syn_backlog"
    if machine.syn_queue is None or machine.syn_cookies is None:
        return unknown(name, "Linux only")
    wanted, found = _queue(plan), f"{machine.syn_queue:,}"
    if machine.syn_cookies:
        return ok(name, f"{found}, and SYN cookies when it is full")
    if machine.syn_queue >= wanted:
        return ok(name, f"{found}, no SYN cookies", f"{wanted:,}")
    return warn(
        name,
        f"{found}, no SYN cookies",
        f"{wanted:,}",
        "A storm of connections, or a flood of SYNs, keeps everybody else out.",
        f"sysctl -w net.ipv4.tcp_syncookies=1 net.ipv4.tcp_max_syn_backlog={wanted}",
    )


def ports(machine: Machine, plan: Plan) -> Finding:
    """Ports of outgoing connections: none of them may be one that we listen on."""
    name = "ip_local_port_range"
    if machine.ports is None:
        return unknown(name, "on macOS: sysctl net.inet.ip.portrange.first")
    first, last = machine.ports
    found = f"{first}-{last}: {last - first + 1:,} ports"
    taken = [port for port in plan.ports if first <= port <= last]
    taken = [port for port in taken if not holds(machine.reserved, port)]
    if taken:
        ours = ",".join(map(str, taken))
        return warn(
            name,
            found,
            f"without {ours}",
            "An outgoing connection may have the port when the server starts, and then it cannot.",
            f"sysctl -w net.ipv4.ip_local_reserved_ports={ours}",
        )
    if plan.connections > last - first + 1:
        return warn(
            name,
            found,
            f"{plan.connections:,} where a balancer is",
            "A balancer reaches one address and port of ours that often from each address it has;"
            " clients that come straight are not concerned.",
            "sysctl -w net.ipv4.ip_local_port_range='10240 65535' on the balancer, and give it more"
            " addresses",
        )
    return ok(name, found)


def waiting(machine: Machine, plan: Plan) -> Finding:
    """Connections in TIME_WAIT: beyond the most that there may be they are cut short."""
    name = "TIME_WAIT"
    now, most = machine.sockets_waiting, machine.sockets_waiting_most
    if now is None or most is None:
        return unknown(name, "Linux only")
    found = f"{now:,} of {most:,}"
    if now <= most / 2:
        return ok(name, found)
    return warn(
        name,
        found,
        "less than half",
        "Somebody here opens and closes connections quickly; its ports run out next.",
        f"sysctl -w net.ipv4.tcp_max_tw_buckets={most * 2}; and find who it is: ss -tan state"
        " time-wait",
    )


def tcp_memory(machine: Machine, plan: Plan) -> Finding:
    """What all TCP buffers may take, against a burst to everybody while some are slow."""
    name = "tcp_mem"
    if machine.tcp_pages is None:
        return unknown(name, "Linux only")
    page = machine.page_bytes
    wanted = int(plan.connections * (BURST_BYTES + SLOW_SHARE * SLOW_BYTES))
    pressure = machine.tcp_pages[1] * page
    found = f"{size(pressure)} until it is saved"
    if machine.tcp_pages_used is not None:
        found += f", {size(machine.tcp_pages_used * page)} now"
    if pressure >= wanted:
        return ok(name, found, size(wanted))
    pages = math.ceil(wanted / page)
    return warn(
        name,
        found,
        size(wanted),
        f"A page for each of {plan.connections:,} connections, and {size(SLOW_BYTES)} for each of"
        f" the {SLOW_SHARE:.0%} that are slow. Under pressure the kernel shrinks windows, and drops"
        " packets in the end.",
        f"sysctl -w net.ipv4.tcp_mem='{pages} {pages * 4 // 3} {pages * 2}'",
    )


def blocks(machine: Machine, plan: Plan) -> Finding:
    """What is written to one client lies in the kernel beside what is written to others."""
    name = "high_order_alloc_disable"
    if machine.single_pages is None:
        return unknown(name, "Linux 5.14 and later")
    if machine.single_pages:
        return ok(name, "1: single pages")
    return warn(
        name,
        "0: blocks of 32 KiB",
        "1",
        "A client that does not take a write keeps the block in which that lies, though most of it"
        " was others' and is long gone: slow clients were measured to take 2 to 30 times the memory"
        " that their buffers hold.",
        "sysctl -w net.core.high_order_alloc_disable=1",
    )


def buffers(machine: Machine, plan: Plan) -> Finding:
    """The bounds between which the kernel chooses a socket's buffers."""
    name = "tcp_wmem, tcp_rmem"
    if machine.send_buffer is None or machine.receive_buffer is None:
        return unknown(name, "Linux only")
    found = "; ".join(
        " ".join(map(str, bounds)) for bounds in (machine.send_buffer, machine.receive_buffer)
    )
    if machine.send_buffer[1] > 262_144 or machine.receive_buffer[1] > 1_048_576:
        return warn(
            name,
            found,
            "4096 16384 4194304; 4096 131072 6291456",
            "Tuned for few connections that carry much: a client that stops reading holds the first"
            " size of it in the kernel, beyond what its window bounds.",
            "sysctl -w net.ipv4.tcp_wmem='4096 16384 4194304' net.ipv4.tcp_rmem='4096 131072"
            " 6291456'",
        )
    if machine.send_buffer[2] < 65_536:
        return warn(
            name,
            found,
            "65536 or more for the last of tcp_wmem",
            "Not even one large publication fits, so that every client seems to be slow.",
            "sysctl -w net.ipv4.tcp_wmem='4096 16384 4194304'",
        )
    return ok(name, found)


def tracking(machine: Machine, plan: Plan) -> Finding:
    """The firewall's table of connections, where there is one."""
    name = "conntrack"
    if machine.tracked is None or machine.tracked_most is None:
        return ok(name, "not loaded")
    if not machine.tracked:
        return ok(name, "loaded, and nothing is tracked")
    wanted = machine.tracked + math.ceil(plan.connections * (1 + NEW_SHARE))
    found = f"{machine.tracked:,} of {machine.tracked_most:,}"
    if machine.tracked_most >= wanted:
        return ok(name, found, f"{wanted:,}")
    state = bad if machine.tracked_most < plan.connections else warn
    return state(
        name,
        found,
        f"{wanted:,}",
        "A full table drops packets of new connections, and nothing but the kernel's log says so.",
        f"sysctl -w net.netfilter.nf_conntrack_max={wanted}, or no tracking for our ports",
    )


def _queue(plan: Plan) -> int:
    """More than all clients never wait, and more than this the server does not ask for."""
    return min(BACKLOG * plan.workers, max(plan.connections, 128))


CHECKS = (
    files,
    accept_queue,
    syn_queue,
    ports,
    waiting,
    tcp_memory,
    blocks,
    buffers,
    tracking,
)

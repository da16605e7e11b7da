"""Who runs the steps of namespaces, as the configuration says."""

from __future__ import annotations

import os
import sys
from functools import partial

from clarion_server.options import Config
from clarion_server.pipeline import chain, work
from clarion_server.pipeline.pool import Pool, PoolOptions
from clarion_server.pipeline.preparation import Preparation


def make(config: Config) -> Preparation | None:
    """None where no namespace has steps. Inside the event loop. Raises what `chain.make` does."""
    namespaces = {name: each for name, each in config.namespaces.items() if each.pipeline}
    steps = [step for namespace in namespaces.values() for step in namespace.pipeline]
    if not steps:
        return None
    limit = config.limits.data_bytes
    files = chain.read_files(steps)
    chains = work.chains(namespaces, limit, files)
    if not chains:
        return None
    options = config.pipeline
    pool = Pool(
        partial(work.make, namespaces, limit, files),
        PoolOptions(
            processes=options.processes or max(1, _processors() // config.workers),
            queue=options.queue,
            deadline_s=options.deadline_s,
            wait_s=options.wait_s,
            memory_bytes=options.memory_mb * 1024 * 1024,
        ),
    )
    return Preparation(
        chains,
        configured=config.namespaces,
        pool=pool,
        data_bytes=limit,
        input_bytes=options.input_bytes,
    )


def ending_seconds(config: Config) -> float:
    """How long publications that were accepted may take when the server ends."""
    has_steps = any(namespace.pipeline for namespace in config.namespaces.values())
    return config.pipeline.deadline_s if has_steps else 0.0


def _processors() -> int:
    """Those that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

"""What all pipelines may take of the machine: `[pipeline]`."""

from __future__ import annotations

from typing import Annotated

from clarion_server.option_values import Section, option


class PipelineOptions(Section, frozen=True, kw_only=True):
    """`[pipeline]`: what the steps of namespaces (`[[namespaces.NAME.pipeline]]`) may take. Without
    such a namespace none of it matters."""

    processes: Annotated[
        int,
        option(
            "processes of each worker that run steps, at most; 0: a processor's each, shared out"
            " among the workers, and one at least",
            "More than processors gain nothing. Each takes some 15 MB, from when it is needed.",
            unit="processes",
            least=0,
            most=256,
        ),
    ] = 0
    queue: Annotated[
        int,
        option(
            "publications of one namespace that may be on their way through its steps; then"
            " publishers are told when to come back (503)",
            "A batch in which every second message waits for its steps, and several of them.",
            unit="publications",
            least=1,
            most=1_000_000,
        ),
    ] = 1000
    queue_bytes: Annotated[
        int,
        option(
            "their data, before the steps",
            "Thirty-two publications of `pipeline.input_bytes`; the bound on memory.",
            unit="bytes",
            least=1024,
            most=17_179_869_184,
        ),
    ] = 33_554_432
    deadline_s: Annotated[
        float,
        option(
            "how long the steps may take for one publication; then their process is killed",
            "Publishers wait for the answer; who needs longer does it beforehand. What is accepted"
            " when the server ends has so long, too.",
            unit="s",
            least=0.05,
            most=3600,
        ),
    ] = 5
    wait_s: Annotated[
        float,
        option(
            "how long a publication may wait for a process; then its publisher is told when to"
            " come back (503)",
            "About as long as callers wait for an answer.",
            unit="s",
            least=0.05,
            most=3600,
        ),
    ] = 10
    memory_mb: Annotated[
        int,
        option(
            "memory of one such process, with its interpreter and all steps; on Linux",
            "An interpreter with all steps takes some 20; the rest is for documents, and a guess.",
            unit="MiB",
            least=64,
            most=1_048_576,
        ),
    ] = 256
    input_bytes: Annotated[
        int,
        option(
            "`data` of one publication before the steps; afterwards it is `limits.data_bytes`, and"
            " never less than that",
            "Sixteen times `limits.data_bytes`: steps take a part of what they get.",
            unit="bytes",
            least=2,
            most=67_108_864,
        ),
    ] = 1_048_576

"""Rules of pipelines: every step can be made from its options, and `compress` is the last.

Steps are made here as the server will make them, so that a schema or template which cannot be used
is found before the start. The user's functions are not imported: that is for processes of their own
(`pipeline.imports`).
"""

from __future__ import annotations

from collections.abc import Iterator

from clarion_server.config.files import BadFile
from clarion_server.option_values import Conflict, catalogue, join
from clarion_server.options import Config
from clarion_server.pipeline.options import Compress, StepOptions


def pipeline_conflicts(config: Config) -> Iterator[Conflict]:
    """Everything in pipelines that cannot work."""
    for name, namespace in config.namespaces.items():
        path = f"{join('namespaces', name)}.pipeline"
        last = len(namespace.pipeline) - 1
        for place, options in enumerate(namespace.pipeline):
            key = f"{path}[{place}]"
            if not isinstance(options, Compress):
                yield from _made(path, key, options)
            elif place != last:
                yield Conflict(
                    (f"{key}.step", path),
                    "is followed by other steps",
                    "compress as the last step: it is about how data is sent",
                )


def _made(path: str, key: str, options: StepOptions) -> Iterator[Conflict]:
    # Who has no steps should not load what makes them.
    from clarion_server.pipeline import chain
    from clarion_server.pipeline.step import Misconfigured

    parts = [option.key for option in catalogue(type(options), key)]
    try:
        chain.make_step(options, chain.read_files([options]))
    except BadFile as error:
        yield Conflict((_file_key(key, options), path), str(error), "a file that can be read")
    except Misconfigured as error:
        blamed = f"{key}.{error.option}" if error.option else key
        yield Conflict((blamed, path, *parts), error.problem, error.expected)


def _file_key(key: str, options: StepOptions) -> str:
    return f"{key}.{'template' if options.step == 'template' else 'schema'}"

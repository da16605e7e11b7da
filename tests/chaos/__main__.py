"""Chaos on the command line: many seeds, one after another, and what came of them.

$ PYTHONPATH=tests python -m chaos --seeds 20
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import uvloop

from chaos.plan import CLUSTER_HARSH, CLUSTER_MILD, HARSH, MILD
from chaos.run import Result, run

KINDS = {"mild": (MILD, CLUSTER_MILD), "harsh": (HARSH, CLUSTER_HARSH)}


def _keep(result: Result, folder: Path) -> None:
    (folder / f"seed-{result.seed}.log").write_text(result.logs, encoding="utf-8")


async def _run_all(options: argparse.Namespace) -> int:
    results: list[Result] = []
    for seed in range(options.first, options.first + options.seeds):
        result = await run(
            seed,
            kinds=KINDS[options.kind][not options.shards],
            seconds=options.seconds,
            shards=options.shards,
            check_s=options.check_s,
            moving=options.move,
        )
        results.append(result)
        print(result.summary(), flush=True)
        if result.findings:
            print(result.story(options.stories), flush=True)
            if options.logs:
                _keep(result, Path(options.logs))
    done = sum((Counter(result.done) for result in results), Counter[str]())
    print(f"\n{len(results)} seeds, {sum(done.values())} faults")
    for name, count in sorted(done.items()):
        print(f"{count:7} {name}")
    print(f"{sum(result.acknowledged for result in results):7} publications")
    print(f"{sum(result.deliveries for result in results):7} deliveries")
    print(f"{sum(result.gaps for result in results):7} gaps that were told")
    failed = [result.seed for result in results if result.findings]
    print(f"failed: {', '.join(map(str, failed)) or 'none'}")
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="chaos", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--kind", choices=list(KINDS), default="harsh", help="of faults")
    parser.add_argument("--seconds", type=float, default=8.0, help="that each seed's faults take")
    parser.add_argument(
        "--shards", type=int, default=1, help="Redis servers; 0: a cluster of three"
    )
    parser.add_argument("--move", action="store_true", help="add a shard meanwhile")
    parser.add_argument("--check-s", type=float, default=1.0, help="shards.check_s of the servers")
    parser.add_argument("--stories", type=int, default=3, help="findings that are told in full")
    parser.add_argument("--logs", default="", help="a folder for the servers' logs of failed seeds")
    return uvloop.run(_run_all(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())

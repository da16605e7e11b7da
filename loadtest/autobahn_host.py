"""Runs the cases of the Autobahn test suite on Python 3. Started by autobahn.py, not by hand.

usage: python -P autobahn_host.py URL RESULTS_FILE MESSAGES [CASE_PREFIX ...]

MESSAGES: at most so many in each of the cases of compression.

The suite's own fuzzing client needs Python 2, which neither PyPI nor Debian offers any more. Its
cases are what matters: each is a class that drives a connection of Autobahn's client, and judges
what it saw. They run here as they were published, over the same client library in its present
version; this module stands in for the suite's `FuzzingClientProtocol` and case loop.

In Python 2 a string literal was bytes. Here the cases' sources are read as Latin-1, so that a
character is one octet, and text is turned into octets, and back, where a case meets the
connection: what goes over the wire is exactly what it was. The rest of the translation is
`TRANSLATION`, a line for each thing that Python 3 reads in another way.
"""

# mypy: ignore-errors
# Runs in an environment of its own, with Twisted and Autobahn, which the project does not have.

from __future__ import annotations

import binascii
import importlib.machinery
import importlib.util
import json
import re
import sys
import time
import types
from collections import Counter
from pathlib import Path

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol, connectWS
from autobahn.websocket import USES_NVX
from twisted.internet import reactor

TRANSLATION = [
    (r"(?m)^( *)print (.+)$", r"\1print(\2)"),
    (r"\(object, Case, \)", "(Case, )"),  # every class is an object now; the order would be wrong
    (r"len\(self\.payload\) / ", "len(self.payload) // "),
    (r"(?m)\.validate\((.+)\)$", r".validate(octets(\1))"),
    (r"binascii\.b2a_hex", "b2a_hex"),
    # Autobahn has renamed them since.
    (r"(request|accept)NoContextTakeover", r"\1_no_context_takeover"),
    (r"(request|accept)MaxWindowBits", r"\1_max_window_bits"),
    (r"m\.update\(msg\)", "m.update(octets(msg))"),
    (r"msg = msg\.decode\('utf-8'\)", "msg = octets(msg).decode('utf-8')"),
    (r"(?m)^from case9_9_1 import .*$", ""),  # in no list, and for a zope.interface of the past
]


def octets(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text


PYTHON2 = {
    "xrange": range,
    "octets": octets,
    "b2a_hex": lambda text: binascii.b2a_hex(octets(text)).decode(),
}
"""Names that the cases' modules find in place."""


COMPRESSION = ("Case12_", "Case13_")
"""Cases of permessage-deflate, 216 of them: run when they are asked for by name."""


class CaseLoader(importlib.machinery.SourceFileLoader):
    """Loads a module of the suite, translated."""

    def get_code(self, fullname):
        source = Path(self.path).read_text(encoding="latin-1")  # with any line ends
        for pattern, replacement in TRANSLATION:
            source = re.sub(pattern, replacement, source)
        return compile(source, self.path, "exec", dont_inherit=True)

    def exec_module(self, module) -> None:
        vars(module).update(PYTHON2)
        super().exec_module(module)


class CaseFinder:
    """Finds the suite's modules of cases, which import each other as top-level ones."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find_spec(self, name, path=None, target=None):
        file = self.folder / f"{name}.py"
        if not name.startswith("case") or not file.exists():
            return None
        return importlib.util.spec_from_loader(name, CaseLoader(name, str(file)))


def load_cases() -> list[type]:
    """All case classes, in the suite's order."""
    suite = next(
        folder
        for entry in sys.path
        if (folder := Path(entry, "autobahntestsuite", "case")).is_dir()
    )
    sys.meta_path.insert(0, CaseFinder(suite))
    # What the cases want of setuptools, which not every environment has.
    resources = types.ModuleType("pkg_resources")
    resources.resource_filename = lambda _package, name: str(suite.parent / name)
    sys.modules["pkg_resources"] = resources
    index = CaseLoader("cases", str(suite / "__init__.py"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("cases", index))
    index.exec_module(module)
    # Comparing pickles, as the suite does, also compares which objects are the same one.
    module.Case1_1_1.__mro__[1].compare = lambda self, one, other: one == other
    return module.Cases


class Conversation(WebSocketClientProtocol):
    """One case's connection: what the suite adds to Autobahn's client, and octets for text."""

    def __init__(self, factory: Series, case: type) -> None:
        super().__init__()
        self.factory = factory
        self.connectionWasOpen = False
        self.createWirelog = False
        self.txFrameStats: Counter[int] = Counter()
        self.case = case(self)

    def connectionMade(self) -> None:
        super().connectionMade()
        # Autobahn 26 reads its own option for this before it has it. Without it the kernel
        # gathers what a case means to send octet by octet.
        self.transport.setTcpNoDelay(True)

    def enableWirelog(self, enable: bool) -> None:
        pass

    def onOpen(self) -> None:
        self.connectionWasOpen = True
        self.case.onOpen()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.case.onMessage(payload.decode("latin-1"), isBinary)

    def onPong(self, payload: bytes) -> None:
        self.case.onPong(payload.decode("latin-1"))

    def onClose(self, wasClean, code, reason) -> None:
        self.case.onClose(wasClean, code, reason)

    def connectionLost(self, reason) -> None:
        super().connectionLost(reason)
        self.case.onConnectionLost(self.failedByMe)
        self.factory.judged(self)

    def sendFrame(self, opcode, payload=b"", **options) -> None:
        self.txFrameStats[opcode] += 1
        super().sendFrame(opcode, octets(payload), **options)

    def sendMessage(self, payload, *args, **options) -> None:
        super().sendMessage(octets(payload), *args, **options)

    def sendMessageFrameData(self, payload, sync=False):
        return super().sendMessageFrameData(octets(payload), sync)

    def sendCloseFrame(self, code=None, reasonUtf8=None, isReply=False) -> None:
        super().sendCloseFrame(code, None if reasonUtf8 is None else octets(reasonUtf8), isReply)

    def _later(self, delay, states, action) -> None:
        reactor.callLater(delay, lambda: self.state in states or action())

    def continueLater(self, delay, action, tag=None) -> None:
        self._later(delay, (self.STATE_CLOSED,), action)

    def killAfter(self, delay) -> None:
        self._later(delay, (self.STATE_CLOSED,), self._fail_connection)

    def closeAfter(self, delay) -> None:
        self._later(delay, (self.STATE_CLOSED,), self.sendClose)


class Series(WebSocketClientFactory):
    """One case after the other, and the verdicts."""

    noisy = False

    def __init__(self, url: str, cases: list[type], results: Path) -> None:
        super().__init__(url)
        self.setProtocolOptions(failByDrop=False)  # to the letter of the RFC, as the suite does
        self.cases, self.results = cases, results
        self.verdicts: list[dict[str, object]] = []
        self.began = time.monotonic()

    def buildProtocol(self, address):
        conversation = Conversation(self, self.cases[len(self.verdicts)])
        self.began = time.monotonic()
        return conversation

    def judged(self, conversation: Conversation) -> None:
        case = conversation.case
        number = type(case).__name__.removeprefix("Case").replace("_", ".")
        self.verdicts.append(
            {
                "case": number,
                "behavior": case.behavior,
                "close": case.behaviorClose,
                "close_code": conversation.remoteCloseCode,
                "result": case.result,
                "close_result": case.resultClose,
                "unclean": conversation.wasNotCleanReason,
                "description": " ".join(re.sub("<[^>]*>", " ", case.DESCRIPTION).split()),
                "seconds": round(time.monotonic() - self.began, 3),
            }
        )
        print(f"{len(self.verdicts)} of {len(self.cases)}: {number} {case.behavior}", flush=True)

    def clientConnectionLost(self, connector, reason) -> None:
        if len(self.verdicts) < len(self.cases):
            connector.connect()
        else:
            self.results.write_text(json.dumps(self.verdicts, indent=1))
            reactor.stop()

    def clientConnectionFailed(self, connector, reason) -> None:
        print(f"cannot connect: {reason.getErrorMessage()}", file=sys.stderr)
        reactor.stop()


def main() -> None:
    url, results, messages, *prefixes = sys.argv[1:]
    cases = load_cases()
    wanted = tuple(f"Case{prefix.replace('.', '_')}_" for prefix in prefixes)
    if wanted:
        cases = [case for case in cases if f"{case.__name__}_".startswith(wanted)]
    else:
        cases = [case for case in cases if not case.__name__.startswith(COMPRESSION)]
    for case in cases:
        if case.__name__.startswith(COMPRESSION):
            case.COUNT = min(case.COUNT, int(messages))
    if not USES_NVX:
        print("Autobahn without its C parts: the 9.* cases will be slow", file=sys.stderr)
    connectWS(Series(url, cases, Path(results)))
    reactor.run()


if __name__ == "__main__":
    main()

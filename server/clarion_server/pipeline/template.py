"""`template`: renders a notification from data, by Jinja.

The template is the operator's, the data anybody's. Two things follow.

Data cannot change what the result *is*. In a template for JSON every `{{ value }}` is written as
JSON: between quotes as a part of that string, elsewhere as a value with quotes of its own. No
filter has to be remembered, and no text of a publisher's ends a string or adds a field (`quotes`):

    {"title": "Order {{ data.id }}", "lines": [
      {% for line in data.lines %}{{ line.text }}{% if not loop.last %},{% endif %}{% endfor %}
    ]}

Data cannot make it endless. The result is limited while it is written, and a template whose time is
more than proportional to its data (`linear`) is not safe and runs in the pool.

Nothing else can be reached: Jinja's sandbox, no files but this one, and what is not there is an
error rather than an empty text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, cast

import jinja2
import msgspec
from jinja2 import meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from clarion_server.pipeline import linear
from clarion_server.pipeline.options import Template
from clarion_server.pipeline.quotes import Quotes
from clarion_server.pipeline.step import Document, Failed, Misconfigured, Refused

_EXPECTED = "a file with a Jinja template"
_LOADS = (nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)


class TemplateStep:
    """See the module's text."""

    name = "template"

    def __init__(self, options: Template, files: Mapping[str, bytes]) -> None:
        path = options.template
        if not path:
            raise Misconfigured("template", "is empty", _EXPECTED)
        self._is_json = options.result == "json"
        environment = _Environment()
        try:
            tree = environment.parse(files[path].decode("utf-8-sig"))
            _check(tree, environment, path)
            if self._is_json:
                Quotes().put_into(tree)
            self.safe = linear.is_linear(tree)
            self._template = environment.from_string(tree)
        except UnicodeDecodeError as error:
            raise Misconfigured(
                "template", f"{path} is not valid UTF-8: {error}", _EXPECTED
            ) from None
        except jinja2.TemplateSyntaxError as error:
            problem = f"{path}, line {error.lineno}: {error.message}"
            raise Misconfigured("template", problem, _EXPECTED) from None

    def load(self) -> None:
        """Nothing is left to load."""

    def run(self, document: Document) -> None:
        text = self._rendered(document.value, document.limit)
        if not self._is_json:
            document.value = text
            return
        try:
            document.data = text.encode()
        except Refused as error:
            if len(text) > document.limit // 4:  # it may be the limit
                raise
            raise Failed(f"the template made no JSON: {error}") from None
        document.value = document.value  # written anew, without the template's white space

    def _rendered(self, data: object, limit: int) -> str:
        pieces: list[str] = []
        left = limit
        try:
            context = self._template.new_context({"data": data})
            for piece in self._template.root_render_func(context):
                pieces.append(piece)
                left -= len(piece)
                if left < 0:
                    raise Refused(f"the result has more than {limit} bytes")
        except Refused:
            raise
        except jinja2.UndefinedError as error:
            raise Refused(f"{error.message} (line {self._line(error)} of the template)") from None
        except MemoryError:
            raise
        except Exception as error:
            what = type(error).__name__
            if isinstance(error, (SecurityError, jinja2.TemplateRuntimeError)):
                what = error.message or what
            raise Failed(f"line {self._line(error)} does not go with this data: {what}") from None
        return "".join(pieces)

    def _line(self, error: BaseException) -> int:
        """The line of the template at which it was."""
        line = 0
        trace: TracebackType | None = error.__traceback__
        while trace is not None:
            if "__jinja_template__" in trace.tb_frame.f_globals:
                line = self._template.get_corresponding_lineno(trace.tb_lineno)
            trace = trace.tb_next
        return line


class _Missing(jinja2.StrictUndefined):
    """What is not there. Whatever is done with it says so."""

    @property
    def _undefined_message(self) -> str:
        if self._undefined_hint:
            return self._undefined_hint
        name = self._undefined_name
        if isinstance(self._undefined_obj, (dict, list)):
            return f"data has no {name!r} there" if isinstance(name, str) else f"no element {name}"
        return f"{name!r} of something that is neither an object nor an array"


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja without what a step has no use for."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        super().__init__(
            undefined=_Missing, finalize=_plain, trim_blocks=True, lstrip_blocks=True, loader=None
        )
        self.filters |= {"json_value": _value, "json_text": _text}
        # What comes out depends on the data alone.
        del self.filters["random"]
        del self.globals["lipsum"]

    def getattr(self, obj: Any, attribute: str) -> Any:
        """A field goes before a method of the same name: `data.items` is what data has."""
        if isinstance(obj, dict) and attribute in obj:
            return cast("dict[str, Any]", obj)[attribute]
        return super().getattr(obj, attribute)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if not all(isinstance(one, (int, float)) and abs(one) < 1e18 for one in (left, right)):
            raise SecurityError(f"{operator} is for numbers")
        if operator == "**" and abs(right) > 64:
            raise SecurityError("** is for small powers")
        return super().call_binop(context, operator, left, right)


def _check(tree: nodes.Template, environment: jinja2.Environment, path: str) -> None:
    for node in tree.find_all(_LOADS):
        problem = f"{path}, line {node.lineno}: a template is one file, and loads no other"
        raise Misconfigured("template", problem, _EXPECTED)
    unknown = meta.find_undeclared_variables(tree) - {"data"} - environment.globals.keys()
    if unknown:
        problem = f"{path}: {', '.join(sorted(unknown))}: there is no such name"
        raise Misconfigured("template", problem, "data.NAME for what is in the data")


def _encodable(value: object) -> object:
    """For what is not JSON: nothing that is missing, and what filters such as `map` return."""
    if isinstance(value, jinja2.Undefined):
        str(value)  # raises UndefinedError
    if isinstance(value, Iterator):
        return list(cast(Iterable[object], value))
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


_encode = msgspec.json.Encoder(enc_hook=_encodable).encode


def _plain(value: object) -> str:
    """How a value is written in text: a text as it is, all else as JSON."""
    return value if isinstance(value, str) else _encode(value).decode()


def _value(value: object) -> str:
    """As a value in JSON."""
    # A Markup is a str, but not one that msgspec knows.
    return _encode(str(value) if isinstance(value, str) else value).decode()


def _text(value: object) -> str:
    """As part of a string in JSON."""
    return _encode(str(_plain(value))).decode()[1:-1]

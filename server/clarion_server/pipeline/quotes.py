"""Writing values into a template for JSON so that they stay values.

The text of the template is read in order, as JSON: where a `{{ value }}` stands between quotes, it
gets the filter `json_text`, elsewhere `json_value`. Every branch must leave a string as it has
found it, open or closed, or else nobody could say where a value stands.
"""

from __future__ import annotations

import re

from jinja2 import TemplateSyntaxError, nodes

_OUTSIDE = re.compile(r'[^"]*')
_INSIDE = re.compile(r'(?:[^"\\]|\\.)*', re.DOTALL)


class Quotes:
    """See the module's text."""

    def __init__(self) -> None:
        self._inside = False

    def put_into(self, tree: nodes.Template) -> None:
        """Changes `tree`. Raises `TemplateSyntaxError`."""
        self._walk(tree.body)
        if self._inside:
            raise TemplateSyntaxError("a string is open at the end", 1)

    def _walk(self, body: list[nodes.Node]) -> None:
        for node in body:
            if isinstance(node, nodes.Output):
                node.nodes = [self._output(part) for part in node.nodes]
            elif isinstance(node, nodes.For):
                self._branch(node.body, node.lineno)
                self._branch(node.else_, node.lineno)
            elif isinstance(node, nodes.If):
                self._branch(node.body, node.lineno)
                for other in node.elif_:
                    self._branch(other.body, other.lineno)
                self._branch(node.else_, node.lineno)
            elif isinstance(node, nodes.With):
                self._branch(node.body, node.lineno)
            elif not isinstance(node, (nodes.Assign, nodes.ExprStmt)):
                what = type(node).__name__.lower()
                problem = f"a template for JSON has no {what}: it would be written as a text"
                raise TemplateSyntaxError(problem, node.lineno)

    def _branch(self, body: list[nodes.Node], line: int) -> None:
        before = self._inside
        self._walk(body)
        if self._inside != before:
            raise TemplateSyntaxError("a string begins or ends within a block, and not both", line)

    def _output(self, part: nodes.Expr) -> nodes.Expr:
        if isinstance(part, nodes.TemplateData):
            self._read(part.data)
            return part
        if not self._inside and isinstance(part, nodes.Filter) and part.name == "tojson":
            return part  # that is what it is for
        name = "json_text" if self._inside else "json_value"
        return nodes.Filter(part, name, [], [], None, None, lineno=part.lineno)

    def _read(self, text: str) -> None:
        place = 0
        while True:
            found = (_INSIDE if self._inside else _OUTSIDE).match(text, place)
            assert found is not None
            place = found.end()
            if place >= len(text):
                break
            if text[place] != '"':  # a \ at the very end of the text
                break
            self._inside = not self._inside
            place += 1

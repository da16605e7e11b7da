"""Whether a template takes no more time than its data has bytes.

Templates are the operator's, data is anybody's. `{% for a in data.x %}{% for b in data.x %}` is
harmless with ten elements and takes an hour with a hundred thousand, so it belongs into a process
with a deadline. What most templates do is found to be linear here: fields, conditions, simple
filters, and loops over the data or over a part of what a loop around them is at.

What is written within a loop again and again needs no look: the length of the result is limited.
"""

from __future__ import annotations

from jinja2 import nodes

_PLAIN = (
    nodes.Output, nodes.TemplateData, nodes.Const, nodes.Name, nodes.Getattr, nodes.Getitem,
    nodes.If, nodes.CondExpr, nodes.And, nodes.Or, nodes.Not, nodes.Compare, nodes.Operand,
    nodes.Concat, nodes.Add, nodes.Sub, nodes.Neg, nodes.Pos, nodes.List, nodes.Tuple, nodes.Dict,
    nodes.Pair, nodes.Keyword, nodes.Filter, nodes.Test, nodes.For, nodes.Call,
)  # fmt: skip

_FILTERS = frozenset({
    "abs", "capitalize", "count", "d", "default", "e", "escape", "first", "float", "int", "items",
    "join", "json_text", "json_value", "last", "length", "list", "lower", "round", "string",
    "title", "tojson", "trim", "truncate", "upper",
})  # fmt: skip
_TESTS = frozenset({
    "boolean", "defined", "eq", "even", "false", "float", "ge", "gt", "in", "integer", "iterable",
    "le", "lt", "mapping", "ne", "none", "number", "odd", "sequence", "string", "true", "undefined",
})  # fmt: skip
_LISTINGS = frozenset({"items", "keys", "values"})
_FREE = (
    nodes.Getattr, nodes.Getitem, nodes.Name, nodes.And, nodes.Or, nodes.Not, nodes.CondExpr,
)  # fmt: skip
"""Looking something up costs nothing, however large it is, nor does asking whether it is empty."""

LOOP = "loop"


def is_linear(template: nodes.Template) -> bool:
    """See the module's text."""
    return all(_linear(node, None) for node in template.body)


def _linear(node: nodes.Node, loop: frozenset[str] | None) -> bool:
    """loop: the names that the innermost loop has given to what it is at; None outside of loops."""
    if not isinstance(node, _PLAIN):
        return False
    if isinstance(node, nodes.For):
        return _loop_is_linear(node, loop)
    if isinstance(node, nodes.Call) and not _is_listing(node):
        return False
    if isinstance(node, nodes.Filter) and not _is_cheap(node):
        return False
    if isinstance(node, nodes.Test) and node.name not in _TESTS:
        return False
    # What costs as much as its operand is long may not be done with the whole in each turn. The
    # filters that write a value do just that, but what they write is counted.
    if (
        loop is not None
        and isinstance(node, nodes.Expr)
        and not isinstance(node, _FREE)
        and not _writes(node)
        and not _compares_with_constants(node)
        and not _names(node) <= loop | {LOOP}
    ):
        return False
    return all(_linear(below, loop) for below in node.iter_child_nodes())


def _loop_is_linear(node: nodes.For, loop: frozenset[str] | None) -> bool:
    if node.recursive:
        return False
    if loop is not None and not (_names(node.iter) and _names(node.iter) <= loop):
        return False
    inner = frozenset(name.name for name in node.target.find_all(nodes.Name)) | _own(node.target)
    body = [*node.body, *([node.test] if node.test is not None else [])]
    return (
        _linear(node.iter, loop)
        and all(_linear(below, inner) for below in body)
        and all(_linear(below, loop) for below in node.else_)
    )


def _own(target: nodes.Node) -> frozenset[str]:
    return frozenset({target.name}) if isinstance(target, nodes.Name) else frozenset()


def _names(node: nodes.Node) -> set[str]:
    names = {name.name for name in node.find_all(nodes.Name)}
    return names | _own(node)


def _writes(node: nodes.Node) -> bool:
    return (
        isinstance(node, nodes.Filter)
        and node.name in ("json_text", "json_value")
        and isinstance(node.node, _FREE)
    )


def _compares_with_constants(node: nodes.Node) -> bool:
    return (
        isinstance(node, nodes.Compare)
        and isinstance(node.expr, _FREE)
        and all(isinstance(one.expr, nodes.Const) and one.op != "in" for one in node.ops)
    )


def _is_listing(node: nodes.Call) -> bool:
    """`data.items()`"""
    called = node.node
    return (
        isinstance(called, nodes.Getattr)
        and called.attr in _LISTINGS
        and not (node.args or node.kwargs or node.dyn_args or node.dyn_kwargs)
    )


def _is_cheap(node: nodes.Filter) -> bool:
    """With arguments that are written in the template: no number from the data is a width."""
    arguments = [*node.args, *(pair.value for pair in node.kwargs)]
    constant = all(isinstance(argument, nodes.Const) for argument in arguments)
    dynamic = node.dyn_args or node.dyn_kwargs
    fitting = constant or node.name in ("d", "default")
    return node.name in _FILTERS and fitting and not dynamic and node.node is not None

"""The double knows no parameter that Stripe's own client of the same version doesn't know."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import stripe

from faucet.payments.double.params import Group, Items, Shape
from faucet.payments.double.resources import ROUTES
from faucet.payments.double.routes import Route
from faucet.payments.double.state import API_VERSION

PARAMS = Path(stripe.__file__).parent / "params"
VERBS = {"attach", "detach", "confirm", "cancel", "expire", "close", "reverse", "reject"}
_PLAIN = {"GET": ("list", "retrieve"), "POST": ("create", "update"), "DELETE": ("delete", "delete")}
_SINGLE = {"balance"}
"""Resources of which an account has one, with no id."""
Classes = dict[str, dict[str, str]]


def _source(route: Route) -> Path:
    """The file of the client that names a route's parameters."""
    words = [word for word in route.path.split("/")[2:] if not word.startswith("{")]
    is_one = route.path.endswith("}") or words[-1] in _SINGLE
    verb = words.pop() if words[-1] in VERBS else _PLAIN[route.method][is_one]
    folder = PARAMS
    if words[0] == "checkout":
        folder /= words.pop(0)
    return folder / f"_{'_'.join(word.removesuffix('s') for word in words)}_{verb}_params.py"


def _classes(source: Path) -> Classes:
    """Every class of a file with its members and what the file says of each."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    return {
        node.name: {
            each.target.id: ast.unparse(each.annotation)
            for each in node.body
            if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
        }
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }


def _unknown(shapes: dict[str, Shape], name: str, classes: Classes, inside: str = "") -> list[str]:
    found = []
    for member, shape in shapes.items():
        said = classes[name].get(member)
        if said is None:
            found.append(inside + member)
            continue
        inner = shape.item if isinstance(shape, Items) else shape
        if isinstance(inner, Group):
            below = next((word for word in re.findall(r"\w+", said) if word in classes), None)
            if below is not None:  # else a dictionary that every list has, such as `created`
                found += _unknown(dict(inner.members), below, classes, f"{inside}{member}.")
    return found


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_a_route_s_parameters_are_stripe_s(route: Route) -> None:
    """Lost: something works against the double and is refused by the real one."""
    classes = _classes(_source(route))
    top = min((name for name in classes if name.endswith("Params")), key=len)
    assert _unknown(dict(route.params), top, classes) == []


def test_the_double_speaks_the_client_s_version() -> None:
    """Lost: the client is newer than what the double plays."""
    assert stripe.api_version == API_VERSION

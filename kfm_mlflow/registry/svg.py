"""Drawing: SVG elements as escaped text, for pages without script.

Only presentation attributes and classes are written, never ``style`` or ``url()``, so that the
pages' Content-Security-Policy may forbid both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from collections.abc import Iterable


def element(name: str, *children: str, **attributes: object) -> Markup:
    """Return an element.

    Args:
        name: Element name.
        *children: Text is escaped; markup is taken as it is.
        **attributes: ``class_`` is written ``class``; ``_`` in other names becomes ``-``. None
            leaves an attribute out, and numbers are written with at most two decimals.
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), number(value))
        for key, value in attributes.items()
        if value is not None
    )
    inner = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, inner)  # noqa: S704 - names are ours, attributes escaped


def number(value: object) -> object:
    """Write a float shortly; return anything else as it is."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


def drawing(
    name: str,
    title: str,
    description: str,
    *,
    width: float,
    height: float,
    children: Iterable[str],
    **attributes: object,
) -> Markup:
    """Return an ``svg`` element that a screen reader announces by title and description.

    Args:
        name: Prefix of the ids inside, unique on the page.
        title: What it shows, in a few words.
        description: What can be seen in it.
        width: Of the drawing, in its own units.
        height: Of the drawing, in its own units.
        children: What is drawn.
        **attributes: More attributes of the element, as :func:`element` takes them.
    """
    return element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", description, id=f"{name}-desc"),
        *children,
        viewBox=f"0 0 {number(width)} {number(height)}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        class_=name,
        **attributes,
    )


def shortened(text: str, length: int) -> str:
    """Return a text of at most so many characters, its end replaced by an ellipsis."""
    return text if len(text) <= length else f"{text[: length - 1]}…"

"""Numbers and foreign texts as people read them."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    pass

__all__ = [
    "format_number",
    "format_share",
    "plain",
]


def format_share(inside: int, total: int) -> str:
    """Write a share with its binomial standard error, in percent.

    Example:
        >>> format_share(264, 400)
        '66.0 ± 2.4 %'
    """
    if not 0 <= inside <= total or total == 0:
        raise ValueError(f"expected a number out of a positive total, got {inside} out of {total}")
    share = inside / total
    return f"{100 * share:.1f} ± {100 * np.sqrt(share * (1 - share) / total):.1f} %"


def format_number(value: Any) -> str:
    """Write a value as people read it: four digits of a number, items of a list with commas.

    Example:
        >>> format_number(0.123456), format_number(1500), format_number([20.5, None]), format_number(True)
        ('0.1235', '1500', '20.5, –', 'yes')
    """
    match value:
        case None:
            return "–"
        case bool() | np.bool_():
            return "yes" if value else "no"
        case float() | np.floating():
            return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
        case list() | tuple() | np.ndarray():
            return ", ".join(format_number(item) for item in value)
        case _:
            return str(value)


def plain(text: str) -> str:
    r"""Return a line without what a terminal would obey: it may come from anyone.

    Example:
        >>> plain("a\x1b[31mb")
        'a [31mb'
    """
    return "".join(letter if letter.isprintable() else " " for letter in text)

"""Names that keys of recipes had earlier: they are understood, with a warning that names the new one."""

import warnings
from typing import Any

__all__ = ["KEYS", "KINDS", "with_new_names"]

FLOW = {"target": "fit_to", "limit": "log_scale_clamp"}
KEYS: dict[str, dict[str, str]] = {  # by table; the empty name is the top of the file
    "": {"aids": "training_aids", "guide_flow": "posterior_flow"},
    "objective": {"inflate": "misfit_as_noise", "divergence_weight": "kl_weight"},
    "training": {
        "accumulate": "gradient_accumulation",
        "average": "ema_decay",
        "favour_bright": "flux_sampling_power",
    },
    "flow": FLOW,
    "posterior_flow": FLOW,
}
KINDS = {"patches": "sersic_residual", "pyramid": "lanusse2020"}  # of generator and encoder


def with_new_names(content: dict[str, Any], where: str = "recipe", *, warn: bool = True) -> dict[str, Any]:
    """Rename the keys of a recipe that had other names.

    Args:
        content: What a TOML file holds.
        where: What to call it.
        warn: Whether to warn of each old name; files that hiergal wrote itself need no warning.

    Raises:
        ValueError: If a key is given by its old and by its new name.

    Example:
        >>> with_new_names({"training": {"average": 0.999}}, warn=False)
        {'training': {'ema_decay': 0.999}}
    """
    content, found = dict(content), []
    for table, names in KEYS.items():
        here = content.get(table) if table else content
        if not isinstance(here, dict):
            continue
        for old in set(names) & set(here):
            new, prefix = names[old], f"{table}." if table else ""
            if new in here:
                raise ValueError(
                    f"{where}: expected {prefix}{new} alone, got {prefix}{old} too; leave that out"
                )
            found.append((prefix + old, prefix + new))
        renamed = {names.get(key, key): value for key, value in here.items()}
        content = content | {table: renamed} if table else renamed
    for table in ("generator", "encoder"):
        here = content.get(table)
        if isinstance(here, dict) and here.get("kind") in KINDS:
            old, new = here["kind"], KINDS[here["kind"]]
            found.append((f'{table}.kind = "{old}"', f'{table}.kind = "{new}"'))
            content[table] = here | {"kind": new}
    if warn and found:
        words = ", ".join(f"{old} is now {new}" for old, new in sorted(found))
        warnings.warn(f"{where}: {words}; write the new names", FutureWarning, stacklevel=3)
    return content

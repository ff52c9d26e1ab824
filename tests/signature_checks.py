"""The type checker that the import hook of conftest.py puts behind every signature of hiergal.

A ``float`` may be any real number and an ``int`` any integer, NumPy's scalars too, as Python's own functions take them.
"""

import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype

check = beartype(
    conf=BeartypeConf(
        hint_overrides=FrozenDict({float: float | int | np.floating | np.integer, int: int | np.integer})
    )
)

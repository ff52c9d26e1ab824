"""Flax networks: the generator g(z) and the encoder that amortises its inversion, of two kinds.

``patches`` (:mod:`.generator`, :mod:`.encoder`) is small and fast, with flux and ellipse explicit; ``pyramid``
(:mod:`.pyramid`) is the paper's.
"""

from hiergal.model.nets.encoder import Encoder
from hiergal.model.nets.generator import Generator
from hiergal.model.nets.pyramid import PyramidEncoder, PyramidGenerator
from hiergal.recipe.config import (
    EncoderConfig,
    GeneratorConfig,
    PyramidEncoderConfig,
    PyramidGeneratorConfig,
)

__all__ = [
    "Encoder",
    "EncoderConfig",
    "Generator",
    "GeneratorConfig",
    "PyramidEncoder",
    "PyramidEncoderConfig",
    "PyramidGenerator",
    "PyramidGeneratorConfig",
]

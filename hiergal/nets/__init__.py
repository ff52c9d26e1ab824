"""Flax networks: the generator g(z) and the encoder that amortises its inversion, of two kinds.

``patches`` (:mod:`.generator`, :mod:`.encoder`) is small and fast, with flux and ellipse explicit; ``pyramid``
(:mod:`.pyramid`) is the paper's.
"""

from hiergal.nets.encoder import Encoder, EncoderConfig
from hiergal.nets.generator import Generator, GeneratorConfig
from hiergal.nets.pyramid import (
    PyramidEncoder,
    PyramidEncoderConfig,
    PyramidGenerator,
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

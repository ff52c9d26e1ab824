"""Flax networks: the generator g(z) and the encoder that amortises its inversion, of three kinds.

``sersic_residual`` (:mod:`.generator`, :mod:`.encoder`) is small and fast, with flux and ellipse explicit;
``lanusse2020`` (:mod:`.lanusse2020`) is the paper's; ``framed`` (:mod:`.framed`) is a profile on the plane, with global
and local latents. All modules of this folder are imported here, and register the
kinds that they define (:mod:`.registry`).
"""

from hiergal.model.nets.encoder import Encoder
from hiergal.model.nets.framed import FramedEncoder, FramedGenerator
from hiergal.model.nets.generator import Generator
from hiergal.model.nets.lanusse2020 import PyramidEncoder, PyramidGenerator
from hiergal.model.nets.registry import build_network, register_network
from hiergal.recipe.config import (
    EncoderConfig,
    GeneratorConfig,
    PyramidEncoderConfig,
    PyramidGeneratorConfig,
)
from hiergal.recipe.framed_config import FramedEncoderConfig, FramedGeneratorConfig
from hiergal.recipe.network_kinds import EncoderArchitecture, GeneratorArchitecture
from hiergal.runtime.namespace import import_modules, submodules

__all__ = [
    "Encoder",
    "EncoderArchitecture",
    "EncoderConfig",
    "FramedEncoder",
    "FramedEncoderConfig",
    "FramedGenerator",
    "FramedGeneratorConfig",
    "Generator",
    "GeneratorArchitecture",
    "GeneratorConfig",
    "PyramidEncoder",
    "PyramidEncoderConfig",
    "PyramidGenerator",
    "PyramidGeneratorConfig",
    "build_network",
    "register_network",
]

__getattr__ = submodules(__name__)
import_modules(__name__)

"""Flax networks: the generator g(z) and the encoder that amortises its inversion."""

from hiergal.nets.encoder import Encoder, EncoderConfig
from hiergal.nets.generator import Generator, GeneratorConfig

__all__ = ["Encoder", "EncoderConfig", "Generator", "GeneratorConfig"]

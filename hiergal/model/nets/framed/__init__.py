"""Framed networks: a light profile on the plane, in the frame of the galaxy, and the encoder that finds its latents.

:mod:`.generator` puts it together: a sum of Gaussians (:mod:`.gaussians`) seen in a frame (:mod:`.frame`), times arms,
bars and a free field (:mod:`.structure`), plus knots. :mod:`.encoder` inverts it.
"""

from hiergal.model.nets.framed.encoder import FramedEncoder
from hiergal.model.nets.framed.generator import FramedGenerator

__all__ = ["FramedEncoder", "FramedGenerator"]

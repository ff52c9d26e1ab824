"""Framed networks: a light profile on the plane, in the frame of the galaxy, and the encoder that finds its latents.

:mod:`.generator` puts it together: a sum of Gaussians (:mod:`.gaussians`) seen in a frame (:mod:`.frame`), times spiral
structure (:mod:`.arms`), plus knots (:mod:`.knots`). :mod:`.encoder` inverts it.
"""

from hiergal.model.nets.framed.encoder import FramedEncoder
from hiergal.model.nets.framed.generator import FramedGenerator

__all__ = ["FramedEncoder", "FramedGenerator"]

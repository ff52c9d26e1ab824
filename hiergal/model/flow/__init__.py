"""Masked autoregressive flows: densities of latents (Lanusse et al. 2020, Sec. 3.3)."""

from hiergal.runtime.namespace import submodules

__all__: list[str] = []

__getattr__ = submodules(__name__)

"""The hierarchical model (Lanusse et al. 2020, Fig. 2): program, guide, networks, latent flow."""

from hiergal.runtime.namespace import submodules

__all__: list[str] = []

__getattr__ = submodules(__name__)

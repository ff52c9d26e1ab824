"""The hierarchical model (Lanusse et al. 2020, Fig. 2): program, guide, networks, latent flow."""

__all__: list[str] = []

"""Masked autoregressive flows: densities of latents (Lanusse et al. 2020, Sec. 3.3)."""

__all__: list[str] = []

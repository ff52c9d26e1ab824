"""Mock surveys of HST/ACS, drawn with GalSim: a population, its structure, its optics."""

__all__: list[str] = []

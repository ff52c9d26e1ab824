"""Training, and the fits that give a trained model its densities."""

__all__: list[str] = []

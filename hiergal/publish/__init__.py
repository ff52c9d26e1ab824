"""Publication: a trained, measured run becomes a model for others."""

__all__: list[str] = []

"""Reports: pages and figures of runs."""

__all__: list[str] = []

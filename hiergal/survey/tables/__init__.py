"""Tables of catalogues: any file or object with columns, units and identifiers."""

__all__: list[str] = []

"""Validation: measurements of images, drawn or real, and their comparison with the real COSMOS population.

``moments`` measures sizes and ellipticities; ``reference`` holds the published COSMOS distributions and the distance
to them; ``population_figure`` shows both.
"""

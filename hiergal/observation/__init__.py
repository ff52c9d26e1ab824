"""Observations: stamps with PSF, noise, mask and catalogue row in one record, and the ways to make them."""

import lazy_loader

# When they are used: PSFs and noise models, which observations consist of, need the door for arrays in this folder.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    ["arrays", "assemble", "independent", "noise", "observation", "photometry", "psf", "stationary"],
    {"observation": ["Observation", "check_observation"], "photometry": ["Photometry"]},
)

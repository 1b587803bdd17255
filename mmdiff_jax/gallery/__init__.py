"""Pages and pictures to look at and listen to clips with."""

from mmdiff_jax.gallery.page import make_gallery

__all__ = ["make_gallery"]

"""Formulations of the networks' operations as kernels for TPUs.

Values and gradients are those of `models.plain`; `models.attention` chooses.
"""

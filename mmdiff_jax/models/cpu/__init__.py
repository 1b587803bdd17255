"""Formulations of the networks' operations that suit XLA:CPU.

Values and gradients are those of `models.plain`; `models.ops` chooses. The
order of the backward pass cannot be chosen there: the networks ask for it.
"""

"""Engines of a bundle: one file a backend; `select` chooses, `compare` and `compiled` make and check.

Empty on purpose: choosing engines must not import PyTorch, which comparing them does.
"""

"""Engines of a bundle: one module per backend, a registry of them, and the steps that build and check them.

This file imports nothing: validating engine options must not import PyTorch, which comparing engines does.
"""

"""Parity gate: compare every graph and engine with the network on the same windows."""

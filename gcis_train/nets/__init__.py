"""Network modules: encoder, decoder positions, routed and static network."""

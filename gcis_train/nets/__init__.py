"""The network: encoder, decoder positions, routed and static assembly."""

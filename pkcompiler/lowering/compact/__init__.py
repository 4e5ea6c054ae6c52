"""The same function in a smaller network: what masks have left of every tensor, in modules of that size (docs/compact.md)."""

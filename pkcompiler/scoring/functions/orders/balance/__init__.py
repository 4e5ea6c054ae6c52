"""Weights in the order that balances units and paths, layer after layer (Pham et al., NeurIPS 2023).

What ``balance(E)`` of the language maximises is in docs/theory.md, section 5.
"""

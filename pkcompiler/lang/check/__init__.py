"""A syntax tree to what it means, with every finding at once."""

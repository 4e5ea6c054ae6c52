"""The language over a model: expressions to scores."""

"""How it learns: recipes, the training loop, evaluation."""

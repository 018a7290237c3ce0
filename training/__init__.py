"""How it learns: conversations, tokenizer, recipes, the training loop, evaluation."""

"""How it talks: conversations with a model, in the terminal."""

"""How it is shared: models of other formats come in, and ours go out."""

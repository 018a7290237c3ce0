"""How it is kept: what all rooms read and write on disk."""

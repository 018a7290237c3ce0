"""
Pictures, each a function that returns a matplotlib `Figure`.

In reading order, each file imports only those above it:

    drawing    an empty figure, fonts that have Hangul, the file of a picture
    curves     the figures of a run over its steps
    paper      what the paper draws: positions, masks, the learning rate
    replies    one reply: tokens, attention, the likeliest next tokens, beams
    of_a_text  from settings and a text to one of these pictures
"""

from .curves import curves
from .paper import masks, positions, schedule
from .replies import attention, beams, steps, tokens

__all__ = ["attention", "beams", "curves", "masks", "positions", "schedule", "steps", "tokens"]

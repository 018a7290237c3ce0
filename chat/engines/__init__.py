"""
What computes replies and scores.

In reading order, each file imports only those above it:

    engine               what every engine does
    transformers_engine  a model of transformers, with stock `generate()`
    ctranslate2_engine   CTranslate2 on an exported model
"""

from .ctranslate2_engine import CTranslate2Engine
from .engine import GREEDY, Engine, Ids, OnToken, drawing_by, usual_search
from .transformers_engine import TransformersEngine

__all__ = [
    "GREEDY",
    "CTranslate2Engine",
    "Engine",
    "Ids",
    "OnToken",
    "TransformersEngine",
    "drawing_by",
    "usual_search",
]

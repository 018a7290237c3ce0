"""
How it is shared: what travels, the card, the push, and models of other formats.

In reading order, each file imports only those above it:

    errors        what can go wrong, for people
    settings      the flags of import, export, push and space
    privacy       paths, credentials and tokens, which stay with the author
    bundle        the files that travel
    card          the model card
    repositories  a repository on the Hub, and one commit to it
    pushing       `chatformer push`
    publisher     the pushes of a run
    stock_push    the stock `push_to_hub` of a model
    spaces        `chatformer space`
    formats       Marian, CTranslate2 and ONNX
"""

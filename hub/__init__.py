"""
How it is shared: bundle, card, push, Space, and models of other formats.

In reading order, each file imports only those above it:

    errors        what can go wrong, for people
    privacy       removes paths, credentials and tokens
    known_data    the training data: names, languages, licence
    samples       real replies of the model
    bundle        the files that travel
    seal          a card's checksum, which shows a person's edit
    card          the model card
    repositories  a repository on the Hub, and one commit to it
    pushing       `chatformer push`
    publisher     the pushes of a run
    stock_push    the stock `push_to_hub` of a model
    spaces        `chatformer space`
    formats       Marian, CTranslate2 and ONNX
"""

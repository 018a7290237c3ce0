"""
How it talks: conversations with a model.

In reading order, each file imports only those above it:

    errors       what a user can correct
    playing      a tune -> its sound and its score
    media        what of a reply is more than text: a picture or a tune
    half_blocks  pictures in a terminal
    engines      sources -> replies and scores
    streaming    tokens -> pieces of text, while a reply grows
    inside       what happens inside a model as it replies
    chatbot      an engine and a tokenizer; a conversation with them
    reranking    the best of several drawn replies
    loading      a command's settings -> a chatbot
    lines        `chatformer generate`: a reply to each line
    remote       a chatbot behind a URL
    terminal     `chatformer chat`
    serving      `chatformer serve`
    web          `chatformer web`
"""

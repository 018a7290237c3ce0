"""
What it learns from: the way of the data, from a file to batches.

    conversations   any source -> a dataset of checked conversations; the split for validation
    tokenizer       what the conversations' text is spelt in: byte-pair encoding and the chat template
    exchanges       conversations -> ids, a source and a target for each reply
    batches         exchanges -> the steps of an epoch and their tensors
    noise           sources -> other wordings of them
"""

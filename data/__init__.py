"""
What it learns from: the way of the data, from a file to batches. In reading order, each file imports only those above:

    messages        a conversation's messages, checked and brought to one form; `DataError`
    arrow           datasets of conversations, in memory or in a file
    rows            one record of the data, as all formats give it
    columns         which columns of the rows are read
    fetching        a path, a URL or a Hub dataset -> bytes
    text            bytes -> text
    tables          text with separators -> rows
    spreadsheets    an Excel file -> the records of one sheet
    formats         a file, or a dataset -> rows
    pictures        small images -> texts, a letter for each pixel
    wishes          the sentences that a picture or a tune is asked for by
    digits          the data "digits"
    emojis          the data "emoji"
    melodies        the ABC of a corpus -> a melody in one form
    tunes           the data "tunes"
    bad_rows        the rows that are not conversations
    chapters        the text of a book -> its chapters
    passages        a chapter -> prompts and their continuations
    prose           plain text files -> passages, as conversations
    conversations   rows -> conversations
    named           data that has a name -> conversations
    splitting       conversations -> those to train on and those to validate on
    tokenizer       byte-pair encoding and the chat template
    exchanges       conversations -> ids, a source and a target for each reply
    batches         exchanges -> the steps of an epoch, and their tensors
    noise           sources -> other wordings of them
    topics          conversations -> changes of subject, behind other conversations
    unread          the parts of conversations that a chat template leaves out
    preparation     settings -> everything that a run trains on
"""

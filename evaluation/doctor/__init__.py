"""
What is wrong with data or a model, and what to do. In reading order, each file imports only those above:

    subject          data or a model, by the settings; quick to import
    findings         what a check is, what it found, how bad it is, and how it is said
    conversations    conversations as the checks see them
    text             characters, marks and languages
    data             conversations: their number, repetition and leaks
    prose            text to go on writing: its amount, its leaks
    size             a model and its vocabulary, compared with the amount of data
    lengths          how long sources and replies are
    run_log          the log of a run: divergence, and an early end
    model            weights, tokenizer and generation settings
    dependence       whether predictions depend on the source alone, not on the future or on padding
    causes           why a model does not listen or always says the same
    trial            a model tried on exchanges
    replies          scores and replies: listening, remembering, variety
    baselines        whether a baseline that costs nothing is better than a model
    writing          what a model of prose writes: circles, copies
    thread           whether a model loses the thread when the topic changes
    verdict          what the log of a finished run says of its model
    diagnosis        the findings about data; without torch
    model_diagnosis  the findings about a model, its data and its log
    report           the findings in the terminal and in a file
    examination      settings -> findings, shown and written; quick to import
"""

"""
What is wrong with data or a model, and what to do. In reading order, each file imports only those above:

    subject          data or a model, by the settings; quick to import
    findings         what a check found, how bad it is, and how it is said
    conversations    conversations as the checks look at them
    text             checks of their characters, their marks and their languages
    data             checks of conversations, and of their size
    lengths          how long sources and replies are
    baselines        whether a baseline that costs nothing is better than a model
    model            checks of a model's weights, its parts, its replies and its run's log
    thread           whether a model loses the thread when the topic changes
    verdict          what the log of a finished run says of its model
    diagnosis        what all checks found, and how it is found in data; without torch
    model_diagnosis  what all checks find in a model, its data and its log
    report           the findings in the terminal and in a file
"""

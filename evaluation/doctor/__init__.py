"""
What is wrong with data or a model, and what to do. In reading order, each file imports only those above:

    data            checks of conversations
    model           checks of a model's weights, its parts, its replies and its run's log
    thread          whether a model loses the thread when the topic changes
    verdict         what the log of a finished run says of its model
"""

"""
How good it is: figures of a model on conversations. In reading order, each file imports only those above:

    repetition      whether a reply repeats itself
    metrics         BLEU and chrF, as sacreBLEU computes them
    scoring         a model and exchanges -> figures, also those of baselines
    by_turns        the figures by the length of the conversation
    turns           questions behind other topics, and behind other histories
    free_baselines  whether a baseline that costs nothing is better than a model
    plots           the curves of a run as a picture
    own_data        what a run was trained and validated on
    report          the figures in a file and in the terminal
    evaluating      settings -> figures in a file and in the terminal
    doctor          what is wrong with data or a model
"""

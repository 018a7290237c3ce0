"""
How good it is: figures of a model on conversations. In reading order, each file imports only those above:

    shortening  a text of any length in a line of a terminal
    repetition  whether a reply repeats itself
    metrics     BLEU and chrF, as sacreBLEU computes them
    scoring     a model and exchanges -> the likelihood of targets, and replies
    figures     likelihood and replies -> figures
    prose       how varied continuations are, and how well they are told apart from real text
    baselines   baselines that cost nothing, and whether one is better than the model
    by_turns    the figures by the length of the conversation
    turns       questions after other topics, and after other histories
    pictures    replies that are pictures -> figures
    tunes       replies that are tunes -> figures
    plots       pictures of runs, of the paper and of replies
    own_data    what a run was trained and validated on
    report      the figures in a file and in the terminal
    evaluating  settings -> figures in a file and in the terminal
    doctor      what is wrong with data or a model
"""

"""
The front door. In reading order, each file imports only those above it:

    train       `chatformer train`, which also publishes
    quickstart  `chatformer quickstart`: from nothing to a conversation
    plot        `chatformer plot`: a picture of a model, a run or the paper
    main        the table of verbs, and the way from a command line to an exit status
    evaluate    `chatformer evaluate` for `accelerate launch -m`
    doctor      `chatformer doctor` for `python -m`
"""

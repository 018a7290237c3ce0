"""
How it learns: the training loop and what belongs to it. In reading order, each file imports only those above:

    distributed    the processes of a run, and the memory that they keep
    stopping       a request to stop, a failed training, a loss that diverges
    building       the model, the optimizer, the precision, the steps of an epoch
    schedules      the learning rate at each step
    averaging      averages of weights
    progress       what a checkpoint saves besides weights and states
    graphs         the gradients of a batch by one launch, on GPUs
    gradients      a step's exchanges -> loss and gradients, in micro-batches
    pace           seconds of a step and of an evaluation on this machine
    planning       data, hardware and pace -> settings that were not given
    checkpoints    complete states of a run, to resume from
    resuming       what a resumed run makes of each setting that has changed
    output         the output folder: model, checkpoints, log, record, curves
    tracking       what a run reports to TensorBoard, trackio or Weights & Biases
    reporting      what a run says: announcement, log lines, samples, its end
    run            the loop: steps, evaluations, checkpoints
    verify_resume  proof that a killed and resumed run ends like an undisturbed one
    train          settings -> a trained model: the entry point
    __main__       the same for `accelerate launch training` in a checkout

    launch/        configurations of `accelerate launch`, and a script for SLURM
"""

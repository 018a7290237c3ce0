#!/bin/bash
# Train on several machines under SLURM: before its time limit the run saves a checkpoint, and the job is queued again.
#
#     sbatch slurm.sh OUTPUT_DIR --recipe korean
#     CONFIG_FILE=fsdp2.yaml sbatch --nodes 4 slurm.sh OUTPUT_DIR --size big --data ...
#
# OUTPUT_DIR is on a disk that all machines share, and so is the Python environment that is active at sbatch.
#
#SBATCH --job-name=chatformer
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --output=chatformer-%j.log
#SBATCH --open-mode=append
# One launcher for each machine; it starts a process for each GPU.
#SBATCH --ntasks-per-node=1
# SIGTERM to this script three minutes before the time limit.
#SBATCH --signal=B:TERM@180
#SBATCH --requeue

set -u
output_dir=${1:?usage: sbatch slurm.sh OUTPUT_DIR [flags of the training]}
shift

launch=$(python -c 'from importlib.resources import files; print(files("chatformer.training") / "launch")')
export CONFIG_FILE=${CONFIG_FILE:-$launch/ddp.yaml}
export NUM_PROCESSES=$((SLURM_NNODES * ${SLURM_GPUS_ON_NODE:-1}))
MAIN_MACHINE=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MAIN_MACHINE
# A port for each job: two jobs may share a machine.
export MAIN_PORT=$((20000 + SLURM_JOB_ID % 10000))
# A launcher kills its processes 30 seconds after SIGTERM; give them most of the three minutes to save.
export TORCHELASTIC_SHUTDOWN_TIMEOUT=150

# The same command begins a run and resumes it. A run that lost its machine before its first checkpoint begins again.
begin=
if compgen -G "$output_dir/checkpoint-*[0-9]" > /dev/null; then
    begin=--resume
elif ((${SLURM_RESTART_COUNT:-0} > 0)); then
    begin=--overwrite-output-dir
fi

# Only the machine knows its own number. `torchrun --nnodes ... --node-rank ... --master-addr ...` can replace
# `accelerate launch` with ddp.yaml; only accelerate reads the other configurations.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch --config_file "$CONFIG_FILE" \
    --num_machines "$SLURM_NNODES" --num_processes "$NUM_PROCESSES" --machine_rank "$SLURM_NODEID" \
    --main_process_ip "$MAIN_MACHINE" --main_process_port "$MAIN_PORT" \
    -m chatformer.training.train "$@"' launcher --output-dir "$output_dir" ${begin:+"$begin"} "$@" &
step=$!

# srun passes the signal to the launchers, and they pass it to their processes, which save and end.
stopped=
trap 'stopped=yes; kill -TERM "$step"' TERM
wait "$step"
status=$?
if [[ -n $stopped ]]; then
    # The signal ended the first wait, but not the run.
    wait "$step"
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

#!/bin/bash
# Train on several machines under SLURM, for as long as it takes: before its time is up the run saves, and queues again.
#
#     sbatch slurm.sh OUTPUT_DIR --recipe korean
#     CONFIG_FILE=fsdp2.yaml sbatch --nodes 4 slurm.sh OUTPUT_DIR --size big --data ...
#
# OUTPUT_DIR lies on a disk that all machines share, as does the Python environment that is active at sbatch.
#
#SBATCH --job-name=chatformer
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --output=chatformer-%j.log
#SBATCH --open-mode=append
# One launcher a machine; it starts a process for each GPU.
#SBATCH --ntasks-per-node=1
# SIGTERM to this script, three minutes before the end.
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
# One of its own for each job, as two may share a machine.
export MAIN_PORT=$((20000 + SLURM_JOB_ID % 10000))
# A launcher gives its processes 30 seconds to save, and then kills them. They may have most of the three minutes.
export TORCHELASTIC_SHUTDOWN_TIMEOUT=150

# The same command begins a run and goes on with it, also with one that lost its machine before its first checkpoint.
begin=
if compgen -G "$output_dir/checkpoint-*[0-9]" > /dev/null; then
    begin=--resume
elif ((${SLURM_RESTART_COUNT:-0} > 0)); then
    begin=--overwrite-output-dir
fi

# The machine's number is known on the machine alone. `torchrun --nnodes ... --node-rank ... --master-addr ...` does in
# the place of `accelerate launch` what ddp.yaml asks for; the other configurations are accelerate's to read.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch --config_file "$CONFIG_FILE" \
    --num_machines "$SLURM_NNODES" --num_processes "$NUM_PROCESSES" --machine_rank "$SLURM_NODEID" \
    --main_process_ip "$MAIN_MACHINE" --main_process_port "$MAIN_PORT" \
    -m chatformer.training.train "$@"' launcher --output-dir "$output_dir" ${begin:+"$begin"} "$@" &
step=$!

# srun passes the signal on to the launchers, and they to their processes, which save and end.
stopped=
trap 'stopped=yes; kill -TERM "$step"' TERM
wait "$step"
status=$?
if [[ -n $stopped ]]; then
    # The signal ended the first wait, not the run.
    wait "$step"
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

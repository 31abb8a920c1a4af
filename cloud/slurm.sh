#!/bin/bash
# Runs a preset with its training as a job of Slurm. On the login node, in the checkout:
#
#     bash cloud/slurm.sh gpt2-124m
#
# The launcher submits the job by `sbatch --wait`, which reads its options from the variables below;
# one that is already set stays. The other stages run where this script does. Two minutes before the
# time limit Slurm sends SIGUSR1: the run saves a checkpoint and ends, and the same command continues
# it. sbatch has no variable for the number of nodes, so several are asked for first:
#
#     salloc --nodes=2 --gpus-per-node=8 --exclusive --time=12:00:00 bash cloud/slurm.sh gpt2-124m
#
# The checkout must lie on a file system that all nodes share.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

export SBATCH_GPUS_PER_NODE="${SBATCH_GPUS_PER_NODE:-8}"
export SBATCH_TIMELIMIT="${SBATCH_TIMELIMIT:-12:00:00}"
# As the cluster demands:
# export SBATCH_PARTITION=gpu SBATCH_ACCOUNT=me SBATCH_CPUS_PER_GPU=8 SBATCH_MEM_PER_GPU=64G

python -m pipeline.preset "${1:?name a preset: bash cloud/slurm.sh gpt2-124m}"
exec dvc exp run -S runtime.launcher=slurm -S runtime.nproc="$SBATCH_GPUS_PER_NODE"

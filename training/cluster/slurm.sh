#!/usr/bin/env bash
# Eight machines with eight GPUs each, one task per machine:
#
#     sbatch training/cluster/slurm.sh RECIPE DATA RUN [OPTIONS]
#
# The batch size counts the images of all GPUs: keep them busy, for example by
# --batch-size 1024 for 16 images each. docs/training.md has more on the learning rate.
#
#SBATCH --job-name=elunet
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

recipe=$1 data=$2 out=$3
shift 3
# All machines must share the file system of the folders. Each task finds the others by
# Slurm's variables.
srun --kill-on-bad-exit=0 training/cluster/supervise.sh \
  python -m training.train "$recipe" --data "$data" --out "$out" --quiet "$@"

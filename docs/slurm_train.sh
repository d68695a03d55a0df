#!/bin/bash
# Train on several nodes with Slurm, in as many jobs in a row as needed:
#   sbatch --nodes=8 docs/slurm_train.sh configs/cityscapes_spnet101.yaml data.root=/data/cityscapes
# The installed package, the data and the run folder must be on a file system that all nodes share.
#SBATCH --job-name=sceneparse
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# A warning to this script three minutes before the time is up.
#SBATCH --signal=B:USR1@180
set -euo pipefail

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# The training processes save and exit with code 75; torchrun itself must ignore the signal.
stopping=0
stop() {
    stopping=1
    scancel --signal=USR1 "$SLURM_JOB_ID"
}
trap stop USR1

# --resume starts the run in the first job, and resumes from its last checkpoint in every later job.
srun --kill-on-bad-exit=1 bash -c 'trap "" USR1; exec "$@"' bash \
    torchrun \
    --nnodes="$SLURM_JOB_NUM_NODES" \
    --nproc-per-node="$SLURM_GPUS_ON_NODE" \
    --rdzv-id="$SLURM_JOB_ID" \
    --rdzv-backend=c10d \
    --rdzv-endpoint="$head:29500" \
    -m sceneparse train --config "$@" --resume &
training=$!

# A signal ends the first wait; the second one waits for the checkpoint.
code=0
wait "$training" || code=$?
if ((stopping)); then
    wait "$training" || code=$?
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

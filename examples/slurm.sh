#!/bin/bash
# Pretraining on several machines under SLURM: sbatch examples/slurm.sh --config pretrain --data.path DIR --output RUN
# The arguments are those of fcmae pretrain. Repeat the command to resume by hand.
#SBATCH --job-name=fcmae
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1        # torchrun, which starts a process for each GPU
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300        # five minutes before the time is over, to this script: saving must take less
#SBATCH --requeue                  # also after the failure of a node: what is lost are the steps since the last checkpoint
#SBATCH --open-mode=append
#SBATCH --output=fcmae-%j.log
set -u

head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
endpoint=$head_node:$((20000 + SLURM_JOB_ID % 20000))
processes=${PROCESSES_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
# A process that dies ends the others within seconds; torchrun starts all of them again, from the last checkpoint.
launch=(
    "${PYTHON:-python}" -m torch.distributed.run --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$processes"
    --rdzv-backend c10d --rdzv-endpoint "$endpoint" --rdzv-id "$SLURM_JOB_ID" --max-restarts 3
    -m fcmae.pretrain "$@"
)

# On USR1 the training processes finish their step, save, and end with status 0. torchrun must ignore it, else it dies.
must_go_on=
trap 'must_go_on=1; scancel --signal=USR1 "$SLURM_JOB_ID"' USR1
# since SLURM 22.05 srun takes the number of cores from its own option only
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" bash -c 'trap "" USR1; exec "$@"' launch "${launch[@]}" &
while wait $!; kill -0 $! 2> /dev/null; do :; done # a signal ends a wait early
wait $! # again, because the run may have ended while scancel was called: only now is the status srun's
status=$?

# Status 0 means that nothing is lost. After an error the job ends: a requeue would repeat it.
if [ -n "$must_go_on" ] && [ "$status" -eq 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

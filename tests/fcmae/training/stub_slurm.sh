#!/bin/bash
# SLURM's commands for two "machines" on this one: linked under their names, they do what slurm.sh needs of them.
# STUBS: a folder for what they were asked, and the numbers of the processes of each machine.
signal_all() { # a process and all below it
    for child in $(ps -o pid= --ppid "$1"); do signal_all "$child"; done
    kill -USR1 "$1" 2> /dev/null
}
case $(basename "$0") in
    sbatch) exec env SLURM_JOB_ID="${SLURM_JOB_ID:-7}" SLURM_JOB_NUM_NODES=2 SLURM_JOB_NODELIST=node[1-2] SLURM_GPUS_ON_NODE=1 SLURM_CPUS_PER_TASK=64 bash "$@" ;;
    scontrol)
        if [ "$1" = show ]; then printf '127.0.0.1\n127.0.0.1\n'; else echo "$*" >> "$STUBS/asked"; fi ;;
    scancel)
        echo "$*" >> "$STUBS/asked"
        for file in "$STUBS"/node?; do signal_all "$(cat "$file")"; done
        sleep "${SCANCEL_TAKES:-0}" ;;
    srun) # takes the number of cores from its own option only, as since 22.05
        [ "$1" = "--cpus-per-task=64" ] || { echo "srun: a task gets one core: $*"; exit 9; }
        shift
        for node in 0 1; do
            SLURM_NODEID=$node "$@" &
            echo $! > "$STUBS/node$node"
        done
        trap '' USR1
        status=0
        for file in "$STUBS"/node?; do wait "$(cat "$file")" || status=$?; done
        exit $status ;;
esac

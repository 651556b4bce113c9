#!/usr/bin/env bash
# A training run on GPUs under SLURM. After a time limit, a preemption or a lost node it queues
# itself again and goes on from its last checkpoint.
#
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 tpu/slurm.sh \
#       --config configs/resnet.py:imagenet --workdir /shared/runs/r50 [--config.FIELD=VALUE ...]
#
# Submit it from the project's folder with the environment activated. --ntasks-per-node is the number
# of GPUs (a process a GPU), or 1 (a process a node). What follows the script's name goes to the
# program; what stands before it goes to sbatch and outdoes the lines below. DIR of --workdir must
# be one folder that all nodes see.
#
#   bash tpu/slurm.sh --dry-run ...   prints what the job would run
#
# MAX_RESTARTS (20): how often a run that failed, not one that was stopped, is queued again.

#SBATCH --job-name=jaxdl
#SBATCH --nodes=1
#SBATCH --gpus-per-node=1
#SBATCH --ntasks-per-node=1
#SBATCH --output=slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120

set -euo pipefail

dry_run=''
case ${1:-} in
  '' | -h | --help)
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
    exit
    ;;
  --dry-run)
    dry_run=yes
    shift
    ;;
esac

# jax gives the i-th process of a node its i-th GPU (jax/_src/clusters/slurm_cluster.py), which is
# right for a process a GPU when each sees all of the node's: so --gpus-per-node, never
# --gpus-per-task. A process that is alone on its node is told to take them all.
tasks=${SLURM_NTASKS_PER_NODE:-1} gpus=${SLURM_GPUS_ON_NODE:-1}
if ((tasks == 1)); then
  JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((gpus - 1)))
  export JAX_LOCAL_DEVICE_IDS
elif ((tasks != gpus)); then
  echo "error: $tasks processes on the $gpus GPUs of a node: --ntasks-per-node is $gpus or 1" >&2
  exit 2
fi
# Since SLURM 22.05 srun no longer takes --cpus-per-task from the job (srun(1)).
[[ -z ${SLURM_CPUS_PER_TASK:-} ]] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

# A process that ends first must not have the others killed while they save.
step=(srun --kill-on-bad-exit=0 --wait=600 python -m jaxdl.main --distributed "$@")
again=(scontrol requeue Incomplete "${SLURM_JOB_ID:-JOB}")
if [[ $dry_run ]]; then
  printf -v line ' %q' "${step[@]}"
  echo "${line:1}"
  echo "${again[*]}  # after status 74, 75, 134, 137 or 143"
  exit
fi

"${step[@]}" &
running=$!
# USR1 comes to this shell alone, two minutes before the time limit: ask the program to save and stop.
# It is asked by scancel: srun that gets TERM kills its processes at once. TERM of a preemption, or of
# `scancel JOB`, comes to the program as well as here; a second one would stop it before it has saved.
trap 'scancel --signal=TERM "$SLURM_JOB_ID"' USR1
trap : TERM
while kill -0 "$running" 2>/dev/null; do
  wait "$running" || true # until the program has ended, or a signal has come
done
status=0
wait "$running" || status=$?
trap - TERM USR1

restarts=${SLURM_RESTART_COUNT:-0}
echo "job $SLURM_JOB_ID, restart $restarts: exit status $status"
case $status in
  75) ;;                # stopped, all saved
  74 | 134 | 137 | 143) # hang, lost peer, killed
    if ((restarts >= ${MAX_RESTARTS:-20})); then exit "$status"; fi
    ;;
  *) exit "$status" ;; # done, a mistake, diverged
esac
# Incomplete: not a job that somebody has cancelled.
"${again[@]}"
exit "$status"

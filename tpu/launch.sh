#!/usr/bin/env bash
# Start a run on every worker of a TPU, where none is at work yet, and leave it to itself.
#
#   tpu/launch.sh --name NAME --zone ZONE --workdir /mnt/runs/b0 -- \
#       --config configs/efficientnet.py:imagenet [--config.FIELD=VALUE ...]
#
#   --name, --zone, --project    or TPU_NAME, ZONE, PROJECT (default: gcloud's own project)
#   --workdir DIR                the run directory, on a file system that all workers have mounted at
#                                the same place (Filestore, NFS, a bucket by gcsfuse): this is checked
#   --allow-local                it may be on a worker's own disk (one worker; lost with the TPU)
#   --env NAME=VALUE             for the program, such as TFDS_DATA_DIR=/mnt/data; may be repeated
#   --dry-run                    print the commands, run none
#   -- ARGUMENT...               what the program is told besides
#
# The same command resumes a run that has stopped.

# shellcheck source=tpu/common.sh
source "$(dirname "$0")/common.sh"
workdir='' allow_local=''
parse 'allow-local' 'workdir env' "$@"
[[ $workdir == /* ]] || die "--workdir must be an absolute path on the workers, not '$workdir'" \
  '(mount a bucket with gcsfuse and name the mount)'

# Worker 0 leaves a mark that all must see: only then do they have one run directory.
token=$(date +%s)-$$
on_workers 0 mark "$workdir" "$token"
on_workers all check "$workdir" "$token" ${allow_local:+local}
on_workers all start "${env[@]}" -- "${arguments[@]}" --workdir "$workdir"
if [[ ! $dry_run ]]; then say "started; follow it with tpu/logs.sh --name $name --zone $zone"; fi

#!/usr/bin/env bash
# Install the checkout's HEAD on every worker of a TPU, and see that all its devices are there.
#
#   tpu/setup.sh --name NAME --zone ZONE --accelerator-type v5litepod-16
#
#   --name, --zone, --project    or TPU_NAME, ZONE, PROJECT (default: gcloud's own project)
#   --accelerator-type TYPE      or ACCELERATOR_TYPE: what create.sh was given
#   --dry-run                    print the commands, run none
#
# With more than one worker, `ssh-add ~/.ssh/google_compute_engine` first, or gcloud stalls.

# shellcheck source=tpu/common.sh
source "$(dirname "$0")/common.sh"
parse '' 'accelerator-type' "$@"
know_type

checkout=$(dirname "$here")
if [[ $(git -C "$checkout" status --porcelain) ]]; then
  say 'warning: what is not committed is not installed'
fi
folder=/tmp/jaxdl
if [[ ! $dry_run ]]; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
fi
# A bundle is a repository in one file: what runs knows its commit, and the workers need no access.
run git -C "$checkout" bundle create --quiet "$folder/jaxdl.bundle" HEAD
retry run gcloud compute tpus tpu-vm scp "$folder/jaxdl.bundle" "$here/worker.sh" "$name:" \
  "${where[@]}" --worker=all
retry on_workers all install
on_workers all devices "$devices"

#!/usr/bin/env bash
# Give a TPU back. A run that is at work is asked to save and stop first. Run directories stay.
#
#   tpu/delete.sh --name NAME --zone ZONE [--yes]
#
#   --name, --zone, --project    or TPU_NAME, ZONE, PROJECT (default: gcloud's own project)
#   --yes                        do not ask
#   --dry-run                    print the commands, run none

# shellcheck source=tpu/common.sh
source "$(dirname "$0")/common.sh"
yes=''
parse 'yes' '' "$@"

state=$(tpu_state)
if [[ ! $state && ! $dry_run ]]; then
  say "there is no TPU $name in $zone"
  exit
fi
if [[ ! $yes && ! $dry_run ]]; then
  read -r -p "delete the TPU $name in $zone ($state)? [y/N] " answer || answer=''
  [[ $answer == [yY] || $answer == [yY]es ]] || exit 1
fi
if [[ $state == ACTIVE || $dry_run ]]; then
  on_workers all stop || say 'warning: could not ask the run to stop; it goes on from its last checkpoint'
fi
delete_tpu

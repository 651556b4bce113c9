#!/usr/bin/env bash
# Ask for a TPU: a queued resource of one node, both of the same name.
#
#   tpu/create.sh --name NAME --zone ZONE --accelerator-type v5litepod-16 [--spot] [--wait]
#
#   --name, --zone, --project    or TPU_NAME, ZONE, PROJECT (default: gcloud's own project)
#   --accelerator-type TYPE      or ACCELERATOR_TYPE: v2-8, v4-32, v5litepod-16, v5p-8, v6e-8 ...
#   --runtime-version IMAGE      or RUNTIME_VERSION; the type's own by default
#   --spot, --reserved           capacity that may be taken back; capacity that is reserved
#   --gcloud-flag FLAG           one more flag of `queued-resources create`; may be repeated
#   --wait                       until it is there, looking every --poll (30) seconds
#   --dry-run                    print the commands, run none

# shellcheck source=tpu/common.sh
source "$(dirname "$0")/common.sh"
spot='' reserved='' wait='' poll=30
parse 'spot reserved wait' 'accelerator-type runtime-version gcloud-flag poll' "$@"
know_type

if [[ $spot ]]; then gcloud_flags+=(--spot); fi
if [[ $reserved ]]; then gcloud_flags+=(--reserved); fi
run gcloud compute tpus queued-resources create "$name" --node-id="$name" "${where[@]}" \
  --accelerator-type="$accelerator_type" --runtime-version="$runtime_version" "${gcloud_flags[@]}"

if [[ ! $wait ]]; then exit; fi
while true; do
  state=$(tpu_state)
  if [[ $dry_run ]]; then exit; fi
  say "$name: ${state:-not there}"
  case $state in
    ACTIVE) exit ;;
    '' | FAILED | SUSPENDING | SUSPENDED | DELETING) exit 1 ;;
  esac
  sleep "$poll"
done

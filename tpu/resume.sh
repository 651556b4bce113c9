#!/usr/bin/env bash
# Keep a run going until it is done: ask for the TPU, set it up, launch, and begin again where the TPU
# was taken back or the run stopped. Every start goes on from the last checkpoint in --workdir.
#
#   tpu/resume.sh --name NAME --zone ZONE --accelerator-type v5litepod-16 --spot \
#       --workdir /mnt/runs/b0 -- --config configs/efficientnet.py:imagenet ...
#
#   Options are those of create.sh and launch.sh, and
#   --poll SECONDS               how often to look (60)
#   --attempts N                 failures, of the run, of gcloud, of the request, before it gives up (20);
#                                being preempted is none
#   --dry-run                    print what follows a preemption, run nothing
#
# Its exit status is the run's: 0 done, 2 a mistake, 3 diverged ...; 75 when it gave up. It may be
# stopped and started at any time: the run knows nothing of it. The TPU is not deleted at the end.

# shellcheck source=tpu/common.sh
source "$(dirname "$0")/common.sh"
spot='' reserved='' allow_local='' workdir='' poll=60 attempts=20
parse 'spot reserved allow-local' \
  'accelerator-type runtime-version gcloud-flag workdir env poll attempts' "$@"
know_type
[[ $workdir ]] || die 'name the run directory: --workdir'

shared=(--name "$name" --zone "$zone")
if [[ $project ]]; then shared+=(--project "$project"); fi
if [[ $dry_run ]]; then shared+=(--dry-run); fi

create() {
  local flags=() flag
  if [[ $spot ]]; then flags+=(--spot); fi
  if [[ $reserved ]]; then flags+=(--reserved); fi
  for flag in "${gcloud_flags[@]}"; do flags+=(--gcloud-flag "$flag"); done
  "$here/create.sh" "${shared[@]}" --accelerator-type "$accelerator_type" \
    --runtime-version "$runtime_version" "${flags[@]}"
}

setup() { "$here/setup.sh" "${shared[@]}" --accelerator-type "$accelerator_type"; }

launch() {
  local flags=() pair
  if [[ $allow_local ]]; then flags+=(--allow-local); fi
  for pair in "${env[@]}"; do flags+=(--env "$pair"); done
  "$here/launch.sh" "${shared[@]}" --workdir "$workdir" "${flags[@]}" -- "${arguments[@]}"
}

failed() {
  failures=$((failures + 1))
  say "$1; that is failure $failures of $attempts"
  if ((failures >= attempts)); then exit 75; fi
}

# What the run asks for; sees to it. The states are those of `worker.sh state`, one a worker.
tend() {
  local states status=0
  states=$(on_workers all state "${env[@]}" -- "${arguments[@]}" --workdir "$workdir") || status=$?
  if ((status == 127)); then # bash found no worker.sh: the TPU is new
    states=bare
  elif ((status)) || [[ ! $states ]]; then
    failed "the workers of $name do not answer"
    return
  fi
  say "$name: run ${states//$'\n'/ }"
  local state again=''
  for state in $states; do
    case $state in
      running) return ;;
      busy) die "another run is at work on $name" ;;
    esac
  done
  for state in $states; do
    case $state in
      0) ;;
      bare | idle | 75) again=${again:-yes} ;;
      lost | 74 | 134 | 137 | 143) again="the run failed ($state)" ;; # hang, lost peer, killed
      *[!0-9]*)
        failed "a worker of $name answers '$state'"
        return
        ;;
      *) exit "$state" ;; # a mistake, diverged
    esac
  done
  if [[ ! $again ]]; then exit 0; fi
  if [[ $again != yes ]]; then failed "$again"; fi
  if [[ $states == *bare* ]] && ! setup; then
    failed 'setup.sh failed'
  elif ! launch; then
    failed 'launch.sh failed'
  fi
}

if [[ $dry_run ]]; then
  tpu_state
  delete_tpu
  create
  setup
  launch
  exit
fi

failures=0
while true; do
  if ! state=$(tpu_state); then
    failed "gcloud does not say how $name is"
    state=unknown
  fi
  case $state in
    ACTIVE) tend ;;
    '') if ! create; then failed 'create.sh failed'; fi ;;
    SUSPENDED | FAILED)
      say "$name: $state; asking for a new one"
      if [[ $state == FAILED ]]; then failed 'the request failed'; fi
      if ! delete_tpu || ! create; then failed 'could not ask for a new one'; fi
      ;;
    *) say "$name: $state" ;; # WAITING_FOR_RESOURCES, PROVISIONING, SUSPENDING ...: it will change
  esac
  sleep "$poll"
done

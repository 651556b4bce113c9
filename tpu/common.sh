# Read by the scripts beside it, never run: options, dry runs, and what they all say to gcloud.
# shellcheck shell=bash disable=SC2034 # the variables are for the scripts

set -euo pipefail
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo 'error: bash 4.4 or newer is needed (macOS: brew install bash)' >&2
  exit 2
fi

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
name=${TPU_NAME:-}
zone=${ZONE:-}
project=${PROJECT:-}
accelerator_type=${ACCELERATOR_TYPE:-}
runtime_version=${RUNTIME_VERSION:-}
dry_run=''
env=()          # of --env, for the program
gcloud_flags=() # of --gcloud-flag, for `queued-resources create`
arguments=()    # what follows `--`
exec 3>&1       # where a dry run prints, also from within $(...)

say() { printf '%s\n' "$*" >&2; }

die() {
  say "error: $*"
  exit 2
}

# The comment at the head of the script is its help.
usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; }

# parse 'FLAG...' 'OPTION...' "$@": --flag sets the variable flag to yes, --option X or --option=X to X.
# Every script takes --name, --zone, --project, --dry-run and --help besides.
parse() {
  local flags=" dry-run $1 " options=" name zone project $2 " key value
  shift 2
  while (($#)); do
    case $1 in
      -h | --help)
        usage
        exit
        ;;
      --)
        arguments=("${@:2}")
        break
        ;;
    esac
    key=${1%%=*} key=${key#--}
    if [[ $1 == --* && $flags == *" ${1#--} "* ]]; then
      value=yes
    elif [[ $1 != --* || $options != *" $key "* ]]; then
      die "unknown option '$1'; see $(basename "$0") --help"
    elif [[ $1 == *=* ]]; then
      value=${1#*=}
    elif (($# > 1)); then
      value=$2
      shift
    else
      die "$1 needs a value"
    fi
    shift
    case $key in
      env) env+=("$value") ;;
      gcloud-flag) gcloud_flags+=("$value") ;;
      *) printf -v "${key//-/_}" %s "$value" ;;
    esac
  done
  [[ $name && $zone ]] || die 'say which TPU: --name and --zone, or TPU_NAME and ZONE'
  where=(--zone="$zone" --quiet) # --quiet: gcloud asks nothing
  if [[ $project ]]; then where+=(--project="$project"); fi
}

# The line that makes a shell read these words.
quoted() {
  local word line=''
  for word in "$@"; do
    if [[ ! $word || $word == *[!A-Za-z0-9_./:=@%+,-]* ]]; then word=${word@Q}; fi
    line+=" $word"
  done
  printf '%s\n' "${line:1}"
}

# A command, or in a dry run the line that would run it.
run() { if [[ $dry_run ]]; then quoted "$@" >&3; else "$@"; fi; }

# What may be done twice, up to three times.
retry() {
  local pause=${RETRY_SECONDS:-10} i
  for i in 1 2; do
    "$@" && return
    say "failed ($i of 3); again in $pause s"
    sleep "$pause"
    pause=$((2 * pause))
  done
  "$@"
}

# From the type: how many devices jax sees, and the image where none is named. The number in a type
# counts TensorCores up to v5p, chips of v5e and v6e; a device is a core on v2 and v3, a chip since.
# https://docs.cloud.google.com/tpu/docs/runtimes, .../tpu/docs/v5p (cores and chips)
know_type() {
  [[ $accelerator_type ]] || die 'say of which type: --accelerator-type or ACCELERATOR_TYPE'
  [[ $accelerator_type =~ ^(v[a-z0-9]+)-([1-9][0-9]*)$ ]] || die "'$accelerator_type' is no TPU type"
  local n=${BASH_REMATCH[2]} image
  case ${BASH_REMATCH[1]} in
    v2 | v3) devices=$n image=tpu-ubuntu2204-base ;;
    v4) devices=$((n / 2)) image=tpu-ubuntu2204-base ;;
    v5p) devices=$((n / 2)) image=v2-alpha-tpuv5 ;;
    v5litepod) devices=$n image=v2-alpha-tpuv5-lite ;;
    v6e) devices=$n image=v2-alpha-tpuv6e ;;
    *) die "unknown type '$accelerator_type': known are v2-N v3-N v4-N v5p-N v5litepod-N v6e-N" ;;
  esac
  runtime_version=${runtime_version:-$image}
}

# The state of the queued resource; nothing where there is none. `describe` fails in the one way for
# a missing resource and for a missing network; `list` tells them apart.
tpu_state() {
  retry run gcloud compute tpus queued-resources list "${where[@]}" \
    --filter="name~/queuedResources/$name\$" --format='value(state.state)'
}

delete_tpu() {
  # --force deletes the node with the request for it.
  run gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force
}

# on_workers WHICH VERB ARGUMENT...: a verb of worker.sh, which setup.sh has copied there.
on_workers() {
  run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker="$1" \
    --command="$(quoted bash worker.sh "${@:2}")" </dev/null
}

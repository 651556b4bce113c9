#!/usr/bin/env bash
# What one worker of a TPU does for the scripts beside this one; setup.sh copies it there.
#
#   install            unpack ~/jaxdl.bundle and install it
#   devices N          see that jax has N devices, over all workers
#   mark DIR TOKEN     make DIR, leave a mark in it
#   check DIR TOKEN [local]
#                      see that the mark is there, and that a run may start; on a disk of its own?
#   start ARGUMENT...  [NAME=VALUE ...] -- what the program is told
#   state ARGUMENT...  of a run of these arguments: bare (not installed) idle running busy (another one
#                      is) lost (killed), or the exit status it ended with
#   logs LINES         print the last lines, and follow while the run is at work
#   stop               ask the run to save and stop, wait until it has

set -euo pipefail
mkdir -p "$HOME/jaxdl"
cd "$HOME/jaxdl" # code venv ready lock arguments pid status log

say() { echo "$(hostname): $*" >&2; }

die() {
  say "error: $*"
  exit 1
}

# Whoever installs or runs holds the lock; so does each process that the run leaves behind.
take_lock() {
  exec 9>>lock
  flock --nonblock 9 || die 'a run, or an installation, is at work already (tpu/logs.sh)'
}

is_locked() { ! flock --nonblock --shared lock true; }

verb=${1:-}
if (($#)); then shift; fi
case $verb in
  install)
    take_lock
    rm -rf ready code
    git -c advice.detachedHead=false clone --quiet "$HOME/jaxdl.bundle" code
    # The images have Python 3.10; uv brings a newer one where there is none.
    python3 -m pip install --quiet --user uv
    [[ -x venv/bin/python ]] || python3 -m uv venv --quiet --python '>=3.11' venv
    python3 -m uv pip install --quiet --python venv/bin/python --editable 'code[tpu]'
    touch ready
    say "installed $(git -C code rev-parse --short HEAD)"
    ;;
  devices)
    venv/bin/python -c '
import sys, jax
jax.distributed.initialize()
n, wanted = jax.device_count(), int(sys.argv[1])
sys.exit(None if n == wanted else f"error: jax has {n} devices, not {wanted}")' "$1"
    say "sees $1 devices"
    ;;
  mark)
    mkdir -p "$1"
    echo "$2" >"$1/.launch"
    ;;
  check)
    [[ -e ready ]] || die 'not installed; run tpu/setup.sh'
    is_locked && die 'a run is at work already; tpu/logs.sh follows it'
    [[ $(cat "$1/.launch" 2>/dev/null) == "$2" ]] || die "does not see what worker 0 wrote into $1:" \
      'mount one file system there on all workers'
    case $(df --output=fstype "$1" | tail -n 1) in
      ext* | xfs | btrfs | overlay | tmpfs)
        [[ ${3:-} ]] || die "$1 is on this worker's own disk and lost with it:" \
          'mount a shared file system there, or say --allow-local'
        ;;
    esac
    ;;
  start)
    take_lock
    [[ -e ready ]] || die 'not installed; run tpu/setup.sh'
    printf '%q ' "$@" >arguments
    rm -f pid status
    # A session of its own outlives ssh; it has inherited the lock.
    setsid --fork bash "$HOME/worker.sh" run "$@" >>log 2>&1 </dev/null
    ;;
  run)
    while [[ $1 != -- ]]; do
      export "${1?}"
      shift
    done
    cd code
    echo "$(date --iso-8601=seconds) starts:" "${@:2}"
    ../venv/bin/python -m jaxdl.main --distributed "${@:2}" &
    echo $! >../pid
    status=0
    wait $! || status=$?
    echo "exit status $status"
    echo "$status" >../status
    ;;
  state)
    same=''
    [[ -e arguments && $(cat arguments) == "$(printf '%q ' "$@")" ]] && same=yes
    if is_locked; then
      if [[ $same && -e ready ]]; then echo running; else echo busy; fi
    elif [[ ! -e ready ]]; then
      echo bare
    elif [[ ! $same ]]; then
      echo idle
    else
      cat status 2>/dev/null || echo lost
    fi
    ;;
  logs)
    if is_locked && [[ -e pid ]]; then
      tail -n "$1" -F --pid="$(cat pid)" log
    else
      tail -n "$1" log
    fi
    ;;
  stop)
    is_locked || exit 0
    kill -TERM "$(cat pid)"
    flock --shared --timeout 120 lock true || die 'has not stopped within two minutes'
    ;;
  *) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" ;;
esac

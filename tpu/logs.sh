#!/usr/bin/env bash
# Follow what a run on a TPU prints, until it ends.
#
#   tpu/logs.sh --name NAME --zone ZONE
#
#   --name, --zone, --project    or TPU_NAME, ZONE, PROJECT (default: gcloud's own project)
#   --worker W                   0 by default, which is the one that reports; `all` for all
#   --lines N                    begin with the last N lines (100)
#   --dry-run                    print the command, run nothing

# shellcheck source=tpu/common.sh
source "$(dirname "$0")/common.sh"
worker=0 lines=100
parse '' 'worker lines' "$@"
on_workers "$worker" logs "$lines"

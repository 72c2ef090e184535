#!/usr/bin/env bash
# Runs one recipe for several methods and seeds on this machine, one after another.
#
#   launch/local.sh --out=runs/digits --methods=dcfs,entropy,random --seeds=0,1,2 -- \
#       --config=configs/dcfs.py:digits --config.al.openness=0.6
#
# Every run gets OUT/METHOD_SEED as its workdir. Finished runs are skipped and interrupted ones go on,
# so the same command can be repeated at any time. A run that was preempted (exit code 75) is started
# again at once. --dry-run prints the commands.
set -euo pipefail

usage() {
  echo "usage: launch/local.sh --out=DIR [--methods=A,B] [--seeds=0,1] [--dry-run] -- FLAGS" >&2
  exit 2
}

out='' methods='' seeds=0 dry=''
while [[ $# -gt 0 && $1 != -- ]]; do
  case $1 in
    --out=*) out=${1#*=} ;;
    --methods=*) methods=${1#*=} ;;
    --seeds=*) seeds=${1#*=} ;;
    --dry-run) dry=1 ;;
    *) echo "launch/local.sh: unknown option $1" >&2; usage ;;
  esac
  shift
done
[[ -n $out && ${1:-} == -- && $# -gt 1 ]] || usage
shift

for method in $(tr , ' ' <<<"${methods:-recipe}"); do
  for seed in ${seeds//,/ }; do
    workdir=$out/${method}_$seed
    command=(python -m jaxrobust.main "$@" --config.seed="$seed" --workdir="$workdir")
    [[ -n $methods ]] && command+=(--config.method="$method")
    if [[ -n $dry ]]; then
      printf '%q ' "${command[@]}"; echo
      continue
    fi
    if [[ -e $workdir/results.json ]]; then
      echo "launch/local.sh: $workdir is finished" >&2
      continue
    fi
    code=75
    while [[ $code == 75 ]]; do
      code=0
      "${command[@]}" || code=$?
    done
    [[ $code == 0 ]] || { echo "launch/local.sh: $workdir stopped with code $code" >&2; exit "$code"; }
  done
done

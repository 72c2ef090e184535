#!/usr/bin/env bash
# Submits one recipe to SLURM, one process per GPU on one or several nodes.
#
#   launch/slurm.sh --nodes=2 --gpus=4 --time=12:00:00 --partition=gpu -- \
#       --config=configs/dpc.py --workdir=/shared/runs/dpc
#
# The workdir lies on a file system that all nodes see. Five minutes before the time limit, or when
# SLURM preempts the job, it saves, ends with code 75 and is put back into the queue, where it goes
# on. `--sbatch=OPTION` passes anything else to sbatch and may be repeated; `--setup=COMMAND` runs
# first on the batch node, such as `source venv/bin/activate`. --dry-run prints the batch script.
set -euo pipefail

usage() {
  echo "usage: launch/slurm.sh --time=H:M:S [--nodes=1] [--gpus=1] [--partition=NAME]" \
    "[--setup=COMMAND] [--sbatch=OPTION]... [--dry-run] -- FLAGS" >&2
  exit 2
}

nodes=1 gpus=1 time='' partition='' setup='' dry='' extra=()
while [[ $# -gt 0 && $1 != -- ]]; do
  case $1 in
    --nodes=*) nodes=${1#*=} ;;
    --gpus=*) gpus=${1#*=} ;;
    --time=*) time=${1#*=} ;;
    --partition=*) partition=${1#*=} ;;
    --setup=*) setup=${1#*=} ;;
    --sbatch=*) extra+=("${1#*=}") ;;
    --dry-run) dry=1 ;;
    *) echo "launch/slurm.sh: unknown option $1" >&2; usage ;;
  esac
  shift
done
[[ -n $time && ${1:-} == -- && $# -gt 1 ]] || usage
shift

script() {
  cat <<EOF
#!/usr/bin/env bash
#SBATCH --job-name=jaxrobust
#SBATCH --nodes=$nodes
#SBATCH --ntasks-per-node=$gpus
#SBATCH --gpus-per-node=$gpus
#SBATCH --time=$time
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
EOF
  [[ -n $partition ]] && echo "#SBATCH --partition=$partition"
  for option in ${extra[@]+"${extra[@]}"}; do echo "#SBATCH $option"; done
  echo "set -uo pipefail"
  [[ -n $setup ]] && echo "$setup"
  echo "srun --kill-on-bad-exit=0 python -m jaxrobust.main --distributed $(printf '%q ' "$@")&"
  cat <<'EOF'
step=$!
trap 'kill -TERM "$step"' TERM
wait "$step"; code=$?
# The signal interrupts `wait` while the processes are still saving.
while kill -0 "$step" 2>/dev/null; do wait "$step"; code=$?; done
if [[ $code == 75 ]]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
EOF
}

if [[ -n $dry ]]; then
  script "$@"
else
  script "$@" | sbatch
fi

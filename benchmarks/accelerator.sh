#!/usr/bin/env bash
# The speed table of docs/results.md, measured on this machine's accelerator, in nine minutes at most.
#
#   benchmarks/accelerator.sh OUT [--dry-run]
#
# Needs nothing from the network: the images are random ones. Every case writes OUT/CASE.json as soon
# as it is measured and OUT/accelerator.json and OUT/table.md are made anew after it, so that a
# machine that is taken away leaves what was done; cases that are there already are skipped.
# --dry-run runs the same cases with tiny networks and few images, to test the script on a CPU.
set -uo pipefail
cd "$(dirname "$0")/.."

out=${1:?usage: benchmarks/accelerator.sh OUT [--dry-run]}
small=()
if [[ ${2:-} == --dry-run ]]; then
  small=(--set=dataset.max_train=1024 --set=dataset.max_test=100 --set=eval_batch_size=128)
elif [[ -n ${2:-} ]]; then
  echo "benchmarks/accelerator.sh: unknown option $2" >&2
  exit 2
fi
mkdir -p "$out"
deadline=$((SECONDS + ${SECONDS_IN_ALL:-530}))

# case_ CASE TINY ARGUMENTS...: TINY are the fields that make the networks of a dry run tiny.
case_() {
  local name=$1 fields=$2 left=$((deadline - SECONDS)) tiny=()
  shift 2
  [[ -e $out/$name.json ]] && return
  if ((left < 20)); then
    echo "benchmarks/accelerator.sh: no time is left for $name" >&2
    return
  fi
  if ((${#small[@]})); then
    for field in $fields; do tiny+=("--set=$field"); done
  fi
  timeout "$left" python -m jaxrobust benchmark --random "$@" "${small[@]}" "${tiny[@]}" \
    --out="$out/$name.json" >"$out/$name.log" 2>&1 ||
    echo "benchmarks/accelerator.sh: $name gave no figures, see $out/$name.log" >&2
  python benchmarks/accelerator_table.py "$out" >"$out/table.md"
}

labelled='--set=al.init_fraction=0.4'
distilled='teacher.name=resnet8 student.name=resnet8'
pair='--config=configs/dhkd.py:resnet32x4_resnet8x4'
case_ dpc model.name=preact_resnet8_small --config=configs/dpc.py:cifar10_sym50
case_ bual 'model.name=resnet8_small al.query_size=50' --config=configs/bual.py:cifar10 "$labelled"
case_ dhkd "$distilled" $pair
case_ bldr model.name=resnet8_small --config=configs/bldr.py:cifar10_sym40 --set=dataset.max_train=12800
case_ dcfs 'model.name=resnet8_small al.query_size=50' --config=configs/dcfs.py:cifar10 "$labelled"
case_ dhkd_float32 "$distilled" $pair --set=dtype=float32
case_ dhkd_single_steps "$distilled" $pair --single_steps
case_ dhkd_batch_512 "$distilled" $pair --batch_sizes=512
case_ l2d "$distilled dataset.image_size=32 decoder.width=32" --config=configs/l2d.py:voc_resnet50_resnet18 \
  --set=dataset.max_train=512 --set=dataset.max_test=64
cat "$out/table.md"

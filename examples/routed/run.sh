#!/usr/bin/env bash
# Compare distinct pathways with a shared decoder, for seven structures and a lesion, from the same static network.
#
#   ./examples/routed/run.sh HEADNECK.json LESION.json STATIC RUN_DIR [OPTION ...]
#
# STATIC is the static checkpoint of examples/headneck/run.sh (RUN/static). Both networks are fine-tuned with the
# same windows, steps and frozen encoder (docs/how-to/headneck.md). EVERY=12 in the environment keeps every 12th
# head-and-neck training patient; REPEAT is the number of times that a lesion patient counts per epoch [2].
# Further options are passed to gcis-train finetune, such as --device cuda. After an interruption, the same
# command continues.
set -euo pipefail
[ "$#" -ge 4 ] || { sed -n '2,10p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//'; exit 2; }
headneck=$1 lesion=$2 static=$3 run=$4
shift 4
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
prompt="soft tissue sarcoma"

mkdir -p "$run"
python "$here/datalist.py" "$headneck" "$lesion" "$run/datalist.json" --every "${EVERY:-1}" --repeat "${REPEAT:-2}"
for spread in last all; do
  [ -d "$run/start-$spread" ] || gcis-train upcycle --checkpoint "$static" --spread "$spread" --prompt "$prompt" \
    --clip-weights random -o "$run/start-$spread"
  gcis-train finetune --stage pathways --checkpoint "$run/start-$spread" --datalist "$run/datalist.json" \
    --run-dir "$run/$spread" --config "$here/finetune.json" --cache "$run/cache" --resume "$@"
  gcis-train paths --checkpoint "$run/$spread"
  rm -rf "$run/$spread.gcis"
  gcis-export --checkpoint "$run/$spread" --name "$spread" --weights fp16 --engine onnx --engine openvino \
    --prompt brainstem --prompt "spinal cord" --prompt "right parotid gland" --prompt "left parotid gland" \
    --prompt esophagus --prompt larynx --prompt mandible --prompt "$prompt" -o "$run/$spread.gcis"
  gcis-train evaluate --bundle "$run/$spread.gcis" --datalist "$run/datalist.json" --lesion "$prompt" \
    -o "$run/evaluation-$spread"
done

#!/usr/bin/env bash
# Train the head-and-neck demo network: warm start, export, evaluation.
#
#   ./examples/headneck/run.sh DATALIST.json RUN_DIR [OPTION ...]
#
# DATALIST.json lists the OpenKBP patients as NIfTI files, one row per patient and structure, with the prompts
# below (docs/how-to/headneck.md). Further options are passed to gcis-train warmstart, such as --device cuda. After
# an interruption, the same command continues. To limit the time of the training on a GPU:
#
#   ./examples/headneck/run.sh DATALIST.json RUN_DIR --max-minutes 3 --workers 10 --device cuda
set -euo pipefail
[ "$#" -ge 2 ] || { sed -n '2,10p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//'; exit 2; }
datalist=$1 run=$2
shift 2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

gcis-train warmstart --datalist "$datalist" --run-dir "$run" --config "$here/warmstart.json" --resume "$@"
gcis-train paths --checkpoint "$run/routed"

rm -rf "$run/headneck.gcis"
gcis-export --checkpoint "$run/routed" --name headneck --weights fp16 --precision fp16 \
  --engine onnx --engine openvino \
  --prompt brainstem --prompt "spinal cord" --prompt "right parotid gland" --prompt "left parotid gland" \
  --prompt esophagus --prompt larynx --prompt mandible -o "$run/headneck.gcis"
gcis-train evaluate --bundle "$run/headneck.gcis" --datalist "$datalist" -o "$run/evaluation"

#!/usr/bin/env bash
# Train the head-and-neck demo weights again: warm start, routed training, export, evaluation.
#
#   ./examples/headneck/run.sh DATALIST.json RUN_DIR
#
# DATALIST.json: the OpenKBP patients as NIfTI, one row a (patient, structure), with the prompts below
# (docs/how-to/headneck.md). Interrupted anywhere, the same command goes on where it stopped.
set -euo pipefail
[ "$#" -eq 2 ] || { sed -n '2,8p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//'; exit 2; }
datalist=$1 run=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

gcis-train warmstart --datalist "$datalist" --run-dir "$run/warm" --config "$here/warmstart.json" --resume
gcis-train warmstart --datalist "$datalist" --run-dir "$run/weighted" --config "$here/weighted.json" \
  --pretrained "$run/warm/static" --resume
gcis-train warmstart --datalist "$datalist" --run-dir "$run/esophagus" --config "$here/esophagus.json" \
  --pretrained "$run/weighted/static" --resume
gcis-train warmstart --datalist "$datalist" --run-dir "$run/esophagus2" --config "$here/esophagus2.json" \
  --pretrained "$run/esophagus/static" --resume
gcis-train warmstart --datalist "$datalist" --run-dir "$run/longer" --config "$here/longer.json" \
  --pretrained "$run/esophagus2/static" --resume
gcis-train pretrain --datalist "$datalist" --run-dir "$run/routed" --config "$here/routed.json" \
  --pretrained "$run/longer/routed" --resume
gcis-train paths --checkpoint "$run/routed"

# One epoch of routed training (the CPU time at hand) came close to what it started from, not above it: see log/.
# The bundle comes from the warm start's routed network; export "$run/routed" once it is better.
rm -rf "$run/headneck.gcis"
gcis-export --checkpoint "$run/longer/routed" --name headneck --weights fp16 --engine onnx --engine openvino \
  --prompt brainstem --prompt "spinal cord" --prompt "right parotid gland" --prompt "left parotid gland" \
  --prompt esophagus --prompt larynx --prompt mandible -o "$run/headneck.gcis"
gcis-train evaluate --bundle "$run/headneck.gcis" --datalist "$datalist" -o "$run/evaluation"

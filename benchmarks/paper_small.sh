#!/bin/sh
# The paper's Figures 1 and 2 and Tables 2 and 5 at size small, on the preference pairs of hh_harmless (docs/paper.md).
#
#     MODEL=HuggingFaceTB/SmolLM2-135M-Instruct DATA=FOLDER OUT=FOLDER sh benchmarks/paper_small.sh
#
# DATA holds train.jsonl.gz and test.jsonl.gz: prompt, chosen, rejected. Two thirds of the training pairs train two reward
# models; of the rest the first of them selects the demonstrations. Both judge. What is finished is not run again. The
# numbers, without any text, go to benchmarks/results/paper-small/.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
[ -f "$OUT/rewards/reward_models.json" ] || python "$here/reward_models.py" --model "$MODEL" \
    --train "$DATA/train.jsonl.gz" --test "$DATA/test.jsonl.gz" --output "$OUT/rewards"
for artefact in figure1 table2 figure2 table5; do
    demotune paper "$artefact" --size small --model "$MODEL" --data "$OUT/rewards/demonstrations.jsonl" \
        --preferences "$DATA/test.jsonl.gz" --reward-model "$OUT/rewards/selector" --reward-model "$OUT/rewards/judge" \
        --output "$OUT/paper"
done
rm -rf "$here/results/paper-small"
python "$here/raw_numbers.py" "$here/results/paper-small" "$OUT/rewards" "$OUT/paper" "$OUT/paper/evaluations"/* "$OUT/paper/trials"/*

#!/bin/sh
# Who answers AlpacaEval prompts better: SFT, or IRFT and RFT from it? One seed; two judges; is the reward a shortcut?
#
#     MODEL=HuggingFaceTB/SmolLM2-135M-Instruct DATA=FOLDER OUT=FOLDER sh benchmarks/alpaca.sh
#
# DATA holds train.jsonl.gz and test.jsonl.gz. alpaca.py trains SFT, IRFT and RFT (what is finished is not run again) and
# scores the test pairs by both rewards. The numbers, without any text, go to benchmarks/results/alpaca/.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python "$here/alpaca.py" "$MODEL" "$DATA/train.jsonl.gz" "$DATA/test.jsonl.gz" "$OUT"
for method in irft rft; do
    PYTHONPATH="$here" demotune evaluate --model "$OUT/$method" --baseline "$OUT/sft" --data "$DATA/test.jsonl.gz" \
        --max-length 224 --max-new-tokens 64 --reward "$OUT/rft" --judge overlap_judge:token_f1 \
        --output "$OUT/$method-against-sft"
done
python "$here/raw_numbers.py" "$here/results/alpaca" "$OUT/irft" "$OUT/rft" "$OUT/irft-against-sft" "$OUT/rft-against-sft"
